"""The colours of the report: each of them means one thing, in every figure.

The colours of kinds of trials and of classes can be told apart with the common colour blindnesses. Where two of them
are near each other, a shape, a frame or a name says the same.
"""

from __future__ import annotations

from matplotlib.colors import LinearSegmentedColormap, to_hex

# Kinds of trials: Okabe and Ito's palette, and greys.
BEST = "#D55E00"
"""The best trial, its other seeds and its frame; nothing else is orange."""
BASELINE = "#222222"
"""A trial whose point the search space file gave."""
COMPLETED = "#0072B2"
STOPPED = "#8A8F98"
"""Stopped early."""
UNFINISHED = "#009E73"
"""Running, interrupted, or paused; those that are paused are squares."""
NO_RESULT = "#5B6068"
"""Diverged, failed or out of memory; always a cross."""

# Everything that is not a trial.
INK = "#1F2328"
"""Texts."""
AXIS = "#59606A"
"""Axes, their ticks, and lines that help to read them: rungs, real images."""
GRID = "#E8EAED"
FAINT = "#B9BEC6"
"""Background: lines of equal ELBO and between repeats, inactive latents, images of other classes."""
COLLAPSE = "#F4E7CF"
"""The area in which collapse was predicted."""
COLLAPSE_INK = "#7A5B1E"
"""Its edge and its name."""
ACTIVE = "#56B4E9"
"""A latent that is active."""
MODEL = "#D3DBE8"
"""Predictions of a model of the trials: the band of two standard deviations."""
MODEL_INK = "#64748F"
"""Its mean."""

VALUES = LinearSegmentedColormap.from_list("values", ["#C9A0E4", "#9A5CC6", "#5B1A8E", "#22003A"])
"""Values of a hyperparameter: the darker, the larger, or the later among categories."""

CLASSES = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#661100",
)  # fmt: skip
"""Classes of images: Paul Tol's muted palette and a brown. The first is also that of images without classes."""

TIME = (
    "#E3E6EA", "#EEDD88", "#AAAA00", "#99DDFF", "#4F86C6", "#BBCC33", "#FFAABB", "#7A5C3E", "#3E5C5C", "#C7B299",
    "#FFFFFF", "#F1F2F4",
)  # fmt: skip
"""Uses of the time of a slot or the driver, in the order of `timebars.BANDS`."""


def value_colours(count: int) -> list[str]:
    """Return colours for `count` values of a hyperparameter, from the least to the most."""
    steps = [0.5] if count == 1 else [index / (count - 1) for index in range(count)]
    return [to_hex(VALUES(step)) for step in steps]
