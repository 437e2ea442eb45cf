"""What every sampler of raysweep keeps to, whatever the space and whatever became of the trials so far."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as Told
from pydantic import ValidationError

from raysweep.errors import ArgumentError
from raysweep.metrics import TrialState
from raysweep.search.gp.cube import Cube
from raysweep.search.gp.curves import MOST_ROWS
from raysweep.search.gp.sampler import FIRST_POINTS, MOST_PENDING, CurveSampler
from raysweep.search.sampling import make_sampler, ranking_for, suggest
from raysweep.spec.defaults import settled
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SAMPLERS, SweepSpec
from raysweep.spec.space import Range, Scalar, optuna_distribution
from raysweep.storage.layout import SweepDirectory
from raysweep.study.ledger import Ledger
from tests.unit.conftest import epoch_metrics

LEARNING = ("auto", "gp", "tpe")
SAMPLED = (*LEARNING, "random")
"""A grid is visited point by point: what is sampled with it is what `enqueue` leaves open."""
KINDS = ("completed", "pruned", "diverged", "failed", "running", "interrupted")

SPACE = """
name: samplers
data: {{dataset: digits}}
trial:
  kld_weight: {{low: 1e-6, high: 1e-1, log: true}}
  input_noise: {{low: 0.0, high: 0.5, step: 0.125}}
  batch_size: {{low: 16, high: 64, step: 16}}
  d_size: {{low: 4, high: 64, log: true}}
  latent_size: {{choices: [64, 2, 8, 16]}}
  likelihood: {{choices: [gaussian, bernoulli, calibrated_gaussian]}}
  kernel_size: {{choices: [3]}}
  learning_rate: 1e-3
