"""Room on the disk: the most a sweep can take, compared with what is free."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysweep.loading import load_spec, parse_spec
from raysweep.search.room import free_space_fault, needed_bytes
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
    assert bound > path.stat().st_size * KEEP * spec.trials
    smaller = parse_spec(TEXT.replace("LATENTS", "{low: 2, high: 16}"))
    assert needed_bytes(smaller, (1, 8, 8), spec.trials, concurrent=2) < bound


def test_too_little_room_is_said_with_both_figures_also_for_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_space_fault(tmp_path / "results" / "kld", 1) is None
    said = free_space_fault(tmp_path / "results" / "kld", 10**18)
    assert said is not None
    assert "the sweep may come to 1,000,000,000.0 GB" in said
    assert not (tmp_path / "results").exists()
