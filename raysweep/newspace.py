"""The text of a new search space file: what `raysweep new` writes, with a comment on each line that may be changed.

The numbers follow the images. Steps are what a model learns by: a trial has about as many as one of kld.yaml's, however
few images there are.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import yaml

from raysweep.defaults import STEPS
from raysweep.spec import SweepSpec
from raysweep.yamltext import Loader

_SIDES = ((12, 8), (24, 16), (44, 32))
"""Image sizes: up to a side of so many pixels, images are brought to this size; above, to `_LARGE`."""
_LARGE = 64
_BLOCKS = {8: "d/2 2d/2", 16: "d/2 2d/2", 32: "d/2 2d/2 4d/2", 64: "d/2 2d/2 4d/2 4d/2"}
FEW = 500
"""Images below which more of them are kept to compare trials on."""
_FIRST = "{kld_weight: 5e-4, learning_rate: 1e-3, latent_size: 16, d_size: 16}"
_SQUARE = 1.1
"""Largest ratio of an image's sides for which squeezing it into a square is not seen."""


@dataclass(frozen=True)
class Images:
    """What a search space has to know of the images that it is for."""

    dataset: str
    root: str | None
    """As it was typed."""
    count: int
    train: int
    """Images to train on, of `count`."""
    channels: int
    classes: int
    native: str
    """Sizes before preprocessing, such as `640x480 to 800x600`."""

    @property
    def validation_fraction(self) -> float:
        return validation_fraction(self.count)

    @property
    def sides(self) -> list[tuple[int, int]]:
        """The sizes that `native` names; 32x32 if it names none."""
        return [(int(width), int(height)) for width, height in re.findall(r"(\d+)x(\d+)", self.native)] or [(32, 32)]

    @property
    def image_size(self) -> int:
        side = min(map(min, self.sides))
        return next((size for most, size in _SIDES if side <= most), _LARGE)

    @property
    def is_square(self) -> bool:
        return all(max(sides) <= _SQUARE * min(sides) for sides in self.sides)

    @property
    def batch_size(self) -> int:
        return 64 if self.train >= 2_000 else 32 if self.train >= 500 else 16

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return max(1, math.ceil(self.train / self.batch_size))

    @property
    def epochs(self) -> int:
        return min(200, max(10, math.ceil(STEPS / self.steps)))


def validation_fraction(count: int) -> float:
    """Return the share of so many images that trials are compared on: more of few, on which they differ by chance."""
    return 0.2 if count < FEW else 0.1


def space_text(name: str, images: Images, fits: tuple[str, ...]) -> str:
    """Return the text of a search space file for some images; `fits` are the ways of bringing them to one size."""
    size, epochs = images.image_size, images.epochs
    grace = max(1, round(epochs / 4))
    kind = "in colour" if images.channels == 3 else "in grey"
    classes = f", {images.classes} classes" if images.classes else ""
    fit = "resize" if images.is_square else next(way for way in ("crop", "letterbox", "resize") if way in fits)
    root = [("root", _text(images.root), "the folder of the images, from where raysweep is started")]
    lines = [
        f"# A search space for {images.count:,} images of {images.native} {kind}{classes}.",
        "# Each line may be changed. raysweep check --fields lists all keys, with bounds, defaults and meaning.",
        "",
        f"name: {_text(name)}   # results go to results/{name}",
        "",
        "data:",
        *_entries(
            ("dataset", images.dataset, "images of your own" if images.root else "raysweep data list shows the others"),
            *(root if images.root else ()),
            ("image_size", str(size), f"pixels a side; {2 * size} shows more and takes four times as long"),
            ("channels", str(images.channels), "1 is grey, 3 is colour"),
            ("fit", fit, f"how an image of another shape gets square: {', '.join(fits)}"),
            ("validation_fraction", f"{images.validation_fraction:g}", "share that trials are compared on"),
        ),
        "",
        "trial:   # a value is constant; {low, high} and {choices} are searched",
        *_entries(
            ("kld_weight", "{low: 1e-5, high: 5e-3, log: true}", "little reconstructs well, much samples well"),
            ("learning_rate", "{low: 3e-4, high: 5e-3, log: true}", "of Adam"),
            ("latent_size", "{choices: [8, 16, 32, 64]}", "dimensions of the latent space"),
            ("d_size", "{choices: [16, 32]}", "channels that conv_blocks counts in: the width of the network"),
            ("conv_blocks", _BLOCKS[size], "a word for each convolution; /2 halves the image"),
            ("batch_size", str(images.batch_size), f"images a step: {images.steps:,} steps an epoch"),
        ),
        "",
        "search:",
        *_entries(
            ("trials", "12", "configurations that are tried"),
            ("objective", "{metric: elbo_nats}", "how well the model explains validation images; no weight changes it"),
            ("sampler", "tpe", "learns from the trials so far; also random and grid"),
            ("enqueue", f"[{_FIRST}]", "runs first: a point that mostly works"),
        ),
        "  early_stopping:",
        "    asha:   # the best third goes on past each rung, the others stop",
        *_entries(
            ("max_epochs", str(epochs), f"of a trial that is never stopped: {epochs * images.steps:,} steps"),
            ("grace_epochs", str(grace), "the first rung: what every trial gets"),
            indent=6,
        ),
        "",
    ]
    return "\n".join(lines)