search: {{trials: 1000, sampler: {sampler}, seed: {seed}, {rest}}}
"""
ASHA = "early_stopping: {asha: {max_epochs: 9, grace_epochs: 1}}"


def spec_of(sampler: str, rest: str = ASHA, seed: int = 0) -> SweepSpec:
    return parse_spec(SPACE.format(sampler=sampler, rest=rest, seed=seed))


def space_of(spec: SweepSpec) -> dict[str, BaseDistribution]:
    return {name: optuna_distribution(name, searched) for name, searched in spec.trial.searched.items()}


def any_value(distribution: BaseDistribution, chance: random.Random) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return chance.choice(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.step is not None and not distribution.log:
        steps = round((distribution.high - distribution.low) / distribution.step)
        return distribution.low + chance.randint(0, steps) * distribution.step
    if not distribution.log:
        return chance.uniform(distribution.low, distribution.high)
    value = math.exp(chance.uniform(math.log(distribution.low), math.log(distribution.high)))
    return round(value) if isinstance(distribution, IntDistribution) else value


def trial_of(
    number: int, params: Mapping[str, Any], space: Mapping[str, BaseDistribution], kind: str, curve: Sequence[float]
) -> FrozenTrial:
    """Return a trial as the ledger has it."""
    told = {"completed": Told.COMPLETE, "failed": Told.FAIL, "running": Told.RUNNING, "interrupted": Told.RUNNING}
    values = dict(enumerate(curve, start=1))
    if kind == "diverged":
        values[max(values, default=1)] = math.nan
    trial = optuna.trial.create_trial(
        state=told.get(kind, Told.PRUNED), params=dict(params), distributions=dict(space), intermediate_values=values,
        value=curve[-1] if kind == "completed" else None,
        system_attrs={"constraints:diverged": 1.0} if kind == "diverged" else {},
    )  # fmt: skip
    trial.number = number
    return trial


def history(spec: SweepSpec, count: int, kinds: Sequence[str] = KINDS, seed: int = 0) -> list[FrozenTrial]:
    """Return trials at points anywhere, some of them at the same ones, that became of each of `kinds`."""
    chance, space = random.Random(seed), space_of(spec)
    trials: list[FrozenTrial] = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        repeated = trials and chance.random() < 0.1
        point = dict(trials[-1].params) if repeated else {n: any_value(d, chance) for n, d in space.items()}
        length = {"completed": 9, "running": 0, "failed": 2}.get(kind, chance.randint(1, 8))
        goal = chance.gauss(0.0, 100.0)
        curve = [goal - 50.0 / epoch for epoch in range(1, 1 + length)]
        trials.append(trial_of(number, point, space, kind, curve))
    return trials


def suggestion(
    spec: SweepSpec, trials: Sequence[FrozenTrial], given: Mapping[str, Scalar] | None = None, number: int | None = None
) -> dict[str, Any]:
    """Return the next point, of trials that a ledger would show."""
    spec = settled(spec)
    ranking = ranking_for(spec)
    for trial in trials:
        ranking.add(trial)
    running = [trial for trial in trials if not trial.state.is_finished()]
    study = optuna.create_study(direction="minimize" if spec.search.objective.direction == "min" else "maximize")
    number = len(trials) if number is None else number
    return suggest(spec, study, number, given or {}, space_of(spec), [*ranking.view(), *running])


def require_in(spec: SweepSpec, point: Mapping[str, Any]) -> None:
    assert list(point) == list(spec.trial.searched)
    for name, distribution in spec.trial.searched.items():
        assert point[name] in distribution, f"{name}: {point[name]} is not {distribution}"
        optuna_distribution(name, distribution).to_internal_repr(point[name])
    config = spec.trial.config(point)
    for name in point:
        assert getattr(config, name) == point[name]
        assert type(getattr(config, name)) is type(point[name]), "whole numbers are whole"


@pytest.mark.parametrize("sampler", SAMPLED)
@pytest.mark.parametrize("count", [0, 3, FIRST_POINTS, 30])
def test_a_point_is_within_bounds_on_steps_and_has_the_one_value_of_what_has_one(sampler: str, count: int) -> None:
    spec = spec_of(sampler)
    for seed in range(3):
        require_in(spec, suggestion(spec, history(spec, count, seed=seed)))


@pytest.mark.parametrize("sampler", SAMPLED)
def test_what_is_given_stays_and_the_rest_is_sampled(sampler: str) -> None:
    spec = spec_of(sampler)
    given_: dict[str, Scalar] = {"kld_weight": 1e-4, "latent_size": 8}
    for count in (0, 20):
        point = suggestion(spec, history(spec, count), given_)
        require_in(spec, point)
        assert {name: point[name] for name in given_} == given_


@pytest.mark.parametrize("sampler", LEARNING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_history_of_one_kind_alone_is_learned_from(sampler: str, kind: str) -> None:
    spec = spec_of(sampler)
    require_in(spec, suggestion(spec, history(spec, 20, [kind])))


@pytest.mark.parametrize("sampler", LEARNING)
@pytest.mark.parametrize("values", [[7.0], [1e300, -1e300], [1e-300, 0.0], [-1e35, 1.0, 2.0, 3.0]], ids=str)
def test_any_finite_values_are_learned_from(sampler: str, values: list[float]) -> None:
    spec, space, chance = spec_of(sampler), space_of(spec_of(sampler)), random.Random(1)
    trials = []
    for number in range(12):
        point = {name: any_value(distribution, chance) for name, distribution in space.items()}
        trials.append(trial_of(number, point, space, "completed", [values[number % len(values)]] * 9))
    require_in(spec, suggestion(spec, trials))


@pytest.mark.parametrize("sampler", LEARNING)
def test_twenty_trials_at_one_and_the_same_point_are_learned_from(sampler: str) -> None:
    spec, space = spec_of(sampler), space_of(spec_of(sampler))
    point = {name: any_value(distribution, random.Random(2)) for name, distribution in space.items()}
    trials = [trial_of(number, point, space, "completed", [float(number % 3)] * 9) for number in range(20)]
    require_in(spec, suggestion(spec, trials))


@pytest.mark.parametrize("sampler", SAMPLED)
def test_a_thousand_trials_of_all_kinds_and_many_under_way_are_learned_from(sampler: str) -> None:
    spec = spec_of(sampler)
    trials = history(spec, 1000)
    assert sum(not trial.state.is_finished() for trial in trials) > MOST_PENDING
    assert len(trials) > MOST_ROWS
    require_in(spec, suggestion(spec, trials))


@pytest.mark.parametrize("sampler", SAMPLED)
@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_spaces_of_one_to_twenty_parameters_are_searched(sampler: str, count: int) -> None:
    ranges = [
        "kld_weight: {low: 1e-6, high: 1e-1, log: true}", "learning_rate: {low: 1e-5, high: 1e-1, log: true}",
        "input_noise: {low: 0.0, high: 0.5}", "latent_size: {choices: [2, 8, 16]}", "d_size: {low: 4, high: 64}",
        "batch_size: {low: 16, high: 128, log: true}", "likelihood: {choices: [gaussian, bernoulli]}",
        "kernel_size: {choices: [3, 4]}", "rotation_degrees: {low: 0.0, high: 45.0}", "sigma: {low: 0.1, high: 2.0}",
        "seed: {low: 0, high: 9}", "brightness_jitter: {low: 0.0, high: 0.5}", "hidden_size: {low: 16, high: 512}",
        "negative_slope: {low: 0.0, high: 0.3}", "autocontrast_probability: {low: 0.0, high: 1.0}",
        "binarise: {choices: [none, threshold]}", "batch_norm: {choices: [none, all]}",
        "max_gradient_norm: {low: 0.5, high: 50.0, log: true}", "precision: {choices: [float32, bfloat16]}",
        "reduction: {choices: [pixel_mean, sum]}",
    ]  # fmt: skip
    text = "data: {dataset: digits}\ntrial:\n" + "".join(f"  {line}\n" for line in ranges[:count])
    spec = parse_spec(text + f"search: {{trials: 100, sampler: {sampler}, {ASHA}}}")
    assert len(spec.trial.searched) == count
    require_in(spec, suggestion(spec, history(spec, 30)))


@pytest.mark.parametrize("sampler", [*SAMPLED, "grid"])
@pytest.mark.parametrize(
    "trial", ["{latent_size: {choices: [8]}}", "{latent_size: {choices: [8]}, d_size: {choices: [4]}}"]
)
def test_a_space_of_one_point_has_that_point_for_every_trial(
    sampler: str, trial: str, directory: SweepDirectory
) -> None:
    trials = 1 if sampler == "grid" else 12
    spec = parse_spec(f"data: {{dataset: digits}}\ntrial: {trial}\nsearch: {{trials: {trials}, sampler: {sampler}}}")
    ledger = Ledger.create(directory, spec)
    for number in range(spec.trials):
        assert ledger.ask().params == {name: spec.trial.choices(name)[0] for name in spec.trial.searched}
        ledger.add_epoch(number, epoch_metrics(1, 1.0), "host", "cpu")
        ledger.finish(number, TrialState.COMPLETED, "all epochs done")
    assert ledger.ended == trials


@pytest.mark.parametrize("sampler", [*SAMPLED, "grid"])
def test_enqueued_points_come_first(sampler: str, directory: SweepDirectory) -> None:
    text = (
        "data: {dataset: digits}\ntrial: {latent_size: {choices: [2, 8, 16]}, d_size: {choices: [8, 16]}}\n"
        f"search: {{trials: 5, sampler: {sampler}, enqueue: [{{latent_size: 16, d_size: 8}}, {{latent_size: 2}}]}}"
    )
    ledger = Ledger.create(directory, parse_spec(text))
    assert ledger.ask().params == {"latent_size": 16, "d_size": 8}
    assert ledger.ask().params["latent_size"] == 2
    assert [record.enqueued for record in (*ledger.records(), ledger.ask())] == [True, True, False]


@pytest.mark.parametrize("sampler", LEARNING)
@pytest.mark.parametrize("count", [5, 40])
def test_the_order_in_which_trials_ended_changes_nothing(sampler: str, count: int) -> None:
    spec = spec_of(sampler)
    trials = history(spec, count)
    shuffled = trials[:]
    random.Random(3).shuffle(shuffled)
    assert suggestion(spec, shuffled) == suggestion(spec, trials)


@pytest.mark.parametrize("sampler", SAMPLED)
def test_a_seed_has_its_own_points_and_a_trial_too(sampler: str) -> None:
    specs = [spec_of(sampler, seed=seed) for seed in range(2)]
    for count in (0, 30):
        trials = history(specs[0], count)
        points = [suggestion(spec, trials, number=count + more) for spec in specs for more in range(2)]
        assert len({json.dumps(point) for point in points}) == 4


SUGGEST = """
import random
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from raysweep.search.gp.cube import Cube
from raysweep.search.gp.sampler import CurveSampler

