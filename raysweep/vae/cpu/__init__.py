"""Layers and settings that make training faster on a CPU; a GPU uses none of them."""