def record_text(name: str, spec: SweepSpec, origin: str) -> str:
    """Return the text of a search space file that says what the record of a sweep says, without what is default."""
    bare = {"data": _given(spec.data), "trial": _searched(spec), "search": _given(spec.search)}
    bare |= {"resources": _given(spec.resources), "evaluation": _given(spec.evaluation)}
    claims = [claim.model_dump(mode="json", exclude_defaults=True) | {"test": claim.test} for claim in spec.claims]
    sections = {key: section for key, section in {**bare, "claims": claims}.items() if section}
    body = [
        yaml.safe_dump({key: section}, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
        for key, section in sections.items()
    ]
    head = f"# The search space of {origin}, without what is at its default.\n\n"
    return head + f"name: {_text(name)}\n" + "".join(body)


def renamed(text: str, name: str, origin: str) -> str:
    """Return the text of a search space file under another name, so that its results have a directory of their own."""
    head = f"# A copy of {origin}.\n"
    line = f"name: {_text(name)}"
    found = re.sub(r"(?m)^name:[^\n#]*?(?=\s*(?:#|$))", line, text, count=1)
    return head + (found if found != text or re.search(r"(?m)^name:", text) else f"{line}\n{text}")


def _given(section: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = section.model_dump(mode="json", exclude_defaults=True)
    return dumped


def _searched(spec: SweepSpec) -> dict[str, Any]:
    """Return the `trial:` section without the constants that are at their default."""
    defaults = {name: info.default for name, info in type(spec.trial.config({})).model_fields.items()}
    section = spec.trial.as_mapping()
    return {name: value for name, value in section.items() if name in spec.trial.searched or value != defaults[name]}


def _entries(*entries: tuple[str, str, str], indent: int = 2) -> list[str]:
    """Return lines of keys, values and comments, the comments below each other where values are short."""
    width = max(len(f"{key}: {value}") for key, value, _ in entries if len(value) < 40)
    return [f"{' ' * indent}{f'{key}: {value}':<{width}}   # {comment}" for key, value, comment in entries]


def _text(value: str | None) -> str:
    """Return a text as YAML has it: in quotes where it would be a number or something else."""
    if value is not None and re.fullmatch(r"[\w./~-]+", value):
        try:
            if yaml.load(value, Loader=Loader) == value:  # noqa: S506 (it is a SafeLoader)
                return value
        except yaml.YAMLError:
            pass
    return yaml.safe_dump(value, default_style='"', width=10_000, allow_unicode=True).rstrip("\n")
