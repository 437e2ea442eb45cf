"""The model of a search space file: the data, the space to search, how to search it, and the resources."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from raysweep.metrics import FINAL_METRICS, METRICS, OBJECTIVES, Criterion, Mode
from raysweep.spec.claims import Claim
from raysweep.spec.config import MOST_EPOCHS, MOST_IMAGES, Count
from raysweep.spec.hints import metric_hint
from raysweep.spec.space import Scalar, TrialSpace
from raysweep.storage.home import expanded
from raysweep.storage.remote import local_path, to_copy

Dataset = Literal["mnist-5k", "digits", "mnist", "fashion_mnist", "cifar10", "folder"]
Fit = Literal["resize", "crop", "letterbox", "pad"]
Sampler = Literal["auto", "gp", "tpe", "random", "grid"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
BUNDLED: tuple[Dataset, ...] = ("mnist-5k", "digits")
"""Data sets that come with the installation and need no network."""

DEFAULT_TRIALS = 20
MOST_TRIALS = 1_000_000
MAX_GRID = 100_000
"""Most points of a grid."""
LONGEST_S = 1e9
"""Longest time limit: 31 years. null is no limit."""
SMALLEST_SHARE = 0.01
"""Smallest share of a CPU or a GPU for a process: at most 100 processes on one device."""
MOST_FUSED = 64
"""Most trials in one process, because their checkpoints are written one after another."""
MOST_CONFIRMED = 100

_DURATION = re.compile(r"^\s*(?:(\d+(?:\.\d+)?)\s*h)?\s*(?:(\d+(?:\.\d+)?)\s*m)?\s*(?:(\d+(?:\.\d+)?)\s*s?)?\s*$")


def parse_duration(raw: Any) -> Any:
    """Return seconds, from a number of seconds or a text such as `90s`, `45m`, `2h` or `1h30m`.

    Raises:
        ValueError: if a text has another form.
    """
    if isinstance(raw, str):
        match = _DURATION.match(raw)
        if match is None or not raw.strip():
            raise ValueError("must be a duration such as 90s, 45m, 2h or 1h30m")
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return 3600 * hours + 60 * minutes + seconds
    return float(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw


Fraction = Annotated[float, Strict(), Field(gt=0, lt=1)]
_SECONDS = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": _DURATION.pattern, "examples": ["90s", "45m", "1h30m"]},
    ]
}
Duration = Annotated[
    float, BeforeValidator(parse_duration), Strict(), Field(gt=0, le=LONGEST_S, allow_inf_nan=False),
    WithJsonSchema(_SECONDS),
]  # fmt: skip
_FUSE = {"anyOf": [{"enum": ["auto", "off"]}, {"type": "integer", "minimum": 1, "maximum": MOST_FUSED}]}
_CONFIRM = {
    "anyOf": [
        {"enum": ["auto", "none"]},
        {"type": "null"},
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                name: {"type": "integer", "minimum": 1, "maximum": MOST_CONFIRMED} for name in ("top", "seeds")
            },
        },
    ]
}
_GPU = {"anyOf": [{"enum": ["auto"]}, {"type": "number", "minimum": 0, "maximum": 1}]}
"""JSON Schemas, for editors, of values that validators accept in several forms."""
_FINALISTS = r"^(all|none|best [1-9]\d{0,5})$"


class Section(BaseModel):
    """Base of the file's sections: unknown keys are faults and nothing changes after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DataSpec(Section):
    """`data:` the images, how they are brought to one size, and how they are split."""

    dataset: Dataset
    """The images: a set that is bundled, one that is fetched or lies in `root`, or a `folder` of your own."""
    root: str | None = None
    """Directory of the raw files: as torchvision lays them out, bare IDX files, or for `folder` the images."""
    image_size: Annotated[int, Strict(), Field(ge=8, le=1024)] = 32
    """Height and width after preprocessing, in pixels."""
    channels: Literal[1, 3] | None = None
    """Grey or colour; null keeps what the data set has."""
    fit: Fit = "resize"
    """How an image of another size gets to `image_size` (docs/folders.md): `crop` keeps its middle square, `letterbox`
    keeps all of it between black bars, `pad` does so without enlarging it, `resize` is the older name of `crop`."""
    validation_fraction: Fraction = 0.1
    """Share of all images that trials are compared on and never trained on."""
    test_fraction: Fraction = 0.1
    """Share kept apart for final figures, where the data set has no test split of its own."""
    split_seed: Annotated[int, Strict(), Field(ge=0, lt=2**32)] = 0
    """Seed by which images are drawn for the splits."""
    broken_images: Literal["error", "skip"] = "error"
    """What an image that cannot be decoded does to a `folder`."""
    download: Annotated[bool, Strict()] = True
    """Whether a set that is not on this machine may be fetched."""

    @field_validator("root")
    @classmethod
    def _wherever_one_stands(cls, root: str | None) -> str | None:
        if root is None:
            return None
        path = expanded(local_path(root, "images are read from a folder of this machine", to_copy(root, "images")))
        if path.parts and path.parts[0].startswith("~"):
            raise ValueError(f"root: {root} begins with a home directory, and there is none here; write it out")
        return str(path.absolute())

    @model_validator(mode="after")
    def _leaves_images_to_train_on(self) -> DataSpec:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                "validation_fraction and test_fraction must leave images to train on, "
                f"got {self.validation_fraction} and {self.test_fraction}"
            )
        if self.dataset == "folder" and self.root is None:
            raise ValueError("dataset: folder needs root, the directory of the images")
        return self


