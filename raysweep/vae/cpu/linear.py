"""A linear layer that computes larger products with oneDNN on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST_PRODUCTS = 1 << 22
"""Fewest multiplications in a layer for which oneDNN pays; below, finding its kernel takes longer than running it."""


class Linear(nn.Linear):
    """The same function of the same weights as `nn.Linear`, except for rounding.

    PyTorch multiplies matrices of float32 with MKL, which reaches half of what an AMD processor with vectors of 512
    bits can do. It computes convolutions with oneDNN, which reaches all of it. Here oneDNN computes larger linear
    layers too (benchmarks/choices.py).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return features [batch, out] for x [batch, in]."""
        if not self._pays(x):
            return super().forward(x)
        output: Tensor = _OneDNN.apply(x, self.weight, self.bias)
        return output

    def _pays(self, x: Tensor) -> bool:
        return (
            x.dim() == 2
            and x.numel() * self.out_features >= LEAST_PRODUCTS
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and is_available()
        )


def is_available() -> bool:
    """Return whether this PyTorch has oneDNN enabled and offers its product of dense matrices."""
    built_in = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(built_in and torch.backends.mkldnn.enabled and hasattr(torch.ops.mkldnn, "_linear_pointwise"))


class _OneDNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if wants_x else None,
            _product(gradient.t(), x.t()) if wants_weight else None,
            gradient.sum(0) if wants_bias else None,
        )


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply left [n, k] by right [m, k], transposed, and add bias [m]: [n, m].

    torch.compile emits the same operation.
    """
    found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return found
