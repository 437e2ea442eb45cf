"""The machines a sweep runs on, and how many trials fit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import ceil, floor

from raysweep.backend.container import cpu_quota, memory_limit
from raysweep.backend.gpus import visible_gpus
from raysweep.errors import ResourcesError
from raysweep.messages import Share, Slots
from raysweep.spec.sections import SweepSpec

FUSED_ON_A_GPU = 8
"""Most trials that a process trains together if `search.fuse` is auto and it has a GPU for itself."""
GENERATIONS = 4
"""If `search.fuse` is auto, fusing lets at most one in this many of a sweep's trials train at once: a sampler learns
nothing from trials that have not ended."""
UNITS = 10_000
"""Ray counts resources in units of 1/10,000, so that three shares of 0.3333 fit a GPU."""
PROCESS_BYTES = 500 << 20
"""Memory of a process that trains a small model on a CPU: 417 MB of its own, without mapped images."""
DRIVER_BYTES = 600 << 20
"""Memory of the driver (254 MB) and of Ray's own processes, without those that train (about 250 MB)."""


def fit(spec: SweepSpec, nodes: Sequence[Mapping[str, float]]) -> Slots:
    """Count the processes that can train at once on machines with these resources, and the trials of each.

    Raises:
        ResourcesError: if no machine could ever hold one; the message names the missing resource.
    """
    most_gpu = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    most_cpu = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    wanted = spec.resources
    gpu = (1.0 if most_gpu else 0.0) if wanted.gpu == "auto" else wanted.gpu
    for resource, needed, most in (("cpu", wanted.cpu, most_cpu), ("gpu", gpu, most_gpu)):
        if needed > most:
            raise ResourcesError(
                f"resources.{resource}: a trial asks for {needed:g}, the largest machine has {most:g}, so no trial "
                f"could ever start; ask for at most {most:g}, or set RAY_ADDRESS to a cluster that has more"
            )
    count = sum(_held(Share(wanted.cpu, gpu), node) for node in nodes)
    if count == 0:
        raise ResourcesError(
            f"resources: a trial asks for {wanted.cpu:g} CPU and {gpu:g} GPU, and no single machine has both; "
            "ask for less of one"
        )
    most_concurrent = spec.search.max_concurrent
    count = count if most_concurrent is None else min(count, most_concurrent)
    return Slots(wanted.cpu, gpu, count, _larger(Share(wanted.cpu, gpu), nodes), _most_fused(spec, gpu, count))


def _held(share: Share, node: Mapping[str, float]) -> int:
    """Count the processes with this share that Ray places on a machine at once."""
    count = _units(node.get("CPU", 0.0)) // _units(share.cpu)
    if share.gpu:  # each is on one GPU: what is left of several GPUs cannot be combined
        whole, rest = divmod(_units(node.get("GPU", 0.0)), UNITS)
        count = min(count, whole * (UNITS // _units(share.gpu)) + rest // _units(share.gpu))
    if count and "memory" in node:  # one is always tried: how much it needs depends on its model
        count = min(count, max(1, floor(node["memory"] / PROCESS_BYTES)))
    return count


def _units(amount: float) -> int:
    return round(amount * UNITS)


def _most_fused(spec: SweepSpec, gpu: float, slots: int) -> int:
    """Return how many trials a process may train together."""
    fuse, most_concurrent = spec.search.fuse, spec.search.max_concurrent
    if fuse == "auto":
        most = min(FUSED_ON_A_GPU, spec.trials // (GENERATIONS * slots)) if gpu == 1 else 1
    else:
        most = 1 if fuse == "off" else fuse
    return max(1, most if most_concurrent is None else min(most, most_concurrent // slots))


def _larger(share: Share, nodes: Sequence[Mapping[str, float]]) -> Share | None:
    """Return up to twice a share, so that fewer trials divide the memory; None if no machine has more.

    A trial with a part of a GPU gets more of it and of its memory. One without a GPU gets more CPUs, so that fewer
    trials divide the machine's memory.
    """
    wished = Share(share.cpu, min(1.0, 2 * share.gpu)) if share.gpu else Share(2 * share.cpu, 0.0)
    best = share
    for node in nodes:
        cpu, gpu = min(wished.cpu, node.get("CPU", 0.0)), min(wished.gpu, node.get("GPU", 0.0))
        if cpu >= best.cpu and gpu >= best.gpu:
            best = Share(cpu, gpu)
    return None if best == share else best


def needed_processes(spec: SweepSpec, node: Mapping[str, float], trials: int) -> tuple[int, int]:
    """Return how many processes train this number of trials on a machine, and the threads of each.

    There is at most one process per core.

    Raises:
        ResourcesError: if the machine could never hold a process.
    """
    slots = fit(spec, [node])
    return max(1, min(slots.count, floor(node["CPU"]), ceil(trials / slots.fused))), slots.threads


def local_nodes() -> list[dict[str, float]]:
    """Return what a Ray on this machine has for trials, within the container's limits. Ray is not imported."""
    has_affinity = hasattr(os, "sched_getaffinity")  # only Linux knows which cores a process may use
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    quota = cpu_quota()
    cpus = cores if quota is None else max(1, min(cores, floor(quota)))  # Ray takes only whole CPUs, and at least one
    memory = max(PROCESS_BYTES, memory_limit() - DRIVER_BYTES)
    return [{"CPU": float(cpus), "GPU": float(visible_gpus()), "memory": float(memory)}]


def cluster_nodes() -> list[dict[str, float]]:
    """Return what each live machine of the connected Ray cluster has."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
