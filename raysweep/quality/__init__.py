"""Measures of images, samples and latents: functions of tensors. docs/quality.md defines each of them."""
