"""The machines a sweep runs on, and how many trials fit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

from raysweep.errors import ResourcesError
from raysweep.search.exchange import Share
from raysweep.spec import SweepSpec

FUSED_ON_A_GPU = 8
"""Trials that a process trains together if `search.fuse` is auto and it has a GPU for itself."""
GENERATIONS = 4
"""As many times that are at once are tried at least: a sampler learns nothing from those that have not ended."""


@dataclass(frozen=True)
class Slots:
    """What is at once: processes that train, with a share of a machine each, and their trials."""

    cpu: float
    gpu: float
    count: int
    """How many of these processes run at once."""
    larger: Share | None = None
    """What a trial is given that ran out of memory; None if no machine has more."""
    fused: int = 1
    """How many trials one of them may train together."""

    @property
    def share(self) -> Share:
        return Share(self.cpu, self.gpu)

    @property
    def threads(self) -> int:
        return max(1, floor(self.cpu))

    @property
    def trials(self) -> int:
        """Most trials at once."""
        return self.count * self.fused


def fit(spec: SweepSpec, nodes: Sequence[Mapping[str, float]]) -> Slots:
    """How many processes train trials of `spec` at once on machines with these resources, and how many each.

    Raises:
        ResourcesError: if no machine could ever hold one; the message names the resource that lacks.
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
    count = 0
    for node in nodes:
        by_gpu = floor(node.get("GPU", 0.0) / gpu + 1e-9) if gpu else None
        by_cpu = floor(node.get("CPU", 0.0) / wanted.cpu + 1e-9)
        count += by_cpu if by_gpu is None else min(by_cpu, by_gpu)
    if count == 0:
        raise ResourcesError(
            f"resources: a trial asks for {wanted.cpu:g} CPU and {gpu:g} GPU, and no single machine has both; "
            "ask for less of one"
        )
    most_concurrent = spec.search.max_concurrent
    count = count if most_concurrent is None else min(count, most_concurrent)
    return Slots(wanted.cpu, gpu, count, _larger(Share(wanted.cpu, gpu), nodes), _most_fused(spec, gpu, count))


def _most_fused(spec: SweepSpec, gpu: float, slots: int) -> int:
    """How many trials a process may train together."""
    fuse, most_concurrent = spec.search.fuse, spec.search.max_concurrent
    if fuse == "auto":
        most = min(FUSED_ON_A_GPU, spec.trials // (GENERATIONS * slots)) if gpu == 1 else 1
    else:
        most = 1 if fuse == "off" else fuse
    return max(1, most if most_concurrent is None else min(most, most_concurrent // slots))


def _larger(share: Share, nodes: Sequence[Mapping[str, float]]) -> Share | None:
    """Up to twice a share, so that fewer trials divide a machine's memory: of the GPU's if a trial has a part of one,
    of the machine's if it has none. None if no machine has more.
    """
    wished = Share(share.cpu, min(1.0, 2 * share.gpu)) if share.gpu else Share(2 * share.cpu, 0.0)
    best = share
    for node in nodes:
        cpu, gpu = min(wished.cpu, node.get("CPU", 0.0)), min(wished.gpu, node.get("GPU", 0.0))
        if cpu >= best.cpu and gpu >= best.gpu:
            best = Share(cpu, gpu)
    return None if best == share else best


def needed_processes(spec: SweepSpec, node: Mapping[str, float], trials: int) -> tuple[int, int]:
    """How many processes train so many trials of `spec` on a machine, a core each at most, and the threads of each.

    Raises:
        ResourcesError: if it could never hold one.
    """
    slots = fit(spec, [node])
    return max(1, min(slots.count, floor(node["CPU"]), ceil(trials / slots.fused))), slots.threads


def local_nodes() -> list[dict[str, float]]:
    """What Ray would have on this machine, found without importing it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        gpus = len([p for p in Path("/dev").glob("nvidia[0-9]*") if p.name[6:].isdigit()])
    else:
        gpus = len([part for part in visible.split(",") if part.strip() and part.strip() != "-1"])
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux alone knows which of its cores a process may use
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return [{"CPU": float(cpus), "GPU": float(gpus)}]


def cluster_nodes() -> list[dict[str, float]]:
    """What each live machine of the Ray cluster has that this process is connected to."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
