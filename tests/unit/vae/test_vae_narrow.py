"""The decoder's last layer beside the library's."""

from __future__ import annotations

import pytest
import torch
from layer_results import result_and_gradients
from torch import nn

from raysweep.vae.cpu.narrow import NarrowTransposed


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more"),
    [(3, 2, 1, (1, 1)), (3, 2, 1, (0, 1)), (3, 2, 0, (0, 0)), (4, 2, 1, (0, 0)), (4, 2, 1, (1, 0)), (3, 1, 1, (0, 0))],
)
@pytest.mark.parametrize(("out", "bias"), [(1, True), (2, True), (3, True), (1, False)])
def test_it_comes_to_what_the_library_comes_to(
    kernel: int,
    stride: int,
    padding: int,
    more: tuple[int, int],
    out: int,
    bias: bool,
    memory_format: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    library = nn.ConvTranspose2d(5, out, kernel, stride, padding, more, bias=bias, dtype=torch.float64)
    ours = NarrowTransposed(5, out, kernel, stride, padding, more, bias=bias, dtype=torch.float64)
    ours.load_state_dict(library.state_dict())
    found = []
    for layer in (library, ours):
        layer.to(memory_format=memory_format)  # type: ignore[call-overload]
        x = torch.linspace(-1, 1, 3 * 5 * 4 * 6, dtype=torch.float64).view(3, 5, 4, 6)
        found.append(result_and_gradients(layer, x.to(memory_format=memory_format)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_under_autocast_it_is_the_librarys() -> None:
    layer = NarrowTransposed(4, 1, 3, 2, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.rand(2, 4, 3, 3)).dtype is torch.bfloat16


@pytest.mark.parametrize("how", [{"dilation": 2}, {"groups": 2}])
def test_what_it_cannot_do_the_library_does(how: dict[str, int]) -> None:
    library, ours = (kind(4, 2, 3, 2, **how) for kind in (nn.ConvTranspose2d, NarrowTransposed))
    ours.load_state_dict(library.state_dict())
    x = torch.rand(2, 4, 5, 5)
    assert torch.equal(ours(x), library(x))
    assert torch.equal(ours(x, output_size=list(library(x).shape[2:])), library(x))


def test_what_asks_for_no_gradient_gets_none() -> None:
    layer = NarrowTransposed(4, 1, 3, 2, 1, 1)
    layer.weight.requires_grad_(False)
    x = torch.rand(2, 4, 3, 3, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias is not None
    assert layer.bias.grad is not None
    assert x.grad is not None
