"""The ledger: an Optuna study on a journal file, the one record of what was tried and what came of it.

Every transition of a trial stands in this module. A trial is RUNNING in the study from `ask` until `finish`; whatever
the study says is RUNNING when a driver opens it was left unfinished and goes on. An epoch's metrics are a user
attribute of its trial, its objective an intermediate value; reports, early stopping and resuming follow from these.
Final metrics are user attributes of the study, since Optuna closes a trial once it is told.

    state            told to Optuna as   why
    completed        COMPLETE            value: the objective of the last epoch
    pruned           PRUNED              after its last value is reported, so that TPE knows how far it came
    diverged         PRUNED              infeasible, with a NaN step: TPE moves away; a FAIL would be forgotten
    out_of_memory    FAIL                says nothing about the objective
    failed           FAIL                likewise
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import warnings
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from raysweep.errors import LedgerError
from raysweep.layout import SweepDirectory, shown, storage_errors
from raysweep.metrics import EpochMetrics, FinalMetrics, TrialState
from raysweep.records import EpochRecord, TrialRecord
from raysweep.space import Choices, Scalar, optuna_distribution
from raysweep.spec import SweepSpec

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

STUDY = "raysweep"
_TESTED = "tested:"
STARTUP_TRIALS = 8
"""Trials sampled at random before TPE has enough to go by."""
_TOLD = {
    TrialState.COMPLETED: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.DIVERGED: optuna.trial.TrialState.PRUNED,
    TrialState.OUT_OF_MEMORY: optuna.trial.TrialState.FAIL,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}


class Ledger:
    """The trials of one sweep. One process writes it at a time: the holder of the directory's driver lock."""

    def __init__(
        self, journal: Path, study: optuna.Study, spec: SweepSpec, unfinished: TrialState, writable: bool = True
    ) -> None:
        self._journal = journal
        self._study = study
        self._spec = spec
        self._distributions = {name: optuna_distribution(name, d) for name, d in spec.trial.searched.items()}
        self._metric = spec.search.objective.metric
        self._trial_ids: dict[int, int] = {}
        self._records: dict[int, TrialRecord] = {}
        self._tested = {
            int(key.removeprefix(_TESTED)): _final_metrics(row)
            for key, row in study.user_attrs.items()
            if key.startswith(_TESTED)
        }
        for frozen in study.get_trials(deepcopy=False):
            asked = set(frozen.params) == set(self._distributions)  # not yet so while the driver is in `ask`
            if frozen.state is not optuna.trial.TrialState.WAITING and (asked or writable):
                self._trial_ids[frozen.number] = frozen._trial_id
                self._records[frozen.number] = self._read(frozen, unfinished)

    @classmethod
    def create(cls, directory: SweepDirectory, spec: SweepSpec) -> Ledger:
        """A new study in an empty journal.

        Raises:
            StorageError: if the journal cannot be written.
        """
        _quiet()
        with storage_errors(directory.journal):
            study = optuna.create_study(
                study_name=STUDY,
                storage=_storage(directory.journal),
                direction="maximize" if spec.search.objective.direction == "max" else "minimize",
            )
        return cls(directory.journal, study, spec, TrialState.RUNNING)

    @classmethod
    def open(cls, directory: SweepDirectory, spec: SweepSpec, *, writable: bool, running: bool = True) -> Ledger:
        """The study of a sweep. `writable` repairs the journal first: the caller holds the driver lock.

        `running` says whether a driver is at work, which makes unfinished trials running ones rather than interrupted.

        Raises:
            LedgerError: if the journal holds no study of raysweep, or lines in its middle cannot be read.
            StorageError: if the journal cannot be repaired.
        """
        _quiet()
        if writable:
            repair_journal(directory.journal)
        if not directory.journal.exists() or not directory.journal.stat().st_size:
            if writable and not directory.trials.exists():  # the driver that made the sweep died before its first trial
                return cls.create(directory, spec)
            raise LedgerError(f"{shown(directory.journal)}: is missing; bring it back, it is the record of the sweep")
        try:
            study = optuna.load_study(study_name=STUDY, storage=_storage(directory.journal))
            unfinished = TrialState.RUNNING if running else TrialState.INTERRUPTED
            return cls(directory.journal, study, spec, unfinished, writable)
        except (KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
            raise LedgerError(f"{shown(directory.journal)}: is no study journal that can be read: {error!r}") from error

    def records(self) -> list[TrialRecord]:
        """Every trial so far, by number."""
        return [self._records[number] for number in sorted(self._records)]

    def record(self, number: int) -> TrialRecord:
        return self._records[number]

    def unfinished(self) -> list[int]:
        """Numbers of the trials that have not ended."""
        return [number for number, record in sorted(self._records.items()) if record.ended_at is None]

    def ask(self) -> TrialRecord:
        """Starts the next trial: the next enqueued point or grid point, else what the sampler suggests.

        Raises:
            StorageError: if the journal cannot be written.
        """
        number = len(self._records)
        waiting = any(t.state is optuna.trial.TrialState.WAITING for t in self._study.get_trials(deepcopy=False))
        point = self._point(number)
        enqueued = number < len(self._spec.search.enqueue)
        self._study.sampler = make_sampler(self._spec, number)
        with storage_errors(self._journal):
            if point is not None and not waiting:
                self._study.enqueue_trial(point, user_attrs={"enqueued": enqueued})
            trial = self._study.ask(self._distributions)
        self._trial_ids[trial.number] = trial._trial_id
        self._records[trial.number] = self._read(self._frozen(trial.number), TrialState.RUNNING)
        return self._records[trial.number]

    def complete_point(self, number: int) -> TrialRecord:
        """Samples what an `ask` that was cut short has left open of an unfinished trial."""
        record = self._records[number]
        if set(record.params) != set(self._distributions):
            self._study.sampler = make_sampler(self._spec, number)
            trial = optuna.trial.Trial(self._study, self._trial_ids[number])
            for name, distribution in self._distributions.items():
                if isinstance(distribution, optuna.distributions.CategoricalDistribution):
                    trial.suggest_categorical(name, distribution.choices)
                elif isinstance(distribution, optuna.distributions.IntDistribution):
                    trial.suggest_int(
                        name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
                    )
                elif isinstance(distribution, optuna.distributions.FloatDistribution):
                    trial.suggest_float(
                        name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
                    )
            self._records[number] = self._read(self._frozen(number), TrialState.RUNNING)
        return self._records[number]

    def add_epoch(self, number: int, metrics: EpochMetrics, node: str, device: str) -> TrialRecord:
        """Takes the result of one epoch. One that is here already, re-sent after a crash, changes nothing.

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
        row = {**dataclasses.asdict(metrics), "recorded_at": now.isoformat()}
        value = float(getattr(metrics, self._metric))
        storage, trial_id = self._study._storage, self._trial_ids[number]
        with storage_errors(self._journal):
            if (record.node, record.device) != (node, device):
                storage.set_trial_user_attr(trial_id, "place", {"node": node, "device": device})
            storage.set_trial_user_attr(trial_id, f"epoch:{metrics.epoch:06d}", row)
            storage.set_trial_intermediate_value(trial_id, metrics.epoch, value if math.isfinite(value) else math.nan)
        epochs = (*record.epochs, EpochRecord(metrics, now))
        self._records[number] = dataclasses.replace(record, epochs=epochs, node=node, device=device)
        return self._records[number]

    def finish(self, number: int, state: TrialState, cause: str, error: str | None = None) -> TrialRecord:
        """Ends a trial, after its last epoch is in, and tells the sampler.

        Raises:
            StorageError: if the journal cannot be written.
        """
        storage, trial_id = self._study._storage, self._trial_ids[number]
        record = self._records[number]
        with storage_errors(self._journal):
            outcome = {"state": state.value, "cause": cause, "error": error}
            storage.set_trial_user_attr(trial_id, "outcome", outcome)
            if state is TrialState.DIVERGED:
                storage.set_trial_intermediate_value(trial_id, max(1, len(record.epochs)), math.nan)
                # Else Optuna ranks pruned trials by their last step, and one that diverged late before others.
                optuna.trial.Trial(self._study, trial_id).set_constraint("diverged", 1.0)
            told = _TOLD[state]
            value = None
            if told is optuna.trial.TrialState.COMPLETE:
                assert record.final is not None
                value = float(getattr(record.final, self._metric))
            self._study.tell(number, value, told)
        self._records[number] = self._read(self._frozen(number), TrialState.RUNNING)
        return self._records[number]

    def add_tested(self, number: int, metrics: FinalMetrics) -> TrialRecord:
        """Takes the final metrics of a trial that has ended; those that were there are replaced.

        Raises:
            StorageError: if the journal cannot be written.
        """
        with storage_errors(self._journal):
            self._study.set_user_attr(f"{_TESTED}{number:06d}", dataclasses.asdict(metrics))
        self._tested[number] = metrics
        self._records[number] = dataclasses.replace(self._records[number], tested=metrics)
        return self._records[number]

    def values_at(self, epoch: int) -> dict[int, float]:
        """The objective of every trial that has reached `epoch`, by trial number: a rung, whoever stands on it."""
        return {
            number: float(getattr(record.epochs[epoch - 1].metrics, self._metric))
            for number, record in self._records.items()
            if len(record.epochs) >= epoch
        }

    def _point(self, number: int) -> dict[str, Scalar] | None:
        """The point that trial `number` must have, if the file gives one."""
        search = self._spec.search
        if number < len(search.enqueue):
            return dict(search.enqueue[number])
        if search.sampler != "grid":
            return None
        return self._grid[number - len(search.enqueue)]

    @cached_property
    def _grid(self) -> list[dict[str, Scalar]]:
        return list(self._spec.trial.grid())

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study._storage.get_trial(self._trial_ids[number])

    def _read(self, frozen: FrozenTrial, unfinished: TrialState) -> TrialRecord:
        attributes = frozen.user_attrs
        outcome = attributes.get("outcome", {})
        ended = frozen.state.is_finished()
        epochs = []
        for key in sorted(key for key in attributes if key.startswith("epoch:")):
            row = dict(attributes[key])
            recorded_at = datetime.fromisoformat(row.pop("recorded_at"))
            epochs.append(EpochRecord(EpochMetrics(**row), recorded_at))
        params = {name: _as_written(self._spec, name, value) for name, value in frozen.params.items()}
        return TrialRecord(
            number=frozen.number,
            config=self._spec.trial.config(params),
            params={name: params[name] for name in self._spec.trial.searched if name in params},
            state=TrialState(outcome["state"]) if ended else unfinished,
            epochs=tuple(epochs),
            tested=self._tested.get(frozen.number),
            enqueued=bool(attributes.get("enqueued", False)),
            cause=outcome.get("cause") if ended else None,
            error=outcome.get("error") if ended else None,
            started_at=_utc(frozen.datetime_start),
            ended_at=_utc(frozen.datetime_complete),
            node=attributes.get("place", {}).get("node"),
            device=attributes.get("place", {}).get("device"),
        )


def make_sampler(spec: SweepSpec, number: int) -> BaseSampler:
    """The sampler that suggests trial `number`, seeded from (seed, number): a resumed sweep suggests the same."""
    digest = hashlib.sha256(f"{spec.search.seed}:{number}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if spec.search.sampler != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True
        )


def repair_journal(journal: Path) -> None:
    """Cuts off a line that a crash left half-written, and removes the lock of a writer that is gone.

    As it is, Optuna would append the next line to the half one and never read the file again.

    Raises:
        LedgerError: if another line is damaged.
        StorageError: if it cannot be written.
    """
    for lock in journal.parent.glob(f"{journal.name}.lock*"):
        lock.unlink(missing_ok=True)
    if not journal.exists():
        return
    try:
        with storage_errors(journal), open(journal, "r+b") as file:
            content = file.read()
            end = content.rfind(b"\n") + 1
            if end < len(content):
                file.truncate(end)
            for index, line in enumerate(content[:end].splitlines(), start=1):
                try:
                    json.loads(line)
                except ValueError:
                    raise LedgerError(
                        f"{shown(journal)}: line {index} is damaged; restore the file from a copy"
                    ) from None
    except FileNotFoundError:
        return


def _final_metrics(row: dict[str, Any]) -> FinalMetrics:
    """What was written, also by a raysweep that knew fewer or other metrics."""
    known: dict[str, Any] = {field.name: row.get(field.name) for field in dataclasses.fields(FinalMetrics)}
    return FinalMetrics(**{**known, "latent_kl_nats": tuple(row["latent_kl_nats"])})


def _storage(journal: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(journal)))


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _utc(moment: datetime | None) -> datetime | None:
    """Optuna's times are naive and local."""
    return None if moment is None else moment.astimezone(UTC)


def _as_written(spec: SweepSpec, name: str, value: Any) -> Scalar:
    """A parameter as the search space file has it: Optuna gives back a choice's own object, a range's plain number."""
    distribution = spec.trial.searched.get(name)
    if isinstance(distribution, Choices):
        return next(choice for choice in distribution.choices if choice == value and type(choice) is type(value))
    return value  # type: ignore[no-any-return]
