"""The ledger (an Optuna study in a journal file, a sweep's only record) and everything computed from it.

Only this package imports Optuna's storage. No Ray.
"""
