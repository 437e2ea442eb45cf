from __future__ import annotations

import dataclasses
import io
import math
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from raysweep.metrics import FinalMetrics, TrialState
from raysweep.records import ranked
from raysweep.report.figures import marks
from raysweep.report.figures.floors import floor_name
from raysweep.report.figures.gallery import draw_figures
from raysweep.report.figures.marks import STYLE, canvas, robust_limits, short, standing, styled, title, to_png
from raysweep.report.figures.ratedistortion import _mark_bar
from raysweep.report.figures.repeats import group_repeats
from raysweep.report.figures.scatter import draw_latents
from raysweep.report.latents import read_latents, write_latents
from raysweep.spec.loading import parse_spec
from raysweep.storage.layout import SweepDirectory

ALWAYS = ["objective", "rate_distortion", "learning_curves"]
ALL = [
    "objective", "rate_distortion", "reconstructions", "learning_curves", "samples_by_kld_weight",
    "reconstructions_by_likelihood", "samples_by_likelihood", "reconstructions_by_max_gradient_norm",
    "samples_by_max_gradient_norm", "reconstructions_by_hidden_size", "samples_by_hidden_size",
]  # fmt: skip
"""Of a sweep without final metrics."""


@pytest.fixture
def directory(tmp_path):
    return SweepDirectory(tmp_path)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Figures of a quarter of their pixels, which take half the time."""
    monkeypatch.setitem(STYLE, "savefig.dpi", 50)


def names(figures):
    for figure in figures:
        with Image.open(figure.path) as picture:
            assert min(picture.size) > 75
        assert figure.title
        assert figure.description
    return [figure.name for figure in figures]


def test_a_figure_has_the_pixels_that_matplotlib_itself_would_save():
    with styled():
        figures = []
        for _ in range(2):
            figure = canvas(4.0, 3.0)
            figure.subplots().plot([1, 3, 2], label="a $\\beta$ line")
            title(figure, "A finding of so many words that it takes more than a single line of the figure's width")
            figures.append(figure)
    usual = io.BytesIO()
    figures[0].savefig(usual, format="png", facecolor="white", dpi=50)
    with Image.open(usual) as wanted, Image.open(io.BytesIO(to_png(figures[1]))) as found:
        assert np.array_equal(np.asarray(wanted.convert("RGB")), np.asarray(found))


def test_a_sweep_has_its_figures_and_the_first_name_the_winner(directory, sweep_records, spec, draw_pictures):
    draw_pictures(directory, spec, sweep_records)
    figures = draw_figures(directory, spec, sweep_records)
    assert names(figures) == ALL
    assert all(figure.path == directory.figures / f"{figure.name}.png" for figure in figures)
    assert all("trial 11" in figure.title for figure in figures[:4])
    assert sorted(path.name for path in directory.figures.iterdir()) == sorted(f"{name}.png" for name in ALL)


def test_without_pictures_there_is_no_figure_of_them(directory, sweep_records, spec):
    assert names(draw_figures(directory, spec, sweep_records)) == ALWAYS


def test_a_picture_of_another_size_or_a_broken_one_is_passed_over(directory, sweep_records, spec, draw_pictures):
    draw_pictures(directory, spec, sweep_records)
    directory.reconstructions(11).write_bytes(b"no picture")
    Image.new("L", (17, 31)).save(directory.reconstructions(10))
    assert names(draw_figures(directory, spec, sweep_records)) == ALL


def test_the_figures_show_where_collapse_was_predicted_if_it_was(directory, sweep_records, spec):
    said = "From the predicted collapse on"
    plain = draw_figures(directory, spec, sweep_records)
    before = [figure.path.read_bytes() for figure in plain]
    assert not any(said in figure.description for figure in plain)
    for collapse in ((1e-3, 1e-3), (1e-9, 1e-3)):
        figures = draw_figures(directory, spec, sweep_records, collapse)
        marked = [figure.name for figure in figures if said in figure.description]
        assert marked == ["objective", "rate_distortion"]
        changed = [f.name for f, old in zip(figures, before, strict=True) if f.path.read_bytes() != old]
        assert changed == marked


def test_a_predicted_collapse_off_the_axes_is_not_drawn(directory, sweep_records, spec):
    before = [figure.path.read_bytes() for figure in draw_figures(directory, spec, sweep_records)]
    for collapse in ((1e3, 1e3), (0.0, 0.0), (math.nan, math.nan)):
        figures = draw_figures(directory, spec, sweep_records, collapse)
        assert [figure.path.read_bytes() for figure in figures] == before


@pytest.mark.parametrize(("collapse", "drawn"), [((0.02, 0.02), True), ((0.002, 0.02), True), ((2.0, 2.0), False)])
def test_among_choices_of_weights_the_collapse_lies_between_two(directory, record, collapse, drawn):
    weights = (0.1, 1e-3, 1e-2)
    spec = parse_spec(
        "name: a\ndata: {dataset: digits, image_size: 16}\n"
        f"trial: {{kld_weight: {{choices: {list(weights)}}}, latent_size: 4}}"
    )
    records = [record(n, (1.0 + n,), params={"kld_weight": weights[n]}, of=spec) for n in range(3)]
    objective = draw_figures(directory, spec, records, collapse)[0]
    assert ("predicted collapse" in objective.description) is drawn


@pytest.mark.parametrize(
    ("collapse", "drawn"), [((2.0, 2.0), [2.0]), ((2.0, 3.0), [2.0, 3.0]), ((0.5, 3.0), [3.0]), ((5.0, 6.0), [])]
)
def test_the_colour_bar_is_marked_where_collapse_lies_on_it(collapse, drawn):
    axes = canvas(1, 1).subplots()
    axes.set_ylim(1.0, 4.0)
    assert _mark_bar(axes, collapse) is bool(drawn)
    assert [line.get_ydata()[0] for line in axes.lines] == drawn


def test_one_trial_is_enough(directory, record, spec, draw_pictures):
    records = [record(0, (5.0,), enqueued=True)]
    draw_pictures(directory, spec, records)
    assert names(draw_figures(directory, spec, records)) == ALL[:4]


def test_of_very_many_trials_the_best_those_given_and_an_even_choice_are_drawn(directory, record, spec, monkeypatch):
    monkeypatch.setattr(marks, "MOST_DRAWN", 100)
    elbos = [-80.0 - (number * 79 % 250) / 10 for number in range(250)]
    records = [record(number, (elbo,), enqueued=number == 170) for number, elbo in enumerate(elbos)]
    trials = standing(spec, records)
    best = [r.number for r in ranked(records, "elbo_nats")[:40]]
    chosen = [r.number for r in trials.drawn]
    assert len(chosen) == 100
    assert {*best, 170} <= set(chosen)
    assert max(after - before for before, after in pairwise(chosen)) <= 5
    assert standing(spec, records[:100]).drawn == records[:100]
    figures = draw_figures(directory, spec, records)
    assert all("Of the 250 trials 100 are drawn" in f.description for f in figures if f.name in ALWAYS)
    assert "best -80 " in figures[0].title


def test_a_sweep_without_a_result_says_so(directory, record, spec):
    records = [record(n, (math.nan,), TrialState.DIVERGED) for n in range(3)] + [record(3, (), TrialState.FAILED)]
    figures = draw_figures(directory, spec, records)
    assert "objective" in names(figures)
    assert "no trial has a finite elbo_nats yet" in figures[0].title


def test_an_empty_sweep_has_no_figures(directory, record, spec):
    assert draw_figures(directory, spec, []) == []
    assert draw_figures(directory, spec, [record(0, (), TrialState.RUNNING)]) == []


def test_figures_do_without_a_searched_weight_and_follow_the_objective(directory, record, draw_pictures):
    spec = parse_spec(
        """
