"""The measure of the search: simulated time, the problems' scales, and the figures over many sweeps."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import trim_mean
from search_quality import CURVES, space_of
from searching.measures import epochs_to, estimate, fifth_percentile, found, interquartile_mean
from searching.ours import STOPPING, STOPPING_ONCE, Raysweep
from searching.problems import Landscape, Problem, features, from_cube
from searching.report import BASE, over_all, shares_of_best
from searching.rivals import FirstEpoch
from searching.simulation import Epoch, History, Job, simulate
from searching.surrogates import Recording, Surrogate, held_out, read_recording
from searching.synthetic import FAMILIES, synthetic_problem, synthetic_spec


class Scripted:
    """Hands out trials of a list; each trains for so many epochs, then pauses or ends."""

    def __init__(self, jobs: list[tuple[Job, int]]) -> None:
        self.jobs = list(jobs)
        self.until: dict[int, int] = {}

    def next_job(self) -> Job | None:
        if not self.jobs:
            return None
        job, until = self.jobs.pop(0)
        self.until[job.trial] = until
        return job

    def report(self, trial: int, epoch: int, value: float) -> bool:
        return epoch < self.until[trial]

    def close(self) -> None:
        pass


class Plain(Landscape):
    """The value of trial x after epoch e is x + e / 100; an epoch takes as long as `input_noise` says."""

    def __init__(self) -> None:
        self.spec = synthetic_spec(3)

    def mean(self, points):
        return np.array([[p["kld_weight"] + e / 100 for e in range(1, 21)] for p in points])

    def noise(self, point, rng):
        return np.zeros(20)

    def epoch_s(self, point):
        return float(point["input_noise"])


def job(trial: int, seconds: float, value: float = 0.0, epochs_done: int = 0) -> Job:
    return Job(trial, {"learning_rate": 1e-3, "kld_weight": value, "input_noise": seconds}, epochs_done)


PLAIN = Problem("plain", Plain(), best=1.0, median=0.0)


def test_epochs_end_in_the_order_of_simulated_time():
    history = simulate(PLAIN, Scripted([(job(0, 5.0), 2), (job(1, 2.0), 3), (job(2, 1.0), 2)]), 2, 7, seed=0)
    assert [(e.end_s, e.trial, e.epoch) for e in history.epochs] == [
        (2.0, 1, 1), (4.0, 1, 2), (5.0, 0, 1), (6.0, 1, 3), (7.0, 2, 1), (8.0, 2, 2), (10.0, 0, 2),
    ]  # fmt: skip


def test_a_paused_trial_goes_on_where_it_stood_and_on_its_own_curve():
    searcher = Scripted([(job(0, 1.0, 0.5), 2), (job(1, 1.0), 1), (job(0, 1.0, 0.5, epochs_done=2), 4)])
    history = simulate(PLAIN, searcher, 1, 5, seed=0)
    assert [(e.trial, e.epoch) for e in history.epochs] == [(0, 1), (0, 2), (1, 1), (0, 3), (0, 4)]
    assert history.epochs[-1].value == pytest.approx(0.54)
    assert len(history.points) == 2


def test_a_search_that_waits_for_nothing_is_an_error():
    with pytest.raises(RuntimeError, match="no trial is at work"):
        simulate(PLAIN, Scripted([(job(0, 1.0), 1)]), 2, 5, seed=0)


def test_the_incumbent_is_the_trial_whose_last_epoch_measured_best():
    history = History(
        [Epoch(1, 0, 1, 0.6), Epoch(2, 1, 1, 0.5), Epoch(3, 0, 2, 0.4), Epoch(4, 1, 2, 0.7)],
        {0: job(0, 1.0, 0.1).point, 1: job(1, 1.0, 0.8).point},
    )
    in_hand, true_end = found(PLAIN, history)
    assert in_hand.tolist() == [0.6, 0.6, 0.5, 0.7]
    assert true_end.tolist() == pytest.approx([0.3, 0.3, 1.0, 1.0])
    assert (epochs_to(0.95, true_end), epochs_to(1.1, true_end)) == (3.0, float("inf"))


@pytest.mark.parametrize("count", [4, 8, 20, 52])
def test_the_interquartile_mean_is_scipys_trimmed_mean_where_quarters_are_whole(count):
    values = np.random.default_rng(count).normal(size=count)
    assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25))


def test_the_interquartile_mean_takes_part_of_a_value_at_the_border_of_a_quarter():
    assert interquartile_mean([0, 1, 2, 3, 100]) == pytest.approx((0.75 * 1 + 2 + 0.75 * 3) / 2.5)


def test_the_interval_of_a_figure_holds_it_and_narrows_with_seeds():
    rng = np.random.default_rng(0)
    few, many = (estimate(fifth_percentile, rng.normal(size=count)) for count in (20, 2000))
    assert few.low <= few.value <= few.high
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize("model", ["forest", "gaussian", "neighbours"])
def test_a_surrogate_returns_what_was_recorded_within_its_held_out_error(model):
    spec = space_of("kld")
    whole = read_recording(CURVES / "kld.parquet", spec)
    recording = Recording(whole.points[:40], whole.curves[:40], whole.epoch_s[:40], [])  # for the time it takes to fit
    surrogate = Surrogate(spec, recording, model)
    ends = recording.curves[:, -1]
    wrong = surrogate.mean(recording.points)[:, -1] - ends
    allowed = held_out(model, features(spec.trial, recording.points), recording.curves).error
    assert np.sqrt(np.mean(wrong**2)) / ends.std() <= allowed


def test_the_nearest_curve_is_the_recorded_one_at_recorded_points():
    spec = space_of("kld")
    recording = read_recording(CURVES / "kld.parquet", spec)
    assert np.allclose(Surrogate(spec, recording, "nearest").mean(recording.points), recording.curves)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(5))
def test_no_point_of_a_synthetic_problem_is_better_than_the_known_best(family, seed):
    problem = synthetic_problem(family, seed)
    cube = np.random.default_rng(seed).random((500, len(problem.spec.trial.searched)))
    cube[0] = problem.landscape.optimum
    ends = problem.landscape.mean([from_cube(problem.spec.trial, row) for row in cube])[:, -1]
    assert ends[0] == pytest.approx(1.0)
    assert ends.max() <= 1.0 + 1e-9
    assert problem.score(problem.best) == 1.0


def test_points_of_the_cube_are_points_of_the_space():
    for name in ("kld", "digits"):
        space = space_of(name).trial
        for row in np.random.default_rng(0).random((200, len(space.searched))):
            point = from_cube(space, row)
            assert all(point[field] in searched for field, searched in space.searched.items())
            seen = features(space, [point])
            assert ((seen >= 0) & (seen <= 1)).all()


@pytest.mark.parametrize("rule", [STOPPING, STOPPING_ONCE])
def test_raysweeps_own_session_ends_trials_at_its_rungs_or_their_end(rule):
    problem = synthetic_problem("bowl", 1)
    searcher = Raysweep(problem.spec, 2, 0, "random", rule)
    history = simulate(problem, searcher, 2, 120, seed=0)
    searcher.close()
    lengths = Counter(e.trial for e in history.epochs)
    under_way = {e.trial for e in history.epochs[-4:]}
    ends = {count for trial, count in lengths.items() if trial not in under_way}
    assert ends <= ({5, 15, 20} if rule is STOPPING_ONCE else set(range(5, 21))), "or where it is judged again"
    sixth = next(index for index, e in enumerate(history.epochs) if e.epoch == 6)
    arrived = sum(e.epoch == 5 for e in history.epochs[:sixth])
    assert (arrived >= 3) == (rule is STOPPING), "the first wait until three are there"
    assert {5, 20} <= set(lengths.values())
    assert not searcher._place.exists()


def test_of_every_group_the_best_after_one_epoch_goes_on():
    searcher = FirstEpoch(synthetic_spec(2), seed=0)
    for number in range(20):
        assert searcher.next_job().trial == number
        assert not searcher.report(number, 1, value=1.0 if number == 7 else 0.0)
    again = searcher.next_job()
    assert (again.trial, again.epochs_done) == (7, 1)
    assert searcher.report(7, 2, 0.0)
    assert not searcher.report(7, 20, 0.0)


def test_problems_together_are_compared_by_pairs_of_seeds_each_problem_counting_the_same():
    def rows(problem: str, method: str, ends: list[float]) -> list[dict[str, object]]:
        return [
            {"problem": problem, "method": method, "workers": 2, "seed": seed, "true_end": [0.0, end]}
            for seed, end in enumerate(ends)
        ]

    ours = [*rows("kld/a", "ours", [0.9, 0.7, 0.8]), *rows("synthetic/b/0", "ours", [0.5])]
    base = [*rows("kld/a", BASE, [0.8, 0.6, 0.7]), *rows("synthetic/b/0", BASE, [0.2])]
    somewhere = rows("kld/a", "not on all problems", [1.0])
    (table,) = over_all([*ours, *base, *somewhere])
    assert table.splitlines()[0] == "### all 2 problems together, 2 workers"
    assert "| ours | +0.200 (+0.200 to +0.200) | 1 |" in table.splitlines()
    assert f"| {BASE} |  | 3 |" not in table
    assert "not on all problems" not in table
    assert over_all(somewhere) == [], "nothing to compare with"


def test_what_is_in_hand_is_told_as_a_share_of_the_best_value_where_values_have_a_zero():
    row = {"problem": "kld/a", "method": "ours", "workers": 2, "seed": 0, "best": 200.0, "median": 100.0}
    (table,) = shares_of_best(
        [{**row, "in_hand": [0.5, 0.9, 1.1]}, {**row, "problem": "synthetic/b/0", "in_hand": [1]}]
    )
    assert table.splitlines()[-1] == "| kld | ours | 1.050 (1.050 to 1.050) | 1.050 (1.050 to 1.050) | 2 (100%) | 1 |"
