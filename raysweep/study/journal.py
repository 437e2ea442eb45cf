"""The journal: the file that holds the ledger's study, one line of JSON for each change.

Its format is that of Optuna's journal storage, so that optuna-dashboard opens it. This module adds three things:
(a) Every line is checked before Optuna sees it, because Optuna silently skips many damaged ones. (b) Several changes
are written at once. (c) A failed write leaves no half line, to which the next one would be appended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from optuna.storages.journal import BaseJournalBackend, JournalFileSymlinkLock

from raysweep.errors import LedgerError
from raysweep.storage.layout import shown, storage_errors

Operation = dict[str, Any]
CREATE_STUDY, SET_STUDY_ATTRIBUTE, CREATE_TRIAL = 0, 2, 4
SHOWN_BYTES = 120


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_real(value: Any) -> bool:
    """Return whether a value is a number that a float can hold, including NaN and the infinities."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 1 << 1023


def _is_attribute(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1


def _is_values(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 1 and _is_real(value[0]))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_optional_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_directions(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1


_FIELDS: dict[int, dict[str, Callable[[Any], bool]]] = {
    CREATE_STUDY: {"study_name": _is_text, "directions": _is_directions},
    1: {"study_id": _is_count},
    SET_STUDY_ATTRIBUTE: {"study_id": _is_count, "user_attr": _is_attribute},
    3: {"study_id": _is_count, "system_attr": _is_attribute},
    CREATE_TRIAL: {"study_id": _is_count, "datetime_start": _is_optional_text},
    5: {"trial_id": _is_count, "param_name": _is_text, "param_value_internal": _is_real, "distribution": _is_text},
    6: {"trial_id": _is_count, "state": _is_count, "values": _is_values},
    7: {"trial_id": _is_count, "step": _is_count, "intermediate_value": _is_real},
    8: {"trial_id": _is_count, "user_attr": _is_attribute},
    9: {"trial_id": _is_count, "system_attr": _is_attribute},
}
"""The fields that each of Optuna's operations must have, by its number: first those of studies, then of trials."""


def _is_optional_mapping(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _is_nothing(value: Any) -> bool:
    return value is None


def _is_optional_real(value: Any) -> bool:
    return value is None or _is_real(value)


def _is_steps(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict) and all(step.isdecimal() and _is_real(value[step]) for step in value)
    )


_TEMPLATE: dict[str, Callable[[Any], bool]] = {
    "params": lambda params: params is None or (isinstance(params, dict) and all(map(_is_real, params.values()))),
    "distributions": _is_optional_mapping,
    "user_attrs": _is_optional_mapping,
    "system_attrs": _is_optional_mapping,
    "intermediate_values": _is_steps,
    "value": _is_optional_real,
    "values": _is_nothing,
    "datetime_complete": _is_optional_text,
}
"""The fields that a new trial may also have: its point and, in a compacted journal, its results."""


class Journal(BaseJournalBackend):
    """A journal file for Optuna's `JournalStorage`. It writes only if it is asked to.

    Raises:
        LedgerError: naming the line that cannot be read; from any call of Optuna's that reads the journal.
        StorageError: if the file cannot be written; then it contains none of the new lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        """Number of the line that was read last, from 1."""
        self._offset = 0
        """Bytes up to the end of that line."""
        self._studies = 0
        self._trials = 0
        self._held: list[Operation] | None = None
        self._lock = JournalFileSymlinkLock(str(path))

    def read_logs(self, log_number_from: int) -> Iterator[Operation]:
        """Yield the operations from number `log_number_from` on; Optuna always continues where it stopped."""
        assert log_number_from == self.line, "one storage reads a journal, in order"
        with storage_errors(self.path), open(self.path, "rb") as file:
            file.seek(self._offset)
            content = file.read()
        for line in content[: sound_length(content)].split(b"\n")[:-1]:
            self.line += 1
            self._offset += len(line) + 1
            yield self._checked(line)

    def append_logs(self, logs: list[Operation]) -> None:
        if self._held is not None:
            self._held += logs
            return
        lines = as_lines(logs)
        with self.locked():
            self._append(lines)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all programs that write with Optuna's lock, such as its dashboard, from writing."""
        with storage_errors(self.path):
            self._lock.acquire()
            try:
                yield
            finally:
                with suppress(RuntimeError):  # another process may have removed the lock as stale
                    self._lock.release()

    def _append(self, lines: bytes) -> None:
        # Without O_CREAT: if the journal has been deleted, a new one must not start in the middle.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            size = os.fstat(descriptor).st_size
            try:
                rest = memoryview(lines)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Write all changes of the context together, with one wait for the disk; none after an error.

        Reads in the context return the state before it.
        """
        held: list[Operation] = []
        self._held = held
        try:
            yield
        finally:
            self._held = None
        if held:
            self.append_logs(held)

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error that names the line which was read last."""
        raise LedgerError(
            f"{shown(self.path)}: line {self.line} is damaged: {reason}; restore the file from a copy"
        ) from None

    def _checked(self, line: bytes) -> Operation:
        try:
            operation = json.loads(line)
        except (ValueError, RecursionError):
            self.refuse("it is not JSON" if line.strip() else "it is empty")
        code: Any = operation.get("op_code") if isinstance(operation, dict) else None
        fields = _FIELDS.get(code) if _is_count(code) else None
        if fields is None or not isinstance(operation.get("worker_id"), str):
            self.refuse("it is no operation of a study")
        for name, is_sound in fields.items():
            if name not in operation or not is_sound(operation[name]):
                self.refuse(f"{name} is missing or not what it should be")
        for name in _TEMPLATE if code == CREATE_TRIAL else ():
            if not _TEMPLATE[name](operation.get(name)):
                self.refuse(f"{name} is not what it should be")
        # Optuna skips operations on a study or trial that does not exist. But then the line that created it is lost.
        if "study_id" in fields and operation["study_id"] >= self._studies:
            self.refuse(f"there is no study {operation['study_id']} before it")
        if "trial_id" in fields and operation["trial_id"] >= self._trials:
            self.refuse(f"there is no trial {operation['trial_id']} before it")
        if code == CREATE_STUDY and self._studies:
            self.refuse("a second study begins in it")
        self._studies += code == CREATE_STUDY
        self._trials += code == CREATE_TRIAL
        return operation  # type: ignore[no-any-return]


def as_lines(logs: Sequence[Operation]) -> bytes:
    """Return operations as lines of a journal."""
    return b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)


def sound_length(content: bytes) -> int:
    """Return the number of bytes of a journal up to the end of its last complete line.

    A crash leaves half a line at the end. A crash of the machine may also leave zeros there, or an empty line.
    """
    end = content.rfind(b"\n") + 1
    while end:
        start = content.rfind(b"\n", 0, end - 1) + 1
        line = content[start:end]
        if line.strip() and b"\0" not in line:
            break
        end = start
    return end


def study_attributes(journal: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return the last values of these attributes of the study, without parsing the rest.

    Damaged lines are skipped; `Journal` reports them.

    Raises:
        LedgerError: if the file cannot be read.
    """
    found: dict[str, Any] = {}
    marks = [json.dumps(name).encode() for name in names]
    try:
        with open(journal, "rb") as file:
            for line in file:
                if not (b'"user_attr"' in line and any(mark in line for mark in marks)):
                    continue
                with suppress(ValueError, RecursionError):
                    operation = json.loads(line)
                    if isinstance(operation, dict) and operation.get("op_code") == SET_STUDY_ATTRIBUTE:
                        attribute = operation.get("user_attr")
                        if isinstance(attribute, dict):
                            found |= {name: attribute[name] for name in names if name in attribute}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LedgerError(f"{shown(journal)}: cannot be read: {error.strerror}") from error
    return found


def repair_journal(journal: Path) -> bytes:
    """Cut off a half-written end, remove the lock of a dead writer, and return what was cut off.

    The caller holds the driver lock, so no writer is at work. Otherwise Optuna would append the next line to the half
    one.

    Raises:
        StorageError: if it cannot be written.
    """
    with storage_errors(journal):
        for lock in journal.parent.glob(f"{journal.name}.lock*"):
            lock.unlink(missing_ok=True)
        if not journal.exists():
            return b""
        with open(journal, "rb") as file:
            content = file.read()
        end = sound_length(content)
        if end < len(content):
            with open(journal, "r+b") as file:
                file.truncate(end)
                os.fsync(file.fileno())
        return content[end:]


def described_cut(cut: bytes) -> str:
    """Describe what was cut off a journal, in a text short enough for a log."""
    rest = f" and {len(cut) - SHOWN_BYTES} bytes more" if len(cut) > SHOWN_BYTES else ""
    return f"{len(cut)} bytes of an unfinished line were cut off: {cut[:SHOWN_BYTES]!r}{rest}"
