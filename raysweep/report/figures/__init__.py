"""Pictures of a whole sweep that explain themselves."""
