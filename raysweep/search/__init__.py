"""Pure functions of records that decide which point is next, for how many epochs, and when a trial stops.

No Ray, no files, no storage.
"""
