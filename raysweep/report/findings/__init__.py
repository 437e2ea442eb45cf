"""Verdicts on the claims of a search space file, decided from the tables of sweeps."""
