"""The directories of files that raysweep can make again: prepared images and downloads.

Files in the cache directory are read wherever it is. If it cannot be written, as in a container without a home, new
files go into this user's own directory among the machine's temporary files.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from raysweep.errors import StorageError
from raysweep.storage.home import expanded, home_directory, is_own

_LOG = logging.getLogger("raysweep")


def cache_directory() -> Path:
    """Return `$RAYSWEEP_CACHE`, or `$XDG_CACHE_HOME/raysweep`, or `~/.cache/raysweep`; it need not exist yet."""
    own = os.environ.get("RAYSWEEP_CACHE")
    if own:
        return expanded(own).absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification asks that a relative path be ignored.
    if shared and Path(shared).is_absolute():
        return Path(shared) / "raysweep"
    home = home_directory()
    return home / ".cache" / "raysweep" if home is not None else _temporary_directory()


def writable_cache_directory() -> Path:
    """Return the directory for new files of the cache: the cache directory, if it can be written.

    Otherwise it is a directory among the temporary files. A directory that RAYSWEEP_CACHE names is never replaced.

    Raises:
        StorageError: if this user has no home, and the directory among the temporary files belongs to somebody else.
    """
    directory, instead = cache_directory(), _temporary_directory()
    if directory == instead and not is_own(instead):
        raise StorageError(f"{instead}: belongs to somebody else; set RAYSWEEP_CACHE to a directory of your own")
    if os.environ.get("RAYSWEEP_CACHE") or _can_be_written(directory) or not is_own(instead):
        return directory
    _LOG.warning("%s: cannot be written; %s is used instead. Set RAYSWEEP_CACHE to choose another", directory, instead)
    return instead


def cache_directories() -> list[Path]:
    """Return where caches may lie, the first choice first."""
    first, second = cache_directory(), _temporary_directory()
    is_second = not os.environ.get("RAYSWEEP_CACHE") and second.is_dir() and is_own(second)
    return [*([first] if first != second else []), *([second] if is_second else [])]


def download_directory(dataset: str) -> Path:
    """Return where the raw files of a downloaded data set go."""
    return writable_cache_directory() / "downloads" / dataset


def download_directories(dataset: str) -> list[Path]:
    """Return where the raw files of a data set that was downloaded may lie."""
    return [directory / "downloads" / dataset for directory in cache_directories()]


def _temporary_directory() -> Path:
    return Path(tempfile.gettempdir()) / f"raysweep-cache-{os.getuid()}"


def _can_be_written(directory: Path) -> bool:
    """Return whether a directory can be written or created."""
    there = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
