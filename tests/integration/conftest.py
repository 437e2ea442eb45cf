"""One Ray for all tests of this folder, on loopback, and tiny sweeps of real images."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import raysweep
from raysweep.backend import connection
from raysweep.backend.connection import CLOSED, connected, replaced
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from tests.nodes import Nodes

TINY = """
name: tiny
data: {dataset: digits, image_size: 16}
trial:
  kld_weight: {low: 1e-5, high: 1e-1, log: true}
  learning_rate: {low: 1e-3, high: 1e-2, log: true}
  d_size: 4
  latent_size: 4
  hidden_size: 16
search:
  trials: 5
  early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}
  enqueue: [{kld_weight: 1e-4, learning_rate: 3e-3}]
evaluation: {final_metrics: none}
"""


class Machines:
    """Worker nodes with data caches of their own."""

    def __init__(self, nodes: Nodes, root: Path) -> None:
        self.nodes = nodes
        self._root = root
        self.caches: list[Path] = []

    def add(self, cpus: int = 2, gpus: int = 0, **environment: str) -> Path:
        """Adds one, with logical GPUs: Ray hands them out, though there are none. Returns where its caches go."""
        cache = self._root / f"node-{len(self.caches)}"
        self.caches.append(cache)
        self.nodes.add({"num_cpus": cpus, "num_gpus": gpus}, {"RAYSWEEP_CACHE": str(cache), **environment})
        return cache


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """A cluster that has no machine yet that could hold a trial."""
    inherited = {name: value for name, value in os.environ.items() if name not in {*CLOSED, "RAY_AUTH_TOKEN"}}
    nodes = Nodes(0, {**inherited, "PYTHONPATH": str(Path(raysweep.__file__).parents[1]), "OMP_NUM_THREADS": "1"})
    try:
        yield Machines(nodes, tmp_path)
    finally:
        nodes.close()


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Ray in this process with two cores, whatever the machine has, for as long as the session lasts."""
    with replaced(connection, local_nodes=lambda: [{"CPU": 2.0, "GPU": 0.0}]), connected():
        yield


@pytest.fixture
def tiny() -> Callable[..., SweepSpec]:
    """The tiny search space, with pieces of its text replaced."""

    def make(*changes: tuple[str, str]) -> SweepSpec:
        text = TINY
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        return parse_spec(text, "tiny.yaml")

    return make


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def wait_for(path: Path, seconds: float = 120) -> None:
    """Waits until a file is there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def run_python(code: str, *, cwd: Path, said: str = "", **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, for as long as `connected` itself allows a start of Ray and its end.

    Args:
        said: what it finds on its standard input.
        environment: variables besides those that are set; None takes one away.

    Raises:
        AssertionError: if it has not ended then, with what it has printed and where it stands.
    """
    bound = connection.TRIES * connection.START_S + connection.SETTLE_S + connection.END_S + 60
    stacks = f"import faulthandler; faulthandler.dump_traceback_later({bound - 10}, exit=True)\n"
    variables = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    try:
        return subprocess.run(
            [sys.executable, "-c", stacks + code],
            cwd=cwd, env=variables, input=said, capture_output=True, text=True, timeout=bound,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"it ran for {bound:g} s\n{error.stdout!r}\n{error.stderr!r}") from None


def start_raysweep(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """`raysweep` with these arguments, as a person starts it: in a process group of its own.

    It starts a Ray of its own, however this process has its Ray, unless a RAY_ADDRESS is given.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in {*CLOSED, "RAY_AUTH_TOKEN"}}
    return subprocess.Popen(
        [sys.executable, "-m", "raysweep.cli", *map(str, arguments)],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**inherited, "PYTHONUNBUFFERED": "1", **environment},
    )  # fmt: skip


def call_raysweep(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    process = start_raysweep(*arguments, cwd=cwd, **environment)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
