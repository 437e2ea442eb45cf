"""A transposed convolution to few channels, such as a decoder's last; on a CPU it is faster than the library's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_CHANNELS = 3
"""Most output channels for which it pays; with 6 it was slower than the library's at some sizes."""


class NarrowTransposed(nn.ConvTranspose2d):
    """The same function of the same weights as `nn.ConvTranspose2d`, except for rounding.

    On a CPU the library computes it as the gradient of a convolution, whose vectors run along channels: for one output
    channel it uses a sixteenth of each vector. Here one product of matrices gives what every input adds to every pixel
    below its kernel, and `fold` adds these up. For one channel this is 3 to 5 times as fast. The gradient is the
    library's.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return images [batch, out channels, height, width] for x [batch, in channels, height, width]."""
        is_plain = output_size is None and self.groups == 1 and self.dilation == (1, 1)
        if not is_plain or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().forward(x, output_size)
        output: Tensor = _Folded.apply(x, self.weight, self.stride, self.padding, self.output_padding)
        return output if self.bias is None else output.add_(self.bias.view(-1, 1, 1))


class _Folded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any, output_padding: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = list(stride), list(padding), list(output_padding)
        kernel = weight.shape[2:]
        added = torch.matmul(weight.flatten(1).t(), x.flatten(2))
        sizes = zip(x.shape[2:], stride, padding, kernel, output_padding, strict=True)
        sides = tuple((side - 1) * step - 2 * cut + width + more for side, step, cut, width, more in sizes)
        return F.fold(added, sides, kernel, padding=padding, stride=stride)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        stride, padding, output_padding = ctx.how
        wanted = [*ctx.needs_input_grad[:2], False]
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, stride, padding, [1, 1], True, output_padding, 1, wanted
        )
        return of_x, of_weight, None, None, None
