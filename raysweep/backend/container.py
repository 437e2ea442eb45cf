"""The limits of this process's container, batch job or service: Linux's control groups, v1 and v2.

A limit holds for a group and for all groups within it, so each limit is read from this process's own group up to the
outermost visible one. Ray reads only the outermost one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")


def cpu_quota(proc: Path = PROC) -> float | None:
    """Return how many CPUs this process may use, such as 1.5; None if there is no limit."""
    quotas = []
    for group in _groups("cpu", proc):
        bandwidth = _numbers(group / "cpu.max") or _numbers(group / "cpu.cfs_quota_us") + _numbers(
            group / "cpu.cfs_period_us"
        )
        if len(bandwidth) == 2 and bandwidth[0] > 0 and bandwidth[1] > 0:  # v1 has -1 for no limit
            quotas.append(bandwidth[0] / bandwidth[1])
    return min(quotas, default=None)


def memory_limit(proc: Path = PROC) -> int:
    """Return how many bytes all processes of this container may use; without a limit, all of the machine."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for group in _groups("memory", proc):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limits += [limit for limit in _numbers(group / name) if limit > 0]
    return min(limits)


def _numbers(path: Path) -> list[int]:
    """Return the integers in a file of a group; an empty list if it is absent or says `max`."""
    try:
        words = path.read_text().split()
    except (OSError, UnicodeDecodeError):
        return []
    return [int(word) for word in words] if all(re.fullmatch(r"-?\d+", word) for word in words) else []


def _groups(controller: str, proc: Path) -> Iterator[Path]:
    """Yield the directories of this process's group and of its parents, in each hierarchy with this controller."""
    try:
        own = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [line.split(" - ", 1) for line in (proc / "mountinfo").read_text().splitlines()]
    except OSError:  # not Linux, or /proc is hidden
        return
    paths = {name: path for _, names, path in own for name in names.split(",")}
    for place, options in mounts:
        root, point = (_unescaped(part) for part in place.split()[3:5])
        kind, _, superblock = options.split(" ", 2)
        if kind == "cgroup2":
            path = paths.get("")
        elif kind == "cgroup" and controller in superblock.split(","):
            path = paths.get(controller)
        else:
            continue
        if path is None:
            continue
        # A mount within a container begins at the container's own group; then the path begins with `root`.
        inner = PurePosixPath(path)
        inner = inner.relative_to(root) if inner.is_relative_to(root) else PurePosixPath()
        if ".." in inner.parts:
            inner = PurePosixPath()
        inner = PurePosixPath(str(inner).lstrip("/"))
        for part in (inner, *inner.parents):
            yield Path(point, part)


def _unescaped(text: str) -> str:
    """Undo the escapes in a path of /proc, which writes blanks as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
