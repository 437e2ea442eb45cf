"""cluster/on-prem.yaml through `ray up`: three fake hosts, and a fourth as the desk that the commands are typed at."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import raysweep
from tests.cluster.hosts import REPOSITORY, USER, Host, Network
from tests.cluster.sweeps import PATH, alive, shared_directory, trials_on, wait_until

pytestmark = [pytest.mark.usefixtures("fake_hosts"), pytest.mark.timeout(400)]


def filled_in(hosts: dict[str, Host], results: Path) -> str:
    """The shipped file with the addresses and the directory of the test."""
    values = {
        "<your-head>": hosts["head"].address, "<your-first-worker>": hosts["one"].address,
        "<your-second-worker>": hosts["two"].address, "<your-user>": USER, "<your-shared-directory>": str(results),
    }  # fmt: skip
    text = (REPOSITORY / "cluster/on-prem.yaml").read_text()
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def without_installing(text: str) -> str:
    """The same with the tests' own environment in place of what would come from the network."""
    lines = [line for line in text.splitlines() if "curl -LsSf" not in line and "uv venv" not in line]
    installs = [index for index, line in enumerate(lines) if "uv pip install" in line]
    assert len(installs) == 1
    lines[installs[0]] = f"  - ln -sfn {sys.prefix} ~/venv"
    return "\n".join(lines) + "\n"


class Desk:
    """A machine at which commands are typed, in a checkout."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def type(self, command: str, check: bool = True, timeout: float = 240) -> str:
        """What a command prints, errors included."""
        line = f"cd {REPOSITORY} && {command} 2>&1"
        return self._host.run("bash", "-c", line, check=check, timeout=timeout, PATH=PATH).stdout


def test_a_cluster_is_started_runs_a_sweep_on_all_its_workers_stops_another_cleanly_and_is_stopped(
    record_property: Callable[[str, object], None],
) -> None:
    with shared_directory() as shared, Network([shared], {"PYTHONPATH": str(REPOSITORY)}) as network:
        hosts = {name: network.start(name) for name in ("head", "one", "two")}
        head, desk_host = hosts["head"], network.start("desk")
        desk, file = Desk(desk_host), desk_host.path("on-prem.yaml")
        file.write_text(filled_in(hosts, shared))
        desk.type("ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
        assert "nothing is missing" in desk.type("raysweep cluster check ~/on-prem.yaml")
        file.write_text(without_installing(file.read_text()))

        begun = time.monotonic()
        desk.type("ray up -y ~/on-prem.yaml")
        up_s = time.monotonic() - begun
        wait_until(lambda: sorted(in_cluster(head)) == ["head", "one", "two"], "all machines in the cluster")
        all_s = time.monotonic() - begun

        for host in hosts.values():
            assert host.run("stat", "--format=%a", ".ray/auth_token").stdout == "600\n"
        assert listening(head, 8265) <= {"127.0.0.1"}
        for address in (f"{head.address}:6379",):
            refused = desk_host.run(
                sys.executable, "-c", "import ray; ray.init(logging_level=50)", check=False, timeout=100,
                RAY_ADDRESS=address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64,
            )  # fmt: skip
            assert refused.returncode != 0
            assert re.search("[Uu]nauthenticated|[Aa]uthentication", refused.stderr), refused.stderr

        begun = time.monotonic()
        run = f"raysweep run {shared}/tiny.yaml --output $RAYSWEEP_RESULTS/kld"
        assert "6 completed" in desk.type(f"ray exec ~/on-prem.yaml 'ray job submit -- {run}'")
        sweep_s = time.monotonic() - begun
        sweep = raysweep.open_sweep(shared / "kld")
        assert {record.state.value for record in sweep.records} == {"completed"}
        assert {record.node for record in sweep.records} == {"one", "two"}
        assert sweep.directory.trials_parquet.exists()

        submit = "ray job submit --no-wait --submission-id second --"
        desk.type(f"ray exec ~/on-prem.yaml '{submit} {run.replace('/kld', '/second')}'")
        wait_until(lambda: any(trials_on(shared / "second", name) for name in ("one", "two")), "trials of a second job")
        desk.type("ray exec ~/on-prem.yaml 'ray job stop second'")
        stopped = raysweep.open_sweep(shared / "second")
        assert not stopped.running
        assert not stopped.directory.unreported.exists()
        assert stopped.directory.trials_parquet.exists()

        begun = time.monotonic()
        desk.type("ray down -y ~/on-prem.yaml")
        assert not raylets(head)
        wait_until(lambda: not (raylets(hosts["one"]) or raylets(hosts["two"])), "the end of Ray on the workers", 180)
        stopped_s = time.monotonic() - begun
        figures = {"up_s": up_s, "all_s": all_s, "sweep_s": sweep_s, "stopped_s": stopped_s}
        record_property("figures", str(figures))
        print(figures)


def in_cluster(head: Host) -> list[str]:
    token = head.path(".ray/auth_token").read_text().strip()
    return alive(head, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)


def listening(host: Host, port: int) -> set[str]:
    """The addresses at which something listens on a port."""
    lines = host.run("sudo", "ss", "--listening", "--tcp", "--numeric", "--no-header").stdout.splitlines()
    places = [line.split()[3].rpartition(":") for line in lines]
    return {place for place, _, number in places if number == str(port)}


def raylets(host: Host) -> str:
    return host.run("pgrep", "raylet", check=False).stdout
