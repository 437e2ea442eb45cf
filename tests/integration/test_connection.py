"""A Ray of a sweep's own, as it stands when the driver has it."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

import raysweep
from raysweep.backend import connection
from tests.chaos.processes import marked
from tests.integration.conftest import TINY, call_raysweep, run_python, start_raysweep

BEGIN = """
import os, sys, time
from pathlib import Path

import ray
from raysweep.spec.loading import parse_spec
from raysweep.backend import connection

raylet = lambda: ray._private.worker._global_node.all_processes["raylet"][0].process.pid
def workers():
    below = Path(f"/proc/{raylet()}/task/{raylet()}/children").read_text().split()
    return [pid for pid in below if b"ray::IDLE" in Path(f"/proc/{pid}/cmdline").read_bytes()]

connection.local_nodes = lambda: [{"CPU": 2.0, "GPU": 0.0}]
with connection.connected(parse_spec(sys.stdin.read(), "space"), warn=lambda line: print(line, file=sys.stderr)):
    until = time.monotonic() + 30
    while not workers() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(2)  # Ray starts all that it starts by itself at once
    asked = ray.remote(lambda: ("raysweep.vae.fusing.training" in sys.modules, os.environ["OMP_NUM_THREADS"]))
    said = ray.get(asked.remote())
    print(len(workers()), *said)
"""
AGENTS = """
import os, sys, time
from pathlib import Path

import ray
from raysweep.spec.loading import parse_spec
from raysweep.backend import connection

def children(pid):
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in below}

with connection.connected(parse_spec(sys.stdin.read(), "space")):
    raylet = ray._private.worker._global_node.all_processes["raylet"][0].process
    agents = {pid: said for pid, said in children(raylet.pid).items() if "gent" in said or "noagent" in said}
    print(len([said for said in agents.values() if "DashboardAgent" in said or "dashboard" in said]))
    (stand_in,) = (pid for pid, said in agents.items() if "noagent.py" in said)
    raylet.kill()
    until = time.monotonic() + 20
    while Path(f"/proc/{stand_in}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    print(Path(f"/proc/{stand_in}").exists(), flush=True)
    os._exit(0)
"""
WITHOUT_TORCH = """
import gc, sys
import raysweep.worker.warm
assert "raysweep.vae.fusing.training" not in sys.modules and gc.isenabled()
try:
    raysweep.worker.warm.require()
except OSError as error:
    print(error)
"""
FAILS_IN_WORKERS = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "raysweep.worker.trial":
            raise ImportError("libsomething.so.3: cannot open shared object file")

if any("default_worker.py" in argument for argument in sys.orig_argv):
    sys.meta_path.insert(0, Missing())
"""
TWICE = """
import os, signal, subprocess, sys, threading, time
from raysweep.backend import connection
from raysweep.backend import raythread

frozen = []
def freeze():  # the first GCS, as it appears; a machine with too much to do
    while not frozen:
        for process in (process for thread in list(raythread._all) for process in thread.processes):
            if "gcs_server" in process.args[0]:
                process.send_signal(signal.SIGSTOP)
                frozen.append(process)
        time.sleep(0.001)

connection.START_S = 20.0
threading.Thread(target=freeze, daemon=True).start()
with connection.connected(warn=lambda line: print(line, flush=True)):
    import ray
    print(frozen[0].poll(), ray.get(ray.remote(lambda: "runs").remote()), flush=True)
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")


@needs_proc
def test_it_begins_with_a_process_for_each_slot_and_these_have_torch(tmp_path: Path) -> None:
    text = TINY.replace("trials: 5", "trials: 5\n  max_concurrent: 1")
    done = run_python(BEGIN, cwd=tmp_path, said=text, OMP_NUM_THREADS=None)
    assert done.stdout.split() == ["1", "True", "1"], done.stdout + done.stderr


@needs_proc
def test_the_dashboards_agent_is_a_stand_in_that_ends_with_its_raylet(tmp_path: Path) -> None:
    done = run_python(AGENTS, cwd=tmp_path, said=TINY)
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
    assert changed[3].endswith("noagent.py")
    monkeypatch.delattr(f"ray._raylet.{missing}")
    assert connection._without_agent(command) == command


def test_a_process_whose_torch_is_broken_starts_and_says_what_is_wrong_when_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    done = run_python(WITHOUT_TORCH, cwd=tmp_path)
    assert done.stdout == "libcudart.so.12: cannot open shared object file\n", done.stderr


@needs_proc
def test_a_start_that_takes_too_long_is_told_and_tried_once_more(tmp_path: Path) -> None:
    done = run_python(TWICE, cwd=tmp_path, PYTHONPATH=str(Path(raysweep.__file__).parents[1]))
    assert done.stdout == "Ray did not start within 20 s; it is started once more\n-9 runs\n", done.stderr


@needs_proc
def test_the_first_signal_ends_a_start_whose_gcs_hangs_and_all_that_it_has_started(
    tmp_path: Path, tiny_file: Path
) -> None:
    mark = ("RAYSWEEP_CACHE", str(tmp_path / "cache"))
    process = start_raysweep("run", tiny_file.name, cwd=tmp_path, **dict([mark]))
    until, found = time.monotonic() + 120, []
    while not found and time.monotonic() < until:
        found = [pid for pid, title in marked(*mark).items() if title.split(" ")[0].endswith("/gcs_server")]
    os.kill(found[0], signal.SIGSTOP)
    time.sleep(0.5)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert time.monotonic() - sent < 15
    assert process.returncode == 128 + signal.SIGTERM
    assert said.startswith("stopped at once")
    assert "Traceback" not in said
    assert not marked(*mark)
    assert not (tmp_path / "results").exists()


def test_a_signal_ends_the_wait_for_an_address_that_accepts_and_never_answers(tmp_path: Path, tiny_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        process = start_raysweep("run", tiny_file.name, cwd=tmp_path, RAY_ADDRESS=address)
        silent.settimeout(120)
        accepted = [silent.accept()[0] for _ in range(2)]  # the first asks whether anybody listens
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
        for connected in accepted:
            connected.close()
    assert time.monotonic() - sent < 12
    assert process.returncode == 128 + signal.SIGINT
    assert said.startswith("stopped at once")
    assert said.count("\n") == 1, said


def test_a_process_for_trials_that_cannot_be_made_says_why(tmp_path: Path, tiny_file: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAILS_IN_WORKERS)
    path = f"{tmp_path}:{Path(raysweep.__file__).parents[1]}"
    ran = call_raysweep("run", tiny_file.name, "--trials", "1", cwd=tmp_path, PYTHONPATH=path)
    reason = "its process could not be made: ImportError: libsomething.so.3: cannot open shared object file"
    assert f"failed: trial 0: {reason}, raised again when tried anew" in ran.stdout, ran.stdout + ran.stderr
    log = (tmp_path / "results/tiny/raysweep.log").read_text()
    assert f"trial 0: {reason}; it goes on from epoch 0\n" in log
    assert "raised in its creation task" in log, "Ray's own words follow"
