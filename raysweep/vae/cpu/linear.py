"""A linear layer that has larger products from oneDNN on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST_PRODUCTS = 1 << 22
"""Multiplications in a layer from which on oneDNN pays; with fewer, finding its kernel takes longer than running it."""


class Linear(nn.Linear):
    """The same function of the same weights as `nn.Linear`, but for rounding.

    PyTorch multiplies matrices of float32 with MKL, which reaches half of what an AMD processor with vectors of 512
    bits can do, and computes convolutions with oneDNN, which reaches all of it. Here larger layers are oneDNN's too
    (benchmarks/choices.py).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, out] of x [batch, in]."""
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
    """Whether this PyTorch has oneDNN, is to use it, and has it multiply dense matrices."""
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
    """left [n, k] times right [m, k], transposed, plus bias [m]: [n, m]. The operation that torch.compile emits."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return found
