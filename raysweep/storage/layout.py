"""The files of a sweep: where each of them is, and how a file is written so that no reader sees half of it."""

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
"""What lies in a directory that nobody has put anything into."""

_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ESTALE}
"""What a file system answers that was unmounted, unplugged or moved away."""


@dataclass(frozen=True)
class SweepDirectory:
    """Every path of a sweep below its root."""

    root: Path
    origin: str | None = None
    """The URI of the sweep, if it is in a bucket and `root` is this machine's copy of it (bucket/workingcopy.py)."""

    @classmethod
    def at(cls, location: str | os.PathLike[str]) -> SweepDirectory:
        """The sweep directory at a path, whether there is anything yet or not.

        Raises:
            SweepDirectoryError: for an address of another file system than this machine's, or an impossible path.
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
        """Is there while the report may be behind the ledger: from the start of a session until it has written it."""
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
        """The directory of one trial: its checkpoints and pictures."""
        return self.trials / f"{number:04d}"

    def reconstructions(self, number: int) -> Path:
        """A grid of validation images above their reconstructions."""
        return self.trial(number) / "reconstructions.png"

    def samples(self, number: int) -> Path:
        """A grid of decoded draws from the prior."""
        return self.trial(number) / "samples.png"

    def epoch_reconstructions(self, number: int, epoch: int) -> Path:
        """A row of validation images' reconstructions after an epoch; of the images themselves for epoch 0."""
        return self.trial(number) / "epochs" / f"{epoch:06d}.png"

    def interpolations(self, number: int) -> Path:
        """A grid whose rows lead from one test image to another."""
        return self.trial(number) / "interpolations.png"

    def traversals(self, number: int) -> Path:
        """A grid whose rows vary one latent each, the one with the most KL divergence first."""
        return self.trial(number) / "traversals.png"

    def shifted_samples(self, number: int) -> Path:
        """A grid of decoded draws from a shifted Gaussian."""
        return self.trial(number) / "samples_shifted.png"

    def mixture_samples(self, number: int) -> Path:
        """A grid of decoded draws from a mixture fitted to the latents."""
        return self.trial(number) / "samples_mixture.png"

    def sampled_reconstructions(self, number: int) -> Path:
        """A grid of test images, their reconstructions, and those sampled pixel by pixel: a row each."""
        return self.trial(number) / "reconstructions_sampled.png"

    def latents(self, number: int) -> Path:
        """A table of posterior means, with split and label."""
        return self.trial(number) / "latents.parquet"

    def sprites(self, number: int) -> Path:
        """The images of `latents`, in its order, in one square picture without gaps."""
        return self.trial(number) / "sprites.png"

    def hang(self, number: int) -> Path:
        """Where each thread of a trial's process stood when it had hung for too long."""
        return self.trial(number) / "hang.txt"

    def holds_a_sweep(self) -> bool:
        return self.spec.exists() or self.journal.exists()

    def foreign_entries(self) -> list[str]:
        """Return the names below the root that are of no sweep: what a person or another program has put there.

        A start that failed leaves its lock and its log, and file systems and desktops leave marks of their own.
        """
        own = {self.driver_lock.name, self.driver_lock.with_suffix(".json").name, self.log.name, self.unreported.name}
        if not self.root.is_dir():
            return []
        names = sorted(path.name for path in self.root.iterdir())
        return [name for name in names if name not in own | _MARKS and not (name[0] == "." and name.endswith(".tmp"))]

    def require_present(self) -> None:
        """Raises StorageError if the sweep that was here is gone: its disk unmounted, or the directory moved away.

        Whoever has begun to write a sweep asks this before making a directory or appending to a file: below an empty
        mount point both would succeed, and the sweep would be in two places.
        """
        if not self.holds_a_sweep():
            raise StorageError(f"{self.root}: the sweep is no longer there; was it moved, or its disk taken away?")

    def refuse_foreign(self) -> None:
        """Raises SweepDirectoryError if something below the root leads elsewhere, or is no file to read or write.

        A sweep directory may come from someone else: through a link in it, a write would land wherever it points, and
        a pipe would be waited for without end. The root itself may be a link. A journal's lock is one, too; it is
        taken away before the journal is written, and never followed.
        """
        root = self.root.resolve()
        waiting = [self.root]
        while waiting:
            try:
                entries = list(os.scandir(waiting.pop()))
            except FileNotFoundError:  # dropped by a driver at work
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
        """Removes what processes that were killed had begun to write beside the files that it would have become.

        Only who drives the sweep may ask for it.
        """
        for path in self.root.glob(".tensorboard.*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.root.rglob(".*.tmp"):
            path.unlink(missing_ok=True)

    def require_sweep(self) -> None:
        """Raises SweepDirectoryError if there is no sweep here."""
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
        """Return the end of a message on what is no sweep: the sweep that it lies in, or that was run from it."""
        root = self.root
        for folder in (*root.parents[:3], Path("results", root.stem).absolute(), Path("results", root.name).absolute()):
            if SweepDirectory(folder).holds_a_sweep():
                return f"; did you mean {shown(folder)}?"
        return "; raysweep run makes one of a search space file" if root.is_file() else ""


def listed_names(names: Sequence[str], most: int = 5) -> str:
    """Return the first of some names of files, and how many there are more."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def printable(text: str | Path) -> str:
    """Return a path or name as text that any terminal, file and table takes.

    A byte that is no UTF-8, such as Latin-1's e with an accent, becomes `\\udce9`.
    """
    return str(text).encode("utf-8", "backslashreplace").decode()


def shown(path: Path) -> str:
    """A path as a person would type it: relative to the working directory where it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, FileNotFoundError):  # elsewhere, or the working directory was removed
        return str(path)


def typed(path: Path | str) -> str:
    """A path as it goes into a command that one can copy."""
    return shlex.quote(path if isinstance(path, str) and "://" in path else shown(Path(path)))


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns every way in which writing at or below `path` fails into a StorageError: full, read-only, vanished."""
    try:
        yield
    except TimeoutError:  # of a lock that someone else holds
        raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    # pyarrow and Pillow raise OSErrors without a number, whose text is all there is.
    if error.errno is None:
        return str(error).partition("\n")[0] or type(error).__name__
    reason = os.strerror(error.errno)
    if error.errno in _GONE:
        return f"{reason}; was the directory moved, or its disk taken away?"
    return reason


@contextmanager
def replacing(path: Path, durable: bool = True, parents: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there becomes `path` at once, and only if all went well.

    If it is `durable` the content is on the disk before the name changes, so after a crash of the machine `path` is the
    old file or the new one; else it may then be empty, which only what can be drawn again should risk. It is faster.
    Without `parents` the directory of `path` may be missing, but not the one above: where a sweep has vanished, none of
    it is made anew.

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
            with suppress(OSError):  # what keeps a file from being written also keeps its beginning from being removed
                temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes, durable: bool = True, parents: bool = True) -> None:
    """Writes a whole file; see `replacing`."""
    with replacing(path, durable, parents) as temporary:
        temporary.write_bytes(content)


def read_bounded(path: Path | str, limit_bytes: int) -> bytes:
    """The whole of a file that is not larger than `limit_bytes`.

    Raises:
        OSError: if it cannot be read, is larger, or is no file: a pipe in its place is not waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
            raise OSError(kind, os.strerror(kind) if kind == errno.EISDIR else "is not a file", str(path))
        if status.st_size > limit_bytes:
            raise OSError(errno.EFBIG, f"has {status.st_size:,} bytes, at most {limit_bytes:,} are read", str(path))
        return file.read(status.st_size)  # no more, where it grows meanwhile
