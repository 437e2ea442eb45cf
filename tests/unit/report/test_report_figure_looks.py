"""That figures can be read: nothing lies on anything else, a colour has one meaning, a position one value."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from drawn_figures import collisions, recorded
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D

from raysweep.metrics import TrialState
from raysweep.report.explanation.values import Explanation, Importance, Importances, Model, Slice
from raysweep.report.figures import palette
from raysweep.report.figures.lettering import Label, place_labels, plain, shortened, wrap
from raysweep.report.figures.marks import STYLE, WIDTH, canvas, legend_below, standing, styled, title, to_png
from raysweep.report.figures.plots import objective_by_parameter
from raysweep.report.figures.ratedistortion import rate_and_distortion
from raysweep.report.figures.scales import category_labels, mark_collapse, scale_x, tilt_crowded_ticks
from raysweep.report.figures.scatter import draw_latents
from raysweep.report.latents import LatentTable
from raysweep.search.explaining.explain import explain
from raysweep.spec.loading import parse_spec
from raysweep.spec.space import Range


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setitem(STYLE, "savefig.dpi", 60)


def searched(field, distribution):
    return parse_spec(f"name: a\ndata: {{dataset: digits, image_size: 16}}\ntrial: {{{field}: {distribution}}}")


@pytest.mark.parametrize(
    ("field", "choices"),
    [
        ("latent_size", [64, 8, 16]), ("max_gradient_norm", ["null", 1.0, 0.1]),
        ("likelihood", ["bernoulli", "gaussian"]),
        ("kld_weight", [0.1, 0.0, 1e-3]),
    ],
)  # fmt: skip
def test_a_choice_stands_exactly_at_its_tick(record, field, choices):
    spec = searched(field, f"{{choices: [{', '.join(map(str, choices))}]}}")
    values = [None if value == "null" else value for value in choices]
    records = [record(n, params={field: values[n % len(values)]}, of=spec) for n in range(7)]
    with styled():
        axes = canvas(3, 2).subplots()
        position = scale_x(axes, spec.trial, field, records)
    names = category_labels([getattr(one.config, field) for one in records[: len(values)]])
    ticks = dict(zip([label.get_text() for label in axes.get_xticklabels()], axes.get_xticks(), strict=True))
    assert sorted(ticks.values()) == list(range(len(values)))
    for one in records:
        assert position(one) == ticks[names[one.number % len(values)]]


def test_a_value_of_a_range_stands_at_itself(record):
    spec = searched("latent_size", "{low: 2, high: 64}")
    records = [record(n, params={"latent_size": n + 2}, of=spec) for n in range(5)]
    axes = canvas(3, 2).subplots()
    position = scale_x(axes, spec.trial, "latent_size", records)
    assert [position(one) for one in records] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("distribution", ["{low: 1e-5, high: 1.0, log: true}", "{choices: [1e-4, 1e-3, 1e-2, 1e-1]}"])
@pytest.mark.parametrize("collapse", [(5e-3, 5e-3), (5e-3, 5e-2), (9e-2, 9e-2), (1e-6, 1e-6)])
@pytest.mark.parametrize("height", [0.1, 0.9])
def test_the_words_predicted_collapse_stand_where_collapse_is_predicted(record, distribution, collapse, height):
    spec = searched("kld_weight", distribution)
    records = [record(n, params={"kld_weight": weight}, of=spec) for n, weight in enumerate((1e-4, 1e-3, 1e-2, 1e-1))]
    with styled():
        figure = canvas(3.2, 2.4)
        axes = figure.subplots()
        position = scale_x(axes, spec.trial, "kld_weight", records)
        assert mark_collapse(axes, spec.trial, collapse, [(position(one), height) for one in records])
        figure.draw_without_rendering()
    (words,) = [text for text in axes.texts if text.get_text() == "predicted collapse"]
    healthy = [position(one) for one in records if one.config.kld_weight < collapse[0]]
    beyond = [position(one) for one in records if one.config.kld_weight >= collapse[1]]
    shaded = axes.patches[-1].get_extents()
    if isinstance(spec.trial.searched["kld_weight"], Range):
        edge = max(collapse[1], axes.get_xlim()[0])
    else:  # halfway between the categories on either side
        edge = sum(weight < collapse[1] for weight in (1e-4, 1e-3, 1e-2, 1e-1)) - 0.5
    line = axes.transData.transform((edge, 0))[0]
    assert shaded.x0 == pytest.approx(line)
    assert line <= words.get_window_extent().x0 < line + 5 * figure.dpi / 72, "beside its line, on the collapsed side"
    assert all(axes.transData.transform((x, 0))[0] < words.get_window_extent().x0 for x in healthy)
    assert all(shaded.x0 <= axes.transData.transform((x, 0))[0] <= shaded.x1 for x in beyond)
    assert not any(shaded.x0 <= axes.transData.transform((x, 0))[0] for x in healthy)


def test_labels_lie_neither_on_each_other_nor_outside_nor_on_marks():
    with styled():
        figure = canvas(4.0, 3.0)
        axes = figure.subplots()
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        points = [(0.5 + 0.01 * n, 0.5) for n in range(6)] + [(0.99, 0.99), (0.01, 0.01)]
        labels = [Label(f"class number {n}", point, "#332288", frame=n % 2 == 0) for n, point in enumerate(points)]
        written = place_labels(axes, labels, points, 10)
        figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in written]
    assert len(boxes) == len(labels)
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    inside = axes.get_window_extent()
    assert all(
        inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1 for box in boxes
    )


def test_a_label_without_room_is_left_out():
    axes = canvas(1.0, 1.0).subplots()
    assert place_labels(axes, [Label("far too long for so small a figure", (0.5, 0.5), "black")], [], 10) == []


@pytest.mark.parametrize("text", ["short", "a finding of many words " * 8, "o" * 200, "a_name_without_a_space " * 5])
def test_a_title_stays_within_its_figure(text):
    with styled(), recorded() as drawn:
        figure = canvas(WIDTH, 3.0)
        figure.subplots()
        title(figure, text)
        to_png(figure)
    assert collisions(drawn[0]) == []
    assert figure._suptitle.get_text().replace("\n", "").replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    "names", [["a", "b"], ["a rather long name of a class"] * 9, [f"c{n}" for n in range(30)], ["w" * 60]]
)
def test_a_legend_stays_within_its_figure(names):
    with styled(), recorded() as drawn:
        figure = canvas(WIDTH, 5.0)
        figure.subplots()
        legend_below(figure, [Line2D([], [], label=shortened(name, 40)) for name in names], 10)
        to_png(figure)
    assert collisions(drawn[0]) == []


def test_long_choices_are_tilted_until_none_lies_on_another(record):
    choices = ["d/2 2d/2 4d/2", "d 2d/2 2d/2 2d", "d/2 2d/2 4d/2 8d/2", "none"]
    spec = searched("conv_blocks", f"{{choices: {choices}}}")
    records = [record(n, params={"conv_blocks": choice}, of=spec) for n, choice in enumerate(choices)]
    with styled(), recorded() as drawn:
        figure = canvas(3.2, 2.6)
        axes = figure.subplots()
        scale_x(axes, spec.trial, "conv_blocks", records)
        tilt_crowded_ticks(figure)
        to_png(figure)
    assert collisions(drawn[0]) == []
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {35.0}


def test_long_names_are_shortened_and_still_told_apart():
    labels = category_labels(["a very long name of a choice, one", "a very long name of a choice, two", None, True])
    assert len(set(labels)) == 4
    assert all(len(label) <= 14 for label in labels)


@pytest.mark.parametrize("objective", ["elbo_nats", "bits_per_dim"])
@pytest.mark.parametrize("parameters", [1, 2, 5])
def test_nothing_lies_on_anything_else_in_figures_of_one_to_five_parameters(record, parameters, objective):
    space = {
        "kld_weight": "{low: 1.0e-5, high: 0.5, log: true}", "latent_size": "{choices: [2, 8, 64, 256]}",
        "conv_blocks": "{choices: ['d/2 2d/2 4d/2', 'd 2d/2 2d/2 2d', 'none']}",
        "learning_rate": "{low: 1.0e-4, high: 1.0e-2, log: true}", "max_gradient_norm": "{choices: [null, 1.0]}",
    }  # fmt: skip
    names = list(space)[:parameters]
    spec = parse_spec(
        "name: a\ndata: {dataset: digits, image_size: 16}\ntrial: {"
        + ", ".join(f"{name}: {space[name]}" for name in names)
        + f"}}\nsearch: {{objective: {{metric: {objective}}}}}"
    )
    rng = np.random.default_rng(0)
    points = {
        "kld_weight": lambda n: float(10 ** rng.uniform(-5, -0.4)), "latent_size": lambda n: (2, 8, 64, 256)[n % 4],
        "conv_blocks": lambda n: ("d/2 2d/2 4d/2", "d 2d/2 2d/2 2d", "none")[n % 3],
        "learning_rate": lambda n: float(10 ** rng.uniform(-4, -2)), "max_gradient_norm": lambda n: (None, 1.0)[n % 2],
    }  # fmt: skip
    states = [TrialState.COMPLETED, TrialState.PRUNED, TrialState.COMPLETED, TrialState.DIVERGED, TrialState.COMPLETED]
    records = [
        record(n, (float(rng.normal(100, 80)),), states[n % 5], {name: points[name](n) for name in names}, spec,
               enqueued=n < 2)
        for n in range(16)
    ]  # fmt: skip
    with styled(), recorded() as drawn:
        trials = standing(spec, records)
        assert objective_by_parameter(trials, spec, (1e-2, 1e-2), explain(spec, records)) is not None
        assert rate_and_distortion(trials, (1e-2, 1e-2)) is not None
    assert [collisions(figure) for figure in drawn] == [[], []]
    assert all(figure.get_figwidth() == WIDTH for figure in drawn)


def explained(importance, choices=("gaussian", "bernoulli")):
    """An explanation of a sweep over the KLD weight and the likelihood."""
    weights = tuple(float(weight) for weight in np.logspace(-5, -1, 9))
    slices = {
        "kld_weight": Slice(True, weights, tuple(range(9)), (1.0,) * 9, weights[-1], weights[-2:]),
        "likelihood": Slice(False, choices, (8.0, 3.0), (2.0, 1.0), choices[0], choices[:1]),
    }
    return Explanation(
        "elbo_nats", "max", 12, 11, 11.0, 0, 11.0, 1, {"kld_weight": 1e-2, "likelihood": "gaussian"}, (),
        Importances(12, None, 12, {"kld_weight": importance} if importance else {}), Model(12, 3, slices), None,
    )  # fmt: skip


def drawn_with(record, explanation):
    """The figure of twelve trials of the KLD weight and the likelihood, and what was drawn for it."""
    spec = parse_spec(
        "name: a\ndata: {dataset: digits, image_size: 16}\ntrial: {kld_weight: {low: 1e-5, high: 1e-1, log: true}, "
        "likelihood: {choices: [gaussian, bernoulli]}}"
    )
    points = [{"kld_weight": 10 ** (-5 + n / 3), "likelihood": ("gaussian", "bernoulli")[n % 2]} for n in range(12)]
    records = [record(n, (float(n),), TrialState.COMPLETED, point, spec) for n, point in enumerate(points)]
    with styled(), recorded() as figures:
        drawn = objective_by_parameter(standing(spec, records), spec, None, explanation)
    return drawn, figures[0]


def bands(axes):
    """Where the model's bands are: from and to which x, and from and to which value."""
    found = [one for one in axes.collections if isinstance(one, PolyCollection)]
    assert all(to_hex(one.get_facecolor()[0]) == palette.MODEL.lower() for one in found)
    boxes = [one.get_datalim(axes.transData) for one in found]
    return [tuple(round(v, 6) for v in (box.x0, box.x1, box.y0, box.y1)) for box in boxes]


