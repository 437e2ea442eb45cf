"""The tests of finalists on the test split: Ray tasks with a trial's resources, after all trials have ended.

The ledger alone determines the finalists, so if a session is cut short here, `resume` measures the others.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, TaskCancelledError

from raysweep.backend.autoscaling import refit
from raysweep.backend.connection import LOOK_S, ray_has_ended
from raysweep.backend.raywords import plain, what_happened
from raysweep.backend.resources import cluster_nodes, fit
from raysweep.clock import timed
from raysweep.driver.session import Session
from raysweep.errors import ResourcesError
from raysweep.messages import TrialFault
from raysweep.profiles import DriverPart
from raysweep.worker.measuring import measure

POLL_S = 0.1


@timed(DriverPart.LOOP)
def run_tests(session: Session) -> None:
    """Measure every finalist of the session that has no final metrics yet; return when that is done.

    Finalists are measured even if the time budget is spent. Any other stop ends the measuring.
    """
    waiting = session.to_test()
    session.testing = True
    running: dict[Any, _Test] = {}
    task_of = ray.remote(measure).options(num_cpus=session.slots.cpu, num_gpus=session.slots.gpu, max_retries=0)
    looked = -math.inf
    while waiting or running:
        if session.should_stop_testing():
            for task in running:
                ray.cancel(task, force=True)
            return
        while waiting and len(running) < session.slots.count:
            number = waiting.pop(0)
            running[task_of.remote(session.test_order(number))] = _Test(number)
        done, _ = ray.wait(list(running), timeout=POLL_S)
        for task in done:
            number = running.pop(task).number
            try:
                session.receive_tested(number, ray.get(task))
            except RayError as error:
                if session.lose_test(number, *_what_happened(error), plain(str(error))):
                    waiting.insert(0, number)
        for task, test in running.items():
            if test.since is not None and session.is_overdue(test.since):
                ray.cancel(task, force=True)  # frozen: it has not ended itself
        session.tick()
        if time.monotonic() - looked > LOOK_S:
            if ray_has_ended():
                session.lose_ray()
                return
            session.resize(refit(session.spec, session.slots))
            looked = time.monotonic()
            for test in list(running.values())[: _places(session)]:
                test.since = test.since or looked


@dataclass
class _Test:
    """A finalist that is being measured, or waits for a machine."""

    number: int
    since: float | None = None
    """Earliest time, by the monotonic clock, at which it can have begun: machines take tasks in order."""


def _places(session: Session) -> int:
    """Return how many tests the present machines can hold."""
    try:
        return fit(session.spec, cluster_nodes()).count
    except ResourcesError:
        return 0


def _what_happened(error: RayError) -> tuple[TrialFault, str]:
    """Return why a task has no result, from Ray's error. A cancelled task is one that hung."""
    if isinstance(error, TaskCancelledError):
        return TrialFault.HANG, "it did not end within search.epoch_timeout"
    if isinstance(error, OutOfMemoryError):
        return TrialFault.OUT_OF_MEMORY, "its machine ran out of memory, and its process was ended"
    if isinstance(error, NodeDiedError):
        return TrialFault.NODE_LOSS, "its machine was lost"
    return what_happened(str(error))
