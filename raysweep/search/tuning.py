"""Ray Tune, wrapped thinly: it places actors and moves reports; the session decides everything else.

What Tune takes for a trial is a slot: an actor with its share of a machine, which trains one of raysweep's trials after
another. Else Tune would keep a trial's objects, and look through those of all trials, until the sweep ends.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raysweep.clock import timed
from raysweep.errors import RaysweepError
from raysweep.profiles import DriverPart
from raysweep.search.autoscaling import refit
from raysweep.search.exchange import TrialOrder
from raysweep.search.resources import LOOK_S, ray_has_ended
from raysweep.search.retries import Fault
from raysweep.search.session import Session
from raysweep.search.trial import ORDER, REPORT, TrialActor


class _Holders:
    """Which trial each slot holds, by Tune's id of the slot."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._orders: dict[str, TrialOrder] = {}

    def __getstate__(self) -> dict[str, object]:
        """Nothing, as the session: Tune pickles what it is given."""
        return {}

    def next_order(self, slot: str) -> TrialOrder | None:
        """The trial that the slot holds from here on; None if there is none for it, or none now."""
        before = self._orders.get(slot)
        try:
            order = self._session.next_order(before.share if before else None)
        except RaysweepError as error:
            self._session.stop("an error", error)
            return None
        if order is not None:
            self._orders[slot] = order
        return order

    def number(self, slot: str) -> int:
        """The number of the trial that the slot holds, or held last."""
        return self._orders[slot].number

    def vacate(self, slot: str) -> None:
        """Takes the news that the slot has ended."""
        self._orders.pop(slot, None)


class _OrderSearcher(Searcher):  # type: ignore[misc]
    """Suggests slots to Tune, for as many of the session's orders as can be out at once."""

    def __init__(self, session: Session, holders: _Holders) -> None:
        super().__init__()
        self._session = session
        self._holders = holders

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        order = self._holders.next_order(trial_id)
        if order is not None:
            return {ORDER: order}
        return Searcher.FINISHED if self._session.is_over else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not error:  # else the watch hears of it next, and has to know which trial it was
            self._holders.vacate(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the ledger has it."""


class _SessionScheduler(FIFOScheduler):  # type: ignore[misc]
    """Sees every report first, and hands a slot its next trial when the session says that the one it holds is over."""

    def __init__(self, session: Session, holders: _Holders) -> None:
        super().__init__()
        self._session = session
        self._holders = holders

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        try:
            over = self._session.receive(self._holders.number(trial.trial_id), result[REPORT])
        except RaysweepError as error:
            self._session.stop("an error", error)
            over = True
        if over:
            order = self._holders.next_order(trial.trial_id)
            if order is None:
                return str(TrialScheduler.STOP)
            # An actor does what one process asks of it in that order: this comes before the next epoch.
            trial.temporary_state.ray_actor.take.remote(order)
            self._session.started(order.number)
        return str(TrialScheduler.CONTINUE)


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

    def __init__(self, session: Session, holders: _Holders) -> None:
        self._session = session
        self._holders = holders
        self._looked = -math.inf

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._session.tick()
        if time.monotonic() - self._looked > LOOK_S:
            if ray_has_ended():
                raise _Lost
            self._session.resize(refit(self._session.spec, self._session.slots))
            self._looked = time.monotonic()
        doomed = self._session.overdue()
        stopping = self._session.should_stop()
        if doomed or stopping:
            for trial in trials:
                actor = trial.temporary_state.ray_actor
                if actor is not None and (stopping or self._holders.number(trial.trial_id) in doomed):
                    # Tune would wait for the epochs that they are at.
                    ray.kill(actor)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._session.started(self._holders.number(trial.trial_id))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An actor is gone: after a failure that it reported, or killed by somebody, or with its whole machine."""
        error = Path(trial.error_file)  # what Tune has of it that is not pickled
        text = error.read_text(errors="replace") if error.exists() else ""
        try:
            self._session.lose(self._holders.number(trial.trial_id), *_what_happened(text), text)
        except RaysweepError as storage:
            self._session.stop("an error", storage)
        self._holders.vacate(trial.trial_id)


class _Lost(BaseException):
    """Ray is gone. It is no Exception, after which Tune would ask Ray to clean up."""


_kept: list[_Lost] = []
"""Holds what Tune had when Ray went: whoever collected it as garbage would ask Ray to clean up, and wait a minute."""


def _what_happened(error: str) -> tuple[Fault, str]:
    """Why a process is gone that told nothing, from Ray's own words."""
    if "low on memory" in error:
        return Fault.OUT_OF_MEMORY, "its machine ran out of memory, and its process was ended"
    if "node has died" in error:
        return Fault.NODE_LOSS, "its machine was lost"
    return Fault.DEATH, "its process died"


def _resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    share = config[ORDER].share
    return tune.PlacementGroupFactory([{"CPU": share.cpu, **({"GPU": share.gpu} if share.gpu else {})}])


@timed(DriverPart.LOOP)
def run_trials(session: Session) -> None:
    """Trains the session's remaining trials on the Ray this process is connected to; returns when it is over."""
    # The one looks for Tune's own result files, which the ledger replaces, and warns of each that it misses; the other
    # lists trials that are tried again as failed.
    for name in ("ray.tune.analysis.experiment_analysis", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    holders = _Holders(session)
    with tempfile.TemporaryDirectory(prefix="raysweep-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(TrialActor, _resources),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # until the session has none: after a fault another slot comes
                search_alg=_OrderSearcher(session, holders),
                scheduler=_SessionScheduler(session, holders),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                verbose=0,
                stop=_SessionStopper(session),
                callbacks=[_Watch(session, holders)],
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        except _Lost as lost:
            _kept.append(lost)
            session.lose_ray()
