from __future__ import annotations

import math

import pytest
from PIL import Image

from raysweep.layout import SweepDirectory
from raysweep.loading import parse_spec
from raysweep.metrics import TrialState
from raysweep.report.figures import draw_figures
from raysweep.report.marks import canvas, robust_limits, short
from raysweep.report.ratedistortion import _mark_bar

ALL = ["objective", "rate_distortion", "reconstructions", "learning_curves"]


@pytest.fixture
def directory(tmp_path):
    return SweepDirectory(tmp_path)


def names(figures):
    for figure in figures:
        with Image.open(figure.path) as picture:
            assert min(picture.size) > 300
        assert figure.title
        assert figure.description
    return [figure.name for figure in figures]


def test_a_sweep_has_four_figures_that_name_the_winner(directory, sweep_records, spec, draw_pictures):
    draw_pictures(directory, spec, sweep_records)
    figures = draw_figures(directory, spec, sweep_records)
    assert names(figures) == ALL
    assert all(figure.path == directory.figures / f"{figure.name}.png" for figure in figures)
    assert all("trial 11" in figure.title for figure in figures)
    assert sorted(path.name for path in directory.figures.iterdir()) == sorted(f"{name}.png" for name in ALL)


def test_without_pictures_there_is_no_figure_of_them(directory, sweep_records, spec):
    assert names(draw_figures(directory, spec, sweep_records)) == [n for n in ALL if n != "reconstructions"]


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
    for collapse in ((1e-3, 1e-3), (1e-3, 5e-3), (1e-9, 1e-3)):
        figures = draw_figures(directory, spec, sweep_records, collapse)
        marked = [figure.name for figure in figures if said in figure.description]
        assert marked == ["objective", "rate_distortion"]
        changed = [f.name for f, old in zip(figures, before, strict=True) if f.path.read_bytes() != old]
        assert changed == marked


@pytest.mark.parametrize("collapse", [(1e3, 1e3), (0.0, 0.0), (1e-9, 1e-9), (math.inf, math.inf), (math.nan, math.nan)])
def test_a_predicted_collapse_off_the_axes_is_not_drawn(directory, sweep_records, spec, collapse):
    before = [figure.path.read_bytes() for figure in draw_figures(directory, spec, sweep_records)]
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
    assert names(draw_figures(directory, spec, records)) == ALL


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
    assert names(figures) == ALL
    assert "mse" in figures[0].title
    assert "kld_weight" not in figures[2].title


def test_a_sweep_without_a_search_has_no_panels(directory, record, draw_pictures):
    spec = parse_spec("name: a\ndata: {dataset: digits, image_size: 16}\ntrial: {latent_size: {choices: [2]}}")
    records = [record(0, params={"latent_size": 2}, of=spec)]
    assert "objective" in names(draw_figures(directory, spec, records))


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([1.0, 2.0, 3.0, 4.0], (0.82, 4.18)),
        ([4.0, 3.0, math.nan, 2.0, 1.0, math.inf, 1e9], (1 - 0.36, 7.36)),
        ([2.0, 2.0], (1.9, 2.1)),
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
