"""Paths that begin with `~`, also for a user without a home directory: `docker run --user 12345`, a bare service."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return `path` with its `~` replaced, as it is if nobody knows what `~` stands for: then no such file exists."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # neither HOME nor an account says it
        return Path(path)


def home_directory() -> Path | None:
    """Return the user's home directory, None if there is none."""
    found = expanded("~")
    return found if found.is_absolute() else None
