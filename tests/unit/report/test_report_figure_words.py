"""What titles say of the values of a hyperparameter: only what the trials can carry."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from raysweep.metrics import TrialState
from raysweep.records import EpochRecord
from raysweep.report.figures.comparisons import comparable, compared, sides
from raysweep.report.figures.finals import _findings
from raysweep.report.figures.marks import STYLE, standing, styled
from raysweep.report.figures.sidebyside import side_by_side
from raysweep.spec.loading import parse_spec
from raysweep.storage.layout import SweepDirectory

SPEC = """
name: latents
data: {dataset: digits, image_size: 16}
trial:
  latent_size: {choices: [8, 64]}
  kld_weight: {low: 1e-5, high: 1.0, log: true}
"""
COLLAPSE = (1e-2, 1e-2)


@pytest.fixture
def spec():
    return parse_spec(SPEC)


@pytest.fixture
def trial(record, spec):
    """Makes a trial of so many latents; its objective ends at `value`."""

    def make(number, latents, value, state=TrialState.COMPLETED, weight=1e-4, epochs=3, **more):
        params = {"latent_size": latents, "kld_weight": weight}
        return record(number, (value,) * epochs, state, params, spec, **more)

    return make


def as_collapsed(one):
    """The trial with a last epoch that has collapsed."""
    last = one.epochs[-1]
    return replace(
        one, epochs=(*one.epochs[:-1], EpochRecord.of(replace(last.metrics, collapsed=True), last.recorded_at))
    )


@pytest.fixture
def titles(tmp_path, draw_pictures, spec, monkeypatch):
    """Draws the tables of images; the titles by name."""
    monkeypatch.setitem(STYLE, "savefig.dpi", 30)

    def draw(records, collapse=COLLAPSE):
        directory = SweepDirectory(tmp_path)
        draw_pictures(directory, spec, records)
        with styled():
            return {one.name: one.title for one in side_by_side(standing(spec, records), spec, directory, collapse)}

    return draw


def test_three_comparable_trials_a_side_are_compared_and_counted(trial, titles):
    records = [trial(n, (8, 64)[n % 2], 100.0 * n) for n in range(7)]
    title = titles(records)["samples_by_latent_size"]
    assert title == "Samples by latent_size, the best trial of each value: elbo_nats 600 at 8 (n=4), 500 at 64 (n=3)"


@pytest.mark.parametrize(
    "fault", ["too few", "pruned", "diverged", "beyond the predicted collapse", "collapsed", "shorter"]
)
def test_a_side_with_fewer_than_three_comparable_trials_is_not_compared(trial, titles, fault):
    more = {
        "pruned": {"state": TrialState.PRUNED},
        "diverged": {"state": TrialState.DIVERGED},
        "beyond the predicted collapse": {"weight": 0.5},
        "shorter": {"epochs": 2},
    }.get(fault, {})
    odd = trial(6, 8, 11.6, **more)
    odd = as_collapsed(odd) if fault == "collapsed" else odd
    records = [trial(n, 64, 873.7 - n) for n in range(4)] + [trial(n, 8, 11.0) for n in (4, 5)]
    records += [] if fault == "too few" else [odd]
    title = titles(records)["samples_by_latent_size"]
    assert title == "Samples by latent_size, the best trial of each value"


def test_no_title_compares_parts_of_a_range(trial, titles):
    records = [trial(n, 8, 10.0 * n, weight=10.0 ** -(2 + n % 3)) for n in range(9)]
    title = titles(records, None)["samples_by_kld_weight"]
    assert not re.search(r"\d", title), title


def test_weights_are_compared_beyond_collapse_since_they_bring_it_about(trial):
    records = [as_collapsed(trial(n, 8, 1.0, weight=0.5)) for n in range(3)]
    assert comparable(records, "kld_weight", "elbo_nats", COLLAPSE) == records
    assert comparable(records, "latent_size", "elbo_nats", COLLAPSE) == []


def test_a_row_shows_how_many_trials_it_is_the_best_of(trial, tmp_path, draw_pictures, spec, monkeypatch):
    from raysweep.report.figures import sidebyside

    seen = []
    monkeypatch.setattr(
        sidebyside, "draw_strips", lambda strips, text: seen.append([one.label for one in strips]) or b""
    )
    records = [trial(n, 64, 800.0 + n) for n in range(4)] + [trial(4, 8, 11.6, TrialState.PRUNED)]
    directory = SweepDirectory(tmp_path)
    draw_pictures(directory, spec, records)
    drawn = [one.name for one in side_by_side(standing(spec, records), spec, directory)]
    rows = seen[drawn.index("samples_by_latent_size")]
    assert [row.split(" · ")[:2] for row in rows] == [
        ["latent_size 8 (n=1)", "trial 4, stopped early after 3 epochs"], ["latent_size 64 (n=4)", "best: trial 3"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "said"), [("max", "mse 0.3 at 64 (n=3), 0.1 at 8 (n=3)"), ("min", "mse 0.1 at 8 (n=3), 0.3 at 64 (n=3)")]
)
def test_the_better_value_is_said_first(trial, spec, mode, said):
    found = sides(spec, [trial(n, (8, 64)[n % 2], 1.0) for n in range(6)], "latent_size")
    assert compared(found, "mse", mode, {"8": 0.1, "64": 0.3}) == said


def test_final_metrics_of_single_trials_name_the_trial_and_no_value(trial, spec, final_metrics):
    tested = [trial(n, 8, 1.0, weight=10.0 ** -(n + 2), tested=final_metrics(kid=2.0 + n)) for n in range(2)]
    assert _findings(spec, tested, ["kid"], "kld_weight", None) == ["trial 0 has the least kid, 2"]
    assert _findings(spec, tested[:1], ["kid"], "kld_weight", None) == ["kid 2"]


def test_final_metrics_are_compared_between_values_with_three_trials_each(trial, spec, final_metrics):
    tested = [trial(n, (8, 64)[n % 2], 1.0, tested=final_metrics(kid=1.0 + n)) for n in range(6)]
    assert _findings(spec, tested, ["kid"], "latent_size", None) == ["mean kid 3 at latent_size 8 (n=3), 4 at 64 (n=3)"]
    assert _findings(spec, tested[:5], ["kid"], "latent_size", None) == ["trial 0 has the least kid, 1"]


def test_the_finding_says_what_is_to_be_known_of_the_best(trial, spec):
    done = [trial(n, 8, 10.0 + n) for n in range(2)]
    assert standing(spec, done).finding == "best 11 (trial 1; its 2 seeds 10 to 11)"
    assert standing(spec, [as_collapsed(done[0])]).finding == "best 10 (trial 0, collapsed)"
    stuck = standing(spec, [as_collapsed(done[0])], stuck=[0])
    assert stuck.finding == "best 10 (trial 0, stuck at the mean image)"
    alone = standing(spec, [trial(0, 8, 10.0, TrialState.PRUNED, epochs=1)])
    assert alone.finding == "best 10 (trial 0, after 1 epoch)"
    assert alone.of_how_many == "0 of 1 trial completed"
