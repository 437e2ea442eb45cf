"""The ledger: an Optuna study on a journal file, the one record of a sweep, and what can be read off it.

Optuna's storage is imported here alone. No Ray.
"""