class Objective(Section):
    """`search.objective:` the metric by which trials are compared."""

    metric: Annotated[str, Field(json_schema_extra={"enum": [*OBJECTIVES]})] = "elbo_nats"
    """The metric of an epoch on the validation images that trials are compared by (docs/metrics.md)."""
    mode: Mode | None = None
    """Whether less or more is better; the metric's own direction if it is not given."""

    @model_validator(mode="after")
    def _is_a_metric_with_a_direction(self) -> Objective:
        candidates = ", ".join(name for name, metric in METRICS.items() if metric.mode)
        if self.metric not in METRICS:
            hint = metric_hint(self.metric)
            if self.metric in FINAL_METRICS:
                raise ValueError(f"metric {self.metric} {hint}")
            raise ValueError(f"metric {self.metric!r} is not a metric; allowed: {candidates}{hint}")
        mode = OBJECTIVES.get(self.metric)
        if mode is None:
            raise ValueError(f"metric {self.metric} is neither better small nor large; allowed: {candidates}")
        if self.mode not in (None, mode):
            raise ValueError(f"{self.metric} is better when it is {'larger' if mode == 'max' else 'smaller'}: "
                             f"mode must be {mode}, got {self.mode}")  # fmt: skip
        return self

    @property
    def direction(self) -> Mode:
        return OBJECTIVES[self.metric]


class Asha(Section):
    """`search.early_stopping.asha:` asynchronous successive halving (Li et al., arXiv:1810.05934)."""

    max_epochs: Annotated[Count, Field(le=MOST_EPOCHS)] | None = None
    """Epochs of a trial that is never stopped; `trial.epochs` if it is not given."""
    grace_epochs: Annotated[Count, Field(le=MOST_EPOCHS)] = 1
    """Epochs every trial gets: the first rung."""
    reduction_factor: Annotated[int, Strict(), Field(ge=2, le=MOST_TRIALS)] = 3
    """One in this many trials goes on past a rung, and rungs grow by this factor."""
    rejudge: Annotated[bool, Strict()] = True
    """The first trials wait on the first rung until `reduction_factor` stand there, and a trial that has passed a rung
    is judged there again when others have come, until it reaches the next. Without it each is judged once, when it
    arrives, and the first ones by nobody."""
    promote: Annotated[bool, Strict()] = False
    """Trials pause on a rung and go on when they are among the best there; otherwise the poor ones stop for good."""

    def rungs(self, max_epochs: int) -> tuple[int, ...]:
        """Return the epochs at which trials are compared.

        They are grace, grace * factor, grace * factor^2, ... below `max_epochs`.
        """
        rungs = []
        epoch = self.grace_epochs
        while epoch < max_epochs:
            rungs.append(epoch)
            epoch *= self.reduction_factor
        return tuple(rungs)


class EarlyStopping(Section):
    """`search.early_stopping:` the rule that ends poor trials."""

    asha: Asha
    """Asynchronous successive halving: at each rung the best go on, the others stop."""


class Confirm(Section):
    """`search.confirm:` the best trials are trained again with other seeds, once the search is over."""

    top: Annotated[Count, Field(le=MOST_CONFIRMED)] = 3
    """How many of the best trials."""
    seeds: Annotated[Count, Field(le=MOST_CONFIRMED)] = 3
    """How often each of them is trained again."""


