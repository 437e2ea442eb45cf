"""What was asked for: the search space file, from its text to a `SweepSpec`, with every fault in one message.

Imports no torch and no Ray. Optuna is imported in space.py alone, where a field becomes a distribution.
"""
