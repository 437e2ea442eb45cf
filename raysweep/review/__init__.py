"""An existing sweep, running or ended: its tables, its best trials and why they are best, its models. No Ray."""
