"""The machines that Ray's autoscaler may add: a sweep lets as many trials wait as these machines could hold.

The autoscaler starts machines for waiting trials. `ray up` leaves a file on the head node that says which machines it
may start; a driver that runs there reads it. KubeRay leaves no file that a driver can read; there
`search.max_concurrent` says how many trials may wait.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from raysweep.backend.resources import cluster_nodes, fit
from raysweep.errors import ResourcesError
from raysweep.messages import Slots
from raysweep.spec.sections import SweepSpec
from raysweep.storage.home import expanded

BOOTSTRAP = "ray_bootstrap_config.yaml"
"""The file that `ray up` leaves in the home directory on the head node."""
HEAD = "node:__internal_head__"
"""The resource by which Ray marks the machine that its GCS is on."""
IN_KUBERNETES = "RAY_CLUSTER_NAME"
"""An environment variable that KubeRay's pods have."""
_TRIAL_KINDS = ("CPU", "GPU")


def slots_of(spec: SweepSpec) -> Slots:
    """Return how many processes train at once on the connected Ray, with all machines that it may add.

    Raises:
        ResourcesError: if no trial could ever start.
    """
    try:
        return fit(spec, possible_nodes(spec))
    except ResourcesError as error:
        if IN_KUBERNETES in os.environ and spec.search.max_concurrent is None:
            raise ResourcesError(
                f"{error}\nKubernetes starts workers for trials that wait: say how many may, with --max-concurrent N"
            ) from error
        raise


def refit(spec: SweepSpec, before: Slots) -> Slots:
    """Return the current slots, or `before` while no machine can hold a trial, because machines may come back."""
    try:
        return slots_of(spec)
    except ResourcesError:
        return before


def possible_nodes(spec: SweepSpec) -> list[dict[str, float]]:
    """Return what each machine has, now or once the autoscaler has added it."""
    import ray

    nodes = cluster_nodes()
    here = f"node:{ray.util.get_node_ip_address()}"
    heads = [node for node in nodes if HEAD in node]
    file = expanded("~") / BOOTSTRAP
    if file.is_file() and any(here in head for head in heads):
        config = _read(file, file.stat().st_mtime_ns)
        if config.get("provider", {}).get("type") == "local":  # the user's machines: all are there, or not reachable
            return nodes
        return [*heads, *workers_of(config, spec)]
    return [*nodes, *pods_of(spec)] if IN_KUBERNETES in os.environ else nodes


@lru_cache(maxsize=1)
def _read(file: Path, changed_ns: int) -> Any:
    """Parse the file, once for each state of it, because it is needed every second."""
    return yaml.safe_load(file.read_text())


def workers_of(config: Mapping[str, Any], spec: SweepSpec) -> list[dict[str, float]]:
    """Return what each worker would have if all were there.

    If not all may run at once, return those that hold most trials.
    """
    kinds = config.get("available_node_types") or {}
    head_kind, most = config.get("head_node_type"), int(config.get("max_workers", 0))
    workers = []
    for name, kind in kinds.items():
        if name != head_kind:
            resources = {key: float(kind.get("resources", {}).get(key, 0)) for key in _TRIAL_KINDS}
            workers += [resources] * int(kind.get("max_workers", most))
    return sorted(workers, key=lambda node: _trials_on(spec, node), reverse=True)[:most]


def pods_of(spec: SweepSpec) -> list[dict[str, float]]:
    """Return what Kubernetes may add: a process for each concurrent trial, or for each group of fused ones."""
    gpu = 0.0 if spec.resources.gpu == "auto" else spec.resources.gpu
    fuse = spec.search.fuse if isinstance(spec.search.fuse, int) else 1
    return [{"CPU": spec.resources.cpu, "GPU": gpu}] * math.ceil((spec.search.max_concurrent or 0) / fuse)


def _trials_on(spec: SweepSpec, node: Mapping[str, float]) -> int:
    try:
        return fit(spec, [node]).count
    except ResourcesError:
        return 0
