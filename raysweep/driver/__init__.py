"""The session: takes reports, asks `search` and `study` what follows, writes the report. No Ray."""
