"""A sweep that starts from what is known: earlier sweeps, and a hint at values."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import check_grad

from raysweep.errors import LedgerError, SpecError
from raysweep.metrics import TrialState
from raysweep.review.earlier import gather_past
from raysweep.review.sweep import open_sweep
from raysweep.search.gp.cube import Cube
from raysweep.search.gp.curves import MOST_ROWS
from raysweep.search.gp.known import (
    FIRST_POINTS,
    MOST_PAST_ROWS,
    PAST_POINTS,
    START_PLACES,
    belief_in,
    opinions_of,
    starting_points,
)
from raysweep.search.gp.model import Observations, Opinion, _Density, fit, fit_with_opinions
from raysweep.search.past import PastSweep, PastTrial, past_from
from raysweep.search.sampling import ranking_for, suggest
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import optuna_distribution
from raysweep.storage.layout import SweepDirectory, write_atomically
from raysweep.study.description import FORMAT, yaml_text
from raysweep.study.ledger import PAST, Ledger
from raysweep.sweep import resume
from tests.unit.conftest import epoch_metrics
from tests.unit.search.test_search_samplers import history, require_in, space_of, spec_of, trial_of

NEXT = """
name: next
data: {{dataset: digits}}
trial:
  kld_weight: {{low: 1e-5, high: 1e-1, log: true}}
  latent_size: {{choices: [2, 8, 16]}}
