"""Explanations from ended trials: importances, and slices of the Gaussian process. No Ray, no files."""
