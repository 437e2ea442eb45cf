"""Claims: statements about a sweep's results, each with the test that decides it.

A search space file declares them under `claims:`; `raysweep findings` decides them from the sweep's tables.
docs/findings.md describes the tests and their statistics. Conditions and metrics are expressions over `COLUMNS`;
raysweep/spec/expressions.py defines their syntax.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema, model_validator

from raysweep.metrics import FINAL_METRICS, FORMER_MODES, METRICS, Metric, Mode
from raysweep.spec.config import UNITS, Positive, TrialConfig
from raysweep.spec.expressions import Kind
from raysweep.spec.space import Scalar, field_kind

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,59}$")]
Finite = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Text = Annotated[str, Strict(), Field(min_length=1)]

BEST = "best"
"""The point that the sampler found: the best trial by the objective."""

MIN_REPEATS = 3
"""Fewest seeds, pairs, or trials on one side whose spread allows a conclusion."""

MIN_TREND_TRIALS = 10
"""Fewest trials at different values on which a trend without repeats is tested."""

REPEATS = "search seed as well, such as seed: {choices: [0, 1, 2]} with sampler: grid"
"""Advice at the end of messages about missing repeats."""


def _parameter_kind(name: str) -> Kind:
    if field_kind(name) != "other":
        return "number"
    annotation = TrialConfig.model_fields[name].annotation
    types = {type(value) for value in get_args(annotation)} if get_origin(annotation) is Literal else {annotation}
    return "truth" if types == {bool} else "number" if types == {int} else "text"


def _metric_kinds(metrics: Mapping[str, Metric], prefix: str = "") -> dict[str, Kind]:
    kinds: dict[type, Kind] = {float: "number", int: "number", bool: "truth", str: "text"}
    return {prefix + name: kinds[metric.type] for name, metric in metrics.items() if metric.type in kinds}


PARAMETERS: dict[str, Kind] = {name: _parameter_kind(name) for name in TrialConfig.model_fields}

COLUMNS: dict[str, Kind] = {
    **PARAMETERS,
    **_metric_kinds(METRICS),
    **_metric_kinds(METRICS, "best_"),
    **_metric_kinds(FINAL_METRICS),
    "best_epoch": "number", "objective": "number", "epochs_done": "number", "train_s": "number", "trial": "number",
    "state": "text", "enqueued": "truth", "stuck": "truth", "dataset": "text", "sweep": "text",
}  # fmt: skip
"""Columns that a claim can use, with their kinds: those of trials.parquet, the data set and the sweep's name."""

EPOCH_COLUMNS: dict[str, Kind] = {**COLUMNS, "epoch": "number", "time_s": "number"}
"""Columns that a claim about each epoch can use; a metric's bare name is its value after that epoch."""

MODES: dict[str, Mode] = {
    prefix + name: metric.mode
    for prefix, metrics in (("", METRICS), ("best_", METRICS), ("", FINAL_METRICS))
    for name, metric in metrics.items()
    if metric.mode
}
"""Direction of each column that has one: whether less or more is better."""

BEST_MODES: dict[str, Mode] = {**FORMER_MODES, **MODES}
"""Direction of each column that `best()` accepts."""

COLUMN_UNITS: dict[str, str] = {
    **UNITS,
    **{prefix + name: metric.unit for prefix in ("", "best_") for name, metric in METRICS.items()},
    **{name: metric.unit for name, metric in FINAL_METRICS.items()},
    "epochs_done": "epochs", "train_s": "s", "time_s": "s",
}  # fmt: skip


def _one_or_more(raw: Any) -> Any:
    return (raw,) if isinstance(raw, str) else raw


def _point(raw: Any) -> Any:
    is_mapping = isinstance(raw, Mapping) and raw and all(isinstance(key, str) for key in raw)
    if not (is_mapping and all(isinstance(value, bool | int | float | str | None) for value in raw.values())) and not (
        isinstance(raw, str) and raw.strip()
    ):
        raise ValueError(f"must be columns and their values, such as {{latent_size: 16}}, a condition, or {BEST}")
    return dict(raw) if isinstance(raw, Mapping) else raw.strip()


def _values(raw: Any) -> Any:
    items = raw if isinstance(raw, list | tuple) else [raw]
    if not items or not all(isinstance(item, bool | int | float | str | None) for item in items):
        raise ValueError(f"must be a value or a list of at least one, got {raw!r}")
    # wrap null in a tuple, because a key whose value is null is not written
    return tuple(items) if raw is None or not isinstance(raw, bool | int | float | str) else raw


_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
_SCALAR = {"type": ["boolean", "number", "string", "null"]}
"""JSON Schemas, for editors, of values that validators accept in several forms."""

Metrics = Annotated[tuple[Text, ...], BeforeValidator(_one_or_more), Field(min_length=1), WithJsonSchema(_TEXTS)]
"""One numeric expression or several; all of them are tested."""

