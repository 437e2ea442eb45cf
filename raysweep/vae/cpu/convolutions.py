"""Convolutions that add their bias afterwards, which makes the bias's gradient faster on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """The same function of the same weights as `nn.Conv2d`, except for rounding.

    For a transposed convolution, and for images whose channels come last, oneDNN sums a bias's gradient channel by
    channel in plain loops. PyTorch's own sum takes a fraction of that time (benchmarks/choices.py).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return images [batch, out channels, height, width] for x [batch, in channels, height, width]."""
        if self.bias is None or not _pays(x):
            return super().forward(x)
        output: Tensor = self._conv_forward(x, self.weight, None)
        return output.add_(self.bias.view(-1, 1, 1))


class ConvTranspose2d(nn.ConvTranspose2d):
    """The same function of the same weights as `nn.ConvTranspose2d`, except for rounding; see `Conv2d`."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return images [batch, out channels, height, width] for x [batch, in channels, height, width]."""
        if self.bias is None or output_size is not None or not _pays(x):
            return super().forward(x, output_size)
        assert isinstance(self.padding, tuple)  # only plain convolutions take a word
        output = F.conv_transpose2d(
            x, self.weight, None, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )
        return output.add_(self.bias.view(-1, 1, 1))


def _pays(x: Tensor) -> bool:
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