class SearchSpec(Section):
    """`search:` how many points of the space are tried, chosen how, judged by what."""

    trials: Annotated[Count, Field(le=MOST_TRIALS)] | None = None
    """Trials in all; the size of the grid for `sampler: grid`, otherwise 20."""
    objective: Objective = Objective()
    """What trials are compared by."""
    sampler: Sampler = "auto"
    """How points are chosen: `gp` learns from the curves of the trials so far, `tpe` from their ends, `random` draws,
    `grid` takes every point. `auto` is `grid` if the space has no more points than there are trials, otherwise `gp`."""
    early_stopping: EarlyStopping | None = None
    """The rule that ends poor trials; null or `none` trains all to their end."""
    confirm: Annotated[Confirm | Literal["auto"] | None, WithJsonSchema(_CONFIRM)] = "auto"
    """The best trials are trained again with other seeds, and the best mean of these wins: the value of one training is
    partly luck. `auto` does so where it costs less than 15 % of the epochs of the search; `none` never does."""
    enqueue: tuple[dict[str, Scalar], ...] = ()
    """Points that run first; a searched field that a point leaves out is sampled."""
    start_from: tuple[str, ...] = ()
    """Directories or addresses of earlier sweeps whose trials the sampler `gp` learns from, as of a task that may be
    related (docs/search.md). They are copied into this sweep when it begins."""
    prior: dict[str, Scalar] = {}
    """Values of searched fields that you expect to be good: a hint to the sampler `gp` that fades as trials end."""
    seed: Annotated[int, Strict(), Field(ge=0, lt=2**32)] = 0
    """Seed of the sampler. Trials have `trial.seed`."""
    time_budget: Duration | None = None
    """Time after which no epoch is started any more: seconds, or a text with units; null is no end."""
    epoch_timeout: Duration | None = 3600.0
    """Time without a finished epoch after which a trial hangs: its process is ended and it is tried once more. It
    bounds the test of a finalist too; null waits for ever."""
    max_concurrent: Annotated[Count, Field(le=MOST_TRIALS)] | None = None
    """Most trials at once; as many as fit the machines if it is not given."""
    fuse: Annotated[Literal["auto", "off"] | int, WithJsonSchema(_FUSE)] = "auto"
    """Most trials of one shape that a process trains together, as one batched model: it pays for small models on a GPU.
    `auto` fuses on whole GPUs alone, and few enough for the sampler to learn from trials that have ended."""

    @field_validator("start_from")
    @classmethod
    def _names_sweeps_once(cls, places: tuple[str, ...]) -> tuple[str, ...]:
        for index, place in enumerate(places):
            if not place.strip():
                raise ValueError("each entry must be the directory or the address of a sweep, got an empty text")
            if place in places[:index]:
                raise ValueError(f"each sweep may stand once, got {place!r} twice")
        return places

    @field_validator("fuse", mode="before")
    @classmethod
    def _is_a_way_to_fuse(cls, raw: Any) -> Any:
        raw = "off" if raw is False else raw  # YAML reads an unquoted off as false
        is_number = isinstance(raw, int) and not isinstance(raw, bool)
        if raw not in ("auto", "off") and not (is_number and 1 <= raw <= MOST_FUSED):
            raise ValueError(f"must be auto, off or a number of trials from 1 to {MOST_FUSED}, got {raw!r}")
        return raw

    @field_validator("early_stopping", "confirm", mode="before")
    @classmethod
    def _none(cls, raw: Any) -> Any:
        return None if raw == "none" else raw


def _at_least_the_smallest(share: float) -> float:
    if share < SMALLEST_SHARE:
        raise ValueError(f"must be at least {SMALLEST_SHARE} of a CPU, got {share}")
    return share


class ResourcesSpec(Section):
    """`resources:` what one process takes of a machine, and with it a trial, or the trials that are fused."""

    cpu: Annotated[float, Strict(), Field(gt=0, le=1024), AfterValidator(_at_least_the_smallest)] = 1.0
    """CPUs that a process takes, and the threads that it computes with."""
    gpu: Annotated[Literal["auto"] | float, WithJsonSchema(_GPU)] = "auto"
    """Share of one GPU; `auto` is a whole one where there are GPUs, else none."""
    backend: Literal["ray", "inline"] = "ray"
    """What trains: `ray`, in processes on all machines, or `inline`, in raysweep's own process, one trial at a time, so
    that a debugger stops where `breakpoint()` stands."""

    @field_validator("gpu", mode="before")
    @classmethod
    def _is_a_share(cls, raw: Any) -> Any:
        is_number = isinstance(raw, int | float) and not isinstance(raw, bool)
        if raw != "auto" and not (is_number and 0 <= raw <= 1):
            raise ValueError(f"must be auto or a share of one GPU, from 0 to 1, got {raw!r}")
        if raw != "auto" and 0 < raw < SMALLEST_SHARE:
            raise ValueError(f"must be 0, or at least {SMALLEST_SHARE} of a GPU, got {raw!r}")
        return raw