name: other
data: {dataset: digits, image_size: 16, channels: 3}
trial: {likelihood: {choices: [gaussian, calibrated_gaussian, bernoulli]}, latent_size: {choices: [8, 2]}}
search: {objective: {metric: mse}}
"""
    )
    likelihoods = ("gaussian", "calibrated_gaussian", "bernoulli")
    records = [
        record(n, (1.0 + n,), params={"likelihood": likelihoods[n % 3], "latent_size": (2, 8)[n % 2]}, of=spec)
        for n in range(12)
    ]
    draw_pictures(directory, spec, records)
    figures = draw_figures(directory, spec, records)
    tables = [f"{what}_by_{name}" for name in ("likelihood", "latent_size") for what in ("reconstructions", "samples")]
    assert names(figures) == [*ALL[:4], *tables]
    assert "mse" in figures[0].title
    assert "kld_weight" not in figures[2].title


def test_a_sweep_without_a_search_has_no_panels(directory, record, draw_pictures):
    spec = parse_spec("name: a\ndata: {dataset: digits, image_size: 16}\ntrial: {latent_size: {choices: [2]}}")
    records = [record(0, params={"latent_size": 2}, of=spec)]
    assert "objective" in names(draw_figures(directory, spec, records))


GRID = """
name: grid
data: {dataset: digits, image_size: 16}
trial:
  kld_weight: {choices: [1.0e-2, 1.0e-3]}
  latent_size: {choices: [2, 8]}
  seed: {choices: [0, 1, 2]}
