"""What is seen of a sweep in a terminal, or as JSON: live display, tables, lines."""
