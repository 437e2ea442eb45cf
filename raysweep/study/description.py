"""sweep.yaml: the resolved specification of a sweep, and what is needed to repeat it."""

from __future__ import annotations

import platform
import socket
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import raysweep
from raysweep.clock import timed
from raysweep.errors import SpecError, SweepDirectoryError
from raysweep.messages import Slots
from raysweep.profiles import DriverPart
from raysweep.search.past import PastSweep
from raysweep.spec.loading import is_record, parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.spec.yamltext import Loader
from raysweep.storage.layout import SweepDirectory, shown, typed
from raysweep.study.journal import study_attributes
from raysweep.study.ledger import DESCRIPTION, SPEC
from raysweep.vae.preflight import Preflight, Unpredictable

if TYPE_CHECKING:
    from raysweep.data.cache import CacheInfo

FORMAT = "raysweep-sweep-1"
MAX_DESCRIPTION_BYTES = 1 << 22
_VERSIONS = ("raysweep", "torch", "ray", "optuna", "pyarrow", "numpy")


def read_spec(directory: SweepDirectory) -> tuple[SweepSpec, dict[str, Any]]:
    """Return the specification that the sweep last ran with, and its whole description.

    The specification is the ledger's copy, because sweep.yaml may have been edited since. If the ledger has no copy,
    it is the one in sweep.yaml.

    Raises:
        SweepDirectoryError: if sweep.yaml is damaged or of another version, or missing without a copy in the ledger.
    """
    recorded = recorded_description(directory.journal)
    description = read_description(directory)
    if description is None:
        if recorded is None or "data" not in recorded:
            raise SweepDirectoryError(
                f"{shown(directory.spec)}: is missing, and {shown(directory.journal)} has no copy of it; bring it back"
            )
        description = recorded
    if recorded is not None:
        return _parsed(recorded["spec"], directory.journal), {**description, "spec": recorded["spec"]}
    return _parsed(description["spec"], directory.spec), description


def edited_spec(directory: SweepDirectory) -> SweepSpec | None:
    """Return the specification in sweep.yaml, which a person may have edited; None if there is no such file.

    Raises:
        SweepDirectoryError: if it is damaged, or does not describe a sweep.
    """
    description = read_description(directory)
    return None if description is None else _parsed(description["spec"], directory.spec)


def read_description(directory: SweepDirectory) -> dict[str, Any] | None:
    """Return all of sweep.yaml; None if there is no such file.

    Raises:
        SweepDirectoryError: if the file is damaged or of another version.
    """
    name = shown(directory.spec)
    try:
        with open(directory.spec, "rb") as file:
            content = file.read(MAX_DESCRIPTION_BYTES + 1)
        if len(content) > MAX_DESCRIPTION_BYTES:
            raise SweepDirectoryError(
                f"{name}: is larger than {MAX_DESCRIPTION_BYTES} bytes; it is not what was written"
            )
        description = yaml.load(content.decode("utf-8"), Loader=Loader)  # noqa: S506 (it is a SafeLoader)
    except FileNotFoundError:
        return None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        hint = ""
        if recorded_description(directory.journal) is not None:
            hint = f"; move it away, and raysweep resume {typed(directory.address)} writes it anew"
        raise SweepDirectoryError(f"{name}: cannot be read: {str(error)[:300]}{hint}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT or "spec" not in description:
        raise SweepDirectoryError(f"{name}: is not the description of a sweep of this version ({FORMAT})")
    return description


def images_checksum(directory: SweepDirectory, description: Mapping[str, Any]) -> str:
    """Return the checksum of the images that a sweep started with.

    Raises:
        SweepDirectoryError: if its description does not have it.
    """
    data = description.get("data")
    checksum = data.get("checksum") if isinstance(data, dict) else None
    if not isinstance(checksum, str):
        raise SweepDirectoryError(
            f"{shown(directory.spec)}: data.checksum is missing, without which nobody can tell whether the images are "
            "still the same; restore the file from a copy"
        )
    return checksum


def recorded_description(journal: Path) -> dict[str, Any] | None:
    """Return the ledger's copy of sweep.yaml; None if it has none.

    Raises:
        SweepDirectoryError: if the copy is damaged.
    """
    attributes = study_attributes(journal, (SPEC, DESCRIPTION))
    if SPEC not in attributes:
        return None
    rest = attributes.get(DESCRIPTION, {})
    if not isinstance(rest, dict):
        raise SweepDirectoryError(f"{shown(journal)}: the copy of sweep.yaml in it is damaged; restore it from a copy")
    return {"format": FORMAT, "spec": attributes[SPEC], **rest}


def _parsed(mapping: Any, source: Path) -> SweepSpec:
    try:
        # If a record does not say whether trials pause, are judged again, are confirmed, or keep their best epoch, it
        # is from an older raysweep, whose trials did none of these.
        read = parse_spec(yaml_text(mapping), str(source)).with_rule(promote=False, rejudge=False)
        return read.with_confirmation(None).with_kept("last")
    except SpecError as error:
        faults = "; ".join(f"{fault.key}: {fault.message}" for fault in error.faults)
        raise SweepDirectoryError(f"{shown(source)}: does not describe a sweep: {faults}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SweepDirectoryError(f"{shown(source)}: does not describe a sweep: {str(error)[:300]}") from error


@timed(DriverPart.LEDGER)
def describe_sweep(
    spec: SweepSpec, info: CacheInfo, slots: Slots, nodes: Sequence[Mapping[str, float]],
    prediction: Preflight | Unpredictable, train_images: int, past: Sequence[PastSweep] = (),
) -> dict[str, Any]:  # fmt: skip
    """Return the content of sweep.yaml for a new sweep."""
    spans = None if info.spans is None else [None if span is None else list(span) for span in info.spans]
    return {
        "format": FORMAT,
        "spec": spec.as_mapping(),
        "data": {
            "origin": info.origin,
            "images": info.count,
            "train_images": train_images,
            "checksum": info.checksum,
            **({} if spans is None else {"spans": spans}),
        },
        **({"sampler": f"{spec.search.sampler} (auto: {spec.sampler_reason})"} if spec.sampler_reason else {}),
        **({"start_from": [earlier.summary for earlier in past]} if past else {}),
        "preflight": prediction.to_mapping(),
        "provenance": {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "versions": {name: raysweep.__version__ if name == "raysweep" else version(name) for name in _VERSIONS},
            "git": _git_revision(),
            "hardware": {"nodes": [_hardware(node) for node in nodes]},
            "slots": {"count": slots.count, "cpu": slots.cpu, "gpu": slots.gpu, "fused": slots.fused},
        },
    }


def _hardware(node: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in node.items() if name in ("CPU", "GPU", "memory") or "accelerator" in name}


def _git_revision() -> str | None:
    """Return the commit of the repository in which raysweep was called, marked if files differ; None outside one."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],  # noqa: S607
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


class _Dumper(yaml.SafeDumper):
    """A writer of YAML's safe subset without aliases, because the reader does not accept them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def yaml_text(mapping: Any) -> str:
    return str(yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def described_spec(path: Path) -> SweepSpec | None:
    """Return the specification in a sweep.yaml, wherever the file is; None if it is not a sweep.yaml."""
    try:
        with open(path, "rb") as file:
            raw = yaml.load(file.read(MAX_DESCRIPTION_BYTES).decode("utf-8"), Loader=Loader)  # noqa: S506 (a SafeLoader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return None
    return _parsed(raw["spec"], path) if is_record(raw) else None
