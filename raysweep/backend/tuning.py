"""Ray Tune, wrapped thinly: it places actors and moves reports; the session decides everything else.

What Tune takes for a trial is a slot: an actor with its share of a machine, which trains one of raysweep's trials after
another, or several of one shape together. Else Tune would keep a trial's objects, and look through those of all trials,
until the sweep ends; and could not have two trials share an actor.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raysweep.backend.autoscaling import refit
from raysweep.backend.connection import LOOK_S, ray_has_ended, replaced
from raysweep.backend.raywords import plain, what_happened
from raysweep.clock import timed
from raysweep.driver.session import Session
from raysweep.errors import RaysweepError
from raysweep.messages import Share, TrialOrder
from raysweep.profiles import DriverPart
from raysweep.worker.actor import ORDERS, REPORTS, TrialActor


class _SlotTrials:
    """Which trials each slot holds, by Tune's id of the slot."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._held: dict[str, list[int]] = {}
        self._shares: dict[str, Share] = {}

    def __getstate__(self) -> dict[str, object]:
        """Nothing, as the session: Tune pickles what it is given."""
        return {}

    def fill(self, slot: str) -> list[TrialOrder]:
        """The trials that the slot holds from here on beside those that it has; none if there are none for it now."""
        held, came = self._held.setdefault(slot, []), []
        try:
            while (order := self._session.next_order(self._shares.get(slot), held)) is not None:
                held.append(order.number)
                self._shares[slot] = order.share
                came.append(order)
        except RaysweepError as error:
            self._session.stop("an error", error)
        return came

    def numbers(self, slot: str) -> list[int]:
        """The numbers of the trials that the slot holds."""
        return self._held.get(slot, [])

    def leave(self, slot: str, numbers: Collection[int]) -> None:
        """Takes the news that the slot holds these trials no more."""
        self._held[slot] = [number for number in self._held[slot] if number not in numbers]

    def vacate(self, slot: str) -> list[int]:
        """Takes the news that the slot has ended; the numbers of the trials that it still held."""
        self._shares.pop(slot, None)
        return self._held.pop(slot, [])


class _OrderSearcher(Searcher):  # type: ignore[misc]
    """Suggests slots to Tune, for as many of the session's orders as can be out at once."""

    def __init__(self, session: Session, slots: _SlotTrials) -> None:
        super().__init__()
        self._session = session
        self._slots = slots

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        orders = self._slots.fill(trial_id)
        if orders:
            return {ORDERS: orders}
        self._slots.vacate(trial_id)
        return Searcher.FINISHED if self._session.is_over else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not error:  # else the watch hears of it next, and has to know which trials it held
            self._slots.vacate(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the ledger has it."""


class _SessionScheduler(FIFOScheduler):  # type: ignore[misc]
    """Sees every report first, and hands a slot its next trial when the session says that the one it holds is over."""

    def __init__(self, session: Session, slots: _SlotTrials) -> None:
        super().__init__()
        self._session = session
        self._slots = slots

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        slot = trial.trial_id
        _forget_results(tune_controller, trial)
        try:
            over = [number for number, report in result[REPORTS] if self._session.receive(number, report)]
        except RaysweepError as error:
            self._session.stop("an error", error)
        if self._session.stopped_by is not None:
            self._session.release(self._slots.numbers(slot))
            return str(TrialScheduler.STOP)
        self._slots.leave(slot, over)
        has_failed = any(report.metrics is None for _, report in result[REPORTS])
        if over and not has_failed:  # else its process is about to end
            orders = self._slots.fill(slot)
            if not self._slots.numbers(slot):
                return str(TrialScheduler.STOP)
            # An actor does what one process asks of it in that order: this comes before the next epoch.
            trial.temporary_state.ray_actor.take.remote(over, orders)
            for order in orders:
                self._session.started(order.number)
        return str(TrialScheduler.CONTINUE)


def _forget_results(wrapper: Any, trial: Any) -> None:
    """Has Tune let go of the results that it has passed on: it keeps them until an actor ends, and Ray some kB of each.

    A slot's actor lives as long as the sweep does, and each of its trials' epochs is a result.
    """
    controller = wrapper._tune_controller  # the wrapper would write a warning into the log
    manager = controller._actor_manager
    results = manager._tracked_actors_to_task_futures[controller._trial_to_actor[trial]]
    results.intersection_update(manager._actor_task_events.get_futures())


class _SessionStopper(tune.Stopper):  # type: ignore[misc]
    """Ends the run when the session wants it to end."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._session.should_stop()


class _Watch(tune.Callback):  # type: ignore[misc]
    """Tells the session that time passes, about ten times a second, and what becomes of the trials' processes."""

    def __init__(self, session: Session, slots: _SlotTrials) -> None:
        self._session = session
        self._slots = slots
        self._looked = -math.inf

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._session.tick()
        if time.monotonic() - self._looked > LOOK_S:
            if ray_has_ended():
                raise _Lost
            self._session.resize(refit(self._session.spec, self._session.slots))
            self._looked = time.monotonic()
        doomed = set(self._session.overdue())
        stopping = self._session.should_stop()
        if doomed or stopping:
            for trial in trials:
                actor = trial.temporary_state.ray_actor
                is_doomed = not doomed.isdisjoint(self._slots.numbers(trial.trial_id))
                if actor is not None and (stopping or is_doomed):
                    # Tune would wait for the epochs that they are at.
                    ray.kill(actor)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        for number in self._slots.numbers(trial.trial_id):
            self._session.started(number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An actor is gone: after a failure that it reported, or killed by somebody, or with its whole machine."""
        error = Path(trial.error_file)  # what Tune has of it that is not pickled
        text = plain(error.read_text(errors="replace")) if error.exists() else ""
        try:
            self._session.lose(self._slots.vacate(trial.trial_id), *what_happened(text), text)
        except RaysweepError as storage:
            self._session.stop("an error", storage)


class _Lost(BaseException):
    """Ray is gone. It is no Exception, after which Tune would ask Ray to clean up."""


_kept: list[_Lost] = []
"""Holds what Tune had when Ray went: whoever collected it as garbage would ask Ray to clean up, and wait a minute."""


def _resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    share = config[ORDERS][0].share
    return tune.PlacementGroupFactory([{"CPU": share.cpu, **({"GPU": share.gpu} if share.gpu else {})}])


@timed(DriverPart.LOOP)
def run_trials(session: Session) -> None:
    """Trains the session's remaining trials on the Ray this process is connected to; returns when it is over."""
    # The one looks for Tune's own result files, which the ledger replaces, and warns of each that it misses; the other
    # lists trials that are tried again as failed.
    for name in ("ray.tune.analysis.experiment_analysis", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    slots = _SlotTrials(session)
    with tempfile.TemporaryDirectory(prefix="raysweep-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(TrialActor, _resources),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # until the session has none: after a fault another slot comes
                search_alg=_OrderSearcher(session, slots),
                scheduler=_SessionScheduler(session, slots),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                verbose=0,
                stop=_SessionStopper(session),
                callbacks=[_Watch(session, slots)],
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        try:
            # Its variable for PyTorch Lightning would keep trials from the processes that Ray has started beforehand.
            with replaced(class_cache, DEFAULT_ENV_VARS={}):
                tuner.fit()
        except _Lost as lost:
            _kept.append(lost)
            session.lose_ray()
