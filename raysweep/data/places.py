"""Where raysweep keeps what it can make again: prepared images and downloads."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """`$RAYSWEEP_CACHE`, else `$XDG_CACHE_HOME/raysweep`, else `~/.cache/raysweep`; it need not exist yet."""
    own = os.environ.get("RAYSWEEP_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification asks that a relative path be ignored.
    base = Path(shared) if shared and Path(shared).is_absolute() else Path.home() / ".cache"
    return base / "raysweep"


def download_directory(dataset: str) -> Path:
    """Where the raw files of a downloaded data set go."""
    return cache_directory() / "downloads" / dataset
