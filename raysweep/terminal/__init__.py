"""Output on a sweep for a terminal or as JSON: live display, tables, lines."""
