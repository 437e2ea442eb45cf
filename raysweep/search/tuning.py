"""Ray Tune, wrapped thinly: it places actors and moves reports; the session decides everything else."""

from __future__ import annotations

import logging
import tempfile
from typing import Any

from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raysweep.errors import RaysweepError
from raysweep.metrics import TrialState
from raysweep.search.session import Session
from raysweep.search.trial import ORDER, REPORT, TrialActor

MAX_ACTOR_DEATHS = 3
"""How often a trial whose actor or node died starts again from its checkpoint before it counts as failed."""


class _OrderSearcher(Searcher):  # type: ignore[misc]
    """Hands out the session's orders as Tune's suggestions."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        try:
            order = self._session.next_order()
        except RaysweepError as error:
            self._session.stop("an error", error)
            return Searcher.FINISHED
        if order is None:
            return Searcher.FINISHED
        return {ORDER: order}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to learn: the session knows how trials end."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the ledger has it."""


class _SessionScheduler(FIFOScheduler):  # type: ignore[misc]
    """Sees every report first, and stops the trials that the session says are over."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        try:
            over = self._session.receive(trial.config[ORDER].number, result[REPORT])
        except RaysweepError as error:
            self._session.stop("an error", error)
            over = True
        return str(TrialScheduler.STOP if over else TrialScheduler.CONTINUE)


class _SessionStopper(tune.Stopper):  # type: ignore[misc]
    """Ends the run when the session wants it to end."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._session.should_stop()


class _Watch(tune.Callback):  # type: ignore[misc]
    """Tells the session that time passes, about ten times a second, and which trials are lost for good."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._session.tick()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Only for an actor or a node that died more often than is retried: what a trial raises is a report."""
        error = trial.get_error()
        no_memory = isinstance(error, OutOfMemoryError) or "out of memory" in str(error).lower()
        state = TrialState.OUT_OF_MEMORY if no_memory else TrialState.FAILED
        cause = f"its worker process died {MAX_ACTOR_DEATHS + 1} times"
        try:
            self._session.lose(trial.config[ORDER].number, state, cause, str(error))
        except RaysweepError as storage:
            self._session.stop("an error", storage)


def run_trials(session: Session) -> None:
    """Trains the session's remaining trials on the Ray this process is connected to; returns when it is over."""
    # It looks for Tune's own result files, which the ledger replaces, and warns of each that it misses.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.CRITICAL)
    resources = {"cpu": session.slots.cpu, "gpu": session.slots.gpu}
    with tempfile.TemporaryDirectory(prefix="raysweep-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(TrialActor, {name: amount for name, amount in resources.items() if amount}),
            tune_config=tune.TuneConfig(
                num_samples=session.remaining,
                search_alg=_OrderSearcher(session),
                scheduler=_SessionScheduler(session),
                max_concurrent_trials=session.slots.count,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                verbose=0,
                stop=_SessionStopper(session),
                callbacks=[_Watch(session)],
                failure_config=tune.FailureConfig(max_failures=MAX_ACTOR_DEATHS),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        tuner.fit()
