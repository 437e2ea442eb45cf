"""Room on the disk: the most a sweep can take, compared with what is free."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raysweep.driver import diskspace as room
from raysweep.driver.diskspace import free_space_fault, needed_bytes
from raysweep.spec.loading import load_spec, parse_spec
from raysweep.vae.checkpoint import KEEP

SPACES = sorted((Path(__file__).parents[3] / "search_spaces").glob("*.yaml"))
TEXT = """
name: room
data: {dataset: digits, image_size: 8}
trial: {kld_weight: {low: 1e-5, high: 1e-1}, d_size: 4, latent_size: LATENTS, hidden_size: 16, conv_blocks: d/2}
search: {trials: 10}
"""


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_shipped_search_space_has_an_upper_bound(path: Path) -> None:
    spec = load_spec(path)
    side = spec.data.image_size
    assert needed_bytes(spec, (spec.data.channels or 1, side, side), spec.trials, 2) > spec.trials


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_the_bound_of_a_checkpoint_is_near_what_the_largest_network_of_a_space_has(path: Path) -> None:
    """Counted without torch, compared with the network itself."""
    import torch

    from raysweep.vae.networks import ConvVAE

    spec = load_spec(path)
    shape = (spec.data.channels or 1, spec.data.image_size, spec.data.image_size)
    sizes = ("d_size", "latent_size", "hidden_size", "kernel_size")
    largest = {name: room._largest(spec.trial, name) or None for name in sizes}
    drawn = {name: spec.trial.choices(name)[0] if spec.trial.choices(name) else spec.trial.ends(name)[0]
             for name in spec.trial.searched}  # fmt: skip
    counts = []
    for blocks in spec.trial.choices("conv_blocks"):
        config = spec.trial.config({**drawn, **largest, "conv_blocks": blocks})
        with torch.device("meta"):
            model = ConvVAE.from_config(config, shape)
        counts.append(sum(value.numel() for value in model.state_dict().values()))
    bound = room._largest_checkpoint_bytes(spec.trial, shape) / 12
    assert max(counts) <= bound < 1.6 * max(counts)


def test_the_driver_needs_no_torch_for_it() -> None:
    code = (
        "import sys; from raysweep.spec.loading import load_spec; from raysweep.driver.diskspace import needed_bytes\n"
        f"needed_bytes(load_spec({str(SPACES[0])!r}), (3, 32, 32), 10, 2); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_bound_is_no_less_than_what_checkpoints_of_the_largest_model_take(tmp_path: Path) -> None:
    import torch

    from raysweep.vae.checkpoint import save_checkpoint
    from raysweep.vae.training import Training
    from tests.fuzz.targets import _Images

    spec = parse_spec(TEXT.replace("LATENTS", "{low: 2, high: 32}"))
    config = spec.trial.config({"kld_weight": 1e-3, "latent_size": 32})
    training = Training(config, _Images(), _Images(), torch.device("cpu"))
    path = save_checkpoint(tmp_path, training, training.run_epoch())
    bound = needed_bytes(spec, (1, 8, 8), spec.trials, concurrent=2)
    assert bound > path.stat().st_size * (KEEP + 1) * spec.trials, "the last two and the best"
    smaller = parse_spec(TEXT.replace("LATENTS", "{low: 2, high: 16}"))
    assert needed_bytes(smaller, (1, 8, 8), spec.trials, concurrent=2) < bound


def test_too_little_room_is_said_with_both_figures_also_for_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_space_fault(tmp_path / "results" / "kld", 1) is None
    said = free_space_fault(tmp_path / "results" / "kld", 10**18)
    assert said is not None
    assert "the sweep may come to 1,000,000,000.0 GB" in said
    assert not (tmp_path / "results").exists()
