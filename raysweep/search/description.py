"""sweep.yaml: the resolved specification of a sweep, and what one needs to know to repeat it."""

from __future__ import annotations

import platform
import socket
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import yaml

import raysweep
from raysweep.errors import SpecError, SweepDirectoryError
from raysweep.layout import SweepDirectory, shown
from raysweep.loading import parse_spec
from raysweep.search.resources import Slots
from raysweep.spec import SweepSpec
from raysweep.vae.preflight import Preflight, Unpredictable

if TYPE_CHECKING:
    from raysweep.data.cache import CacheInfo

FORMAT = "raysweep-sweep-1"
_VERSIONS = ("raysweep", "torch", "ray", "optuna", "pyarrow", "numpy")


def read_spec(directory: SweepDirectory) -> tuple[SweepSpec, dict[str, Any]]:
    """The specification in sweep.yaml, and the whole of the file.

    Raises:
        SweepDirectoryError: if the file is damaged or of another version.
    """
    try:
        description = yaml.safe_load(directory.spec.read_text(encoding="utf-8"))
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            raise SweepDirectoryError(
                f"{shown(directory.spec)}: is not the description of a sweep of this version ({FORMAT})"
            )
        return parse_spec(yaml.safe_dump(description["spec"], sort_keys=False), str(directory.spec)), description
    except SpecError as error:
        faults = "; ".join(f"{fault.key}: {fault.message}" for fault in error.faults)
        raise SweepDirectoryError(f"{shown(directory.spec)}: does not describe a sweep: {faults}") from error
    except (OSError, yaml.YAMLError, KeyError, UnicodeDecodeError) as error:
        raise SweepDirectoryError(f"{shown(directory.spec)}: cannot be read: {error}") from error


def description_text(
    spec: SweepSpec, info: CacheInfo, slots: Slots, nodes: Sequence[Mapping[str, float]],
    prediction: Preflight | Unpredictable,
) -> str:  # fmt: skip
    """The text of sweep.yaml."""
    return yaml_text(
        {
            "format": FORMAT,
            "spec": spec.as_mapping(),
            "data": {"origin": info.origin, "images": info.count, "checksum": info.checksum},
            "preflight": prediction.to_mapping(),
            "provenance": {
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "host": socket.gethostname(),
                "platform": platform.platform(),
                "python": platform.python_version(),
                "versions": {name: raysweep.__version__ if name == "raysweep" else version(name) for name in _VERSIONS},
                "git": _git_revision(),
                "hardware": {"nodes": [_hardware(node) for node in nodes]},
                "slots": {"count": slots.count, "cpu": slots.cpu, "gpu": slots.gpu},
            },
        }
    )


def _hardware(node: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in node.items() if name in ("CPU", "GPU", "memory") or "accelerator" in name}


def _git_revision() -> str | None:
    """The commit of the repository in which raysweep was called, marked if files differ; None outside of one."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],  # noqa: S607
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def yaml_text(mapping: dict[str, Any]) -> str:
    return yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True, width=120)
