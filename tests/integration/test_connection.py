"""A Ray of a sweep's own, as it stands when the driver has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raysweep.search import connection
from tests.integration.conftest import TINY

BEGIN = """
import os, sys, time
from pathlib import Path

import ray
from raysweep.loading import parse_spec
from raysweep.search import connection

raylet = lambda: ray._private.worker._global_node.all_processes["raylet"][0].process.pid
def workers():
    below = Path(f"/proc/{raylet()}/task/{raylet()}/children").read_text().split()
    return [pid for pid in below if b"ray::IDLE" in Path(f"/proc/{pid}/cmdline").read_bytes()]

connection.local_nodes = lambda: [{"CPU": 2.0, "GPU": 0.0}]
with connection.connected(parse_spec(sys.stdin.read(), "space")):
    until = time.monotonic() + 30
    while not workers() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(2)  # Ray starts all that it starts by itself at once
    said = ray.get(ray.remote(lambda: ("raysweep.vae.fused" in sys.modules, os.environ["OMP_NUM_THREADS"])).remote())
    print(len(workers()), *said)
"""
AGENTS = """
import os, sys, time
from pathlib import Path

import ray
from raysweep.loading import parse_spec
from raysweep.search import connection

def children(pid):
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in below}

with connection.connected(parse_spec(sys.stdin.read(), "space")):
    raylet = ray._private.worker._global_node.all_processes["raylet"][0].process
    agents = {pid: said for pid, said in children(raylet.pid).items() if "gent" in said or "standin" in said}
    print(len([said for said in agents.values() if "DashboardAgent" in said or "dashboard" in said]))
    (stand_in,) = (pid for pid, said in agents.items() if "standin.py" in said)
    raylet.kill()
    until = time.monotonic() + 20
    while Path(f"/proc/{stand_in}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    print(Path(f"/proc/{stand_in}").exists(), flush=True)
    os._exit(0)
"""
WITHOUT_TORCH = """
import gc, sys
import raysweep.search.warm
assert "raysweep.vae.fused" not in sys.modules and gc.isenabled()
try:
    raysweep.search.warm.require()
except OSError as error:
    print(error)
"""


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")


@needs_proc
def test_it_begins_with_a_process_for_each_slot_and_these_have_torch(tmp_path: Path) -> None:
    text = TINY.replace("trials: 5", "trials: 5\n  max_concurrent: 1")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN],
        cwd=tmp_path, env=environment, input=text, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == ["1", "True", "1"], done.stdout + done.stderr


@needs_proc
def test_the_dashboards_agent_is_a_stand_in_that_ends_with_its_raylet(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AGENTS], cwd=tmp_path, input=TINY, capture_output=True, text=True, timeout=120
    )
    first, *_, last = done.stdout.splitlines()  # between them Ray says what it makes of a raylet that was killed
    assert (first, last) == ("0", "False"), done.stdout + done.stderr


@pytest.mark.parametrize("missing", ["persist_port", "METRICS_AGENT_PORT_NAME"])
def test_a_ray_that_names_its_agents_ports_otherwise_keeps_its_agent(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["raylet", f"--session_dir={tmp_path}", "--node_id=1", "--dashboard_agent_command=python agent.py --a=b"]
    changed = connection._without_agent(command)
    assert changed[:3] == command[:3]
    assert changed[3].startswith("--dashboard_agent_command=")
    assert changed[3].endswith("standin.py")
    monkeypatch.delattr(f"ray._raylet.{missing}")
    assert connection._without_agent(command) == command


def test_a_process_whose_torch_is_broken_starts_and_says_what_is_wrong_when_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "libcudart.so.12: cannot open shared object file\n", done.stderr