search: {{trials: 30, early_stopping: {{asha: {{max_epochs: 8, grace_epochs: 2}}}}, {search}}}
"""
EARLIER = """
name: earlier
data: {{dataset: digits}}
trial: {{{trial}}}
search: {{trials: 30, early_stopping: {{asha: {{max_epochs: 4, grace_epochs: 1}}}}, sampler: random, {search}}}
"""
WIDER = "kld_weight: {low: 1e-7, high: 1e-1, log: true}, latent_size: 8"


def next_spec(search: str) -> SweepSpec:
    return parse_spec(NEXT.format(search=search), "next.yaml")


def earlier_sweep(
    root: Path, trial: str = WIDER, search: str = "seed: 0", states: Sequence[TrialState] = (TrialState.COMPLETED,) * 6
) -> Path:
    """Write a sweep whose trials are the better, the nearer their weight is to 1e-3."""
    spec = parse_spec(EARLIER.format(trial=trial, search=search), "earlier.yaml")
    root.mkdir(parents=True)
    directory = SweepDirectory.at(root)
    write_atomically(directory.spec, yaml_text({"format": FORMAT, "spec": spec.as_mapping()}).encode())
    ledger = Ledger.create(directory, spec)
    for number, state in enumerate(states):
        weight = ledger.ask().config.kld_weight
        for epoch in range(1, 5 if state is TrialState.COMPLETED else 2):
            ledger.add_epoch(number, epoch_metrics(epoch, -100 * abs(math.log10(weight) + 3) - 30 / epoch), "h", "cpu")
        if state is not TrialState.RUNNING:
            ledger.finish(number, state, "because")
    return root


def past_of(points: Sequence[Mapping[str, Any]], values: Sequence[float], last_epoch: int = 4) -> PastSweep:
    trials = [PastTrial(point, {last_epoch: value}) for point, value in zip(points, values, strict=True)]
    return PastSweep("results/earlier", last_epoch, tuple(trials), {})


# What is taken of an earlier sweep


def test_trials_are_taken_whose_values_lie_in_the_space_and_the_others_are_counted_by_reason(tmp_path: Path) -> None:
    states = [*[TrialState.COMPLETED] * 12, *[TrialState.PRUNED] * 3, TrialState.DIVERGED, TrialState.FAILED]
    root = earlier_sweep(tmp_path / "earlier", states=[*states, TrialState.RUNNING])
    (past,) = gather_past(next_spec(f"start_from: [{root}]"))
    below = past.left_out["with kld_weight outside of 1e-05 to 0.1, log scale"]
    assert 0 < below < 16, "the earlier range begins two decades lower"
    assert {reason: count for reason, count in past.left_out.items() if "kld_weight" not in reason} == {
        "failed": 1, "not ended": 1,
    }  # fmt: skip
    assert len(past.trials) == 16 - below
    assert all(trial.point["latent_size"] == 8 for trial in past.trials), "which the earlier sweep had as a constant"
    assert {tuple(trial.values) for trial in past.trials} == {(1, 3, 4), (1,), (4,)}, "at rungs and ends"
    assert past.summary.startswith(f"{root}: {16 - below} trials taken, {2 + below} left out: ")
    for reason in (f"{below} with kld_weight outside of 1e-05 to 0.1, log scale", "1 failed", "1 not ended"):
        assert reason in past.summary


def test_a_field_that_the_earlier_sweep_left_at_its_default_counts_as_that_constant(tmp_path: Path) -> None:
    root = earlier_sweep(tmp_path / "earlier", "kld_weight: {low: 1e-5, high: 1e-1, log: true}")
    (past,) = gather_past(next_spec(f"start_from: [{root}]"))
    assert {trial.point["latent_size"] for trial in past.trials} == {16}


def test_of_many_trials_the_best_are_taken_and_an_even_choice_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raysweep.search.past.MOST_TRIALS", 8)
    monkeypatch.setattr("raysweep.search.past._BEST", 3)
    states = [TrialState.COMPLETED] * 20
    root = earlier_sweep(tmp_path / "earlier", "kld_weight: {low: 1e-5, high: 1e-1, log: true}", states=states)
    spec = next_spec(f"start_from: [{root}]")
    (past,) = gather_past(spec)
    values = [record.last("elbo_nats") for record in open_sweep(root).records]
    best = sorted(values, reverse=True)[:3]
    others = [value for value in values if value not in best]
    taken = [trial.values[4] for trial in past.trials]
    assert taken == [value for value in values if value in taken], "in the order of the trials"
    assert set(taken) == {*best, *(others[index * 17 // 5] for index in range(5))}
    assert "12 more than the 8 that are taken of a sweep" in past.summary


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("gone", "there is no such directory"),
        ("empty", "holds no sweep"),
        ("file", "is a file, not the directory of a sweep"),
        ("unended", "none of its 2 trials has ended; let it run on, or take it out of start_from"),
        ("untrained", "none of its 0 trials has ended"),
        ("failed", "none of its trials can be taken: 2 failed; take it out of start_from, or widen the ranges"),
        ("outside", "none of its trials can be taken: 6 with kld_weight outside of 1e-05 to 0.1, log scale"),
        ("apart", "it searched learning_rate, this sweep searches kld_weight, latent_size: they have no parameter in"),
        (
            "metric",
            "its trials were compared by psnr_db, those of this sweep are by elbo_nats; take it out of start_fr",
        ),
    ],
)
def test_an_earlier_sweep_that_says_nothing_is_one_message_that_says_what_to_do(
    case: str, expected: str, tmp_path: Path
) -> None:
    root = tmp_path / case
    if case == "empty":
        root.mkdir()
    elif case == "file":
        root.write_text("x")
    elif case != "gone":
        earlier_sweep(
            root,
            trial={
                "outside": "kld_weight: {low: 1e-8, high: 1e-6, log: true}",
                "apart": "learning_rate: {low: 1e-4, high: 1e-2, log: true}",
            }.get(case, WIDER),
            search="objective: {metric: psnr_db}" if case == "metric" else "seed: 0",
            states={
                "unended": [TrialState.RUNNING] * 2, "untrained": [], "failed": [TrialState.FAILED] * 2,
            }.get(case, [TrialState.COMPLETED] * 6),
        )  # fmt: skip
    with pytest.raises(SpecError) as caught:
        gather_past(next_spec(f"start_from: [{root}]"), "next.yaml")
    (fault,) = caught.value.faults
    assert fault.key == "search.start_from[0]"
    assert expected in fault.message
    assert str(root) in str(caught.value)
    assert str(caught.value).startswith("next.yaml: 1 fault, nothing was started")


def test_all_earlier_sweeps_that_say_nothing_come_in_one_message(tmp_path: Path) -> None:
    sound = earlier_sweep(tmp_path / "sound")
    with pytest.raises(SpecError) as caught:
        gather_past(next_spec(f"start_from: [{tmp_path / 'a'}, {sound}, {tmp_path / 'b'}]"))
    assert [fault.key for fault in caught.value.faults] == ["search.start_from[0]", "search.start_from[2]"]


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("start_from: [a], sampler: tpe", "search.start_from: is for the sampler gp, got sampler: tpe, which learns"),
        ("prior: {kld_weight: 1e-3}, sampler: random", "search.prior: is for the sampler gp, got sampler: random"),
        ("start_from: [a, b, a]", "search.start_from: each sweep may stand once, got 'a' twice"),
        ("start_from: ['']", "search.start_from: each entry must be the directory or the address of a sweep"),
        ("start_from: results/kld", "search.start_from: must be a list"),
        ("prior: 1e-3", "search.prior: must be keys and values"),
        ("prior: {kld_weight: 5.0}", "search.prior.kld_weight: must be within what is searched, 1e-05 to 0.1, log"),
        (
            "prior: {latent_size: 4}",
            "search.prior.latent_size: must be within what is searched, one of 2, 8, 16, got 4",
        ),
        ("prior: {d_size: 8}", "search.prior.d_size: trial.d_size is a constant; give it a distribution, or take it"),
        ("prior: {kld_wait: 1e-3}", "search.prior.kld_wait: unknown name; did you mean kld_weight?"),
        ("prior: {kld_weight: small}", "search.prior.kld_weight: must be a valid number, got 'small'"),
    ],
)
def test_what_cannot_be_started_from_is_a_fault_of_the_file(search: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        next_spec(search)
    found = [f"{fault.key}: {fault.message}" for fault in caught.value.faults]
    assert any(fault.startswith(expected) for fault in found), found


def test_a_grid_that_auto_takes_whole_has_no_use_for_the_past() -> None:
    text = (
        "data: {dataset: digits}\ntrial: {latent_size: {choices: [2, 8]}}\nsearch: {trials: 9, start_from: [a]SAMPLER}"
    )
    with pytest.raises(SpecError, match=r"search.start_from: is of no use here: 9 trials are enough for all 2 points"):
        parse_spec(text.replace("SAMPLER", ""))
    assert parse_spec(text.replace("SAMPLER", ", sampler: gp")).search.start_from == ("a",)


# The record: a sweep does not depend on the earlier one once it has begun


@given(
    st.lists(
        st.tuples(
            st.floats(1e-5, 1e-1), st.dictionaries(st.integers(1, 99), st.floats(allow_infinity=False), min_size=1)
        )
    )
)
def test_the_past_comes_back_from_the_ledger_as_it_was(trials: list[tuple[float, dict[int, float]]]) -> None:
    made = [PastTrial({"kld_weight": weight, "latent_size": 8}, values) for weight, values in trials]
    past = PastSweep("s3://b/kld", 99, tuple(made), {"failed": 2})
    (again,) = past_from([past.as_mapping()])
    assert again.as_mapping() == past.as_mapping()
    assert repr(again) == repr(past)


@pytest.mark.parametrize("damaged", [[{}], [1], 5, [{"sweep": "a", "last_epoch": 1, "trials": [{}], "left_out": {}}]])
def test_a_damaged_past_is_one_message(damaged: Any) -> None:
    with pytest.raises(LedgerError, match="the trials of earlier sweeps"):
        past_from(damaged)


def test_a_ledger_that_is_opened_again_suggests_the_same_with_the_earlier_sweep_gone(
    tmp_path: Path, directory: SweepDirectory
) -> None:
    root = earlier_sweep(tmp_path / "earlier", states=[TrialState.COMPLETED] * 12)
    spec = next_spec(f"start_from: [{root}], prior: {{latent_size: 8}}")
    ledger = Ledger.create(directory, spec)
    assert ledger.lacks_past
    ledger.start_from(gather_past(spec))
    assert not ledger.lacks_past
    shutil.rmtree(root)
    for number in range(FIRST_POINTS + 2):
        weight = float(str(ledger.ask().params["kld_weight"]))
        for epoch in range(1, 9):
            ledger.add_epoch(number, epoch_metrics(epoch, -abs(math.log10(weight) + 3) - 3 / epoch), "host", "cpu")
        ledger.finish(number, TrialState.COMPLETED, "because")
        elsewhere = SweepDirectory.at(tmp_path / f"copy-{number}")
        elsewhere.root.mkdir()
        shutil.copy(directory.journal, elsewhere.journal)
        reopened = Ledger.open(elsewhere, spec, writable=True)
        assert reopened.past == ledger.past
        assert reopened.ask().params == suggestion(spec, ledger, number + 1)


def suggestion(spec: SweepSpec, ledger: Ledger, number: int) -> dict[str, Any]:
    """Return what a ledger's trials and its past lead to."""
    ranking = ranking_for(spec)
    for trial in ledger._study.get_trials():
        ranking.add(trial)
    distributions = {name: optuna_distribution(name, d) for name, d in spec.trial.searched.items()}
    return suggest(spec, ledger._study, number, {}, distributions, ranking.view(), past=ledger.past)


