"""The session: it takes reports, asks `search` and `study` what to do next, and writes the report. No Ray."""
