"""Why Ray did not start: what it raised, and what its processes wrote into their logs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from raysweep.backend.nativelines import errors_in
from raysweep.backend.raythread import RayProcessDied

_FLAGS = ("--log_dir=", "--log-dir=", "--logs-dir=")
"""Options of Ray's processes that say where they write."""
_TAIL_BYTES = 1 << 16


def why_it_ended(error: Exception, processes: Iterable[subprocess.Popen[Any]], said: Sequence[str]) -> str:
    """Return the cause of a failed start, and where its logs are, as text for a message.

    Args:
        error: what was raised.
        processes: those that Ray had started.
        said: errors that Ray's C++ half wrote in this process.
    """
    text = str(error).strip() or type(error).__name__
    cause = text.splitlines()[0].rstrip(". ")
    logs = _log_folder(processes)
    lines = list(said)
    if logs is not None:
        name = error.name if isinstance(error, RayProcessDied) else None
        lines = [*_errors(logs, name), *lines]
    if lines:
        cause += f" ({lines[-1].rstrip('.')})"
    return f"{cause}\n  its logs: {logs}" if logs is not None else cause


def _log_folder(processes: Iterable[subprocess.Popen[Any]]) -> Path | None:
    for process in processes:
        for part in process.args if isinstance(process.args, list) else ():
            for flag in _FLAGS:
                if str(part).startswith(flag):
                    return Path(str(part).removeprefix(flag))
    return None


def _errors(logs: Path, name: str | None) -> list[str]:
    """Return the errors in the logs of Ray's two daemons, or of the one that ended, newest last."""
    found: list[str] = []
    for daemon in (name,) if name is not None else ("gcs_server", "raylet"):
        for ending in (".out", ".err"):
            with suppress(OSError):  # the daemon has not made this log yet
                with open(logs / f"{daemon}{ending}", "rb") as file:
                    file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
                    text = file.read().decode(errors="replace")
                found += errors_in(text) or (text.strip().splitlines()[-1:] if ending == ".err" else [])
    return found