def test_a_sweep_whose_driver_died_before_its_first_trial_takes_the_past_when_it_goes_on(
    directory: SweepDirectory, tmp_path: Path
) -> None:
    spec = next_spec(f"start_from: [{tmp_path / 'gone'}]")
    write_atomically(directory.spec, yaml_text({"format": FORMAT, "spec": spec.as_mapping()}).encode())
    with pytest.raises(SpecError, match=r"search.start_from\[0\]: .*gone: there is no such directory"):
        resume(directory.root)
    assert Ledger.open(directory, spec, writable=True).lacks_past
    ledger = Ledger.open(directory, spec, writable=True)
    ledger.start_from((past_of([{"kld_weight": 1e-3, "latent_size": 8}], [1.0]),))
    ledger.ask()
    assert not Ledger.open(directory, spec, writable=True).lacks_past


def test_a_sweep_without_a_past_has_none_in_its_ledger(directory: SweepDirectory) -> None:
    ledger = Ledger.create(directory, next_spec("seed: 0"))
    assert not ledger.lacks_past
    ledger.start_from(())
    assert PAST not in directory.journal.read_text()


# Which points come first


GIVEN = "enqueue: [{kld_weight: 1e-2, latent_size: 2}]"


def test_the_hint_and_the_best_of_the_past_stand_among_the_first_points_and_take_none_of_the_others_away(
    directory: SweepDirectory, tmp_path: Path
) -> None:
    spec = next_spec(f"{GIVEN}, prior: {{latent_size: 16}}")
    ledger = Ledger.create(directory, spec)
    weights = [1e-3, 1.01e-3, 2e-2, 1e-5, 3e-5, 1e-4]
    points = [{"kld_weight": weight, "latent_size": 8} for weight in weights]
    ledger.start_from((past_of(points, [9.0, 8.0, 7.0, 1.0, 2.0, 6.0]),))
    asked = [ledger.ask().params for _ in range(1 + PAST_POINTS + 1 + FIRST_POINTS - 1)]
    assert asked[0] == {"kld_weight": 1e-2, "latent_size": 2}
    places = [1 + place for place in START_PLACES]
    expected = [(1e-3, 16), (1e-3, 8), (2e-2, 8)]
    found = [(asked[place]["kld_weight"], asked[place]["latent_size"]) for place in places]
    assert found == [(pytest.approx(weight), size) for weight, size in expected]
    others = [point for place, point in enumerate(asked) if place not in places]
    even = Ledger.create(SweepDirectory.at(tmp_path), spec.model_copy(update={"search": next_spec(GIVEN).search}))
    assert others == [even.ask().params for _ in range(FIRST_POINTS)], "what would be tried without them"


