"""A sweep that is there, running or ended: its tables, its best trials and why they are, its models. No Ray."""
