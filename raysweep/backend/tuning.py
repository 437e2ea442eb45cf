"""Ray Tune, wrapped thinly: it places actors and moves reports; the session decides everything else.

A trial of Tune is a slot: an actor with its share of a machine, which trains one of raysweep's trials after another, or
several of one shape together. If raysweep's trials were trials of Tune, Tune would keep the objects of all of them, and
look through them, until the sweep ends; and two trials could not share an actor.
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
        """Return nothing to pickle, as the session does: Tune pickles what it is given."""
        return {}

    def fill(self, slot: str) -> list[TrialOrder]:
        """Give the slot as many more trials as it can take now, and return their orders."""
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
        """Return the numbers of the trials that the slot holds."""
        return self._held.get(slot, [])

    def leave(self, slot: str, numbers: Collection[int]) -> None:
        """Note that the slot no longer holds these trials."""
        self._held[slot] = [number for number in self._held[slot] if number not in numbers]

    def vacate(self, slot: str) -> list[int]:
        """Note that the slot has ended; return the numbers of the trials that it still held."""
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
        if not error:  # otherwise `_Watch.on_trial_error` comes next, and must know which trials the slot held
            self._slots.vacate(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger has all there is to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger has all there is to restore."""


class _SessionScheduler(FIFOScheduler):  # type: ignore[misc]
    """Sees every report first, and gives a slot its next trial when the session ends the one it holds."""

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
        if over and not has_failed:  # after a failure its process is about to end
            orders = self._slots.fill(slot)
            if not self._slots.numbers(slot):
                return str(TrialScheduler.STOP)
            # An actor executes the calls of one process in their order, so this comes before the next epoch.
            trial.temporary_state.ray_actor.take.remote(over, orders)
            for order in orders:
                self._session.started(order.number)
        return str(TrialScheduler.CONTINUE)


def _forget_results(wrapper: Any, trial: Any) -> None:
    """Make Tune drop the results that it has passed on.

    Tune keeps them until an actor ends, and Ray keeps some kB of each. A slot's actor lives as long as the sweep does,
    and each epoch of its trials is a result.
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
                    # Tune would wait for their current epochs.
                    ray.kill(actor)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        for number in self._slots.numbers(trial.trial_id):
            self._session.started(number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell the session that an actor is gone: it reported a failure, was killed, or its machine was lost."""
        error = Path(trial.error_file)  # the only record of the error at Tune that is not pickled
        text = plain(error.read_text(errors="replace")) if error.exists() else ""
        try:
            self._session.lose(self._slots.vacate(trial.trial_id), *what_happened(text), text)
        except RaysweepError as storage:
            self._session.stop("an error", storage)


class _Lost(BaseException):
    """Ray is gone. This is not an Exception, because after one Tune would ask Ray to clean up."""


_kept: list[_Lost] = []
"""Keeps Tune's objects alive after Ray is gone: their garbage collection would ask Ray to clean up, and wait a minute.
"""


def _resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    share = config[ORDERS][0].share
    return tune.PlacementGroupFactory([{"CPU": share.cpu, **({"GPU": share.gpu} if share.gpu else {})}])


@timed(DriverPart.LOOP)
def run_trials(session: Session) -> None:
    """Train the session's remaining trials on the connected Ray; return when the session is over or should stop."""
    # The first looks for Tune's own result files, which the ledger replaces, and warns of each missing one; the second
    # lists trials that are tried again as failed.
    for name in ("ray.tune.analysis.experiment_analysis", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    slots = _SlotTrials(session)
    with tempfile.TemporaryDirectory(prefix="raysweep-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(TrialActor, _resources),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # as many as the session wants: after a fault a new slot is made
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
            # With Tune's variable for PyTorch Lightning, trials could not use the processes that Ray has prestarted.
            with replaced(class_cache, DEFAULT_ENV_VARS={}):
                tuner.fit()
        except _Lost as lost:
            _kept.append(lost)
            session.lose_ray()
