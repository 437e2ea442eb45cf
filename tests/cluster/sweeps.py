"""Tiny sweeps of real images on fake hosts, and what became of them."""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import raysweep
from raysweep.errors import RaysweepError
from tests.cluster.hosts import REPOSITORY, Host

PATH = f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RAY = f"{sys.prefix}/bin/ray"

TINY = """
name: tiny
data: {dataset: digits, image_size: 16}
trial:
  kld_weight: {low: 1e-5, high: 1e-1, log: true}
  learning_rate: {low: 1e-3, high: 1e-2, log: true}
  d_size: 4
  latent_size: 4
  hidden_size: 16
  epochs: 12
search: {trials: 6, sampler: random}
evaluation: {final_metrics: none}
"""


def environment() -> dict[str, str]:
    """What a session on a host of a cluster starts with: this checkout, and a token of the cluster's own."""
    return {
        "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0", "RAYSWEEP_CACHE": "/var/tmp/raysweep", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


@contextmanager
def shared_directory() -> Iterator[Path]:
    """A directory that every host is to have, writable by every user, with the tiny search space in it."""
    path = Path(tempfile.mkdtemp(prefix="raysweep-shared-"))
    try:
        path.chmod(0o777)
        (path / "tiny.yaml").write_text(TINY)
        yield path
    finally:
        shutil.rmtree(path)


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 120) -> float:
    """Waits until something holds; how many seconds it took."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < timeout_s, f"{what}: not within {timeout_s} s"
        time.sleep(0.2)
    return time.monotonic() - start


def sweep_at(directory: Path) -> raysweep.Sweep | None:
    """The sweep as its ledger now has it; None while there is none."""
    try:
        return raysweep.open_sweep(directory)
    except RaysweepError:
        return None


def trials_on(directory: Path, node: str) -> dict[int, int]:
    """How many epochs the unfinished trials have that a machine trains, by trial number."""
    sweep = sweep_at(directory)
    records = sweep.records if sweep else []
    return {r.number: len(r.epochs) for r in records if r.node == node and r.ended_at is None}


def alive(head: Host, **environment: str) -> list[str]:
    """Host names of the machines that Ray's head holds for alive."""
    code = (
        "import ray; ray.init(logging_level=50); print(*(n['NodeManagerHostname'] for n in ray.nodes() if n['Alive']))"
    )
    asked = head.run(sys.executable, "-c", code, check=False, RAY_ADDRESS=f"{head.address}:6379", **environment)
    return asked.stdout.split()
