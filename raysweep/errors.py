"""Every error that raysweep raises on purpose.

RaysweepError
├── SpecError                a search space file or an option that cannot be run: a list of `Fault`s
├── DataError                images that cannot be obtained, read or trusted
│   ├── DataUnavailable      a data set that is not on this machine and could not be fetched
│   └── CacheError           a cache file that is truncated, corrupt or of another format version
├── SweepDirectoryError      a results directory that is missing, taken, in use, or holds something else
├── LedgerError              a study journal that cannot be read or does not belong to the sweep
├── ResourcesError           a trial that could never be scheduled on the available machines
├── RayStartError            Ray does not start on this machine
├── RayLost                  Ray ended in the middle of a sweep
├── ArgumentError            an invalid option or argument; also a ValueError
│   └── ModelInputError      images or latents that a model cannot take
├── CheckpointError          a checkpoint that is missing, damaged or made by another configuration
├── StorageError             a full, read-only or vanished file system
└── OutputError              standard output that cannot be written: a full disk, a closed pipe

A message says what is wrong, where, what was found, what is allowed and what to type next. `cli/` prints it
and exits with `exit_code`: 2 if the user can correct the input, 1 if the machine failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class RaysweepError(Exception):
    """Base of all errors whose message is meant for the person who typed the command."""

    exit_code = 2


@dataclass(frozen=True, order=True)
class Fault:
    """One fault of one key of a search space file."""

    line: int
    """Line in the file, from 1; 0 if the fault has no line of its own."""
    key: str
    """Dotted path of the key, such as `trial.kld_weight.low`; empty for the file as a whole."""
    message: str


class SpecError(RaysweepError):
    """All faults of a search space file, in one message."""

    def __init__(self, source: str, faults: Sequence[Fault], advice: str | None = None) -> None:
        self.source = source
        self.faults = tuple(sorted(faults))
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = [f"{source}: {count}, nothing was started"]
        for fault in self.faults:
            place = f"line {fault.line}: " if fault.line else ""
            lines.append(f"  {place}{fault.key + ': ' if fault.key else ''}{fault.message}")
        if advice is None and any(fault.line or fault.key for fault in self.faults):
            advice = f"Correct it, then type: raysweep check {source}"
        if advice:
            lines.append(advice)
        super().__init__("\n".join(lines))


class DataError(RaysweepError):
    """Images that cannot be obtained, read or trusted."""


class DataUnavailable(DataError):
    """A data set that is not on this machine and could not be fetched."""


class CacheError(DataError):
    """A cache file that is truncated, corrupt or of another format version."""


class SweepDirectoryError(RaysweepError):
    """A results directory that is missing, taken, in use, or holds something else."""


class LedgerError(RaysweepError):
    """A study journal that cannot be read or does not belong to the sweep."""


class ResourcesError(RaysweepError):
    """A trial that could never be scheduled on the available machines."""


class RayStartError(RaysweepError):
    """Ray does not start on this machine."""

    exit_code = 1


class RayLost(RaysweepError):
    """Ray ended in the middle of a sweep."""

    exit_code = 1


class ArgumentError(RaysweepError, ValueError):
    """An invalid option of a command or argument of a function."""


class ModelInputError(ArgumentError):
    """Images or latents that a trained model cannot take."""


class CheckpointError(RaysweepError):
    """A checkpoint that is missing, damaged or made by another configuration."""


class StorageError(RaysweepError):
    """A full, read-only or vanished file system."""

    exit_code = 1


class OutputError(RaysweepError):
    """Standard output that cannot be written: a full disk, a closed pipe."""

    exit_code = 1
