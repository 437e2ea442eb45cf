"""The actor that Ray Tune places on a machine: a `Worker`, and what only a process of Ray's has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import ray
from ray import tune

from raysweep.clock import process_age_s
from raysweep.messages import TrialOrder
from raysweep.vae.cpu.allocator import keep_freed_memory
from raysweep.worker.process import Notes
from raysweep.worker.training import Worker

REPORTS = "reports"
"""Key of the `EpochReport`s of a result, each with the number of its trial; a list, because Tune flattens mappings."""
ORDERS = "orders"
"""Key of the `TrialOrder`s that a process begins with."""


class TrialFailure(Exception):
    """Ends the actor of a trial that has reported why it cannot go on."""


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """Trains trials, one after another or several together. A trial of Tune is a slot that holds them."""

    def setup(self, config: dict[str, Any]) -> None:
        keep_freed_memory()
        self._raylet = os.getppid()
        age_s = process_age_s() if config[ORDERS][0].is_profiled else None
        self._worker = Worker(config[ORDERS], Notes(), tuple(map(str, ray.get_gpu_ids())), age_s)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.take(self._worker.numbers, new_config[ORDERS])
        return True

    def take(self, over: Iterable[int], orders: Sequence[TrialOrder]) -> None:
        """Let go of the trials that are over and take others."""
        self._worker.take(over, orders)

    def cleanup(self) -> None:
        self._worker.close()

    def step(self) -> dict[str, Any]:
        if self._worker.has_failed:
            raise TrialFailure
        if os.getppid() != self._raylet:  # its node is lost to the cluster, and its trials go on elsewhere
            os._exit(1)
        return {REPORTS: self._worker.step()}
