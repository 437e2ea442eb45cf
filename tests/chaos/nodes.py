"""A small Ray cluster of this machine's own, whose nodes can be killed and added again."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from tests.chaos.processes import kill

OBJECT_STORE_BYTES = 80 << 20


class Nodes:
    """A head without CPUs in this process, and worker nodes of one CPU each."""

    def __init__(self, count: int, environment: Mapping[str, str]) -> None:
        from ray.cluster_utils import Cluster

        self._environment = environment
        with self._surroundings():
            self._cluster = Cluster(
                initialize_head=True,
                head_node_args={
                    "num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES,
                },
            )  # fmt: skip
        self._workers: list[Any] = []
        for _ in range(count):
            self.add()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        """Adds a worker node and waits until the cluster knows it."""
        with self._surroundings():
            node = self._cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)
        self._workers.append(node)

    def kill_one(self, chance: random.Random) -> None:
        """Kills the raylet of a worker node with -9, and takes away what it leaves."""
        node = self._workers.pop(chance.randrange(len(self._workers)))
        kill(node.all_processes["raylet"][0].process.pid)
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """The environment of the cluster's processes, which inherit that of this one."""
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("RAY_")]:
                patch.delenv(name)
            for name, value in self._environment.items():
                patch.setenv(name, value)
            yield
