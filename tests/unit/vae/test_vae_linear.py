"""The linear layer beside the library's."""

from __future__ import annotations

import pytest
import torch
from layer_results import result_and_gradients
from torch import nn

from raysweep.vae.cpu import linear
from raysweep.vae.cpu.linear import LEAST_PRODUCTS, Linear

needs_onednn = pytest.mark.skipif(not linear.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of what oneDNN has multiplied from the left."""
    done: list[torch.Size] = []
    product = linear._product

    def noted(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        done.append(left.shape)
        return product(left, right, bias)

    monkeypatch.setattr(linear, "_product", noted)
    return done


def pair(into: int, out: int, bias: bool = True) -> tuple[nn.Linear, Linear]:
    torch.manual_seed(0)
    library, ours = nn.Linear(into, out, bias), Linear(into, out, bias)
    ours.load_state_dict(library.state_dict())
    return library, ours


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("batch", "into", "out"), [(16, 2048, 256), (16, 256, 2048), (67, 300, 211)])
def test_a_large_layer_comes_to_what_the_library_comes_to(
    batch: int, into: int, out: int, bias: bool, products: list[torch.Size]
) -> None:
    found = []
    for layer in pair(into, out, bias):
        x = torch.linspace(-1, 1, batch * into).view(into, batch).t()
        found.append(result_and_gradients(layer, x))
    assert products == [(batch, into), (batch, out), (out, batch)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_small_layer_and_one_in_double_precision_are_the_librarys_to_the_bit(
    dtype: torch.dtype, products: list[torch.Size]
) -> None:
    library, ours = (layer.to(dtype) for layer in pair(256, 256))
    x = torch.rand(LEAST_PRODUCTS // 256**2 - 1 if dtype == torch.float32 else 1000, 256, dtype=dtype)
    assert torch.equal(ours(x), library(x))
    assert products == []


def test_under_autocast_it_is_the_librarys(products: list[torch.Size]) -> None:
    library, ours = pair(2048, 256)
    x = torch.rand(16, 2048)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(x)
        assert torch.equal(found, library(x))
    assert found.dtype is torch.bfloat16
    assert products == []


def test_without_onednn_it_is_the_librarys(monkeypatch: pytest.MonkeyPatch, products: list[torch.Size]) -> None:
    library, ours = pair(2048, 256)
    x = torch.rand(16, 2048)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert torch.equal(ours(x), library(x))
    assert products == []


@needs_onednn
def test_what_asks_for_no_gradient_gets_none(products: list[torch.Size]) -> None:
    _, layer = pair(2048, 256)
    layer.weight.requires_grad_(False)
    x = torch.rand(16, 2048)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    torch.testing.assert_close(layer.bias.grad, torch.full((256,), 16.0))
    assert products == [(16, 2048)]