def test_the_model_s_band_lies_behind_the_trials_at_two_standard_deviations(record):
    _, figure = drawn_with(record, explained(Importance(0.625, 0.4, 0.8, 0.05)))
    weight, likelihood = figure.axes[:2]
    assert bands(weight) == [(1e-5, 0.1, -2.0, 10.0)]
    assert bands(likelihood) == [(-0.3, 0.3, 4.0, 12.0), (0.7, 1.3, 1.0, 5.0)]
    marks = [one for axes in (weight, likelihood) for one in axes.collections if isinstance(one, PathCollection)]
    assert min(one.get_zorder() for one in marks) > 2
    assert collisions(figure) == []
    assert "model: mean ± 2 sd" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("chance", "said", "ink"),
    [(0.05, "importance 62%, 40 to 80%", palette.INK), (0.5, "importance 62%, 40 to 80%: chance?", palette.AXIS)],
)
def test_an_importance_that_may_be_chance_says_so_and_stands_back(record, chance, said, ink):
    drawn, figure = drawn_with(record, explained(Importance(0.62, 0.4, 0.8, chance)))
    labels = [axes.get_title(loc="right") for axes in figure.axes[:2]]
    assert labels == [said, ""]
    assert figure.axes[0]._right_title.get_color() == ink
    assert ("kld_weight (62%, 40 to 80%) mattered most" in drawn.description) is (chance <= 0.05)


