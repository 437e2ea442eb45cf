"""What a layer comes to, for tests of layers beside the library's."""

from __future__ import annotations

from torch import Tensor, nn


def result_and_gradients(layer: nn.Module, x: Tensor) -> list[Tensor | None]:
    """The output of x, and the gradients of x and of the parameters from a function of it that is not linear."""
    x = x.detach().requires_grad_()
    output: Tensor = layer(x)
    output.sin().sum().backward()  # type: ignore[no-untyped-call]
    return [output, x.grad, *(parameter.grad for parameter in layer.parameters())]