def test_several_earlier_sweeps_give_their_best_points_in_turn() -> None:
    spec = next_spec("seed: 0")
    cube = Cube({name: optuna_distribution(name, d) for name, d in spec.trial.searched.items()})
    first = past_of([{"kld_weight": w, "latent_size": 2} for w in (1e-5, 1e-4, 1e-3)], [3.0, 2.0, 1.0])
    second = past_of([{"kld_weight": w, "latent_size": 16} for w in (1e-1, 1e-2)], [3.0, 2.0])
    starts = starting_points(cube, (first, second), 1.0, {})
    assert [point["kld_weight"] for point in starts] == [1e-5, 1e-1]
    least = starting_points(cube, (first, second), -1.0, {})
    assert [point["kld_weight"] for point in least] == [1e-3, 1e-2]


@pytest.mark.parametrize("count", [0, 1, FIRST_POINTS, 30])
@pytest.mark.parametrize("prior", ["prior: {kld_weight: 1e-3, likelihood: bernoulli}", "fuse: 1"])
def test_suggestions_with_a_past_are_within_bounds_and_the_order_of_trials_changes_nothing(
    count: int, prior: str
) -> None:
    spec = spec_of("gp", f"{prior}, early_stopping: {{asha: {{max_epochs: 9, grace_epochs: 1}}}}")
    earlier = history(spec, 40, seed=1)
    kinds = [dict(trial.params) for trial in earlier]
    past = past_of(kinds, [float(number % 7) if number % 5 else math.nan for number in range(40)], 9)
    trials = history(spec, count)
    study = optuna.create_study(direction="maximize")
    found = [
        suggest(spec, study, count, {}, space_of(spec), seen, past=(past, past)) for seen in (trials, trials[::-1])
    ]
    require_in(spec, found[0])
    assert found[0] == found[1]


