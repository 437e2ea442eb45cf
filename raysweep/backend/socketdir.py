"""The folder for the sockets and logs of Ray on this machine: Ray's own choice, or ours."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raysweep.errors import RayStartError

SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
"""Longest path of a socket."""
BELOW = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path that Ray makes below its folder."""
NEEDED_BYTES = 32 << 20
"""Least space that the logs and sockets of a Ray need."""
VARIABLES = ("RAY_TMPDIR", "TMPDIR")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where Ray has its memory on Linux)
PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (a folder of our own is made in one of them, for us alone)


def fault_of(folder: Path) -> str | None:
    """Return why Ray cannot keep its files in a folder; None if it can.

    Ray makes the folder if it is missing. Root passes every check of permissions, so this function makes a folder there
    and removes it.
    """
    if not folder.is_absolute():
        return "not an absolute path"
    if len(os.fsencode(folder / BELOW)) > SOCKET_PATH_BYTES:
        most = SOCKET_PATH_BYTES - len(BELOW) - 1
        return f"too long for a socket: {len(os.fsencode(folder))} bytes, at most {most}"
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"{there} is not a directory"
    try:
        Path(tempfile.mkdtemp(prefix=".raysweep-", dir=there)).rmdir()
        free = shutil.disk_usage(there).free
    except OSError as error:
        return f"{there} cannot be written: {error.strerror}"
    if free < NEEDED_BYTES:
        return f"the disk of {there} has {free / 1e6:.0f} MB free, Ray needs {NEEDED_BYTES / 1e6:.0f} MB"
    return None


def _wished() -> tuple[str, Path]:
    """Return Ray's own choice for its files: the setting that determines it, and the folder."""
    for name in VARIABLES:
        if name in os.environ:  # even if it is empty: Ray uses it as it is
            return f"{name}={os.environ[name]}", Path(os.environ[name], "ray")
    return "/tmp/ray", Path("/tmp/ray")  # noqa: S108 (where Ray has it)


def memory_folder(folder: Path | None, shared: Path = SHARED_MEMORY) -> str | None:
    """Return the folder for the memory that Ray's processes share; None for Ray's own choice.

    On Linux that is `shared`, which in some containers is missing or read-only. raysweep needs little of that memory,
    so a disk works as well.

    Args:
        folder: the result of `socket_folder`.
        shared: a folder in memory.
    """
    if sys.platform != "linux":
        return None
    try:
        Path(tempfile.mkdtemp(prefix=".raysweep-", dir=shared)).rmdir()
    except OSError:
        return str(folder) if folder is not None else tempfile.gettempdir()
    return None


@contextmanager
def socket_folder(warn: Callable[[str], None]) -> Iterator[Path | None]:
    """Give the folder for a Ray that is to start: None for Ray's own choice, otherwise ours.

    Ours is for this user alone. It is removed with the context, except after an error, which may name a log in it.

    Raises:
        RayStartError: if there is no folder that Ray could use.
    """
    said, folder = _wished()
    fault = fault_of(folder)
    if fault is None:
        yield None
        return
    own = _own_folder(said, fault)
    warn(f"{said} cannot hold Ray's sockets and logs ({fault}); they are in {own} instead")
    yield own
    shutil.rmtree(own, ignore_errors=True)


def _own_folder(said: str, fault: str) -> Path:
    faults = [f"{said}: {fault}"]
    for place in PLACES:
        fault = fault_of(Path(place, "raysweep-12345678")) or ""
        if not fault:
            with suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="raysweep-", dir=place))
        faults.append(f"{place}: {fault}")
    raise RayStartError(
        "Ray needs a folder for its sockets and logs, and there is none:\n"
        + "".join(f"  {line}\n" for line in faults)
        + "Make room in one of them, or name a short one that you can write: export RAY_TMPDIR=/SHORT/PATH"
    )