space = {"x": FloatDistribution(1e-5, 1, log=True), "y": CategoricalDistribution("ab"), "z": FloatDistribution(0, 1)}
study, chance = optuna.create_study(sampler=CurveSampler(seed=7)), random.Random(5)
for number in range(120):
    params = {"x": 10 ** -chance.uniform(0, 5), "y": chance.choice("ab"), "z": chance.random()}
    curve = {epoch: chance.gauss(0, 1) for epoch in range(1, 10)}
    study.add_trial(
        optuna.trial.create_trial(params=params, distributions=space, value=curve[9], intermediate_values=curve)
    )
suggestion = study.ask(space).params
"""


def test_a_new_process_with_another_number_of_threads_suggests_the_same() -> None:
    here: dict[str, Any] = {}
    exec(SUGGEST, here)
    done = subprocess.run(
        [sys.executable, "-c", SUGGEST + "import json\nprint(json.dumps(suggestion))"], capture_output=True, text=True,
        check=True, timeout=120, env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert json.loads(done.stdout) == here["suggestion"]


@pytest.mark.parametrize("sampler", LEARNING)
def test_a_ledger_that_is_opened_again_suggests_what_it_would_have(sampler: str, directory: SweepDirectory) -> None:
    """What is let go of once a trial has ended is nothing that the sampler looks at."""
    spec = spec_of(sampler)
    ledger = Ledger.create(directory, spec)
    for number in range(14):
        score = -abs(math.log10(float(str(ledger.ask().params["kld_weight"]))) + 3.0)
        for epoch in range(1, 10 if number % 3 else 5):
            ledger.add_epoch(number, epoch_metrics(epoch, 100 * score - 30 / epoch), "host", "cpu")
        if number != 12:
            end = [TrialState.PRUNED, TrialState.COMPLETED, TrialState.DIVERGED][number % 3 if number != 8 else 2]
            ledger.finish(number, end, "because")
    reopened = Ledger.open(directory, spec, writable=True)
    assert reopened.ask().params == ledger.ask().params


def test_a_sweep_begun_before_choices_were_ordered_goes_on_as_it_began(tmp_path: Path) -> None:
    spec, began, old = spec_of("tpe"), SweepDirectory.at(tmp_path / "began"), SweepDirectory.at(tmp_path / "old")
    began.root.mkdir()
    ledger = Ledger.create(began, spec)
    for number in range(12):
        size = ledger.ask().params["latent_size"]
        ledger.add_epoch(number, epoch_metrics(1, -abs(float(str(size)) - 9)), "host", "cpu")
        ledger.finish(number, TrialState.COMPLETED, "all epochs done")
    shutil.copytree(began.root, old.root)
    lines = began.journal.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"user_attr":{"choices":"ordered"}' not in line]
    assert len(kept) == len(lines) - 1
    old.journal.write_bytes(b"".join(kept))
    study = optuna.load_study(
        study_name="raysweep", storage=optuna.storages.JournalStorage(JournalFileBackend(str(old.journal))),
        sampler=make_sampler(spec, 12, are_choices_ordered=False),
    )  # fmt: skip
    as_before = study.ask(space_of(spec)).params
    old.journal.write_bytes(b"".join(kept))
    assert Ledger.open(old, spec, writable=True).ask().params == as_before
    assert Ledger.open(began, spec, writable=True).ask().params != as_before


@st.composite
def ranges(draw: st.DrawFn) -> tuple[str, Range]:
    """A field and a range of it: of numbers, or of whole numbers; by steps, by the logarithm, or neither."""
    name, log = draw(st.sampled_from(["sigma", "hidden_size"])), draw(st.booleans())
    step: float | None = None
    if name == "hidden_size":
        low: float = draw(st.integers(1, 10**6))
        step = None if log else draw(st.none() | st.integers(1, 1000))
        high: float = low + (step or 1) * draw(st.integers(1, 10**6))
    else:
        step = None if log else draw(st.none() | st.sampled_from([0.125, 0.75, 2.5]))
        low = float(draw(st.integers(0, 100))) if step else draw(st.floats(1e-9, 1e6))
        high = low + step * draw(st.integers(1, 1000)) if step else low * draw(st.floats(1.0001, 1e9))
    try:
        return name, Range(low=low, high=high, log=log, step=step)
    except ValidationError:
        reject()


@given(ranges(), st.integers(0, 2**32 - 1))
def test_no_row_of_the_cube_is_outside_of_its_range(searched: tuple[str, Range], seed: int) -> None:
    name, distribution = searched
    cube = Cube({name: optuna_distribution(name, distribution)})
    generator = np.random.default_rng(seed)
    ends = np.array([[0.0], [np.nextafter(1.0, 0.0)]])
    rows = cube.spread(np.concatenate([ends, generator.random((20, 1))]))
    for scale in (0.01, 1.0):
        rows = np.concatenate([rows, cube.near(generator, rows, scale)])
    assert np.all((rows >= -1e-12) & (rows <= 1 + 1e-12))
    for row in rows:
        point = cube.decode(row)
        assert point[name] in distribution
        assert cube.encode(point) == pytest.approx(row, abs=1e-6)


@given(st.lists(st.integers(-5, 1000) | st.floats(-5, 1000), min_size=1, max_size=8, unique=True), st.booleans())
def test_choices_of_the_cube_are_the_ones_of_the_space(choices: list[int | float], are_words: bool) -> None:
    values: list[Any] = [str(choice) for choice in choices] if are_words else list(choices)
    cube = Cube({"x": CategoricalDistribution(values)})
    uniform = (np.arange(len(values)) + 0.5)[:, None] / len(values)
    rows = cube.spread(uniform)
    found = [cube.decode(row)["x"] for row in rows]
    assert found == (values if are_words else sorted(values)), "each as likely as the others"
    assert [type(value) for value in sorted(found)] == [type(value) for value in sorted(values)]
    assert all(cube.encode({"x": value}) == list(row) for value, row in zip(found, rows, strict=True))
    for row in cube.near(np.random.default_rng(0), rows, 0.1):
        assert cube.decode(row)["x"] in values


def test_an_unknown_sampler_is_an_error_with_what_there_is_and_what_is_near() -> None:
    spec = spec_of("gp")
    odd = spec.model_copy(update={"search": spec.search.model_copy(update={"sampler": "randon"})})
    with pytest.raises(ArgumentError, match=r"search.sampler: must be auto, gp, tpe, random or grid, got 'randon'; "
                                            r"did you mean random\?"):  # fmt: skip
        make_sampler(odd, 0)
    for name in SAMPLERS:
        assert isinstance(make_sampler(spec_of(name) if name != "grid" else spec, 0), optuna.samplers.BaseSampler)


def test_numbers_among_choices_are_ordered_and_words_are_not() -> None:
    """The best of 2, 4, ..., 64 lies between two good ones that were tried; nothing lies between two words."""
    for sampler in ("gp", "tpe"):
        hits = 0
        for seed in range(4):
            text = (
                "data: {dataset: digits}\ntrial: {d_size: {choices: [2, 4, 8, 16, 32, 64, 128, 256]}, "
                "kld_weight: {low: 1e-6, high: 1e-1, log: true}}\n"
                f"search: {{trials: 50, sampler: {sampler}, seed: {seed}, objective: {{metric: elbo_nats}}}}"
            )
            spec = parse_spec(text)
            space, chance, trials = space_of(spec), random.Random(seed), []
            for number in range(20):
                size = (2, 4, 8, 16, 64, 128, 256)[number % 7]  # 32 was never tried
                weight = any_value(space["kld_weight"], chance)
                value = -((math.log2(size) - 5) ** 2)
                trials.append(
                    trial_of(number, {"d_size": size, "kld_weight": weight}, space, "completed", [value] * 20)
                )
            hits += suggestion(spec, trials)["d_size"] in (16, 32, 64)
        assert hits == 4, sampler


def test_the_gaussian_process_finds_more_than_the_others_do() -> None:
    """Twenty-four trials, each to its end, of a problem whose best is 0: mean distance over three seeds."""

    def distance(sampler: str, seed: int) -> float:
        spec = parse_spec(
            "data: {dataset: digits}\ntrial: {kld_weight: {low: 1e-6, high: 1, log: true}, "
            "learning_rate: {low: 1e-5, high: 1e-1, log: true}, latent_size: {choices: [2, 8, 16, 64, 256]}}\n"
            f"search: {{trials: 24, sampler: {sampler}, seed: {seed}, {ASHA}}}"
        )
        space, trials, best = space_of(spec), [], math.inf
        for number in range(24):
            point = suggestion(spec, trials)
            latents = math.log2(point["latent_size"]) - 4
            weight = math.log10(point["kld_weight"]) + 3 + 0.3 * latents
            misfit = weight**2 + 2 * math.log10(point["learning_rate"] / 2e-3) ** 2 + 0.1 * latents**2
            trials.append(trial_of(number, point, space, "completed", [-misfit - 2 / epoch for epoch in range(1, 10)]))
            best = min(best, misfit)
        return best

    means = {name: float(np.mean([distance(name, seed) for seed in range(3)])) for name in ("gp", "tpe", "random")}
    assert means["gp"] < 0.3 * means["tpe"], means
    assert means["gp"] < 0.3 * means["random"], means


def test_the_gaussian_process_finds_more_than_tpe_although_half_the_fast_trainings_are_stuck() -> None:
    """As trials get stuck: at learning rates just above the best one, flat at a value of the worse half of points."""

    def distance(sampler: str, seed: int) -> float:
        spec = parse_spec(
            "data: {dataset: digits}\ntrial: {kld_weight: {low: 1e-6, high: 1, log: true}, "
            "learning_rate: {low: 1e-5, high: 1e-1, log: true}}\n"
            f"search: {{trials: 24, sampler: {sampler}, seed: {seed}, {ASHA}}}"
        )
        space, trials, best, chance = space_of(spec), [], math.inf, random.Random(seed)
        for number in range(24):
            point = suggestion(spec, trials)
            misfit = (math.log10(point["kld_weight"]) + 3) ** 2 + 2 * math.log10(point["learning_rate"] / 2e-3) ** 2
            curve = [-misfit - 2 / epoch for epoch in range(1, 10)]
            if chance.random() < 0.5 and point["learning_rate"] > 4e-3:
                curve = [-8.0] * 9
            else:
                best = min(best, misfit)
            trials.append(trial_of(number, point, space, "completed", curve))
        return best

    means = {name: float(np.mean([distance(name, seed) for seed in range(3)])) for name in ("gp", "tpe")}
    assert means["gp"] < 0.5 * means["tpe"], means


def test_a_curve_that_ends_early_says_where_it_was_going() -> None:
    """Of two halves of a range one is better at epoch 3, and the other at the end: the end counts."""
    spec = parse_spec(
        "data: {dataset: digits}\ntrial: {kld_weight: {low: 1e-6, high: 1, log: true}}\n"
        f"search: {{trials: 50, sampler: gp, {ASHA}}}"
    )
    space, trials = space_of(spec), []
    for number in range(16):
        place = number / 15
        slope = 10.0 if place > 0.5 else -1.0
        length = 9 if number % 2 else 3
        curve = [(5.0 if place < 0.5 else 0.0) + slope * math.log(epoch) for epoch in range(1, length + 1)]
        kind = "completed" if length == 9 else "pruned"
        trials.append(trial_of(number, {"kld_weight": 10 ** (6 * place - 6)}, space, kind, curve))
    assert suggestion(spec, trials)["kld_weight"] > 1e-3


@pytest.mark.parametrize("metric", ["elbo_nats", "mse"])
def test_less_is_better_where_the_objective_says_so(metric: str) -> None:
    spec = parse_spec(
        "data: {dataset: digits}\ntrial: {learning_rate: {low: 1e-5, high: 1e-1, log: true}}\n"
        f"search: {{trials: 50, sampler: gp, objective: {{metric: {metric}}}, {ASHA}}}"
    )
    space = space_of(spec)
    trials = [
        trial_of(number, {"learning_rate": 10 ** (-5 + 4 * number / 11)}, space, "completed", [float(number)] * 9)
        for number in range(12)
    ]
    rate = suggestion(spec, trials)["learning_rate"]
    assert rate > 1e-2 if metric == "elbo_nats" else rate < 1e-4


def test_epochs_that_are_searched_are_each_trial_s_own_end() -> None:
    text = (
        "data: {{dataset: digits}}\ntrial: {{kld_weight: {{low: 1e-6, high: 1, log: true}}, "
        "epochs: {epochs}}}\nsearch: {{trials: 50, sampler: gp}}"
    )
    for epochs in ("{low: 2, high: 20}", "{choices: [5, 10, 20]}", "12"):
        spec = parse_spec(text.format(epochs=epochs))
        chance, space, trials = random.Random(4), space_of(spec), []
        for number in range(14):
            point = {name: any_value(distribution, chance) for name, distribution in space.items()}
            curve = [float(np.log(epoch)) for epoch in range(1, 1 + point.get("epochs", 12))]
            trials.append(trial_of(number, point, space, "running" if number == 5 else "completed", curve))
        point = suggestion(spec, trials)
        require_in(spec, point)
        if "epochs" in point:
            assert point["epochs"] >= 10, "more epochs are better here"


def test_a_point_that_was_tried_is_not_tried_again_while_there_are_others() -> None:
    text = (
        "data: {dataset: digits}\ntrial: {d_size: {choices: [4, 8, 16]}, latent_size: {choices: [2, 4, 8, 16]}, "
        f"likelihood: {{choices: [gaussian, bernoulli]}}}}\nsearch: {{trials: 23, sampler: gp, {ASHA}}}"
    )
    spec = parse_spec(text)
    space, trials, seen = space_of(spec), [], set()
    for number in range(24):
        point = suggestion(spec, trials)
        seen.add(json.dumps(point))
        kind = KINDS[number % 6]
        trials.append(
            trial_of(number, point, space, kind, [float(point["d_size"])] * (9 if kind == "completed" else 1))
        )
        if number >= FIRST_POINTS:
            assert json.dumps(point) in seen
    repeated = 24 - len(seen)
    assert repeated <= FIRST_POINTS, "the first ones are spread before anything is known"
    require_in(spec, suggestion(spec, trials))


def test_it_samples_for_a_plain_study_of_optuna_too() -> None:
    def objective(trial: optuna.Trial) -> float:
        x, size = trial.suggest_float("x", -3, 3), trial.suggest_categorical("size", [1, 2, 4])
        if trial.number % 5 == 4:
            trial.suggest_int("extra", 1, 3)
        for step in range(6):
            trial.report((x - 1) ** 2 + size + 3 / (step + 1), step)
            if trial.number % 4 == 3 and step == 2:
                raise optuna.TrialPruned
        return (x - 1) ** 2 + size + 0.5

    values = []
    for sampler in (CurveSampler(seed=0, last_epoch=5, rungs=(2,)), CurveSampler(seed=0), CurveSampler()):
        study = optuna.create_study(sampler=sampler)
        study.optimize(objective, n_trials=24)
        values.append(study.best_value)
    assert max(values) < 1.6
    assert isinstance(study.ask(), optuna.Trial)


def test_a_study_of_several_objectives_is_refused() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=CurveSampler(seed=0))
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1)}
    study.add_trial(optuna.trial.create_trial(params={"x": 0.5}, distributions=space, values=[1.0, 2.0]))
    with pytest.raises(ValueError, match="one objective, this study has 2"):
        study.ask(space)
