"""Which trials are stuck at the mean image: on curves that were recorded, and by the laws of the rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.metrics import EpochMetrics, TrialState
from raysweep.records import EpochRecord, TrialRecord
from raysweep.spec.space import Choices, Distribution, Range, Scalar, TrialSpace
from raysweep.vae.plateau import LEAST_EPOCHS, collapse_line, lies_flat, stuck_trials
from raysweep.vae.preflight import Preflight, critical_weight

CURVES = Path(__file__).parents[3] / "benchmarks" / "curves" / "kld.parquet"
MNIST_VARIANCE = 0.0567741
"""Mean squared error of the mean image on the validation images of mnist-5k at 32x32."""
MNIST_LINE = 1.26e-2
PIXELS = 1024
FLAT = [-0.03, -0.02, -0.015, -0.012, -0.011, -0.012, -0.011, -0.011]
SPACE = TrialSpace(constants={}, searched={"kld_weight": Range(low=1e-6, high=1.0, log=True)})


def space_of(searched: dict[str, Distribution], **constants: Scalar) -> TrialSpace:
    return TrialSpace(constants=constants, searched=searched)


def predicted(line: float) -> Preflight:
    return Preflight((line, line), 1e-6, 1.0, (1, 1), (0, 0), (0.5, 0.5))


def trial(
    r2: Sequence[float], rates: Sequence[float] | None = None, *, number: int = 0,
    state: TrialState = TrialState.COMPLETED, space: TrialSpace = SPACE, **params: Scalar,
) -> TrialRecord:  # fmt: skip
    """A trial with these values of `r2` and `rate_nats` by epoch, at a small KLD weight unless it is given."""
    blank = EpochMetrics(
        epoch=1, train_loss=0.1, val_loss=0.1, elbo_nats=10.0, elbo_binary_nats=-200.0, bits_per_dim=7.0, rate_nats=0.0,
        distortion_nats=-10.0, mse=0.05, psnr_db=12.0, r2=0.0, active_units=0, collapsed=True, images_per_s=1e3,
        epoch_s=1.0,
    )  # fmt: skip
    rates = [0.001] * len(r2) if rates is None else rates
    metrics = [
        replace(blank, epoch=epoch, r2=one, rate_nats=rate)
        for epoch, (one, rate) in enumerate(zip(r2, rates, strict=True), 1)
    ]
    epochs = tuple(EpochRecord.of(each, datetime(2026, 11, 28, tzinfo=UTC)) for each in metrics)
    return TrialRecord(number, space, {"kld_weight": 1e-4, **params}, state, epochs)


def is_stuck(record: TrialRecord, *others: TrialRecord, line: float | None = MNIST_LINE) -> bool | None:
    return stuck_trials([record, *others], None if line is None else predicted(line))[record.number]


def recorded() -> list[TrialRecord]:
    """The trials of kld.yaml's space that were recorded, with what `elbo_nats` and `psnr_db` say of the rest."""
    table = pq.read_table(CURVES).to_pydict()
    found: dict[int, list[int]] = {}
    for row, number in enumerate(table["trial"]):
        found.setdefault(number, []).append(row)
    records = []
    for number, rows in found.items():
        mse = 10 ** (-np.array([table["psnr_db"][row] for row in rows]) / 10)
        distortion = PIXELS / 2 * (np.log(2 * math.pi * (mse + 1 / (12 * 255**2))) + 1)
        rates = np.maximum(0.0, -np.array([table["elbo_nats"][row] for row in rows]) - distortion)
        r2 = 1 - mse / MNIST_VARIANCE
        params = {name: table[name][rows[0]] for name in ("kld_weight", "learning_rate", "latent_size", "d_size")}
        records.append(trial(r2.tolist(), rates.tolist(), number=number, **params))
    return records