search: {sampler: grid}
"""


@pytest.fixture
def grid(record, final_metrics):
    """A specification and its trials, with three seeds of each configuration; the last is the best."""
    spec = parse_spec(GRID)
    return spec, [
        record(n, (1.0, 2.0 + n), params=point, of=spec, tested=final_metrics(kid=1.0 + point["seed"]))
        for n, point in enumerate(spec.trial.grid())
    ]


def test_repeats_are_one_row_and_the_seed_is_no_parameter(directory, grid, draw_pictures, draw_tested_pictures):
    spec, records = grid
    draw_pictures(directory, spec, records)
    draw_tested_pictures(directory, spec, records)
    figures = draw_figures(directory, spec, records, (5e-3, 5e-3))
    assert names(figures) == [
        "objective", "rate_distortion", "reconstructions", "learning_curves", "test_metrics", "latents", "latent_kl",
        "samples_by_kld_weight", "reconstructions_by_latent_size", "samples_by_latent_size",
    ]  # fmt: skip
    titles = {figure.name: figure.title for figure in figures}
    assert "best 13 (trial 11; its 3 seeds 11 to 13) at kld_weight 1e-3, latent_size 8" in titles["objective"]
    assert titles["samples_by_kld_weight"].endswith(": elbo_nats 13 at 1e-3 (n=6), 7 at 0.01 (n=6)")
    assert titles["test_metrics"] == (
        "12 trials on 100 test images, by kld_weight; mean iwae_nats 25 at kld_weight 1e-3 (n=6), 25 at 0.01 (n=6); "
        "mean kid 2 at 1e-3 (n=6), 2 at 0.01 (n=6)"
    )
    assert titles["latent_kl"] == "KL divergence of each latent: trial 11 uses 2 of 3 latents, 6 nats in all"
    assert titles["latents"].startswith("Latents of trial 11: 2 of 3 are active; silhouette 0.10")
    described = {figure.name: figure.description for figure in figures}
    assert "mean over seeds" in described["test_metrics"]
    assert "differ in their seed" in described["rate_distortion"]


def test_configurations_are_told_apart_by_all_but_the_seed(grid):
    _, records = grid
    assert [[one.number for one in group] for group in group_repeats(records)] == [
        [0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11],
    ]  # fmt: skip


def test_a_sweep_over_seeds_alone_is_drawn_against_them(directory, record, final_metrics, draw_pictures):
    spec = parse_spec("name: a\ndata: {dataset: digits, image_size: 16}\ntrial: {seed: {choices: [0, 1]}}")
    records = [record(n, (1.0 + n,), params={"seed": n}, of=spec, tested=final_metrics()) for n in range(2)]
    draw_pictures(directory, spec, records)
    assert names(draw_figures(directory, spec, records)) == [*ALL[:4], "test_metrics", "latent_kl"]


def test_final_metrics_that_were_not_measured_have_no_panel(directory, record, spec, final_metrics):
    nothing = dict.fromkeys(f.name for f in dataclasses.fields(FinalMetrics) if "None" in str(f.type))
    records = [record(0, tested=final_metrics(**nothing, latent_kl_nats=())), record(1)]
    assert names(draw_figures(directory, spec, records)) == ALWAYS
    records.append(record(2, tested=final_metrics(**{**nothing, "kid": 0.5})))
    figures = draw_figures(directory, spec, records)
    assert names(figures) == [*ALWAYS, "test_metrics", "latent_kl"]
    assert figures[3].title == "2 trials on 100 test images, by kld_weight; kid 0.5"


@pytest.mark.parametrize(
    ("latents", "said"),
    [(1, "along the one latent"), (2, "as they are"), (3, "the two latents with the most KL"), (5, "principal comp")],
)
@pytest.mark.parametrize("classes", [None, 3, 40])
def test_latents_of_any_size_with_and_without_classes_are_drawn(directory, record, latents, said, classes):
    means = np.random.default_rng(0).normal(size=(80, latents))
    means[:, 2:3] *= 0.01
    labels = None if classes is None else [f"c{index % classes}" for index in range(80)]
    write_latents(directory.latents(0), means, np.arange(latents), labels, ["test"] * 80, range(80))
    drawn = draw_latents(read_latents(directory.latents(0)), record(0), dpi=40)
    assert said in drawn.description
    assert ("no classes" in drawn.description) is (classes is None)
    assert drawn.title == f"Latents of trial 0: {latents - (latents > 2)} of {latents} are active"


def test_a_broken_table_of_latents_gives_way_to_the_next_best(directory, sweep_records, spec, draw_tested_pictures):
    draw_tested_pictures(directory, spec, sweep_records)
    directory.latents(11).write_bytes(b"no table")
    latents = next(f for f in draw_figures(directory, spec, sweep_records) if f.name == "latents")
    assert latents.title.startswith("Latents of trial 10:")


@pytest.mark.parametrize(
    ("name", "floor"),
    [
        ("kid", "floor_kid"), ("mixture_recall", "floor_recall"), ("sample_sharpness", "floor_sharpness"),
        ("reconstruction_sharpness", "floor_sharpness"), ("floor_kid", None), ("iwae_nats", None),
        ("reconstruction_accuracy", "floor_reconstruction_accuracy"), ("knn_accuracy", None),
    ],
)  # fmt: skip
def test_a_metric_is_beside_its_own_floor(name, floor):
    assert floor_name(name) == floor


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([1.0, 2.0, 3.0, 4.0], (0.82, 4.18)),
        ([4.0, 3.0, math.nan, 2.0, 1.0, math.inf, 1e9], (1 - 0.36, 7.36)),
        ([2.0, 2.0], (1.9, 2.1)),
        ([1.0, 2.0, 1e27], (1 - 0.12, 3 + 0.12)),
        ([1.0, 2.0, 90.0], (1 - 5.34, 90 + 5.34)),
        ([], (0.0, 1.0)),
    ],
)
def test_limits_leave_out_what_is_far_worse(values, limits):
    assert robust_limits(values, "min") == pytest.approx(limits)
    low, high = robust_limits([-value for value in values], "max")
    if values:
        assert (low, high) == pytest.approx((-limits[1], -limits[0]))


def test_limits_keep_what_must_be_seen():
    _, high = robust_limits([1.0, 2.0, 3.0, 4.0, 100.0, 1e9], "min", keep=[100.0])
    assert 100 < high < 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (712.345, "712.3"), (3.1e-4, "3.1e-4"), (5e-6, "5e-6"), (0.05, "0.05"), (0.0, "0"), (-12345.6, "-12346"),
        (1e7, "1e7"), (256, "256"), (None, "none"), ("gaussian", "gaussian"), (math.nan, "nan"), (True, "True"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert short(value) == text
