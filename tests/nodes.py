"""A small Ray cluster of this machine's own, whose nodes can be killed and added again.

It is led by a process of its own, `python -m tests.nodes`: Ray decides when it is imported what it listens on,
and the process of the tests may have had it closed to others by then.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.chaos.processes import kill

OBJECT_STORE_BYTES = 80 << 20
REPOSITORY = Path(__file__).parents[1]


class Nodes:
    """A head without CPUs, and worker nodes, of one CPU each if nothing else is said."""

    def __init__(self, count: int, environment: Mapping[str, str]) -> None:
        self._leader = subprocess.Popen(
            [sys.executable, "-m", "tests.nodes"],
            cwd=REPOSITORY, env=dict(environment), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.address = self._answer()
        self._workers = 0
        for _ in range(count):
            self.add()

    def add(self, resources: Mapping[str, float] | None = None, environment: Mapping[str, str] | None = None) -> None:
        """Adds a worker node and waits until the cluster knows it.

        Args:
            resources: `num_cpus` and `num_gpus`.
            environment: of its processes, beside the cluster's.
        """
        self._ask("add " + json.dumps({**(resources or {"num_cpus": 1}), "env_vars": dict(environment or {})}))
        self._workers += 1

    def kill_one(self, chance: random.Random) -> None:
        """Kills the raylet of a worker node with -9, and takes away what it leaves."""
        self._ask(f"kill {chance.randrange(self._workers)}")
        self._workers -= 1

    def close(self) -> None:
        self._leader.communicate(timeout=60)

    def _ask(self, what: str) -> None:
        assert self._leader.stdin is not None
        print(what, file=self._leader.stdin, flush=True)
        self._answer()

    def _answer(self) -> str:
        assert self._leader.stdout is not None
        for line in self._leader.stdout:
            word, _, answer = line.strip().partition(" ")
            if word == "done":
                return answer
        raise RuntimeError("the cluster has ended")


def lead() -> None:
    """Starts a head and does what the lines of standard input say, until it is closed."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    workers: list[Any] = []
    print("done", cluster.address, flush=True)
    for line in sys.stdin:
        what, _, which = line.partition(" ")
        if what == "add":
            workers.append(cluster.add_node(object_store_memory=OBJECT_STORE_BYTES, **json.loads(which)))
        else:
            node = workers.pop(int(which))
            kill(node.all_processes["raylet"][0].process.pid)
            cluster.remove_node(node, allow_graceful=False)
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    lead()
