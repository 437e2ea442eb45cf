"""Trials in simulated time: workers train epochs that take as long as they were recorded to, on no machine at all."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from raysweep.spec.space import Scalar
from searching.problems import Array, Point, Problem


class Job(NamedTuple):
    """A trial to train, from the epoch after `epochs_done` on."""

    trial: int
    point: dict[str, Scalar]
    epochs_done: int = 0


class Searcher(Protocol):
    """A way to search: raysweep itself or a rival, larger values being better."""

    def next_job(self) -> Job | None:
        """Return what a free worker is to train; None if it has to wait for a result of another."""

    def report(self, trial: int, epoch: int, value: float) -> bool:
        """Take the result of an epoch. Return whether the worker trains the trial for one more."""

    def close(self) -> None:
        """Give back what the search holds."""


class Epoch(NamedTuple):
    """One epoch that was trained."""

    end_s: float
    """When it ended, in simulated time."""
    trial: int
    epoch: int
    value: float


@dataclass
class History:
    """Every epoch of one simulated sweep, in the order of time."""

    epochs: list[Epoch] = field(default_factory=list)
    points: dict[int, Point] = field(default_factory=dict)
    suggest_cpu_s: float = 0.0
    """CPU time of asking for what to train."""
    report_cpu_s: float = 0.0
    """CPU time of telling what came of it."""


def simulate(problem: Problem, searcher: Searcher, workers: int, budget: int, seed: int) -> History:
    """Train until `budget` epochs have ended, on so many workers."""
    history, curves, epoch_s = History(), dict[int, Array](), dict[int, float]()
    under_way: list[tuple[float, int, int, int]] = []
    """End, running number, trial and epoch of each epoch at work: of those that end together, the first begun."""
    idle, begun, now = workers, 0, 0.0
    while len(history.epochs) < budget:
        while idle:
            job = _timed_job(searcher, history)
            if job is None:
                break
            if job.trial not in curves:
                curves[job.trial] = problem.curve(job.point, seed, job.trial)
                history.points[job.trial] = job.point
                epoch_s[job.trial] = problem.landscape.epoch_s(job.point)
            idle, begun = idle - 1, begun + 1
            heapq.heappush(under_way, (now + epoch_s[job.trial], begun, job.trial, job.epochs_done + 1))
        if not under_way:
            raise RuntimeError("the search waits for a result, and no trial is at work")
        now, _, trial, epoch = heapq.heappop(under_way)
        value = float(curves[trial][epoch - 1])
        history.epochs.append(Epoch(now, trial, epoch, value))
        before = time.process_time()
        goes_on = searcher.report(trial, epoch, value)
        history.report_cpu_s += time.process_time() - before
        if goes_on:
            if epoch >= problem.max_epochs:
                raise RuntimeError(f"the search trains trial {trial} for more than {problem.max_epochs} epochs")
            begun += 1
            heapq.heappush(under_way, (now + epoch_s[trial], begun, trial, epoch + 1))
        else:
            idle += 1
    return history


def _timed_job(searcher: Searcher, history: History) -> Job | None:
    before = time.process_time()
    job = searcher.next_job()
    history.suggest_cpu_s += time.process_time() - before
    return job
