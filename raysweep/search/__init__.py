"""The search: the ledger, the sampler, early stopping, trials on Ray, and the sweep that runs them."""