# The model

ORDERED = np.array([True, True])


def better(rows: Any) -> Any:
    return np.cos(4 * rows[:, 0]) + np.sin(3 * rows[:, 1])


def another(rows: Any) -> Any:
    return np.cos(9 * rows[:, 0] + 2) * np.sin(8 * rows[:, 1] + 1)


PASTS = {"the same": better, "unrelated": another, "opposite": lambda rows: -2.0 * better(rows)}


def seen_of(function: Any, count: int, seed: int) -> Observations:
    chance = np.random.default_rng(seed)
    rows = chance.random((count, 2))
    return Observations(rows, np.ones(count), function(rows) + 0.05 * chance.standard_normal(count))


@pytest.fixture(scope="module")
def opinions() -> dict[str, Opinion]:
    """What is expected by models of 40 observations each."""
    sample = np.random.default_rng(9).random((256, 2))
    return {name: Opinion(fit(seen_of(past, 40, 1), ORDERED), sample) for name, past in PASTS.items()}


def error(opinion: Opinion | None, seed: int) -> float:
    """Return how wrong a model of ten observations is, with an opinion."""
    rows = np.random.default_rng(2).random((200, 2))
    seen = seen_of(better, 10, seed)
    mean = fit_with_opinions(seen, ORDERED, [opinion] if opinion else []).mean(rows, np.ones(200))
    return float(np.sqrt(np.mean((mean - better(rows)) ** 2)))


def test_an_opinion_weighs_as_much_as_it_turns_out_to_be_right(opinions: dict[str, Opinion]) -> None:
    for seed in range(3, 6):
        multiples = {
            name: float(fit(seen_of(better, 20, seed), ORDERED, opinions=[opinion]).multiples[0])
            for name, opinion in opinions.items()
        }
        assert multiples["the same"] > 0.7, multiples
        assert multiples["opposite"] < -0.7, multiples
        assert abs(multiples["unrelated"]) < 0.35, multiples
    assert len(fit(seen_of(better, 20, 3), ORDERED).multiples) == 0


def test_an_opinion_is_listened_to_only_if_it_makes_the_observations_likelier(opinions: dict[str, Opinion]) -> None:
    heard = {"the same": 0, "unrelated": 0}
    for seed in range(3, 8):
        seen = seen_of(better, 10, seed)
        for name in heard:
            heard[name] += len(fit_with_opinions(seen, ORDERED, [opinions[name]]).multiples)
    assert heard["the same"] == 5
    assert heard["unrelated"] <= 1
    both = fit_with_opinions(seen, ORDERED, [opinions["the same"], opinions["opposite"]])
    assert len(both.multiples) == 2


@pytest.mark.parametrize(("name", "most"), [("the same", 0.5), ("opposite", 0.5), ("unrelated", 1.3)])
def test_a_related_past_makes_the_model_better_and_an_unrelated_one_hardly_worse(
    name: str, most: float, opinions: dict[str, Opinion]
) -> None:
    ratios = [error(opinions[name], seed) / error(None, seed) for seed in range(3, 11)]
    assert float(np.median(ratios)) < most, ratios


