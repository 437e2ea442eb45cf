"""A shorter journal: one line for each trial, instead of a line for every change.

Every epoch and every end of a trial is at least one line. Optuna replays these lines one by one when a study is opened.
A driver that opens a long journal rewrites it, so that every later reader reads one line per trial. Optuna writes the
new journal in its own format, so optuna-dashboard opens it as before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from raysweep.storage.layout import write_atomically
from raysweep.study.journal import Journal, as_lines

FROM_LINES = 20_000
"""Least number of lines that is worth compacting: opening a journal of this length takes about 0.5 s."""
LEAST_GAIN = 2
"""Least ratio of the number of lines to the number of trials and attributes."""


class _Memory(BaseJournalBackend):
    """A journal that exists only in memory."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


def is_worth_compacting(lines: int, study: optuna.Study) -> bool:
    """Return whether a journal with this many lines should be rewritten before it is used."""
    if lines < FROM_LINES:
        return False
    attributes = len(study.user_attrs) + len(_system_attributes(study))
    return lines >= LEAST_GAIN * (1 + attributes + len(study.get_trials(deepcopy=False)))


def compact(journal: Journal, study: optuna.Study) -> None:
    """Rewrite the journal of a study. At every moment the file is the whole old one or the whole new one.

    The caller holds the driver lock, and opens the journal again. A dashboard that has it open must be restarted.

    Raises:
        StorageError: if it cannot be written.
    """
    with journal.locked():
        logs = _in_fewer_lines(study)  # Optuna reads new lines first, whenever the study is asked
        write_atomically(journal.path, as_lines(logs))


def _in_fewer_lines(study: optuna.Study) -> list[dict[str, Any]]:
    memory = _Memory()
    storage = JournalStorage(memory)
    study_id = storage.create_new_study(study.directions, study.study_name)
    for name, value in _system_attributes(study).items():
        storage.set_study_system_attr(study_id, name, value)
    for name, value in study.user_attrs.items():
        storage.set_study_user_attr(study_id, name, value)
    for frozen in study.get_trials(deepcopy=False):
        storage.create_new_trial(study_id, template_trial=frozen)
    return memory.logs


def _system_attributes(study: optuna.Study) -> dict[str, Any]:
    """Return the attributes that Optuna and its dashboard store with a study."""
    return study._storage.get_study_system_attrs(study._study_id)
