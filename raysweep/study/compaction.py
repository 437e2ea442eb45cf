"""A journal in fewer lines: one for each trial, with all that the many lines about it came to.

Every epoch and every end of a trial is a line or more, which Optuna replays one by one when a study is opened. A driver
that opens a long journal writes it anew, so that what a sweep was is read in a line a trial by all who come after. The
format stays Optuna's, and Optuna writes it: optuna-dashboard opens it as before.
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
"""Lines from which on it is worth its time: opening a journal of so many takes about half a second."""
LEAST_GAIN = 2
"""How many times as many lines as trials and attributes there must be."""


class _Memory(BaseJournalBackend):
    """A journal that is nowhere but here."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


def is_worth_compacting(lines: int, study: optuna.Study) -> bool:
    """Whether a journal of so many lines should be written anew before it is worked on."""
    if lines < FROM_LINES:
        return False
    attributes = len(study.user_attrs) + len(_system_attributes(study))
    return lines >= LEAST_GAIN * (1 + attributes + len(study.get_trials(deepcopy=False)))


def compact(journal: Journal, study: optuna.Study) -> None:
    """Writes the journal of a study anew. It is the old one or the new one, whole, at every moment.

    The caller holds the driver lock, and opens the journal again. A dashboard that has it open has to be started again.

    Raises:
        StorageError: if it cannot be written.
    """
    with journal.locked():
        logs = _in_fewer_lines(study)  # which Optuna brings up to date as it is asked
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
    """What Optuna and its dashboard keep with a study."""
    return study._storage.get_study_system_attrs(study._study_id)
