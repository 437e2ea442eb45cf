"""The files of a sweep: where each is, and how to write one so that no reader sees half."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from raysweep.errors import StorageError, SweepDirectoryError

_MARKS = {"lost+found", ".DS_Store", "Thumbs.db", "desktop.ini", ".directory"}
"""Files that file systems and desktops put into an empty directory."""

_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ESTALE}
"""Errors of a file system that was unmounted, unplugged or moved away."""


@dataclass(frozen=True)
class SweepDirectory:
    """Every path of a sweep below its root."""

    root: Path
    origin: str | None = None
    """The URI of a sweep in a bucket, if `root` is this machine's copy of it (bucket/workingcopy.py)."""

    @classmethod
    def at(cls, location: str | os.PathLike[str]) -> SweepDirectory:
        """Return the sweep directory at a path, whether or not anything is there yet.

        Raises:
            SweepDirectoryError: if it is an address outside this machine's file system, or an impossible path.
        """
        text = os.fspath(location)
        if text.startswith("file://"):
            text = unquote(text.removeprefix("file://").removeprefix("localhost"))
        elif "://" in text:
            raise SweepDirectoryError(f"{text}: is not a path on this machine, such as results/kld")
        path = Path(text).absolute()
        try:
            path.exists()
        except OSError as error:
            raise SweepDirectoryError(f"{shown(path)}: cannot be a directory here: {error.strerror}") from None
        return cls(path)

    @property
    def address(self) -> str:
        """What a person types to name the sweep."""
        return self.origin or shown(self.root)

    @property
    def spec(self) -> Path:
        return self.root / "sweep.yaml"

    @property
    def journal(self) -> Path:
        return self.root / "study.journal"

    @property
    def driver_lock(self) -> Path:
        return self.root / ".driver.lock"

    @property
    def unreported(self) -> Path:
        """Exists while the report may be behind the ledger: from a session's start until its report is written."""
        return self.root / ".unreported"

    @property
    def log(self) -> Path:
        return self.root / "raysweep.log"

    @property
    def features(self) -> Path:
        """The space in which the images of all its finalists are compared."""
        return self.root / "features.safetensors"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def trials_parquet(self) -> Path:
        return self.report / "trials.parquet"

    @property
    def epochs_parquet(self) -> Path:
        return self.report / "epochs.parquet"

    @property
    def tensorboard(self) -> Path:
        return self.report / "tensorboard"

    @property
    def figures(self) -> Path:
        return self.report / "figures"

    @property
    def findings_parquet(self) -> Path:
        return self.report / "findings.parquet"

    @property
    def findings_markdown(self) -> Path:
        return self.report / "findings.md"

    @property
    def profile_parquet(self) -> Path:
        """Where the time of one session went."""
        return self.report / "profile.parquet"

    @property
    def profile_markdown(self) -> Path:
        return self.report / "profile.md"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    def trial(self, number: int) -> Path:
        """Return the directory of one trial, with its checkpoints and pictures."""
        return self.trials / f"{number:04d}"

    def reconstructions(self, number: int) -> Path:
        """Return the path of a grid of validation images above their reconstructions."""
        return self.trial(number) / "reconstructions.png"

    def samples(self, number: int) -> Path:
        """Return the path of a grid of decoded draws from the prior."""
        return self.trial(number) / "samples.png"

    def epoch_reconstructions(self, number: int, epoch: int) -> Path:
        """Return the path of a row of reconstructed validation images after an epoch; for epoch 0, of the images."""
        return self.trial(number) / "epochs" / f"{epoch:06d}.png"

    def interpolations(self, number: int) -> Path:
        """Return the path of a grid whose rows lead from one test image to another."""
        return self.trial(number) / "interpolations.png"

    def traversals(self, number: int) -> Path:
        """Return the path of a grid that varies one latent per row, the one with most KL divergence first."""
        return self.trial(number) / "traversals.png"

    def shifted_samples(self, number: int) -> Path:
        """Return the path of a grid of decoded draws from a shifted Gaussian."""
        return self.trial(number) / "samples_shifted.png"

    def mixture_samples(self, number: int) -> Path:
        """Return the path of a grid of decoded draws from a mixture fitted to the latents."""
        return self.trial(number) / "samples_mixture.png"

    def sampled_reconstructions(self, number: int) -> Path:
        """Return the path of a grid in rows: test images, reconstructions, and those sampled pixel by pixel."""
        return self.trial(number) / "reconstructions_sampled.png"

    def latents(self, number: int) -> Path:
        """Return the path of a table of posterior means, with split and label."""
        return self.trial(number) / "latents.parquet"

    def sprites(self, number: int) -> Path:
        """Return the path of one square picture without gaps: the images of `latents`, in its order."""
        return self.trial(number) / "sprites.png"

    def hang(self, number: int) -> Path:
        """Return the path of a text: where each thread of a trial's process stood when it hung too long."""
        return self.trial(number) / "hang.txt"

    def holds_a_sweep(self) -> bool:
        return self.spec.exists() or self.journal.exists()

    def foreign_entries(self) -> list[str]:
        """Return the names below the root that a person or another program has put there.

        Left out are the lock and log of a failed start, and the marks that file systems and desktops leave.
        """
        own = {self.driver_lock.name, self.driver_lock.with_suffix(".json").name, self.log.name, self.unreported.name}
        if not self.root.is_dir():
            return []
        names = sorted(path.name for path in self.root.iterdir())
        return [name for name in names if name not in own | _MARKS and not (name[0] == "." and name.endswith(".tmp"))]

    def require_present(self) -> None:
        """Raise StorageError if the sweep that was here is gone: its disk unmounted, or the directory moved away.

        Code that writes a sweep already begun calls this before it makes a directory or appends to a file. Below an
        empty mount point both would succeed, and the sweep would be in two places.
        """
        if not self.holds_a_sweep():
            raise StorageError(f"{self.root}: the sweep is no longer there; was it moved, or its disk taken away?")

    def refuse_foreign(self) -> None:
        """Raise SweepDirectoryError if something below the root leads elsewhere, or is neither file nor directory.

        A sweep directory may come from someone else: a write through a link in it would go wherever the link points,
        and a read from a pipe would wait forever. The root itself may be a link. A journal's lock is also a link; it
        is removed before the journal is written, and never followed.
        """
        root = self.root.resolve()
        waiting = [self.root]
        while waiting:
            try:
                entries = list(os.scandir(waiting.pop()))
            except FileNotFoundError:  # removed by a driver at work
                continue
            for entry in entries:
                if entry.name.startswith(f"{self.journal.name}.lock"):
                    continue
                path = Path(entry.path)
                if entry.is_symlink():
                    target = Path(os.path.realpath(path))
                    if not target.is_relative_to(root):
                        raise SweepDirectoryError(
                            f"{shown(path)}: is a link that leads out of the sweep, to {target}; nothing is written "
                            "through it. Put the file itself in its place, or remove the link"
                        )
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif not entry.is_file(follow_symlinks=False):
                    raise SweepDirectoryError(f"{shown(path)}: is neither a file nor a directory; remove it")

    def remove_leftovers(self) -> None:
        """Remove temporary files that killed processes had begun to write.

        Only the driver of the sweep may call this.
        """
        for path in self.root.glob(".tensorboard.*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.root.rglob(".*.tmp"):
            path.unlink(missing_ok=True)

    def require_sweep(self) -> None:
        """Raise SweepDirectoryError if there is no sweep here."""
        if self.root.is_file():
            raise SweepDirectoryError(f"{self.address}: is a file, not the directory of a sweep{self._sweep_nearby()}")
        if not self.root.is_dir():
            hint = self._sweep_nearby() or "; raysweep run FILE makes one"
            raise SweepDirectoryError(f"{self.address}: there is no such directory{hint}")
        if not self.holds_a_sweep():
            raise SweepDirectoryError(
                f"{self.address}: holds no sweep (sweep.yaml is what makes one); "
                "name the directory that raysweep run printed, such as results/kld"
            )

    def _sweep_nearby(self) -> str:
        """Return the end of a message that this is no sweep: a sweep around it or run from it."""
        root = self.root
        for folder in (*root.parents[:3], Path("results", root.stem).absolute(), Path("results", root.name).absolute()):
            if SweepDirectory(folder).holds_a_sweep():
                return f"; did you mean {shown(folder)}?"
        return "; raysweep run makes one of a search space file" if root.is_file() else ""


def listed_names(names: Sequence[str], most: int = 5) -> str:
    """Return the first of some file names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def printable(text: str | Path) -> str:
    """Return a path or name as text that any terminal, file and table takes.

    A byte that is not UTF-8, such as Latin-1's e with an accent, becomes `\\udce9`.
    """
    return str(text).encode("utf-8", "backslashreplace").decode()


def shown(path: Path) -> str:
    """Return a path as a person would type it: relative to the working directory if it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, FileNotFoundError):  # elsewhere, or the working directory was removed
        return str(path)


