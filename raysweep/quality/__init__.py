"""Measures of images, samples and latents: functions of tensors. docs/metrics.md defines each measure."""
