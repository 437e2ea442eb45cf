"""Pure decisions over records: which point is tried next, for how many epochs, and when a trial stops.

No Ray, no files, no storage.
"""