def test_the_rule_is_sharp_on_recorded_curves() -> None:
    records = recorded()
    verdicts = stuck_trials(records, predicted(MNIST_LINE))
    named = {number for number, verdict in verdicts.items() if verdict}
    assert named == {0, 7, 52, 58, 66, 67, 82, 86, 92, 101, 109, 110, 111}
    below = [record for record in records if record.params["kld_weight"] < MNIST_LINE and len(record.epochs) == 20]
    ends = {record.number: record.last("r2") for record in below}
    assert max(ends[number] for number in named) < 0.006
    others = sorted(end for number, end in ends.items() if number not in named)
    assert others[0] == pytest.approx(0.0064, abs=1e-4), "one that moves, at a learning rate of 1.2e-4"
    assert others[1] > 0.02
    assert None not in verdicts.values()


def test_most_trials_named_at_the_first_rung_stay_where_they_are() -> None:
    cut = [replace(record, epochs=record.epochs[:5]) for record in recorded()]
    verdicts = stuck_trials(cut, predicted(MNIST_LINE))
    named = {number for number, verdict in verdicts.items() if verdict}
    left = {record.number for record in recorded() if record.number in named and record.last("r2") > 0.02}
    assert (len(named), len(left)) == (14, 3)


def test_a_flat_trial_is_stuck_below_the_line_and_not_above_it() -> None:
    assert is_stuck(trial(FLAT)) is True
    assert is_stuck(trial(FLAT, kld_weight=0.1)) is False, "this one collapsed, as was predicted"
    assert is_stuck(trial(FLAT, kld_weight=0.0), line=None) is True, "without a weight nothing can collapse"


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.PAUSED, TrialState.INTERRUPTED])
def test_a_trial_that_was_stopped_is_judged_by_the_epochs_it_had(state: TrialState) -> None:
    assert is_stuck(trial(FLAT[:5], state=state)) is True


def test_a_diverged_trial_is_not_stuck() -> None:
    assert is_stuck(trial([*FLAT, math.nan], state=TrialState.DIVERGED)) is False
    assert is_stuck(trial(FLAT, state=TrialState.DIVERGED)) is False


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.OUT_OF_MEMORY])
def test_of_a_trial_that_failed_nobody_can_tell(state: TrialState) -> None:
    assert is_stuck(trial(FLAT, state=state)) is None


@pytest.mark.parametrize("epochs", range(LEAST_EPOCHS))
def test_of_a_short_trial_nobody_can_tell_unless_it_has_left_the_plateau(epochs: int) -> None:
    assert is_stuck(trial(FLAT[:epochs])) is None
    assert is_stuck(trial([*FLAT[:epochs], 0.3])) is False


def test_a_trial_that_left_the_plateau_and_fell_back_is_not_stuck() -> None:
    assert is_stuck(trial([0.1, *FLAT])) is False


def test_a_trial_that_still_comes_up_to_the_mean_image_is_learning() -> None:
    assert is_stuck(trial([-3.3, -0.47, -0.17, -0.08, -0.04])) is False


def test_a_trial_whose_rate_grows_is_leaving() -> None:
    assert is_stuck(trial(FLAT, [0.01, 0.01, 0.01, 0.01, 0.02, 0.02, 0.02, 0.02])) is False
    assert is_stuck(trial(FLAT, [0.0001, 0.0001, 0.0001, 0.0001, 0.0002, 0.0004, 0.0008, 0.001])) is True, "noise"


FREE = space_of({"kld_weight": Range(low=1e-6, high=1.0, log=True)}, likelihood="calibrated_gaussian")


def test_without_a_prediction_the_other_trials_say_where_models_learn() -> None:
    flat = trial(FLAT, kld_weight=1.0, space=FREE)
    learned = [-0.1, 0.1, 0.2, 0.3]
    assert is_stuck(flat, line=None) is None
    assert is_stuck(flat, trial(learned, number=1, kld_weight=0.5, space=FREE), line=None) is None
    assert is_stuck(flat, trial(learned, number=1, kld_weight=2.0, space=FREE), line=None) is True
    other = space_of({}, likelihood="bernoulli")
    assert is_stuck(flat, trial(learned, number=1, kld_weight=2.0, space=other), line=None) is None


