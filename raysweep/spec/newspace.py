"""The search space file that `raysweep new` writes, with a comment on each line that may be changed.

It describes the same sweep as a file that has only `data:`, with the defaults of spec/defaults.py written out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from raysweep.spec.config import TrialConfig
from raysweep.spec.defaults import (
    batch_size_for,
    default_enqueue,
    default_trial,
    epochs_for,
    grace_epochs_for,
    steps_an_epoch,
)
from raysweep.spec.keys import as_yaml
from raysweep.spec.sections import DEFAULT_TRIALS, Asha, SweepSpec
from raysweep.spec.yamltext import Loader
from raysweep.wording import counted

_SIDES = ((12, 8), (24, 16), (44, 32))
"""Pairs (side, size): images whose shortest side is at most `side` pixels get `size`; others get `_LARGE`."""
_LARGE = 64
FEW = 500
"""With fewer images than this, a larger share is kept for comparing trials."""
_SQUARE = 1.1
"""Largest ratio of an image's sides at which squeezing it into a square is not visible."""


@dataclass(frozen=True)
class Images:
    """The facts about images that a search space for them depends on."""

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
        return batch_size_for(self.train)

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return steps_an_epoch(self.train, self.batch_size)

    @property
    def epochs(self) -> int:
        return epochs_for(self.train, self.batch_size)


def validation_fraction(count: int) -> float:
    """Return the share of `count` images that trials are compared on.

    It is larger if there are few images, because on a small set trials differ by chance.
    """
    return 0.2 if count < FEW else 0.1


def space_text(name: str, images: Images, fits: tuple[str, ...]) -> str:
    """Return the text of a search space file; `fits` lists the ways to bring images to one size."""
    size, epochs = images.image_size, images.epochs
    trial = {key: as_yaml(value) for key, value in default_trial(size).items()}
    kind = "in colour" if images.channels == 3 else "in grey"
    classes = f", {counted(images.classes, 'class', 'classes')}" if images.classes else ""
    fit = "resize" if images.is_square else next(way for way in ("crop", "letterbox", "resize") if way in fits)
    others = "pause there" if Asha.model_fields["promote"].default else "stop"
    root = [("root", _text(images.root), "the folder of the images, from where raysweep is started")]
    lines = [
        f"# A search space for {counted(images.count, 'image')} of {images.native} {kind}{classes}.",
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
            ("kld_weight", trial.pop("kld_weight"), "little reconstructs well, much samples well"),
            ("learning_rate", trial.pop("learning_rate"), "of Adam"),
            ("latent_size", trial.pop("latent_size"), "dimensions of the latent space"),
            *((key, value, "searched") for key, value in trial.items()),
            ("d_size", as_yaml(TrialConfig.model_fields["d_size"].default), "width: channels conv_blocks counts in"),
            ("conv_blocks", str(TrialConfig.model_fields["conv_blocks"].default), "convolutions; /2 halves the image"),
            ("batch_size", str(images.batch_size), f"images a step: {images.steps:,} steps an epoch"),
            ("epochs", str(epochs), f"of a trial that is never stopped: {epochs * images.steps:,} steps"),
        ),
        "",
        "search:",
        *_entries(
            ("trials", str(DEFAULT_TRIALS), "configurations that are tried"),
            ("objective", "{metric: elbo_nats}", "how well the model explains validation images; no weight changes it"),
            ("sampler", "auto", "gp, which learns from curves, or grid if few points; also tpe and random"),
            ("enqueue", as_yaml(default_enqueue(size)), "runs first: a point that mostly works"),
        ),
        "  early_stopping:",
        f"    asha:   # the best third goes on past each rung, the others {others}",
        *_entries(
            ("grace_epochs", str(grace_epochs_for(epochs)), "the first rung: what every trial gets"),
            indent=6,
        ),
        "",
    ]
    return "\n".join(lines)


def record_text(name: str, spec: SweepSpec, origin: str) -> str:
    """Return the record of a sweep as the text of a search space file, without values at their default."""
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
    """Return the text of a search space file with another name, so that its results get their own directory."""
    head = f"# A copy of {origin}.\n"
    if text.lstrip().startswith("{"):  # in braces the name has no line of its own
        return head + text
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
    """Return lines of keys, values and comments; the comments are aligned where values are short."""
    width = max(len(f"{key}: {value}") for key, value, _ in entries if len(value) < 40)
    return [f"{' ' * indent}{f'{key}: {value}':<{width}}   # {comment}" for key, value, comment in entries]


def _text(value: str | None) -> str:
    """Return a text as YAML: in quotes if YAML would otherwise read a number or another type."""
    if value is not None and re.fullmatch(r"[\w./~-]+", value):
        try:
            if yaml.load(value, Loader=Loader) == value:  # noqa: S506 (it is a SafeLoader)
                return value
        except yaml.YAMLError:
            pass
    return yaml.safe_dump(value, default_style='"', width=10_000, allow_unicode=True).rstrip("\n")