def test_an_opinion_has_no_say_on_when_only_on_where() -> None:
    seen = seen_of(better, 40, 1)
    late = Observations(seen.rows, np.random.default_rng(0).choice([0.0, 0.5, 1.0], 40), seen.values)
    rising = Observations(late.rows, late.times, late.values + 10.0 * late.times)
    sample = np.random.default_rng(9).random((256, 2))
    opinion = Opinion(fit(rising, ORDERED), sample)
    for moment in (0.0, 0.5, 1.0):
        assert float(np.mean(opinion(sample, np.full(256, moment)))) == pytest.approx(0.0, abs=1e-9)
    assert float(np.std(opinion(sample, np.ones(256)))) == pytest.approx(1.0)


def test_points_under_way_take_deviation_away_and_change_no_mean_also_with_opinions(
    opinions: dict[str, Opinion],
) -> None:
    posterior = fit(seen_of(better, 10, 3), ORDERED, opinions=[opinions["the same"]])
    rows = np.random.default_rng(4).random((5, 2))
    after = posterior.expecting(rows, np.ones(5))
    before_mean, before_sd = posterior.mean_and_sd(rows, np.ones(5))
    mean, sd = after.mean_and_sd(rows, np.ones(5))
    assert np.allclose(mean, before_mean)
    assert np.allclose(before_mean, posterior.mean(rows, np.ones(5)))
    assert np.all(sd < before_sd)


def test_the_gradient_of_the_density_is_the_slope_of_it(opinions: dict[str, Opinion]) -> None:
    seen = seen_of(better, 30, 5)
    seen = Observations(seen.rows, np.random.default_rng(0).choice([0.3, 1.0], 30), seen.values)
    views = np.column_stack([opinions[name](seen.rows, seen.times) for name in ("the same", "unrelated")])
    density = _Density(seen, np.array([True, False]), views)
    chance = np.random.default_rng(2)
    for _ in range(3):
        at = density.means + 0.5 * chance.standard_normal(len(density.means))
        slope = float(np.linalg.norm(density(at)[1]))
        assert check_grad(lambda x: density(x)[0], lambda x: density(x)[1], at, epsilon=1e-6) < 1e-4 * max(1.0, slope)


def test_observations_of_this_sweep_and_of_the_past_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = next_spec("seed: 0")
    space = {name: optuna_distribution(name, d) for name, d in spec.trial.searched.items()}
    points = [{"kld_weight": 1e-5 * 1.05**number, "latent_size": 8} for number in range(150)]
    past = past_of(points, [1e6 + number for number in range(150)])
    seen: list[int] = []

    def counting(kind: Any) -> Any:
        def counted(observations: Observations, *rest: Any) -> Any:
            seen.append(len(observations.values))
            return kind(observations, *rest)

        return counted

    monkeypatch.setattr("raysweep.search.gp.known.fit", counting(fit))
    monkeypatch.setattr("raysweep.search.gp.sampler.fit_with_opinions", counting(fit_with_opinions))
    trials = [trial_of(number, points[number], space, "completed", [float(number)] * 8) for number in range(150)]
    suggest(spec, optuna.create_study(direction="maximize"), 150, {}, space, trials, past=(past, past))
    assert seen == [MOST_PAST_ROWS // 2, MOST_PAST_ROWS // 2, MOST_ROWS - MOST_PAST_ROWS]


def test_values_that_are_all_alike_are_no_opinion() -> None:
    spec = next_spec("seed: 0")
    cube = Cube({name: optuna_distribution(name, d) for name, d in spec.trial.searched.items()})
    past = past_of([{"kld_weight": weight, "latent_size": 8} for weight in (1e-3, 1e-2, 1e-1)], [2.0] * 3)
    assert opinions_of(cube, (past,), 1.0, 8) == []


def test_a_hint_weighs_less_the_more_trials_there_are() -> None:
    spec = next_spec("seed: 0")
    cube = Cube({name: optuna_distribution(name, d) for name, d in spec.trial.searched.items()})
    rows = np.array([cube.encode({"kld_weight": weight, "latent_size": 2}) for weight in (1e-3, 1e-5)])
    gaps = []
    for number in (8, 16, 32):
        belief = belief_in(cube, {"kld_weight": 1e-3}, number)
        assert belief is not None
        near, far = belief(rows)
        assert near == 0.0
        gaps.append(near - far)
    assert gaps[0] == pytest.approx(4 * gaps[1])
    assert gaps[1] == pytest.approx(4 * gaps[2])
    assert belief_in(cube, {}, 8) is None
