"""This machine's copy of a sweep directory in a bucket: everything is read, written and sent from here.

The bucket decides. A journal here is newer only if it continues the bucket's: a driver on this machine was then killed
before it could send it. What is fetched comes from others, so it is never written outside the copy.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from raysweep.data.places import writable_cache_directory
from raysweep.errors import SweepDirectoryError
from raysweep.metrics import EpochMetrics
from raysweep.storage.layout import SweepDirectory, storage_errors, write_atomically
from raysweep.storage.lock import has_driver
from raysweep.storage.remote import RemoteDirectory, RemoteFile, below, is_remote

EPOCHS = "epochs.json"
"""The file with a trial's results, beside its checkpoints; the bucket's journal may lack the last results."""
_CHECKPOINT = re.compile(r"trials/\d+/epoch-(\d+)\.safetensors")
_EPOCHS = TypeAdapter(list[EpochMetrics])
_log = logging.getLogger("raysweep")


def locate(location: str | os.PathLike[str]) -> SweepDirectory:
    """Return the sweep directory at a path or a URI; for a bucket, its copy. Sends no request and makes nothing.

    Raises:
        SweepDirectoryError: if it cannot be a sweep directory.
    """
    if not is_remote(location):
        return SweepDirectory.at(location)
    uri = os.fspath(location).rstrip("/")
    RemoteDirectory.at(uri)
    return SweepDirectory(working_copy(uri), origin=uri)


def working_copy(uri: str) -> Path:
    """Return where this machine keeps its copy of a sweep directory in a bucket."""
    name = re.sub(r"[^\w.-]+", "_", uri.partition("?")[0].rsplit("/", 1)[-1])[:40]
    return writable_cache_directory() / "sweeps" / f"{name}-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"


def remote_of(directory: SweepDirectory) -> RemoteDirectory | None:
    """Return the directory in a bucket that this is a copy of; None for a sweep of this machine."""
    return None if directory.origin is None else RemoteDirectory.at(directory.origin)


def at_hand(location: str | os.PathLike[str]) -> SweepDirectory:
    """Return the sweep directory at a path or a URI; for a bucket, update specification and ledger first.

    Raises:
        SweepDirectoryError: if there is no sweep.
        StorageError: if the bucket does not answer.
    """
    directory = locate(location)
    remote = remote_of(directory)
    if remote is None:
        directory.require_sweep()
        return directory
    with storage_errors(directory.root):
        directory.root.mkdir(parents=True, exist_ok=True)
        with FileLock(directory.root / ".fetch.lock"):
            if not has_driver(directory):  # otherwise what is here is newer
                remote.require_access()
                update(directory, remote)
    return directory


def update(directory: SweepDirectory, remote: RemoteDirectory) -> bool:
    """Bring the copy's specification and journal up to date; return True if the copy was the newer one.

    Raises:
        SweepDirectoryError: if the bucket holds no sweep there.
        StorageError: if the bucket does not answer, or the copy cannot be written.
    """
    spec, journal = remote.read(directory.spec.name), remote.read(directory.journal.name)
    if spec is None and journal is None:
        raise SweepDirectoryError(
            f"{remote.uri}: holds no sweep (sweep.yaml is what makes one); raysweep run FILE --output URI makes one"
        )
    theirs = whole_lines(journal or b"")
    ours = whole_lines(directory.journal.read_bytes()) if directory.journal.exists() else b""
    if directory.spec.exists() and len(ours) > len(theirs) and ours.startswith(theirs):
        return True
    if not theirs.startswith(ours):
        _log.warning("%s: this machine's copy is of another course of the sweep; it is replaced", remote.uri)
        set_aside(directory)
    if spec is None:
        directory.spec.unlink(missing_ok=True)  # the ledger has a copy
    else:
        write_atomically(directory.spec, spec)
    if theirs != ours:
        write_atomically(directory.journal, theirs)
    return False


def is_taken(directory: SweepDirectory) -> bool:
    """Return whether the bucket holds a sweep already.

    Raises:
        SweepDirectoryError: if there is no such bucket, or it refuses.
        StorageError: if it does not answer.
    """
    remote = remote_of(directory)
    if remote is None:
        return False
    remote.require_access()
    return any(remote.find(path.name) is not None for path in (directory.spec, directory.journal))


def foreign_objects(directory: SweepDirectory) -> list[str]:
    """Return the names at the top of a bucket's directory without a sweep: what others have put there.

    Hidden ones are left out, because the lease of a driver that has just begun belongs to a sweep.

    Raises:
        StorageError: if the bucket does not answer.
    """
    remote = remote_of(directory)
    return [name for name in remote.top_names() if not name.startswith(".")] if remote is not None else []


def set_aside(directory: SweepDirectory) -> None:
    """Move all that the copy holds, except hidden files, into a directory beside it: the bucket has other content."""
    old = directory.root.with_name(f"{directory.root.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
    for path in list(directory.root.iterdir()):
        if not path.name.startswith("."):
            old.mkdir(exist_ok=True)
            path.rename(old / path.name)


def whole_lines(journal: bytes) -> bytes:
    """Return a journal without the line that is still being written."""
    return journal[: journal.rfind(b"\n") + 1]


def checkpoint_epoch(name: str) -> int | None:
    """Return the epoch of a checkpoint from its name below the sweep directory; None if it is no checkpoint."""
    found = _CHECKPOINT.fullmatch(name)
    return int(found.group(1)) if found else None


def is_picture(name: str) -> bool:
    """Return whether a trial has made this file, named below the sweep directory, for the report."""
    last = name.rsplit("/", 1)[-1]
    is_of_a_trial = name.startswith("trials/") and not last.startswith(".")
    return is_of_a_trial and last != EPOCHS and checkpoint_epoch(name) is None


def fetch_pictures(directory: SweepDirectory, remote: RemoteDirectory, number: int | None = None) -> int:
    """Fetch the report files of all trials, or of one, that the copy lacks; return how many."""
    found = remote.list("trials" if number is None else f"trials/{number:04d}")
    missing = [name for name, there in found.items() if is_picture(name) and _differs(directory.root, name, there)]
    return sum(remote.fetch(name, below(directory.root, name)) for name in missing)


def fetch_profile(directory: SweepDirectory, remote: RemoteDirectory) -> None:
    """Fetch the profile of a session, which the ledger does not contain, if the copy lacks it."""
    name = directory.profile_parquet.relative_to(directory.root).as_posix()
    there = remote.find(name)
    if there is not None and _differs(directory.root, name, there):
        remote.fetch(name, directory.profile_parquet)


def fetch_checkpoints(directory: SweepDirectory, remote: RemoteDirectory, number: int) -> None:
    """Fetch the checkpoints of a trial that the copy lacks."""
    for name, there in remote.list(f"trials/{number:04d}").items():
        if checkpoint_epoch(name) is not None and _differs(directory.root, name, there):
            remote.fetch(name, below(directory.root, name))


def send_report(directory: SweepDirectory, only: Sequence[Path] | None = None) -> None:
    """Replace the bucket's report, or `only` some files of it, with the copy's.

    Do nothing for a sweep of this machine.

    Raises:
        StorageError: if the bucket does not answer.
    """
    remote = remote_of(directory)
    if remote is None:
        return
    names = files_below(directory, directory.report)
    if only is not None:
        names = [path.relative_to(directory.root).as_posix() for path in only]
    for name in names:
        remote.write(name, (directory.root / name).read_bytes())
    if only is None:
        for name in remote.list(directory.report.name).keys() - set(names):
            remote.delete(name)


def files_below(directory: SweepDirectory, part: Path) -> list[str]:
    """Return the names, below the sweep directory, of a part's whole files: no temporaries and no locks."""
    names = [path.relative_to(directory.root) for path in part.rglob("*") if path.is_file()]
    return sorted(name.as_posix() for name in names if not any(p.startswith(".") for p in name.parts))


def read_epochs(content: bytes | None) -> list[EpochMetrics]:
    """Return the results in an `epochs.json`, from epoch 1 without a gap; none if it is missing or damaged."""
    try:
        found = _EPOCHS.validate_json(content or b"[]")
    except ValidationError as error:
        _log.warning("%s is damaged and left out: %s", EPOCHS, str(error).splitlines()[0])
        return []
    return found if [metrics.epoch for metrics in found] == list(range(1, len(found) + 1)) else []


def write_epochs(path: Path, epochs: list[EpochMetrics]) -> None:
    write_atomically(path, json.dumps(_EPOCHS.dump_python(epochs)).encode(), durable=False)


def _differs(root: Path, name: str, there: RemoteFile) -> bool:
    """Return whether the copy lacks an object, or has an older file of another size."""
    path = below(root, name)
    if not path.exists():
        return True
    found = path.stat()
    return found.st_size != there.size and found.st_mtime < there.modified.timestamp()
