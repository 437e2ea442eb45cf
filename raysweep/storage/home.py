"""Paths that begin with `~`, also for users without a home directory (`docker run --user 12345`, a bare service)."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return `path` with its `~` replaced; unchanged if `~` has no meaning here, so that no such file exists."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # neither HOME nor an account names it
        return Path(path)


def home_directory() -> Path | None:
    """Return the user's home directory; None if there is none."""
    found = expanded("~")
    return found if found.is_absolute() else None


def is_own(directory: Path) -> bool:
    """Make a directory that only this user can write; return False if that cannot be ensured."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def give_a_home() -> None:
    """Set HOME to a private temporary directory if this user has no home directory.

    Ray Tune and others cannot be imported without HOME. Processes that this one starts inherit it.
    """
    if home_directory() is None:
        directory = Path(tempfile.gettempdir()) / f"raysweep-home-{os.getuid()}"
        os.environ["HOME"] = str(directory) if is_own(directory) else tempfile.mkdtemp(prefix="raysweep-home-")
