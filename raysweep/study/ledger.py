"""The ledger: an Optuna study in a journal file, the only record of the trials and their results.

Every change of a trial's state is made in this module. A trial is RUNNING in the study from `ask` until `finish`. If a
trial is RUNNING when a driver opens the study, it was left unfinished and goes on. An epoch's metrics are a user
attribute of its trial, and its objective is an intermediate value. Reports, early stopping and resuming follow from
these. Final metrics are user attributes of the study, because Optuna closes a trial once it is told the result. No
entry says that early stopping has paused a trial: it is RUNNING, and its last epoch is a rung (`scheduler.Pausing`).

    state            told to Optuna as   why
    completed        COMPLETE            value: the objective of the last epoch
    pruned           PRUNED              after its last value is reported, so that TPE knows how far it got
    diverged         PRUNED              infeasible, with a NaN step: TPE moves away; it would forget a FAIL
    out_of_memory    FAIL                says nothing about the objective
    failed           FAIL                likewise
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage

from raysweep.clock import timed
from raysweep.confirming import Confirmation
from raysweep.errors import LedgerError, StorageError
from raysweep.metrics import EpochMetrics, FinalMetrics, TrialState
from raysweep.profiles import DriverPart
from raysweep.records import EpochRecord, TrialRecord, diverged_by
from raysweep.search.past import PastSweep, past_from
from raysweep.search.sampling import Ranking, epochs_kept, ranking_for, suggest
from raysweep.search.scheduler import pausing_rule
from raysweep.spec.defaults import settled
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Scalar, optuna_distribution
from raysweep.storage.layout import SweepDirectory, shown, storage_errors
from raysweep.study.compaction import compact, is_worth_compacting
from raysweep.study.entries import (
    CONFIRMS,
    ENQUEUED,
    OUTCOME,
    PLACE,
    PLANNED,
    SEED,
    TOLD,
    epoch_key,
    epoch_row,
    lighten,
    read_epochs,
    read_outcome,
    read_tested,
    read_trial,
    tested_key,
)
from raysweep.study.journal import Journal, described_cut, repair_journal

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STUDY = "raysweep"
SPEC, DESCRIPTION, CHOICES, PAST = "spec", "description", "choices", "past"
"""Attributes of the study: the specification that the sweep runs with, the rest of sweep.yaml, whether TPE treats
numeric choices as ordered, and what was taken over from earlier sweeps."""
ORDERED = "ordered"
"""Value of `CHOICES` if TPE treats them as ordered. Sweeps of earlier versions lack it, and go on as they began."""
CONSTRAINT = "diverged"
_log = logging.getLogger("raysweep")


class Ledger:
    """The trials of one sweep. Only one process at a time writes it: the holder of the directory's driver lock."""

    def __init__(
        self, journal: Journal, study: optuna.Study, spec: SweepSpec, unfinished: TrialState, writable: bool = True
    ) -> None:
        self._journal = journal
        self._study = study
        self._spec = spec = settled(spec)
        self._epochs_kept = epochs_kept(spec)
        self._distributions = {name: optuna_distribution(name, d) for name, d in spec.trial.searched.items()}
        self._metric = spec.search.objective.metric
        self._open: dict[int, int] = {}
        """Optuna's ids of the trials that have not ended, by number."""
        for frozen in study.get_trials(deepcopy=False):
            if frozen.distributions == self._distributions:
                frozen._distributions = self._distributions  # one object that all trials share
            if not frozen.state.is_finished():
                self._open[frozen.number] = frozen._trial_id
        self._rungs: dict[int, dict[int, float]] = {}
        """The rungs that were asked for so far, by epoch."""
        self._trial_ids: dict[int, int] = {}
        self._records: dict[int, TrialRecord] = {}
        self._are_choices_ordered = study.user_attrs.get(CHOICES) == ORDERED or not study.get_trials(deepcopy=False)
        self._past = past_from(study.user_attrs.get(PAST, ()))
        self._pausing = pausing_rule(spec)
        self._paused: dict[int, int] = {}
        self._confirming: set[int] = set()
        """Numbers of the trials that confirm others."""
        if writable:
            self._settle()
        trials = study.get_trials(deepcopy=False)
        self._tested = read_tested(study.user_attrs, len(trials))
        for frozen in trials:
            missing = sorted(set(self._distributions) - set(frozen.params))
            if missing and not frozen.state.is_finished() and not writable:
                continue  # an unfinished `ask` of an older raysweep, which wrote points value by value
            if missing:
                raise LedgerError(f"trial {frozen.number}: has no value of {', '.join(missing)}")
            self._trial_ids[frozen.number] = frozen._trial_id
            self._take(self._read(frozen, unfinished))
        for number in self.unfinished():  # after all are read: whether one pauses depends on the others
            self.pause(number)

    @classmethod
    @timed(DriverPart.LEDGER)
    def create(cls, directory: SweepDirectory, spec: SweepSpec, description: Mapping[str, Any] | None = None) -> Ledger:
        """Create a study in an empty journal; `description` is the rest of sweep.yaml.

        Raises:
            StorageError: if the journal cannot be written.
        """
        _quiet()
        with storage_errors(directory.journal):
            directory.journal.touch()
        journal = Journal(directory.journal)
        study = optuna.create_study(
            study_name=STUDY,
            storage=JournalStorage(journal),
            direction="maximize" if spec.search.objective.direction == "max" else "minimize",
        )
        ledger = cls(journal, study, spec, TrialState.RUNNING)
        ledger.describe(description or {})
        return ledger

    @classmethod
    @timed(DriverPart.LEDGER)
    def open(cls, directory: SweepDirectory, spec: SweepSpec, *, writable: bool, running: bool = True) -> Ledger:
        """Open the study of a sweep. `writable` repairs the journal first, so the caller must hold the driver lock.

        `running` says whether a driver is at work: if so, unfinished trials are running, otherwise interrupted.

        Raises:
            LedgerError: if the journal is missing, holds no study of raysweep, or cannot be read; naming the damaged
                line or trial.
            StorageError: if the journal cannot be repaired.
        """
        _quiet()
        if writable:
            cut = repair_journal(directory.journal)
            if cut:
                _log.warning("%s: %s", shown(directory.journal), described_cut(cut))
        if not directory.journal.exists() or not directory.journal.stat().st_size:
            if writable and not directory.trials.exists():  # the driver that made the sweep died before its first trial
                return cls.create(directory, spec)
            found = "is empty" if directory.journal.exists() else "is missing"
            raise LedgerError(f"{shown(directory.journal)}: {found}; bring it back, it is the record of the sweep")
        journal, study = _open_study(directory)
        # Not if a bucket has a copy: the newer one of the two is the one that begins with the other.
        if writable and directory.origin is None and is_worth_compacting(journal.line, study):
            journal, study = _compacted(directory, journal, study)
        try:
            return cls(journal, study, spec, TrialState.RUNNING if running else TrialState.INTERRUPTED, writable)
        except StorageError:
            raise
        except Exception as error:  # a journal from someone else can hold anything
            if isinstance(error, LedgerError) and str(error).startswith(shown(directory.journal)):
                raise
            raise LedgerError(
                f"{shown(directory.journal)}: {error}; restore the file from a copy, or start a new sweep"
            ) from error

    def records(self) -> list[TrialRecord]:
        """Return every trial so far, by number."""
        return [self._records[number] for number in sorted(self._records)]

    def record(self, number: int) -> TrialRecord:
        return self._records[number]

    @property
    def searched(self) -> int:
        """Number of trials of the search, without those that confirm others."""
        return len(self._records) - len(self._confirming)

    @property
    def ended(self) -> int:
        """Number of trials of the search that have ended."""
        return self.searched - len(self._open.keys() - self._confirming)

    def unfinished(self) -> list[int]:
        """Return the numbers of the trials that have not ended."""
        return [number for number, record in sorted(self._records.items()) if record.ended_at is None]

    @property
    def paused(self) -> Mapping[int, int]:
        """The epoch at which each paused trial stands, by number; this is the ledger's own mapping, not a copy."""
        return self._paused

    def pause(self, number: int) -> bool:
        """Record that no process trains a trial; return whether it pauses at its last epoch."""
        record = self._records[number]
        if self._pausing is None or record.ended_at is not None or record.confirms is not None or not record.epochs:
            return False
        if diverged_by(record.epochs[-1], self._metric) is not None:  # its driver died before it recorded this
            return False
        if not self._pausing.holds(number, len(record.epochs), self.values_at):
            return False
        self._paused[number] = len(record.epochs)
        self._records[number] = dataclasses.replace(record, state=TrialState.PAUSED)
        read_epochs(self._frozen(number))  # Converts its epochs to their compact form: it may wait for a long time.
        return True

    def go_on(self, number: int) -> TrialRecord:
        """Record that a paused trial is handed to a process."""
        del self._paused[number]
        self._records[number] = dataclasses.replace(self._records[number], state=TrialState.RUNNING)
        return self._records[number]

    @timed(DriverPart.LEDGER)
    def ask(self) -> TrialRecord:
        """Start the next trial: the next enqueued point or grid point, otherwise what the sampler suggests.

        The trial is one line of the journal with its whole point, so it is never there in part.

        Raises:
            StorageError: if the journal cannot be written.
        """
        is_enqueued = self.searched < len(self._spec.search.enqueue)
        return self._begin(self._suggest(len(self._records)), {ENQUEUED: is_enqueued})

    @timed(DriverPart.LEDGER)
    def confirm(self, confirmation: Confirmation) -> TrialRecord:
        """Start a trial that trains the configuration of another one again, with another seed.

        Raises:
            StorageError: if the journal cannot be written.
        """
        params = self._records[confirmation.confirms].params
        told = {CONFIRMS: confirmation.confirms, SEED: confirmation.seed, PLANNED: confirmation.planned}
        return self._begin(params, told)

    def _begin(self, params: Mapping[str, Any], attributes: dict[str, Any]) -> TrialRecord:
        """Write the journal line of a trial that starts."""
        begun = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=dict(params),
            distributions=self._distributions,
            user_attrs=attributes,
        )
        storage, number = self._study._storage, len(self._records)
        frozen = storage.get_trial(storage.create_new_trial(self._study._study_id, template_trial=begun))
        frozen._distributions = self._distributions  # the shared object; Optuna has parsed its own copy
        self._trial_ids[number] = self._open[number] = frozen._trial_id
        return self._take(self._read(frozen, TrialState.RUNNING))

    def _take(self, record: TrialRecord) -> TrialRecord:
        """Store a record, also in the record of the trial that it confirms."""
        before = self._records.get(record.number)
        if before is not None and before.confirmed_by:
            record = dataclasses.replace(record, confirmed_by=before.confirmed_by)
        self._records[record.number] = record
        if record.confirms is not None:
            self._confirming.add(record.number)
            original = self._records[record.confirms]
            others = (other for other in original.confirmed_by if other.number != record.number)
            by = tuple(sorted((*others, record), key=lambda other: other.number))
            self._records[record.confirms] = dataclasses.replace(original, confirmed_by=by)
        return record

    @timed(DriverPart.LEDGER)
    def describe(self, description: Mapping[str, Any]) -> None:
        """Record the specification that the sweep runs with from now on, and the rest of sweep.yaml.

        Raises:
            StorageError: if the journal cannot be written.
        """
        rest = {key: value for key, value in description.items() if key != SPEC}
        wanted: dict[str, Any] = {} if self._records else {CHOICES: ORDERED}
        wanted |= {SPEC: self._spec.as_mapping(), **({DESCRIPTION: rest} if rest else {})}
        known = self._study.user_attrs
        with self._journal.at_once():
            for name, value in wanted.items():
                if known.get(name) != value:
                    self._study.set_user_attr(name, value)

    @property
    def past(self) -> tuple[PastSweep, ...]:
        """The trials that were taken over from earlier sweeps."""
        return self._past

    @property
    def lacks_past(self) -> bool:
        """Return whether the sweep must still take over earlier sweeps: it starts from some, but has no trial yet."""
        return bool(self._spec.search.start_from) and not self._past and not self._records

    @timed(DriverPart.LEDGER)
    def start_from(self, past: tuple[PastSweep, ...]) -> None:
        """Record what the sampler should know of earlier sweeps, before the first trial.

        Raises:
            StorageError: if the journal cannot be written.
        """
        if past:
            self._study.set_user_attr(PAST, [one.as_mapping() for one in past])
        self._past = past

    @timed(DriverPart.LEDGER)
    def add_epoch(self, number: int, metrics: EpochMetrics, node: str, device: str) -> TrialRecord:
        """Record the result of one epoch. A known result, sent again after a crash, changes nothing.

        Raises:
            LedgerError: if an epoch before this one is missing.
            StorageError: if the journal cannot be written.
        """
        record = self._records[number]
        done = len(record.epochs)
        if metrics.epoch > done + 1:
            raise LedgerError(f"trial {number}: epoch {metrics.epoch} came after epoch {done}")
        if metrics.epoch <= done:
            return record
        now = datetime.now(UTC)
        storage, trial_id = self._study._storage, self._trial_ids[number]
        with self._journal.at_once():
            if (record.node, record.device) != (node, device):
                storage.set_trial_user_attr(trial_id, PLACE, {"node": node, "device": device})
            storage.set_trial_user_attr(trial_id, epoch_key(metrics.epoch), epoch_row(metrics, now))
            self._set_value(trial_id, metrics)
        epochs = (*record.epochs, EpochRecord.of(metrics, now))
        self._take(dataclasses.replace(record, epochs=epochs, node=node, device=device))
        if metrics.epoch in self._rungs and record.confirms is None:
            self._rungs[metrics.epoch][number] = self._objective(metrics)
        if "_ranking" in vars(self):
            self._ranking.add(self._frozen(number))
        return self._records[number]

    @timed(DriverPart.LEDGER)
    def finish(self, number: int, state: TrialState, cause: str, error: str | None = None) -> TrialRecord:
        """End a trial whose last epoch is recorded, and tell the sampler.

        Raises:
            StorageError: if the journal cannot be written.
        """
        self._end(self._trial_ids[number], self._records[number].epochs, state, cause, error)
        self._paused.pop(number, None)
        return self._take(self._read(self._frozen(number), TrialState.RUNNING))

    @timed(DriverPart.LEDGER)
    def add_tested(self, number: int, metrics: FinalMetrics) -> TrialRecord:
        """Record the final metrics of a trial that has ended; they replace earlier ones.

        Raises:
            StorageError: if the journal cannot be written.
        """
        self._study.set_user_attr(tested_key(number), dataclasses.asdict(metrics))
        self._tested[number] = metrics
        self._records[number] = dataclasses.replace(self._records[number], tested=metrics)
        return self._records[number]

    def values_at(self, epoch: int) -> Mapping[int, float]:
        """Return a rung: the objective of every trial of the search that has reached `epoch`, by number.

        The mapping is the ledger's own, and grows as trials arrive.
        """
        if epoch not in self._rungs:
            self._rungs[epoch] = {
                number: self._objective(record.epochs[epoch - 1].metrics)
                for number, record in self._records.items()
                if len(record.epochs) >= epoch and record.confirms is None
            }
        return self._rungs[epoch]

    def _settle(self) -> None:
        """Complete what a driver that died had begun: an `ask`, an `add_epoch`, or a `finish`.

        This happens before any trial goes on, because the sampler's suggestion depends on how far the others are.
        """
        storage = self._study._storage
        for frozen in self._study.get_trials(deepcopy=False):
            trial_id = frozen._trial_id
            if frozen.state.is_finished():
                continue
            missing = [name for name in self._distributions if name not in frozen.params]
            if missing:
                point = self._suggest(frozen.number)
                with self._journal.at_once():
                    for name in missing:
                        distribution = self._distributions[name]
                        internal = distribution.to_internal_repr(point[name])
                        storage.set_trial_param(trial_id, name, internal, distribution)
            if frozen.state is optuna.trial.TrialState.WAITING:
                storage.set_trial_state_values(trial_id, optuna.trial.TrialState.RUNNING)
            epochs = read_epochs(frozen)
            for epoch in epochs:
                if epoch.metrics.epoch not in frozen.intermediate_values:
                    self._set_value(trial_id, epoch.metrics)
            outcome = read_outcome(frozen)
            if outcome is not None:
                state, cause, error = outcome
                self._end(trial_id, epochs, state, cause, error)
        vars(self).pop("_ranking", None)  # it was made before all trials were settled

    def _objective(self, metrics: EpochMetrics) -> float:
        return float(getattr(metrics, self._metric))

    def _set_value(self, trial_id: int, metrics: EpochMetrics) -> None:
        value = self._objective(metrics)
        self._study._storage.set_trial_intermediate_value(
            trial_id, metrics.epoch, value if math.isfinite(value) else math.nan
        )

    def _end(
        self, trial_id: int, epochs: tuple[EpochRecord, ...], state: TrialState, cause: str | None, error: str | None
    ) -> None:
        """Tell Optuna how a trial ended: the outcome first, so that `_settle` can complete what a crash cuts off."""
        storage, told = self._study._storage, TOLD[state]
        last = self._objective(epochs[-1].metrics) if epochs else math.nan
        values = None
        with self._journal.at_once():
            storage.set_trial_user_attr(trial_id, OUTCOME, {"state": state.value, "cause": cause, "error": error})
            if state is TrialState.DIVERGED:
                storage.set_trial_intermediate_value(trial_id, max(1, len(epochs)), math.nan)
                # Otherwise Optuna ranks pruned trials by their last step, and puts a late divergence before others.
                if CONSTRAINT not in storage.get_trial(trial_id).constraints:
                    optuna.trial.Trial(self._study, trial_id).set_constraint(CONSTRAINT, 1.0)
            elif told is not optuna.trial.TrialState.FAIL and math.isfinite(last):
                values = [last]
            if told is optuna.trial.TrialState.COMPLETE and values is None:
                raise LedgerError(f"a trial cannot be {state.value} without a value of {self._metric}")
            storage.set_trial_state_values(trial_id, told, values)
        frozen = storage.get_trial(trial_id)
        self._open.pop(frozen.number, None)
        if "_ranking" in vars(self):
            self._ranking.add(frozen)

    @timed(DriverPart.SAMPLER)
    def _suggest(self, number: int) -> dict[str, Any]:
        """Return the point of trial `number`, a function of the specification and the other trials' results."""
        given = self._point(number) or {}
        trials = self._study.get_trials(deepcopy=False)
        running = [trials[open_number] for open_number in self._open if open_number not in self._ranking]
        seen = [*self._ranking.view(), *running]
        return suggest(
            self._spec, self._study, number, given, self._distributions, seen, self._are_choices_ordered, self._past,
            self._repeats_before(number),
        )  # fmt: skip

    def _repeats_before(self, number: int) -> int:
        """Return how many trials before this one train others again."""
        return sum(confirming < number for confirming in self._confirming)

    @cached_property
    def _ranking(self) -> Ranking:
        """The trials that the sampler learns from; built on first use, because readers do not need them."""
        ranking = ranking_for(self._spec)
        for frozen in self._study.get_trials(deepcopy=False):
            ranking.add(frozen)
        return ranking

    def _point(self, number: int) -> dict[str, Scalar] | None:
        """Return the point that trial `number` must have; None if the file gives none."""
        search = self._spec.search
        place = number - self._repeats_before(number)
        if place < len(search.enqueue):
            return dict(search.enqueue[place])
        if search.sampler != "grid":
            return None
        return self._grid[place - len(search.enqueue)]

    @cached_property
    def _grid(self) -> list[dict[str, Scalar]]:
        return list(self._spec.trial.grid())

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study._storage.get_trial(self._trial_ids[number])

    def _read(self, frozen: FrozenTrial, unfinished: TrialState) -> TrialRecord:
        record = read_trial(frozen, self._spec, self._distributions, unfinished, self._tested.get(frozen.number))
        if record.ended_at is not None:
            lighten(frozen, record, self._epochs_kept)
        return record


