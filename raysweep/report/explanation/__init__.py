"""Why the best trial is the best, as values and in sentences; docs/pictures.md explains them."""