def test_free_bits_of_another_trial_count_only_if_they_are_fewer() -> None:
    free = space_of({"free_bits_nats": Range(low=0.0, high=2.0)})
    flat = trial(FLAT, space=free, free_bits_nats=0.5)
    learned = [-0.1, 0.1, 0.2, 0.3]
    assert is_stuck(flat) is None, "no line was predicted for it"
    more = trial(learned, number=1, space=free, free_bits_nats=1.0)
    assert is_stuck(flat, more) is None
    fewer = trial(learned, number=1, space=free, free_bits_nats=0.1)
    assert is_stuck(flat, fewer) is True


def test_a_trial_below_one_that_learned_is_stuck_whatever_was_predicted() -> None:
    flat, learned = trial(FLAT, kld_weight=1.2e-2), trial([-0.1, 0.1, 0.2, 0.3], number=1, kld_weight=1.3e-2)
    assert is_stuck(flat, line=1e-2) is False
    assert is_stuck(flat, learned, line=1e-2) is True


SPACES = st.sampled_from(["pixel_mean", "pixel_and_latent_mean", "sum"]).map(
    lambda reduction: space_of(
        {
            "kld_weight": Range(low=1e-6, high=1.0, log=True), "latent_size": Choices(choices=(2, 16, 256)),
            "sigma": Range(low=0.1, high=2.0),
        },
        reduction=reduction,
    )
)  # fmt: skip


@given(SPACES, st.sampled_from([2, 16, 256]), st.floats(0.1, 2.0), st.floats(1e-3, 1e3))
def test_each_trial_s_own_line_is_the_one_of_its_configuration(
    space: TrialSpace, latents: int, sigma: float, largest: float
) -> None:
    eigenvalues = np.array([largest])
    corners = [
        critical_weight(space.config({"kld_weight": 1.0, "latent_size": size, "sigma": end}), eigenvalues, PIXELS)
        for size in (2, 256) for end in (0.1, 2.0)
    ]  # fmt: skip
    prediction = replace(predicted(1.0), critical_weight=(min(corners), max(corners)))
    config = space.config({"kld_weight": 1.0, "latent_size": latents, "sigma": sigma})
    assert collapse_line(config, space, prediction) == pytest.approx(critical_weight(config, eigenvalues, PIXELS))


def test_between_several_reductions_the_line_is_the_least() -> None:
    space = space_of({"reduction": Choices(choices=("pixel_mean", "sum"))})
    config = space.config({"reduction": "sum"})
    assert collapse_line(config, space, replace(predicted(1.0), critical_weight=(1e-2, 10.0))) == 1e-2


curves = st.lists(st.tuples(st.floats(-3, 0.019), st.floats(0, 300)), min_size=LEAST_EPOCHS, max_size=30)


@given(curves, st.floats(1e-6, 1.0), st.floats(1e-6, 1.0))
def test_what_is_stuck_at_a_weight_is_stuck_at_any_smaller_one(
    curve: list[tuple[float, float]], one: float, other: float
) -> None:
    r2, rates = zip(*curve, strict=True)
    low, high = sorted([one, other])
    if is_stuck(trial(r2, rates, kld_weight=high)):
        assert is_stuck(trial(r2, rates, kld_weight=low))


@given(curves, st.integers(0, 29), st.floats(0.02, 1.0))
def test_one_epoch_off_the_plateau_is_enough(curve: list[tuple[float, float]], place: int, value: float) -> None:
    r2, rates = map(list, zip(*curve, strict=True))
    r2[place % len(r2)] = value
    assert not lies_flat(r2, rates)


@given(curves, st.integers(1, 30))
def test_a_curve_that_stays_as_it_is_becomes_flat(curve: list[tuple[float, float]], more: int) -> None:
    r2, rates = map(list, zip(*curve, strict=True))
    stays = len(curve) + more
    assert lies_flat(r2 + [r2[-1]] * stays, rates + [rates[-1]] * stays)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=12), st.floats(allow_nan=True))
def test_any_numbers_have_a_verdict_and_no_number_means_no(r2: list[float], rate: float) -> None:
    verdict = lies_flat(r2, [rate] * len(r2))
    assert isinstance(verdict, bool)
    assert not (verdict and not (all(map(math.isfinite, r2)) and math.isfinite(rate)))