class EvaluationSpec(Section):
    """`evaluation:` what is measured on the test split once trials have ended, and of how many."""

    final_metrics: Annotated[
        str, Field(json_schema_extra={"pattern": _FINALISTS, "examples": ["all", "none", "best 5"]})
    ] = "best 5"
    """Whose final metrics are measured: `all`, `none`, or `best 5` for the best five by the objective."""
    keep: Literal["best", "last"] = "best"
    """Which model of a trial is exported and measured: that of the epoch at which its objective was best, whose
    checkpoint is kept besides, or that of its last epoch."""
    images: Annotated[Count, Field(ge=50, le=MOST_IMAGES)] = 1000
    """Most test images that are measured, and as many samples."""
    importance_samples: Annotated[Count, Field(le=100_000)] = 50
    """Latents drawn an image for the importance-weighted bound."""

    @field_validator("final_metrics")
    @classmethod
    def _names_trials(cls, text: str) -> str:
        text = " ".join(text.split())
        if not re.fullmatch(_FINALISTS, text):
            raise ValueError(f"must be all, none or best N, such as best 5, got {text!r}")
        return text

    @property
    def finalists(self) -> int | None:
        """Number of trials whose final metrics are measured, the best first; None for all of them."""
        if self.final_metrics == "all":
            return None
        return 0 if self.final_metrics == "none" else int(self.final_metrics.removeprefix("best "))


class SweepSpec(Section):
    """A whole search space file, validated, with every default resolved."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    data: DataSpec
    trial: TrialSpace
    search: SearchSpec
    resources: ResourcesSpec
    evaluation: EvaluationSpec = EvaluationSpec()
    claims: tuple[Claim, ...] = ()
    unsized: tuple[str, ...] = ()
    """Those of `batch_size`, `epochs` and `grace_epochs` that the file leaves to the number of training images; a
    driver sets them before the first trial (raysweep.spec.defaults.sized)."""
    sampler_reason: str = ""
    """Why `sampler: auto` took the sampler that the search has; empty if the file names one."""

    @property
    def asha(self) -> Asha | None:
        stopping = self.search.early_stopping
        return stopping.asha if stopping else None

    def with_rule(self, *, promote: bool, rejudge: bool) -> SweepSpec:
        """Return the specification with `promote` and `rejudge` of `asha` set, each only if its file leaves it open."""
        if self.asha is None:
            return self
        form = {"promote": promote, "rejudge": rejudge}
        left_open = {name: value for name, value in form.items() if name not in self.asha.model_fields_set}
        stopping = EarlyStopping(asha=self.asha.model_copy(update=left_open))
        return self.model_copy(update={"search": self.search.model_copy(update={"early_stopping": stopping})})

    def with_kept(self, keep: Literal["best", "last"]) -> SweepSpec:
        """Return the specification with `evaluation.keep` set, only if its file leaves it open."""
        if "keep" in self.evaluation.model_fields_set:
            return self
        return self.model_copy(update={"evaluation": self.evaluation.model_copy(update={"keep": keep})})

    @property
    def kept_by(self) -> Criterion | None:
        """Criterion by which the kept epoch of a trial is the best; None if the last epoch is kept."""
        objective = self.search.objective
        return Criterion(objective.metric, objective.direction) if self.evaluation.keep == "best" else None

    def with_confirmation(self, confirm: Confirm | Literal["auto"] | None) -> SweepSpec:
        """Return the specification with `search.confirm` set, only if its file leaves it open."""
        if "confirm" in self.search.model_fields_set:
            return self
        return self.model_copy(update={"search": self.search.model_copy(update={"confirm": confirm})})

    @property
    def max_epochs(self) -> int:
        """Epochs of the longest possible trial."""
        return int(self.trial.ends("epochs")[1])

    @property
    def trials(self) -> int:
        """Number of trials that the sweep runs in all."""
        if self.search.trials is not None:
            return self.search.trials
        if self.search.sampler == "grid":
            return self.trial.grid_size() + len(self.search.enqueue)
        return DEFAULT_TRIALS

    def __repr__(self) -> str:
        """Say on one line what would run; `as_mapping()` returns all of it."""
        objective = self.search.objective
        return (
            f"<search space {self.name}: {self.trials} trials on {self.data.dataset}, {', '.join(self.trial.searched)} "
            f"searched by {self.search.sampler}, {objective.direction} {objective.metric}>"
        )

    __str__ = __repr__

    def as_mapping(self) -> dict[str, Any]:
        """Return the mapping of a file that would load as this specification, with every default written out."""
        search = self.search.model_dump(mode="json")
        search["trials"] = self.trials
        search["objective"]["mode"] = self.search.objective.direction
        return {
            "name": self.name,
            "data": self.data.model_dump(mode="json"),
            "trial": self.trial.as_mapping(),
            "search": search,
            "resources": self.resources.model_dump(mode="json"),
            "evaluation": self.evaluation.model_dump(mode="json"),
            "claims": [claim.model_dump(mode="json", exclude_none=True) for claim in self.claims],
        }

    def fingerprint(self) -> str:
        """Return a hash of everything the file says; files with the same hash run the same sweep."""
        canonical = json.dumps(self.as_mapping(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]
