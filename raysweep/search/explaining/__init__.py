"""What ended trials say of their parameters: importances, and slices of the Gaussian process. No Ray, no files."""
