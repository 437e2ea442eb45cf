"""What of a sweep its sampler gets to see."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as Told

from raysweep.search import sampling
from raysweep.search.sampling import Ranking, suggest
from raysweep.spec.sections import SweepSpec

values = st.floats(-10, 10)


@pytest.fixture(scope="module", params=["minimize", "maximize"])
def study(request: pytest.FixtureRequest) -> optuna.Study:
    return optuna.create_study(direction=request.param)


@st.composite
def ends(draw: st.DrawFn) -> list[dict[str, Any]]:
    """How trials ended: completed, pruned after some epochs, diverged, or failed."""
    found = []
    for _ in range(draw(st.integers(0, 40))):
        kind = draw(st.sampled_from(["completed", "pruned", "diverged", "failed"]))
        steps = {step: draw(values) for step in range(1, 1 + draw(st.integers(0, 4)))}
        if kind == "diverged":
            steps[max(1, len(steps))] = math.nan
        found.append({"kind": kind, "steps": steps, "value": draw(values)})
    return found


def frozen(number: int, kind: str, steps: dict[int, float], value: float) -> FrozenTrial:
    told = {"completed": Told.COMPLETE, "failed": Told.FAIL}.get(kind, Told.PRUNED)
    trial = optuna.trial.create_trial(
        state=told,
        value=value if kind == "completed" else None,
        intermediate_values=steps,
        system_attrs={"constraints:diverged": 1.0} if kind == "diverged" else {},
    )
    trial.number = number
    return trial


@given(ends=ends(), share=st.floats(0, 1))
def test_the_ranking_is_the_one_by_which_tpe_splits_trials(
    study: optuna.Study, ends: list[dict[str, Any]], share: float
) -> None:
    trials = [frozen(number, **end) for number, end in enumerate(ends)]
    assert all(bool(t.constraints) == (e["kind"] == "diverged") for t, e in zip(trials, ends, strict=True))
    ranking = Ranking("min" if study.direction == optuna.study.StudyDirection.MINIMIZE else "max")
    for trial in reversed(trials):  # they end in any order
        ranking.add(trial)
        ranking.add(trial)
    learnt = [trial for trial in trials if trial.state is not Told.FAIL]
    n_below = round(share * len(learnt))
    below, _ = _split_trials(study, learnt, n_below)
    assert sorted(ranking._ranked[:n_below]) == [trial.number for trial in below]
    assert ranking.view() == learnt


def test_of_many_trials_the_best_and_an_even_choice_are_seen() -> None:
    ranking, count = Ranking("max"), 10_000
    for number in range(count):
        ranking.add(frozen(number, "completed", {}, math.sin(number)))
    seen = [trial.number for trial in ranking.view()]
    assert seen == sorted(set(seen))
    assert len(seen) == sampling.MOST_IN_VIEW
    best = sorted(range(count), key=lambda number: -math.sin(number))[: sampling.BEST_IN_VIEW]
    assert set(best) <= set(seen)
    others = [number for number in seen if number not in best]
    gaps = {after - before for before, after in pairwise(others)}
    assert gaps <= {10, 11, 12}


def test_tpe_sees_the_very_trials_until_there_are_more_than_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_IN_VIEW", 30)
    ranking = Ranking("min")
    trials = [frozen(number, "completed", {}, float(-number)) for number in range(31)]
    for trial in trials[:30]:
        ranking.add(trial)
    assert all(seen is trial for seen, trial in zip(ranking.view(), trials[:30], strict=True))
    ranking.add(trials[30])
    assert len(ranking.view()) == 30
    assert ranking.view()[-1] is trials[30], "the newest is the best here"


def test_a_space_that_trials_share_is_looked_at_once_and_the_suggestion_is_the_same(spec: SweepSpec) -> None:
    weight = optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True)
    size = optuna.distributions.CategoricalDistribution([8, 16])
    narrow = optuna.distributions.CategoricalDistribution([8, 16, 32])
    study = optuna.create_study(direction="maximize")
    shared = {"kld_weight": weight, "latent_size": size}
    for other in (shared, {"kld_weight": weight, "latent_size": narrow}):
        trials = []
        for number in range(20):
            searched = shared if number % 5 else other
            params = {"kld_weight": 10.0 ** -(2 + number % 3), "latent_size": 8}
            trial = optuna.trial.create_trial(params=params, distributions=searched, value=math.sin(number))
            trial.number, trial._distributions = number, searched
            trials.append(trial)
        apart = [copy.deepcopy(trial) for trial in trials]
        assert [len({id(trial.distributions) for trial in seen}) <= 2 for seen in (trials, apart)] == [True, False]
        points = [suggest(spec, study, 20, {}, shared, seen) for seen in (trials, apart)]
        assert points[0] == points[1]