def test_without_an_explanation_the_trials_stand_alone(record):
    drawn, figure = drawn_with(record, None)
    assert [bands(axes) for axes in figure.axes[:2]] == [[], []]
    assert "model" not in drawn.description


CLASSES = [
    "zero as written by hand in the office", "_hidden", "price in $ and in $", "Großbuchstabe sechs", "a\nb",
    "other classes",
    "nine and everything that resembles it", "x", "one more class of a long name", "two_with_a_curl_at_the_bottom",
]  # fmt: skip


@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_names_of_classes_lie_on_no_other_and_all_are_in_the_legend(record, spread):
    rng = np.random.default_rng(0)
    labels = tuple(CLASSES[n % len(CLASSES)] for n in range(200))
    centres = spread * rng.normal(size=(len(CLASSES), 2))
    means = (np.tile(centres, (20, 1)) + rng.normal(size=(200, 2))).astype(np.float32)
    table = LatentTable(means, np.ones(2), labels, ("test",) * 200, np.arange(200))
    with recorded() as drawn:
        draw_latents(table, record(0), dpi=60)
    assert collisions(drawn[0]) == []
    (legend,) = drawn[0].legends
    assert {text.get_text() for text in legend.get_texts()} == {shortened(name, 28) for name in CLASSES}
    assert len(drawn[0].axes[0].texts) >= 5


