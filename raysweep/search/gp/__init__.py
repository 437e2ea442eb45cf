"""The sampler that learns from curves: a Gaussian process over (point, log epoch). No Ray, no files, no ledger."""
