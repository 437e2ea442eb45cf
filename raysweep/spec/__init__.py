"""The search space file: from its text to a `SweepSpec`, with every fault in one message.

The package imports neither torch nor Ray. Only space.py imports Optuna, where a field becomes a distribution.
"""
