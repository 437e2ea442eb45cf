"""What an interrupted sweep must have in common with the undisturbed one, and with itself: a list of what differs."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections import Counter, defaultdict
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import torch
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

import raysweep
from raysweep.errors import CheckpointError
from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.storage.tensorfile import read_tensors
from raysweep.study.status import ENDED
from raysweep.vae.checkpoint import list_checkpoints, read_checkpoint

TIMINGS = {"images_per_s", "epoch_s", "measured_s"}
STRAYS = (".*.tmp", ".tensorboard.*", "study.journal.lock*")


class Outcome(NamedTuple):
    """How a sweep that was interrupted compares."""

    differences: list[str]
    lost: int
    """Trials that are missing or have not ended."""
    doubled: int
    """Trials beyond the number wanted."""


def compare(sweep: raysweep.Sweep, reference: raysweep.Sweep, *, whole: bool) -> Outcome:
    """Compares with an undisturbed sweep of the same file: everything if `whole`, else what chance cannot change."""
    found: list[str] = []
    records = {record.number: record for record in sweep.records}
    expected = {record.number: record for record in reference.records}
    lost = [number for number in expected if number not in records or records[number].state not in ENDED]
    doubled = [number for number in records if number not in expected]
    found += [f"trial {n}: is lost, or has not ended" for n in lost] + [f"trial {n}: is one too many" for n in doubled]
    for number in sorted(expected.keys() & records.keys()):
        ours, theirs = (_outcome(r, whole) for r in (records[number], expected[number]))
        found += [
            f"trial {number}: {key} is {ours.get(key)!r}, undisturbed {theirs.get(key)!r}"
            for key in sorted(ours.keys() | theirs.keys(), key=lambda key: (key.startswith("epoch "), key))
            if repr(ours.get(key)) != repr(theirs.get(key))
        ]
        epochs = [epoch.metrics.epoch for epoch in records[number].epochs]
        if epochs != list(range(1, len(epochs) + 1)):
            found.append(f"trial {number}: its epochs are {epochs}")
    found += differences_within(sweep)
    if whole:
        found += [f"{name}: is missing" for name in sorted(_files(reference) - _files(sweep))]
        found += [f"{name}: is one too many" for name in sorted(_files(sweep) - _files(reference))]
        for name in sorted(_files(sweep) & _files(reference)):
            if name.startswith("trials/") and not _same(sweep.directory.root / name, reference.directory.root / name):
                found.append(f"{name}: is another than undisturbed")
    return Outcome(found, len(lost), len(doubled))


def differences_within(sweep: raysweep.Sweep) -> list[str]:
    """Where the files of a sweep that has ended contradict its ledger, or are not whole, or should not be there."""
    root = sweep.directory.root
    found = damages(root)
    for path, table in (
        (sweep.directory.trials_parquet, sweep.trials()),
        (sweep.directory.epochs_parquet, sweep.epochs()),
    ):
        if not path.exists():
            found.append(f"{path.relative_to(root)}: is missing")
        elif repr(pq.read_table(path).to_pylist()) != repr(table.to_pylist()):
            found.append(f"{path.relative_to(root)}: is not what the ledger says")
    keys = Counter((row["trial"], row["epoch"]) for row in sweep.epochs().select(["trial", "epoch"]).to_pylist())
    found += [f"epochs: {key} stands there {count} times" for key, count in keys.items() if count > 1]
    for record in sweep.records:
        found += _checkpoint_differences(sweep, record) + _curve_differences(sweep, record)
    return found


def damages(root: Path) -> list[str]:
    """Files below a directory that are not whole, or were left by a writer that is gone."""
    found = [f"{path.relative_to(root)}: is left over" for stray in STRAYS for path in root.rglob(stray)]
    for path in sorted(root.rglob("*")):
        if path.is_file() and (fault := _damage(path)):
            found.append(f"{path.relative_to(root)}: {fault}")
    return found


class Repeats(NamedTuple):
    """Epochs that were begun more than once, by the fault that came before."""

    cut_short: int
    """Begun, not ended, and begun again."""
    trained_again: int
    """Ended, and begun again all the same."""
    most_by_trial: int
    """The most that one fault cost one trial, in epochs begun again."""
    unexplained: list[str]


def repeated_epochs(
    lines: Sequence[str], records: Sequence[TrialRecord], fault_times: Sequence[tuple[float, float]]
) -> Repeats:
    """Reads what `probe/sitecustomize.py` wrote: `time pid config epoch begun|done`.

    Of each fault, when it was asked for and when it was over. An epoch is begun again because of the first one that was
    not over when it had been begun before: another may have come between its end and the new beginning.
    """
    numbers = {config_digest(record): record.number for record in records}
    begun: dict[tuple[int, int], list[float]] = defaultdict(list)
    done: dict[tuple[int, int], list[float]] = defaultdict(list)
    unexplained = []
    for line in lines:
        at, _, config, digits, what = line.split()
        epoch = int(digits)
        if config not in numbers:
            unexplained.append(f"epoch {epoch} was trained of a configuration that no trial has")
            continue
        (begun if what == "begun" else done)[numbers[config], epoch].append(float(at))
    cut_short = trained_again = 0
    by_fault: Counter[tuple[int, int]] = Counter()
    for (number, epoch), times in begun.items():
        times.sort()
        for before, again in pairwise(times):
            faults = [index for index, (asked, _) in enumerate(fault_times) if asked <= again]
            after = [index for index in faults if fault_times[index][1] >= before]
            if not faults:
                unexplained.append(f"trial {number}: epoch {epoch} was begun twice before any fault")
            else:
                by_fault[after[0] if after else faults[-1], number] += 1
            ended = any(before < at <= again for at in done[number, epoch])
            trained_again, cut_short = trained_again + ended, cut_short + (not ended)
    for record in records:
        missing = [e.metrics.epoch for e in record.epochs if not done[record.number, e.metrics.epoch]]
        if missing:
            unexplained.append(f"trial {record.number}: epochs {missing} are in the ledger and were never trained")
    return Repeats(cut_short, trained_again, max(by_fault.values(), default=0), unexplained)


def config_digest(record: TrialRecord) -> str:
    return sha256(record.config.model_dump_json().encode()).hexdigest()[:16]


def _outcome(record: TrialRecord, whole: bool) -> dict[str, Any]:
    """What a trial came to, flat, so that a difference names the one value that differs; no timings."""
    outcome: dict[str, Any] = {"params": record.params, "enqueued": record.enqueued}
    if whole:
        outcome |= {"state": record.state.value, "cause": record.cause}
        for epoch in record.epochs:
            row = dataclasses.asdict(epoch.metrics)
            outcome |= {f"epoch {row['epoch']:03d} {name}": row[name] for name in row.keys() - TIMINGS}
        tested = dataclasses.asdict(record.tested) if record.tested else {}
        outcome |= {f"final {name}": tested[name] for name in tested.keys() - TIMINGS}
    return outcome


def _files(sweep: raysweep.Sweep) -> set[str]:
    """The files of a sweep by name, without event files, whose names are of a moment and a process."""
    root = sweep.directory.root
    strays = {path for stray in STRAYS for path in root.rglob(stray)}
    found = {path for path in root.rglob("*") if path.is_file() and ".tfevents." not in path.name}
    return {str(path.relative_to(root)) for path in found - strays}


def _same(ours: Path, theirs: Path) -> bool:
    """Whether two files of a trial are the same: a checkpoint by its tensors, for its header has timings, else all."""
    if ours.suffix != ".safetensors":
        return ours.read_bytes() == theirs.read_bytes()
    try:
        one, other = read_checkpoint(ours), read_checkpoint(theirs)
    except CheckpointError:
        return True  # named among the files that are not whole
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(value, other.tensors[name]) for name, value in one.tensors.items()
    )


def _damage(path: Path) -> str | None:
    """Why a file is not whole; None if it is, or is of no kind that could tell."""
    try:
        if path.name == "features.safetensors":
            read_tensors(path)
        elif path.suffix == ".safetensors":
            read_checkpoint(path)
        elif path.suffix == ".parquet":
            pq.read_table(path)
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
            if path.read_bytes()[-8:-4] != b"IEND":  # without which Pillow is content
                return "ends too early"
        elif path.suffix == ".journal":
            for line in path.read_bytes().split(b"\n")[:-1]:
                json.loads(line)
            if not path.read_bytes().endswith(b"\n"):
                return "ends in half a line"
        elif ".tfevents." in path.name:
            list(events(path))
    except Exception as error:  # noqa: BLE001 (whatever a reader raises says that the file is not whole)
        return f"is not whole: {error}"
    return None


def events(path: Path) -> list[Event]:
    """Every event of a TensorBoard file, all checksums compared.

    Raises:
        ValueError: if the file ends in the middle of a record, or a checksum differs.
    """
    content, offset, found = path.read_bytes(), 0, []
    while offset < len(content):
        header, header_crc = content[offset : offset + 8], content[offset + 8 : offset + 12]
        if len(header_crc) < 4 or struct.unpack("<I", header_crc)[0] != masked_crc32c(header):
            raise ValueError(f"half a record at byte {offset}")
        (length,) = struct.unpack("<Q", header)
        data = content[offset + 12 : offset + 12 + length]
        crc = content[offset + 12 + length : offset + 16 + length]
        if len(crc) < 4 or struct.unpack("<I", crc)[0] != masked_crc32c(data):
            raise ValueError(f"half a record at byte {offset}")
        found.append(Event.FromString(data))
        offset += 16 + length
    return found


def _checkpoint_differences(sweep: raysweep.Sweep, record: TrialRecord) -> list[str]:
    """Say so unless a trial has the checkpoints of the last two epochs in the ledger and of its best one."""
    if record.state not in (TrialState.COMPLETED, TrialState.PRUNED):
        return []
    newest = [int(path.stem.removeprefix("epoch-")) for path in list_checkpoints(sweep.directory.trial(record.number))]
    last, best = len(record.epochs), record.best(sweep.objective)
    wanted = {last, last - 1, *([best.epoch] if best is not None else [])} - {0}
    if newest != sorted(wanted, reverse=True):
        return [f"trial {record.number}: has checkpoints of epochs {newest} and {last} epochs in the ledger"]
    return []


def _curve_differences(sweep: raysweep.Sweep, record: TrialRecord) -> list[str]:
    """Whether TensorBoard has every epoch of the trial once."""
    steps = []
    for path in sweep.directory.tensorboard.glob(f"{record.number:04d}/*.tfevents.*"):
        try:
            for event in events(path):
                steps += [event.step for value in event.summary.value if value.tag.rpartition("/")[2] == "train_loss"]
        except ValueError:
            continue  # named among the files that are not whole
    if sorted(steps) != list(range(1, len(record.epochs) + 1)):
        return [f"trial {record.number}: TensorBoard has the epochs {sorted(steps)} of {len(record.epochs)}"]
    return []
