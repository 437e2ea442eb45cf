"""Loading of a search space file: from its text to a `SweepSpec`, with every fault in one error."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from raysweep.errors import Fault, SpecError
from raysweep.spec.claimchecks import claim_faults
from raysweep.spec.claims import CLAIM_KINDS, Claim
from raysweep.spec.config import DENSE, LOSS_FIELDS, TrialConfig, parse_conv_blocks
from raysweep.spec.defaults import settled, with_default_sections
from raysweep.spec.hints import (
    beta_conversion,
    distribution_hint,
    distribution_key,
    key_hint,
    number_hint,
    section_hint,
    truth_hint,
    value_hint,
)
from raysweep.spec.keys import SECTIONS, TOP_LEVEL, all_keys, models_in
from raysweep.spec.sections import MAX_GRID, Dataset, DataSpec, EvaluationSpec, SearchSpec, SweepSpec
from raysweep.spec.shipped import find_shipped, shipped_hint
from raysweep.spec.space import Choices, Distribution, Range, Scalar, TrialSpace, field_adapter, field_kind
from raysweep.spec.yamltext import (
    Faults,
    KeyPath,
    Loader,
    as_written,
    check_duplicates,
    check_unseen,
    in_plain_words,
    nearest,
    shown,
    yaml_fault,
)
from raysweep.storage.layout import SweepDirectory, typed
from raysweep.storage.plaintext import NotPlainText, decoded
from raysweep.wording import counted

MAX_FILE_BYTES = 1 << 20
MAPPING = "the mapping given to load_spec"
"""The name, in messages, of a search space that comes from no file."""
NEW_FILE = "my.yaml"
"""The file name that messages suggest."""
_EFFECTIVE_WITH = (
    ("sigma", "likelihood", ("gaussian",)),
    ("learning_rate_epochs", "learning_rate_schedule", ("step",)),
    ("learning_rate_factor", "learning_rate_schedule", ("step", "plateau")),
    ("learning_rate_patience_epochs", "learning_rate_schedule", ("plateau",)),
)
"""Fields that have an effect only with certain values of another field."""
_LITERAL = re.compile(r"'([^']*)'")
"""An allowed value in pydantic's message about one that is not allowed."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def load_spec(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> SweepSpec:
    """Read and validate a search space: a file, a shipped one by name, or a mapping.

    The working directory takes precedence: `kld` is the shipped search_spaces/kld.yaml only if there is no kld here.

    `overrides` replaces keys of `search:`, such as `{"trials": 50}`; None leaves a key as it is in the file.

    Raises:
        SpecError: with every fault of the file.
    """
    if isinstance(source, Mapping):
        return parse_mapping(source, overrides)
    name = os.fspath(source)
    shipped = find_shipped(name)
    try:
        with open(shipped or name, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise SpecError(name, [Fault(0, "", f"is larger than {MAX_FILE_BYTES} bytes; is it a search space file?")])
        text = decoded(content, name)
    except FileNotFoundError:
        raise SpecError(name, [Fault(0, "", _not_there(name))]) from None
    except IsADirectoryError:
        if SweepDirectory.at(name).holds_a_sweep():
            raise SpecError(name, [Fault(0, "", _is_a_sweep(name, "is"))]) from None
        meant = (
            _files_nearby(name)
            or f"; for a search space of images in it, type: raysweep new {NEW_FILE} --data {typed(name)}"
        )
        raise SpecError(name, [Fault(0, "", f"is a directory, not a file{meant}")]) from None
    except NotPlainText as error:
        raise SpecError(name, [Fault(error.line, "", str(error))]) from None
    except OSError as error:
        raise SpecError(name, [Fault(0, "", f"cannot be read: {error.strerror}")]) from None
    return parse_spec(text, name, overrides)


def parse_spec(text: str, source: str = "<text>", overrides: Mapping[str, Any] | None = None) -> SweepSpec:
    """Validate the text of a search space file; see `load_spec`."""
    try:
        root = yaml.compose(text, Loader=Loader)
        raw = yaml.load(text, Loader=Loader)  # noqa: S506 (it is a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(source, [yaml_fault(error, text)]) from None
    if raw is None:
        raise SpecError(source, [Fault(0, "", f"is empty; to write one to start from, type: raysweep new {NEW_FILE}")])
    if is_record(raw):
        folder = Path(source).parent
        what = "is the record, which raysweep writes and reads, of"
        raise SpecError(source, [Fault(0, "", _is_a_sweep(str(folder), what, source))])
    faults = Faults(source, root, raw)
    check_unseen(root, (), faults.found)
    if faults.found:  # other faults may only follow from these
        raise SpecError(source, faults.found)
    check_duplicates(root, (), faults)
    return _spec_of(raw, faults, overrides, advice=None)


def parse_mapping(mapping: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> SweepSpec:
    """Validate a search space that is given as a mapping; see `load_spec`.

    Tuples count as lists, paths as texts, and NumPy's numbers as Python's.
    """
    try:
        raw = as_written(mapping)
    except RecursionError:
        raise SpecError(MAPPING, [Fault(0, "", "contains itself")]) from None
    faults = Faults(MAPPING, None, raw)
    return _spec_of(raw, faults, overrides, advice="raysweep check --fields lists every key")


def _spec_of(raw: Any, faults: Faults, overrides: Mapping[str, Any] | None, advice: str | None) -> SweepSpec:
    if not isinstance(raw, dict):
        raise SpecError(faults.source, [Fault(0, "", f"must be keys and values, got {shown(raw)}")])
    spec = _parse_sections(raw, faults, {k: v for k, v in (overrides or {}).items() if v is not None})
    if faults.found or spec is None:
        raise SpecError(faults.source, faults.found, advice)
    return spec


def parse_data(section: Mapping[str, Any], source: str) -> DataSpec:
    """Validate a `data:` section that does not come from a file.

    Raises:
        SpecError: with every fault of the section.
    """
    try:
        return DataSpec.model_validate(section)
    except ValidationError as error:
        faults = Faults(source, None)
        faults.add_validation((), error, section, lambda key, *found: _hint_of(f"data.{key}", *found))
        raise SpecError(source, faults.found, advice="raysweep data list shows the data sets there are") from None


def _parse_sections(raw: dict[Any, Any], faults: Faults, overrides: Mapping[str, Any]) -> SweepSpec | None:
    raw = _without_unknown_keys(raw, TOP_LEVEL, (), faults)
    name = raw.get("name", "sweep" if faults.source == MAPPING else Path(faults.source).stem.strip("<>"))
    if not isinstance(name, str) or not NAME.fullmatch(name):
        faults.add(("name",), f"must be letters, digits, '.', '_' and '-' (it names a directory), got {shown(name)}")

    unsized: tuple[str, ...] = ()
    if raw.get("trial") in (None, {}):
        raw, unsized = with_default_sections(raw)
    if "data" not in raw:
        faults.add(("data",), "is missing; for example data: {dataset: mnist-5k}")
    sections: dict[str, Any] = {}
    for key, model in SECTIONS.items():
        section = raw.get(key)
        section = {} if section is None else section
        if not isinstance(section, dict):
            faults.add((key,), f"must be keys and values, got {shown(section)}{section_hint(key, section)}")
            continue
        if key == "search":
            section = {**section, **overrides}
        section = _known(section, model, (key,), faults)
        try:
            sections[key] = model.model_validate(section)
        except ValidationError as error:
            if key != "data" or "data" in raw:
                faults.add_validation((key,), error, section, _hint_of)
            broken = {detail["loc"][0] for detail in error.errors() if detail["loc"]}
            if key == "search":  # its valid keys are still checked against the space
                sections[key] = model.model_validate({k: v for k, v in section.items() if k not in broken})
    space, broken_fields = _parse_trial(raw.get("trial"), faults)
    search = sections.get("search", SearchSpec())
    space = _cross_check(space, search, faults)
    if "data" in sections:
        _check_network(space, sections["data"], faults)
    claims = _parse_claims(raw.get("claims"), space, broken_fields, faults, search, sections.get("evaluation"))
    search = _parse_enqueue(search, space, broken_fields, faults)
    search = _parse_prior(search, space, broken_fields, faults)
    if faults.found:
        return None
    spec = settled(
        SweepSpec(
            name=name, data=sections["data"], trial=space, search=search, resources=sections["resources"],
            evaluation=sections["evaluation"], claims=claims, unsized=unsized,
        )
    )  # fmt: skip
    if spec.search.sampler == "grid":
        for key in _knowledge(search):
            faults.add(
                ("search", key),
                f"is of no use here: {spec.sampler_reason}, and sampler: auto takes them all. Take {key} out, or write "
                "sampler: gp",
            )
    return spec


def _parse_trial(section: Any, faults: Faults) -> tuple[TrialSpace, set[str]]:
    """Return the valid part of the `trial:` section, and the names of its faulty fields."""
    if section is None:
        section = {}
    if not isinstance(section, dict):
        faults.add(("trial",), f"must be keys and values, got {shown(section)}{section_hint('trial', section)}")
        return TrialSpace({}, {}), set(TrialConfig.model_fields)
    before = len(faults.found)
    section = _without_unknown_keys(section, tuple(TrialConfig.model_fields), ("trial",), faults)
    constants: dict[str, Scalar] = {}
    searched: dict[str, Distribution] = {}
    for name, value in section.items():
        path = ("trial", name)
        if not isinstance(value, dict):
            if isinstance(value, list):
                faults.add(path, f"must be a value or a distribution, got {value}; write {{choices: {value}}}")
            else:
                count = len(faults.found)
                checked = _check_value(name, value, path, faults)
                if len(faults.found) == count:
                    constants[name] = checked
            continue
        distribution = _parse_distribution(name, value, path, faults)
        if distribution is not None:
            searched[name] = distribution
    if len(faults.found) == before and not searched:
        faults.add(
            ("trial",),
            "nothing is searched: give at least one field a {low, high} or {choices}, "
            "or leave trial out for the default space",
        )
    return TrialSpace(constants, searched), set(section) - set(constants) - set(searched)


def _parse_distribution(name: str, raw: dict[Any, Any], path: KeyPath, faults: Faults) -> Distribution | None:
    is_choices = "choices" in raw or (not {*Range.model_fields} & {*raw} and "choices" in map(distribution_key, raw))
    model: type[Range] | type[Choices] = Choices if is_choices else Range
    before = len(faults.found)
    raw = _known(raw, model, path, faults)
    if not raw and len(faults.found) > before:
        return None  # all keys were unknown, which is already reported
    if model is Range and field_kind(name) == "other":
        faults.add(path, "has values without an order; give it {choices: [...]}")
        return None
    try:
        distribution = model.model_validate(raw)
    except ValidationError as error:
        faults.add_validation(path, error, raw, lambda _, value, message: _bare_hint(value, message, faults.source))
        return None
    if isinstance(distribution, Choices):
        checked = [
            _check_value(name, value, (*path, "choices", index), faults)
            for index, value in enumerate(distribution.choices)
        ]
        distribution = Choices.model_construct(choices=tuple(checked))
    else:
        for end in ("low", "high"):
            _check_value(name, getattr(distribution, end), (*path, end), faults)
        if field_kind(name) == "int" and not isinstance(distribution.step, int | None):
            faults.add((*path, "step"), f"must be a whole number, got {distribution.step}")
        if field_kind(name) == "float":
            distribution = Range(
                low=float(distribution.low), high=float(distribution.high), log=distribution.log,
                step=None if distribution.step is None else float(distribution.step),
            )  # fmt: skip
    return distribution if len(faults.found) == before else None


def _check_value(name: str, value: Any, path: KeyPath, faults: Faults) -> Any:
    try:
        return field_adapter(name).validate_python(value)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        hint = _hint_of(f"trial.{name}", value, detail["msg"])
        if isinstance(value, str) and (written := distribution_hint(value)):
            hint = written
        elif isinstance(value, str) and field_kind(name) != "other":
            hint = hint or _quotes_hint(value, faults.source)
        message = in_plain_words(detail)
        faults.add(path, f"{message}, got {shown(value)}{hint}")
        return value


def _parse_claims(
    section: Any, space: TrialSpace, broken: set[str], faults: Faults, search: SearchSpec,
    evaluation: EvaluationSpec | None,
) -> tuple[Claim, ...]:  # fmt: skip
    """Return the valid claims of the `claims:` section."""
    if section is None:
        return ()
    if not isinstance(section, list):
        faults.add(("claims",), f"must be a list of claims, got {shown(section)}")
        return ()
    claims: list[Claim] = []
    for index, raw in enumerate(section):
        path: KeyPath = ("claims", index)
        if not isinstance(raw, dict):
            faults.add(path, f"must be keys and values, got {shown(raw)}")
            continue
        kind = raw.get("test")
        if "test" not in raw:
            faults.add(path, f"test is missing; it is one of {', '.join(CLAIM_KINDS)}")
            continue
        if not isinstance(kind, str) or kind not in CLAIM_KINDS:
            faults.add((*path, "test"), f"unknown test {shown(kind)}{nearest(kind, tuple(CLAIM_KINDS))}")
            continue
        raw = _known(raw, CLAIM_KINDS[kind], path, faults)
        try:
            claim: Any = CLAIM_KINDS[kind].model_validate(raw)
        except ValidationError as error:
            faults.add_validation(path, error, raw)
            continue
        if any(claim.name == other.name for other in claims):
            faults.add((*path, "name"), f"{claim.name} stands twice; each claim has a name of its own")
        for below, message in claim_faults(claim, space, get_args(Dataset), broken, search, evaluation):
            faults.add((*path, *below), message)
        claims.append(claim)
    return tuple(claims)


def _check_network(space: TrialSpace, data: DataSpec, faults: Faults) -> None:
    """Check the fields of the network and its schedules against each other and against the images."""
    for text in space.choices("conv_blocks"):
        blocks = parse_conv_blocks(str(text))
        halvings = sum(block.halves for block in blocks)
        if data.image_size >> halvings < 1:
            faults.add(
                ("trial", "conv_blocks"),
                f"{text!r} halves an image of {data.image_size} pixels {halvings} times, to nothing; "
                "use fewer /2 or a larger data.image_size",
            )
    if set(space.choices("batch_norm")) != {"none"} and space.ends("batch_size")[0] < 2:
        faults.add(("trial", "batch_size"), "must be 2 or more with batch_norm, which has no variance of one image")
    if "step" in space.choices("learning_rate_schedule") and "" in space.choices("learning_rate_epochs"):
        faults.add(("trial", "learning_rate_epochs"), "is missing; the schedule step needs it, for example 6")
    for name, other, values in _EFFECTIVE_WITH:
        default = TrialConfig.model_fields[name].default
        given = name in space.searched or space.constants.get(name, default) != default
        if given and not set(values) & set(space.choices(other)):
            faults.add(("trial", name), f"has no effect without {other}: {' or '.join(values)}; leave it out")
    for name in ("kernel_size", "upsampling", "d_size"):
        if name in space.searched and set(space.choices("conv_blocks")) == {DENSE}:
            faults.add(("trial", name), f"has no effect with conv_blocks: {DENSE}; leave it out")
    warmup, cycle = space.ends("kld_warmup_epochs"), space.ends("kld_cycle_epochs")
    if cycle[1] > 0 and (warmup[1] > cycle[0] or warmup[1] == 0):
        faults.add(
            ("trial", "kld_cycle_epochs"),
            f"must not be less than kld_warmup_epochs, which starts again with each cycle and has to be at least 1; "
            f"got cycles of {cycle[0]:g} and a warm-up of {warmup[1]:g}",
        )


def searched_in_the_loss(space: TrialSpace) -> list[str]:
    """Return the searched fields that the loss contains; if there are any, `val_loss` cannot compare trials."""
    weights = [name for name in LOSS_FIELDS if name in space.searched]
    if "latent_size" in space.searched and "pixel_and_latent_mean" in space.choices("reduction"):
        weights.append("latent_size")  # that reduction divides the KL divergence by it
    return weights


def _cross_check(space: TrialSpace, search: SearchSpec, faults: Faults) -> TrialSpace:
    """Check the fields of `trial:` and `search:` against each other; return the space with `epochs` resolved."""
    metric = search.objective.metric
    weights = searched_in_the_loss(space)
    if metric in ("val_loss", "train_loss") and weights:
        faults.add(
            ("search", "objective", "metric"),
            f"{metric} contains {', '.join(weights)}, which {'is' if len(weights) == 1 else 'are'} searched: its best "
            "value tells the smallest weight, not the best model. Use elbo_nats (or bits_per_dim, psnr_db), "
            "whose meaning no weight changes",
        )
    if search.sampler not in ("auto", "gp"):
        for key in _knowledge(search):
            faults.add(
                ("search", key),
                f"is for the sampler gp, got sampler: {search.sampler}, which learns nothing from it; leave sampler "
                f"out, or take {key} out",
            )
    if search.sampler == "grid":
        for name in space.searched:
            if not space.is_finite(name):
                faults.add(
                    ("trial", name), "a grid needs {choices: [...]} or a range with a step; or leave sampler out"
                )
        if not any(f.key.startswith("trial") for f in faults.found):
            most = space.grid_size() + len(search.enqueue)
            if (search.trials or 0) > most:
                faults.add(
                    ("search", "trials"),
                    f"the grid and enqueue have {counted(most, 'point')} together, got {search.trials}",
                )
            if most > MAX_GRID:
                faults.add(("search", "sampler"), f"a grid has at most {MAX_GRID:,} points, this one has {most:,}")
    if search.trials is not None and len(search.enqueue) > search.trials:
        points = f"{counted(len(search.enqueue), 'point')} {'is' if len(search.enqueue) == 1 else 'are'} to run first"
        faults.add(("search", "trials"), f"{points}, got {search.trials}; some would never run")
    stopping = search.early_stopping
    if stopping is None:
        return space
    asha, path = stopping.asha, ("search", "early_stopping", "asha")
    if "epochs" in space.searched:
        faults.add(("trial", "epochs"), "cannot be searched under asha, which decides how long a trial trains")
        return space
    epochs = space.constants.get("epochs", asha.max_epochs)
    epochs = TrialConfig.model_fields["epochs"].default if epochs is None else epochs
    assert isinstance(epochs, int)
    if asha.max_epochs not in (None, epochs):
        faults.add(("trial", "epochs"), f"is {epochs}, but asha.max_epochs is {asha.max_epochs}; keep one of them")
    if asha.grace_epochs > epochs:
        faults.add((*path, "grace_epochs"), f"must not exceed max_epochs, {epochs}, got {asha.grace_epochs}")
    warmup = int(space.ends("kld_warmup_epochs")[1])
    if warmup > asha.grace_epochs:
        faults.add(
            (*path, "grace_epochs"),
            f"must cover the warm-up, or trials are compared while their KLD weights still grow: "
            f"trial.kld_warmup_epochs reaches {warmup}, got {asha.grace_epochs}",
        )
    return TrialSpace({**space.constants, "epochs": epochs}, space.searched)


def _parse_enqueue(search: SearchSpec, space: TrialSpace, broken: set[str], faults: Faults) -> SearchSpec:
    """Check the points that run first; return the section with their validated values."""
    points = [
        _checked_point(point, space, broken, ("search", "enqueue", index), "the point", faults)
        for index, point in enumerate(search.enqueue)
    ]
    return search.model_copy(update={"enqueue": tuple(points)})


def _parse_prior(search: SearchSpec, space: TrialSpace, broken: set[str], faults: Faults) -> SearchSpec:
    """Check the values that are believed to be good; return the section with the validated values."""
    prior = _checked_point(search.prior, space, broken, ("search", "prior"), "prior", faults)
    return search.model_copy(update={"prior": prior})


def _checked_point(
    point: Mapping[str, Scalar], space: TrialSpace, broken: set[str], path: KeyPath, what: str, faults: Faults
) -> dict[str, Scalar]:
    """Return the validated values of searched fields; each value outside the space becomes a fault."""
    checked: dict[str, Scalar] = {}
    for name, value in point.items():
        key = (*path, name)
        if name in space.searched:
            distribution, before = space.searched[name], len(faults.found)
            checked[name] = _check_value(name, value, key, faults)
            if len(faults.found) == before and checked[name] not in distribution:
                faults.add(key, f"must be within what is searched, {distribution}, got {shown(value)}")
        elif name in broken:
            continue
        elif name in TrialConfig.model_fields:
            faults.add(key, f"trial.{name} is a constant; give it a distribution, or take it out of {what}")
        else:
            faults.add(key, f"unknown name{key_hint(name, 'trial', tuple(space.searched), all_keys())}")
    return checked


def _knowledge(search: SearchSpec) -> list[str]:
    """Return those given keys of `search:` that tell a sampler something beforehand."""
    return [key for key in ("start_from", "prior") if getattr(search, key)]


def _known(raw: dict[Any, Any], model: type[BaseModel], path: KeyPath, faults: Faults) -> dict[str, Any]:
    """Return `raw` and its nested sections without unknown keys; each of these becomes a fault."""
    known = _without_unknown_keys(raw, tuple(model.model_fields), path, faults)
    for key, value in known.items():
        nested = next((arg for arg in models_in(model.model_fields[key].annotation)), None)
        if nested is not None and isinstance(value, dict):
            known[key] = _known(value, nested, (*path, key), faults)
    return known


def _without_unknown_keys(
    raw: dict[Any, Any], allowed: tuple[str, ...], path: KeyPath, faults: Faults
) -> dict[str, Any]:
    """Return `raw` without its unknown keys; each becomes a fault that says which key is meant."""
    section = ".".join(str(part) for part in path if not isinstance(part, int))
    for key, value in raw.items():
        if key not in allowed:
            conversion = _conversion(value, faults.raw)
            faults.add((*path, str(key)), f"unknown key{key_hint(key, section, allowed, all_keys(), conversion)}")
    return {key: value for key, value in raw.items() if key in allowed}


def _conversion(beta: Any, raw: Mapping[Any, Any]) -> str:
    """Say which KLD weight corresponds to a published beta for the images and convention of a file.

    The file, `raw`, may be faulty; return an empty text if its image size is.
    """
    data, trial = _section(raw, "data"), _section(raw, "trial")
    size, channels = data.get("image_size", DataSpec.model_fields["image_size"].default), data.get("channels")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        return ""
    if channels not in (1, 3):
        channels = 3 if data.get("dataset") == "cifar10" else 1
    per_channel = " in one channel; three times that in colour" if data.get("dataset") == "folder" else ""
    shape = f"{channels}x{size}x{size}{per_channel if data.get('channels') is None else ''}"
    return beta_conversion(beta, channels * size * size, shape, trial)


def _section(raw: Mapping[Any, Any], key: str) -> dict[Any, Any]:
    section = raw.get(key)
    return section if isinstance(section, dict) else {}


def _hint_of(key: str, value: Any, message: str) -> str:
    """Return a hint on what a refused value may mean."""
    hint = value_hint(key, value, _LITERAL.findall(message))
    return hint or _bare_hint(value, message, "")


def _bare_hint(value: Any, message: str, source: str) -> str:
    """Return a hint on how to write a text that means a number, true or false."""
    if not isinstance(value, str):
        return ""
    return truth_hint(value) if "boolean" in message else _quotes_hint(value, source)


def _quotes_hint(value: str, source: str) -> str:
    """Return the end of a message about a text where a number is expected."""
    hint = number_hint(value)
    if source == MAPPING and "quotes" in hint:  # another YAML loader probably read the file
        return "; a number is expected (yaml.safe_load takes 5e-6 for a text: load_spec(PATH) does not)"
    return hint


def is_record(raw: Any) -> bool:
    """Return whether a file's content is a sweep.yaml, which has its search space under `spec:`."""
    return isinstance(raw, dict) and "spec" in raw and str(raw.get("format", "")).startswith("raysweep-sweep-")


def _is_a_sweep(folder: str, what: str, record: str | None = None) -> str:
    """Say that the results of a sweep were given instead of a search space file, and what to type."""
    is_there = "://" in folder or SweepDirectory.at(folder).holds_a_sweep()
    go_on = f" To go on with it, type: raysweep resume {typed(folder)}." if is_there else ""
    copied = typed(folder if is_there else record or folder)
    return (
        f"{what} a sweep that was run, not a search space file.{go_on} "
        f"To change it and run it anew, type: raysweep new {NEW_FILE} --from {copied}"
    )


def _not_there(source: str) -> str:
    """Say that there is no such file, and which one may be meant."""
    if "://" in source:
        return _is_a_sweep(source, "is no file of this machine; at such an address is")
    nearby = _files_nearby(source)
    meant = "" if "did you mean" in nearby else shipped_hint(source)
    return f"there is no such file{nearby if 'did you mean' in nearby or not meant else ''}{meant}"


def _files_nearby(source: str) -> str:
    """Return the end of a message that names the search space files in the folder of `source`."""
    folder = Path(source) if os.path.isdir(source) else Path(source).parent
    names = sorted(str(path) for path in folder.glob("*.yaml")) if folder.is_dir() else []
    if not names:
        return ""
    close = [] if os.path.isdir(source) else difflib.get_close_matches(source, names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names[:8])}"