def _open_study(directory: SweepDirectory) -> tuple[Journal, optuna.Study]:
    """Open the journal, read every line, and return it with its study."""
    journal = Journal(directory.journal)
    try:
        return journal, optuna.load_study(study_name=STUDY, storage=JournalStorage(journal))
    except LedgerError:
        raise
    except KeyError as error:
        if journal.line and error.args == ("Record does not exist.",):
            raise LedgerError(f"{shown(directory.journal)}: holds no study of raysweep") from error
        journal.refuse(f"{type(error).__name__}")
    except OSError as error:
        raise LedgerError(f"{shown(directory.journal)}: cannot be read: {error.strerror}") from error
    except Exception as error:  # noqa: BLE001 (Optuna trusts its journal, and fails in as many ways as lines can)
        journal.refuse(f"{type(error).__name__}: {str(error)[:200]}")


def _compacted(directory: SweepDirectory, journal: Journal, study: optuna.Study) -> tuple[Journal, optuna.Study]:
    """Return the journal and the study with a line for each trial; unchanged if that cannot be written."""
    lines = journal.line
    try:
        compact(journal, study)
    except StorageError as error:
        _log.warning("the journal could not be compacted: %s", error)
    journal, study = _open_study(directory)  # after an error too: the new journal may already be in place
    if journal.line < lines:
        _log.info("the journal was compacted: %d lines before, %d now", lines, journal.line)
    return journal, study


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
