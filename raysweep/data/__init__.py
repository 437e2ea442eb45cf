"""From images on disk to uint8 tensors: sources, the Arrow cache, and splits."""
