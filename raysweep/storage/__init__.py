"""Storage: paths of a sweep, files written whole or not at all, locks, buckets as directories.

Nothing here knows what a trial or a sweep consists of.
"""
