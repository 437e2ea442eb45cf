"""Training of several trials of one shape as one model, which fills a GPU with small models."""
