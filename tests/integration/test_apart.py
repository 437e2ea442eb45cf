"""Sweeps that run beside each other and beside other people: nothing of one is seen or touched from outside."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

import raysweep
from raysweep.metrics import TrialState
from tests.integration.conftest import TINY, start_raysweep

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
LISTENING = "0A"
ASK = """
import sys
from ray._raylet import GcsClient
try:
    print("nodes", len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10)))
except Exception as error:
    print("refused", error)
"""


def marked(mark: str) -> list[Path]:
    """Below /proc, the processes that were started with this in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}\0".encode() in (process / "environ").read_bytes() + b"\0":
                found.append(process)
        except OSError:
            continue
    return found


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def listening(processes: list[Path]) -> set[tuple[Address, int]]:
    """The addresses and ports that they listen at."""
    sockets = set()
    for process in processes:
        try:
            sockets |= {str(descriptor.readlink()) for descriptor in (process / "fd").iterdir()}
        except OSError:  # it has ended, or closed one meanwhile
            continue
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in sockets:
                address, port = fields[1].split(":")
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.add((ipaddress.ip_address(b"".join(words)), int(port, 16)))
    return found


def ask_ray(port: int, token: str, tmp_path: Path) -> str:
    """What the GCS at a port of this machine answers to who comes with this token."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    answer = subprocess.run(
        [sys.executable, "-c", ASK, f"127.0.0.1:{port}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
    )  # fmt: skip
    return answer.stdout.strip()


def test_two_sweeps_at_once_come_to_the_same_and_each_is_closed_to_all_others(tmp_path: Path) -> None:
    text = TINY.replace("d_size: 4", "d_size: 4\n  epochs: 50").replace("trials: 5", "trials: 3")
    text = text.replace(
        "early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}", "sampler: random"
    )
    (tmp_path / "long.yaml").write_text(text)
    marks = {"one": uuid.uuid4().hex, "other": uuid.uuid4().hex}
    drivers = {
        name: start_raysweep("run", "long.yaml", "--output", name, "--max-concurrent", "1", cwd=tmp_path, MARK=mark)
        for name, mark in marks.items()
    }
    try:
        deadline = time.monotonic() + 120
        while not all(any((tmp_path / name).glob("trials/0000/epoch-*")) for name in drivers):
            assert time.monotonic() < deadline
            assert all(driver.poll() is None for driver in drivers.values())
            time.sleep(0.05)
        for mark in marks.values():
            processes = marked(mark)
            sockets = listening(processes)
            assert sockets
            addresses = {getattr(address, "ipv4_mapped", None) or address for address, _ in sockets}
            assert {address for address in addresses if not address.is_loopback} == set()
            gcs = next(process for process in processes if (process / "comm").read_text() == "gcs_server\n")
            variables = dict(v.split("=", 1) for v in (gcs / "environ").read_text().split("\0") if "=" in v)
            answers = {ask_ray(port, variables["RAY_AUTH_TOKEN"], tmp_path) for _, port in listening([gcs])}
            assert "nodes 1" in answers
            answers = {ask_ray(port, "0" * 64, tmp_path) for _, port in listening([gcs])}
            assert all(answer.startswith("refused") for answer in answers), answers
        said = [driver.communicate(timeout=300) for driver in drivers.values()]
    finally:
        for driver in drivers.values():
            driver.kill()
            driver.wait()
    assert [driver.returncode for driver in drivers.values()] == [0, 0], said
    sweeps = [raysweep.open_sweep(tmp_path / name) for name in drivers]
    timed = ["images_per_s", "epoch_s", "time_s", "recorded_at"]
    one, other = (sweep.epochs().drop_columns(timed) for sweep in sweeps)
    assert one.equals(other)
    assert one.num_rows == 150
    assert {record.state for sweep in sweeps for record in sweep.records} == {TrialState.COMPLETED}
