"""Several trials of one shape as one model, which is what fills a GPU with small models."""
