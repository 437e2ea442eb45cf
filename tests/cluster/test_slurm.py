"""cluster/slurm.sbatch on Debian's Slurm: a controller and two nodes as fake hosts."""

from __future__ import annotations

import secrets
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import raysweep
from tests.cluster.hosts import REPOSITORY, Host, Network
from tests.cluster.sweeps import environment, shared_directory, sweep_at, wait_until

NODES = ("n1", "n2")
CONFIGURATION = """
ClusterName=fake
SlurmctldHost=login
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
KillWait=10
NodeName=n[1-2] CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = [pytest.mark.usefixtures("fake_hosts"), pytest.mark.slow, pytest.mark.timeout(500)]


def start_slurm(hosts: dict[str, Host]) -> None:
    """Munge and Slurm's own processes, with a key and a configuration of their own."""
    key = secrets.token_hex(64)
    for host in hosts.values():
        host.run("sudo", "mkdir", "-p", "/etc/munge", "/etc/slurm", "/run/munge", "/var/log/munge", "/var/lib/munge")
        host.path("/etc/munge/munge.key").unlink(missing_ok=True)
        host.path("/etc/munge/munge.key").write_text(key)
        host.path("/etc/slurm/slurm.conf").write_text(CONFIGURATION)
        host.path("/etc/slurm/cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # else it looks for v2, in vain
        host.run(
            "sudo", "sh", "-ec",
            "chmod 400 /etc/munge/munge.key; chown -R munge: /etc/munge /run/munge /var/log/munge /var/lib/munge; "
            "chmod 755 /run/munge; mkdir -p /var/spool/slurmctld /var/spool/slurmd; sudo -u munge /usr/sbin/munged",
        )  # fmt: skip
    hosts["login"].run("sudo", "/usr/sbin/slurmctld")
    for name in NODES:
        hosts[name].run("sudo", "/usr/sbin/slurmd")


def test_a_sweep_runs_on_all_nodes_of_a_job_and_goes_on_after_it_was_cancelled(
    record_property: Callable[[str, object], None],
) -> None:
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (apt-get install slurm-wlm munge)")
    sent = environment()
    with shared_directory() as shared, Network([shared], sent) as network:
        hosts = {name: network.start(name) for name in ("login", *NODES)}
        login = hosts["login"]
        start_slurm(hosts)
        (shared / "token").write_text(sent["RAY_AUTH_TOKEN"])
        place = shared / "kld"

        def slurm(*command: str, check: bool = True) -> str:
            return login.run("sh", "-c", 'cd "$0" && exec "$@"', str(shared), *command, check=check,
                             RAYSWEEP_VENV=sys.prefix, RAY_AUTH_TOKEN_PATH=f"{shared}/token").stdout  # fmt: skip

        def state(job: str) -> str:
            return slurm("scontrol", "--oneliner", "show", "job", job).partition("JobState=")[2].split()[0]

        def submit(*command: str) -> str:
            script = str(REPOSITORY / "cluster/slurm.sbatch")
            return slurm("sbatch", "--parsable", script, *command).strip()

        def output(job: str) -> str:
            path = shared / f"raysweep-{job}.log"
            return path.read_text() if path.exists() else slurm("scontrol", "show", "job", job)

        wait_until(
            lambda: slurm("sinfo", "--noheader", "--format=%t %D", check=False).split() == ["idle", "2"], "nodes"
        )
        begun = time.monotonic()
        job = submit("run", "tiny.yaml", "--output", str(place), "--time-budget", "10m")
        wait_until(
            lambda: machines(place) == set(NODES) or state(job) not in ("PENDING", "CONFIGURING", "RUNNING"),
            "trials on both nodes", 200,
        )  # fmt: skip
        assert state(job) == "RUNNING", output(job)
        first_s = time.monotonic() - begun
        slurm("scancel", "--name", "raysweep")
        stopped_s = wait_until(lambda: state(job) == "CANCELLED", "the job has ended")
        for name in NODES:
            wait_until(lambda name=name: not rays(hosts[name]), f"Ray's end on {name}")
        before = {record.number: len(record.epochs) for record in raysweep.open_sweep(place).records}
        assert sum(before.values()) < 72, "it was done before it was cancelled"

        job = submit("resume", str(place), "--time-budget", "10m")
        wait_until(lambda: state(job) not in ("PENDING", "CONFIGURING", "RUNNING"), "the end of the sweep", 250)
        assert state(job) == "COMPLETED", output(job)
        sweep = raysweep.open_sweep(place)
        assert {r.number: (r.state.value, len(r.epochs)) for r in sweep.records} == dict.fromkeys(
            range(6), ("completed", 12)
        )
        for name in NODES:
            assert not rays(hosts[name])
        figures = {"first_s": first_s, "stopped_s": stopped_s}
        record_property("figures", str(figures))
        print(figures)


def machines(place: Path) -> set[str]:
    """Those that a trial was trained on so far."""
    sweep = sweep_at(place)
    return {record.node for record in sweep.records if record.node} if sweep else set()


def rays(host: Host) -> str:
    """Ray's processes on a machine."""
    return host.run("pgrep", "-a", "raylet|gcs_server", check=False).stdout