def test_a_colour_means_one_thing():
    meanings = [
        palette.BEST, palette.BASELINE, palette.COMPLETED, palette.STOPPED, palette.UNFINISHED, palette.NO_RESULT,
        palette.FAINT, palette.COLLAPSE, palette.ACTIVE, *palette.CLASSES, *palette.TIME, *palette.value_colours(6),
    ]  # fmt: skip
    assert len(set(meanings)) == len(meanings)


def test_nothing_but_the_best_is_orange():
    """Not even nearly: in hue, where both are saturated."""
    from matplotlib.colors import rgb_to_hsv

    hue, _, _ = rgb_to_hsv(to_rgb(palette.BEST))
    for colour in [*palette.CLASSES, *palette.TIME, *palette.value_colours(6), palette.ACTIVE, palette.COMPLETED]:
        other, saturation, value = rgb_to_hsv(to_rgb(colour))
        assert abs(other - hue) > 0.03 or saturation < 0.6 or value < 0.5, colour


@pytest.mark.parametrize(
    ("text", "most", "short"), [("abc", 5, "abc"), ("abcdefghij", 7, "abcd…ij"), ("a\n b\t\x07c", 9, "a b c")]
)
def test_texts_are_cleaned_and_shortened(text, most, short):
    assert shortened(text, most) == short


def test_lines_are_no_wider_than_their_room_and_lose_nothing():
    words = plain("a few words and " + "o" * 90)
    lines = wrap(words, 100.0, 10)
    assert "".join(lines).replace(" ", "") == words.replace(" ", "")
    assert len(lines) > 5
