"""Laps: they cover an epoch without a gap, and change nothing of it."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from tensor_images import TensorImages, discs, small_config, small_training, untimed

from raysweep.profiles import STEP, SlotPart
from raysweep.vae.laps import DeviceLaps, Laps, laps_on
from raysweep.vae.training import Training

OF_AN_EPOCH = {SlotPart.DATA, *STEP, SlotPart.EVALUATION}
AUGMENTED = {"rotation_degrees": 10.0, "binarise": "sampled", "max_gradient_norm": 1.0, "kld_warmup_epochs": 2}


@pytest.mark.parametrize("changes", [{}, AUGMENTED])
def test_an_epoch_with_laps_gives_the_same_bits_as_one_without(changes: dict[str, object]) -> None:
    plain, lapped = small_training(small_config(**changes)), small_training(small_config(**changes))
    laps = Laps()
    for _ in range(2):
        assert untimed(plain.run_epoch()) == untimed(lapped.run_epoch(laps))
    states = (plain.model.state_dict(), lapped.model.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(*(state.values() for state in states), strict=True))


def test_laps_have_every_part_of_an_epoch_and_cover_it_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that goes on by one whenever it is looked at, what is covered is what lies between first and last."""
    training = small_training(small_config())
    laps = Laps()
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    training.run_epoch(laps)
    spent = laps.take()
    assert set(spent) == OF_AN_EPOCH
    steps = training.steps_an_epoch
    assert spent == {
        # The first batch has no part before it in whose end its own begins; evaluation follows a look at the clock.
        **dict.fromkeys([SlotPart.DATA, *STEP], float(steps)),
        SlotPart.EVALUATION: 2.0,
    }
    assert laps.take() == {}


def test_laps_are_no_longer_than_the_epoch() -> None:
    training, laps = small_training(small_config()), Laps()
    before = time.perf_counter()
    metrics = training.run_epoch(laps)
    passed = time.perf_counter() - before
    spent = laps.take()
    assert all(seconds > 0 for seconds in spent.values())
    assert sum(spent.values()) <= passed
    assert spent[SlotPart.EVALUATION] < metrics.epoch_s


def test_the_processor_s_clock_measures_where_the_processor_works() -> None:
    assert type(laps_on(torch.device("cpu"))) is Laps


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_laps_are_of_the_gpu_s_own_time_and_change_nothing() -> None:
    def training() -> Training:
        images = (TensorImages(discs(count, (1, 32, 32), seed).cuda()) for seed, count in enumerate((400, 100)))
        return Training(small_config(d_size=16), *images, "cuda")

    plain, lapped, laps = training(), training(), laps_on(torch.device("cuda"))
    assert isinstance(laps, DeviceLaps)
    for trained in (plain, lapped):
        trained.run_epoch()
    torch.cuda.synchronize()
    before = time.perf_counter()
    metrics = lapped.run_epoch(laps)
    passed = time.perf_counter() - before
    assert untimed(plain.run_epoch()) == untimed(metrics)
    spent = laps.take()
    assert set(spent) == OF_AN_EPOCH
    assert 0 < sum(spent.values()) <= 1.01 * passed
    assert sum(spent.values()) >= 0.5 * metrics.epoch_s
