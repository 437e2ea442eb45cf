"""The convolutions beside the library's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layer_results import result_and_gradients
from torch import Tensor, nn

from raysweep.vae.cpu.convolutions import Conv2d, ConvTranspose2d

PAIRS: list[tuple[type[nn.Module], type[nn.Module]]] = [(nn.Conv2d, Conv2d), (nn.ConvTranspose2d, ConvTranspose2d)]


@pytest.fixture
def biases(monkeypatch: pytest.MonkeyPatch) -> list[Tensor | None]:
    """What the library's convolutions have been given for a bias."""
    given: list[Tensor | None] = []

    def noted(convolve: Any) -> Any:
        def convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any) -> Any:
            given.append(bias)
            return convolve(x, weight, bias, *how)

        return convolution

    for name in ("conv2d", "conv_transpose2d"):
        monkeypatch.setattr(F, name, noted(getattr(F, name)))
    return given


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("how", [{}, {"stride": 2, "padding": 1}, {"padding": 2, "dilation": 2, "groups": 2}])
@pytest.mark.parametrize("kinds", PAIRS)
def test_they_come_to_what_the_library_comes_to(
    kinds: tuple[type[nn.Module], type[nn.Module]], how: dict[str, int], bias: bool, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    library, ours = (kind(4, 6, 3, bias=bias, dtype=torch.float64, **how) for kind in kinds)
    ours.load_state_dict(library.state_dict())
    found = []
    for layer in (library, ours):
        layer.to(memory_format=memory_format)  # type: ignore[call-overload]
        x = torch.linspace(-1, 1, 3 * 4 * 6 * 7, dtype=torch.float64).view(3, 4, 6, 7)
        found.append(result_and_gradients(layer, x.to(memory_format=memory_format)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [Conv2d, ConvTranspose2d])
def test_a_bias_is_added_after_where_it_has_a_gradient_and_by_the_library_where_it_has_none(
    kind: type[nn.Module], biases: list[Tensor | None]
) -> None:
    layer, x = kind(4, 6, 3), torch.rand(2, 4, 5, 5)
    layer(x)
    assert biases == [None]
    with torch.no_grad():
        layer(x)
    assert biases[1:] == [layer.bias]


@pytest.mark.parametrize("kinds", PAIRS)
def test_under_autocast_they_are_the_librarys(kinds: tuple[type[nn.Module], type[nn.Module]]) -> None:
    torch.manual_seed(0)
    library, ours = (kind(4, 6, 3) for kind in kinds)
    ours.load_state_dict(library.state_dict())
    x = torch.rand(2, 4, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(x)
        assert torch.equal(found, library(x))
    assert found.dtype is torch.bfloat16


def test_an_output_size_is_the_librarys() -> None:
    library, ours = (kind(4, 6, 3, stride=2) for kind in (nn.ConvTranspose2d, ConvTranspose2d))
    ours.load_state_dict(library.state_dict())
    x = torch.rand(2, 4, 5, 5)
    found = ours(x, output_size=[12, 12])
    assert found.shape == (2, 6, 12, 12)
    assert torch.equal(found, library(x, output_size=[12, 12]))


@pytest.mark.parametrize("how", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}])
def test_a_convolution_pads_as_the_librarys_does(how: dict[str, Any]) -> None:
    library, ours = (kind(4, 6, 3, dtype=torch.float64, **how) for kind in (nn.Conv2d, Conv2d))
    ours.load_state_dict(library.state_dict())
    x = torch.rand(2, 4, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(ours(x), library(x))