def typed(path: Path | str) -> str:
    """Return a path quoted for a command that one can copy."""
    return shlex.quote(path if isinstance(path, str) and "://" in path else shown(Path(path)))


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn every failure to write at or below `path` into a StorageError: disk full, read-only or vanished."""
    try:
        yield
    except TimeoutError:  # another process holds the lock
        raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    # pyarrow and Pillow raise OSErrors that have no number, only a text.
    if error.errno is None:
        return str(error).partition("\n")[0] or type(error).__name__
    reason = os.strerror(error.errno)
    if error.errno in _GONE:
        return f"{reason}; was the directory moved, or its disk taken away?"
    return reason


@contextmanager
def replacing(path: Path, durable: bool = True, parents: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; if the block succeeds, it replaces `path` in one step.

    Args:
        durable: put the content on the disk before the name changes. After a crash of the machine, `path` is then the
            old file or the new one. Otherwise it may be empty after a crash, but writing is faster: use that only for
            files that can be made again.
        parents: make all missing directories. Otherwise only the directory of `path` may be missing, not the one above
            it, so that no part of a sweep that has vanished is made again.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=parents, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            yield temporary
            if not durable:
                temporary.replace(path)
                return
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        finally:
            with suppress(OSError):  # if the file cannot be written, its temporary may not be removable either
                temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes, durable: bool = True, parents: bool = True) -> None:
    """Write a whole file; see `replacing`."""
    with replacing(path, durable, parents) as temporary:
        temporary.write_bytes(content)


def read_bounded(path: Path | str, limit_bytes: int) -> bytes:
    """Return the content of a file that is not larger than `limit_bytes`.

    Raises:
        OSError: if it cannot be read, is larger, or is not a file; a pipe in its place is not waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
            raise OSError(kind, os.strerror(kind) if kind == errno.EISDIR else "is not a file", str(path))
        if status.st_size > limit_bytes:
            raise OSError(errno.EFBIG, f"has {status.st_size:,} bytes, at most {limit_bytes:,} are read", str(path))
        return file.read(status.st_size)  # not more, even if it grows meanwhile
