"""Processes of this machine, told apart by a mark in their environment, which children inherit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

OTHERS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::SPILL", "ray::RESTORE", "ray::measure")
"""How titles of Ray's processes begin that train nothing."""


def marked(name: str, value: str) -> dict[int, str]:
    """The live processes whose environment has `name=value`, and their titles."""
    wanted = f"{name}={value}".encode()
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            if wanted not in Path(entry.path, "environ").read_bytes().split(b"\0"):
                continue
            title = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            state = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if state != "Z":
            found[int(entry.name)] = title
    return found


def actors(name: str, value: str) -> list[int]:
    """Those of the marked processes that train a trial: of Ray's workers all that have no other use."""
    return [
        pid for pid, title in marked(name, value).items() if title.startswith("ray::") and not title.startswith(OTHERS)
    ]


def measurers(name: str, value: str) -> list[int]:
    """Those of the marked processes that measure final metrics."""
    return [pid for pid, title in marked(name, value).items() if title.startswith("ray::measure")]


def raylets(name: str, value: str) -> list[int]:
    return [pid for pid, title in marked(name, value).items() if title.split(" ")[0].endswith("/raylet")]


def kill(pid: int) -> bool:
    """Kills a process with -9; False if it is gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def left_after(name: str, value: str, seconds: float, but: Collection[str] = ()) -> dict[int, str]:
    """The marked processes that are still there after at most `seconds`, but those of these titles."""
    deadline = time.monotonic() + seconds
    while left := {pid: title for pid, title in marked(name, value).items() if title not in but}:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.2)
    return {}