Point = Annotated[
    Any,
    BeforeValidator(_point),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "object", "minProperties": 1, "additionalProperties": _SCALAR}]}),
]
"""A mapping of columns to values, a condition, or `best`."""


class _Test(BaseModel):
    """What all claims have."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Name
    """Short, unique in the file."""
    statement: Text
    """What is claimed, in a sentence."""
    source: str | None = None
    """Where the claim comes from."""
    where: Text | None = None
    """Condition that a trial meets to be looked at."""
    across: Text | None = None
    """Column by whose values the test is made apart; where verdicts differ, the claim depends on the convention."""


class Always(_Test):
    """The condition is met by every trial that ended, or by every epoch."""

    test: Literal["always"]
    condition: Text
    """Expression that is true or false, over the columns of trials.parquet (docs/findings.md)."""
    each: Literal["trial", "epoch"] = "trial"
    """What the condition is looked at for: every trial as it ended, or every epoch of it."""


class Separates(_Test):
    """The condition is met by all trials on one side of a value of a column, and by none on the other."""

    test: Literal["separates"]
    condition: Text
    """Expression that is true or false of a trial."""
    over: Text
    """Column along which the two sides lie."""
    below: Finite | None = None
    """The value below which the condition is met, and from which on it is not."""
    above: Finite | None = None
    """The value above which the condition is met, and up to which it is not."""

    @model_validator(mode="after")
    def _has_one_side(self) -> Separates:
        if (self.below is None) == (self.above is None):
            raise ValueError("needs either below or above: the value on whose one side the condition is met")
        return self


class BestAt(_Test):
    """The value of a column at which the metric's mean over repeats is best is the one claimed, or one of several."""

    test: Literal["best_at"]
    over: Text
    """Column whose values are compared."""
    value: Annotated[
        Any,
        BeforeValidator(_values),
        WithJsonSchema({"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}]}),
    ]
    """One value, or a list of which one is claimed to be the best."""
    metrics: Metrics
    """What is best there: a column or an expression of numbers, or several."""
    mode: Mode | None = None
    """Whether less or more is better; the metric's own direction if it is not given."""
    subject_to: Text | None = None
    """Condition on the means at a value, which takes part only if they meet it; `best(column)` is the best of them."""

    @property
    def values(self) -> tuple[Scalar, ...]:
        """The claimed values."""
        return self.value if isinstance(self.value, tuple) else (self.value,)


class Compare(_Test):
    """The metric at one point against another, in pairs that agree in everything else that varies, or in `pair_by`."""

    test: Literal["compare"]
    first: Point
    """Columns and their values, or a condition: the trials on the one side."""
    second: Point
    """The trials on the other side; `best` is the best trial by the objective."""
    metrics: Metrics = ("objective",)
    """What is compared: a column or an expression of numbers, or several."""
    expect: Literal["greater", "less", "not_greater", "not_less", "equivalent"]
    """What the first is, compared with the second."""
    margin: Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)] = 0.0
    """The difference that does not count, in the metric's unit."""
    pair_by: Metrics | None = None
    """The columns in which the trials of a pair agree; None for all that vary and that the points do not name."""

    @model_validator(mode="after")
    def _can_be_tested(self) -> Compare:
        if self.expect == "equivalent" and self.margin == 0:
            raise ValueError("expect: equivalent needs margin, the largest difference that does not count")
        if self.first == BEST:
            raise ValueError(f"first cannot be {BEST}; let second be {BEST} and turn what is expected round")
        return self


class Within(_Test):
    """Metrics are the same, up to a margin each, for all values of a column."""

    test: Literal["within"]
    over: Text
    """Column whose values are compared."""
    margins: Annotated[dict[str, Positive], Field(min_length=1)]
    """The largest difference that does not count, for each metric, in its unit."""


class Trend(_Test):
    """The metric rises or falls along a column."""

    test: Literal["trend"]
    over: Text
    """Column along which the metric rises or falls."""
    metrics: Metrics
    """What rises or falls: a column or an expression of numbers, or several."""
    expect: Literal["rises", "falls"]
    """Whether the metric grows with the column or shrinks."""
    min_correlation: Annotated[float, Strict(), Field(gt=0, le=1)] = 0.5
    """The least rank correlation, without its sign, that counts as a trend."""


Claim = Annotated[Always | Separates | BestAt | Compare | Within | Trend, Field(discriminator="test")]

CLAIM_KINDS: dict[str, type[_Test]] = {
    get_args(kind.model_fields["test"].annotation)[0]: kind
    for kind in (Always, Separates, BestAt, Compare, Within, Trend)
}
"""The kinds of claims by the word under `test:`."""


def metric_texts(claim: Claim) -> tuple[str, ...]:
    """Return the numeric expressions that a claim tests."""
    if isinstance(claim, BestAt | Compare | Trend):
        return claim.metrics
    return tuple(claim.margins) if isinstance(claim, Within) else ()
