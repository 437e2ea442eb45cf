"""Control groups of both versions as containers, batch jobs and services have them, laid out as files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raysweep.backend.container import cpu_quota, memory_limit

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
GB = 1 << 30


class Machine:
    """The files by which Linux tells a process of its control groups."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        self.proc.mkdir()
        self.cgroups: list[str] = []
        self.mounts: list[str] = ["22 1 0:21 / /proc rw,nosuid - proc proc rw"]
        self.tell()

    def tell(self) -> None:
        (self.proc / "cgroup").write_text("\n".join(self.cgroups) + "\n")
        (self.proc / "mountinfo").write_text("\n".join(self.mounts) + "\n")

    def version_2(self, own: str, mounted_at: str = "/", **values: dict[str, str]) -> Machine:
        point = self.root / "sys fs"  # /proc escapes the blank
        self.cgroups.append(f"0::{own}")
        self.mounts.append(f"30 22 0:26 {mounted_at} {str(point).replace(' ', chr(92) + '040')} rw - cgroup2 cgroup rw")
        return self.fill(point, values)

    def version_1(self, controllers: str, own: str, mounted_at: str = "/", **values: dict[str, str]) -> Machine:
        point = self.root / controllers
        self.cgroups.append(f"4:{controllers}:{own}")
        self.mounts.append(f"31 22 0:27 {mounted_at} {point} rw shared:9 - cgroup cgroup rw,{controllers}")
        return self.fill(point, values)

    def fill(self, point: Path, values: dict[str, dict[str, str]]) -> Machine:
        for group, files in values.items():
            place = point / group.replace("__", "/").replace("top", "")
            place.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (place / name).write_text(f"{text}\n")
        self.tell()
        return self


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_container_has_the_time_and_memory_of_its_own_group(machine: Machine) -> None:
    """docker run --cpus=1.5 --memory=2g: a group namespace, so the own group is the root of what is mounted."""
    machine.version_2("/", top={"cpu.max": "150000 100000", "memory.max": str(2 * GB), "memory.high": "max"})
    assert cpu_quota(machine.proc) == 1.5
    assert memory_limit(machine.proc) == 2 * GB


def test_the_same_in_version_1(machine: Machine) -> None:
    machine.version_1("cpu,cpuacct", "/docker/1f", "/docker/1f",
                      top={"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"})  # fmt: skip
    machine.version_1("memory", "/docker/1f", "/docker/1f", top={"memory.limit_in_bytes": str(GB)})
    assert cpu_quota(machine.proc) == 0.5
    assert memory_limit(machine.proc) == GB


def test_without_a_limit_there_is_none_but_that_of_the_machine(machine: Machine) -> None:
    machine.version_2("/", top={"cpu.max": "max 100000", "memory.max": "max"})
    machine.version_1("cpu,cpuacct", "/", top={"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"})
    machine.version_1("memory", "/", top={"memory.limit_in_bytes": str(9223372036854771712)})
    assert cpu_quota(machine.proc) is None
    assert memory_limit(machine.proc) == PHYSICAL


def test_a_limit_further_out_holds_too(machine: Machine) -> None:
    """systemd-run --slice, Slurm: no namespace, and the limit may be at a step, its job or its user."""
    machine.version_2(
        "/job__7/step".replace("__", "/"),
        job={"cpu.max": "400000 100000"},
        job__7={"cpu.max": "200000 100000", "memory.max": str(3 * GB)},
        job__7__step={"cpu.max": "max 100000", "memory.max": "max", "memory.high": str(2 * GB)},
    )
    (machine.root / "sys fs" / "job" / "cpu.max").unlink()
    assert cpu_quota(machine.proc) == 2
    assert memory_limit(machine.proc) == 2 * GB


def test_another_groups_limit_does_not_hold(machine: Machine) -> None:
    machine.version_2("/job/7", job__7={"cpu.max": "max 100000"}, job__8={"cpu.max": "100000 100000"})
    assert cpu_quota(machine.proc) is None


def test_the_smaller_of_both_versions_holds(machine: Machine) -> None:
    machine.version_2("/", top={"cpu.max": "300000 100000"})
    machine.version_1("cpu", "/", top={"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"})
    assert cpu_quota(machine.proc) == 2


@pytest.mark.parametrize("own", ["/../../docker/1f", "/gone/below"])
def test_a_group_that_cannot_be_seen_from_here_leaves_those_around_it(machine: Machine, own: str) -> None:
    machine.version_2(own, top={"cpu.max": "100000 100000"})
    assert cpu_quota(machine.proc) == 1


@pytest.mark.parametrize("text", ["", "abc", "0 0", "100000", "max", "\0"])
def test_a_file_that_says_nothing_is_no_limit(machine: Machine, text: str) -> None:
    machine.version_2("/", top={"cpu.max": text, "memory.max": text.replace("0 0", "0").replace("100000", "x")})
    assert cpu_quota(machine.proc) is None
    assert memory_limit(machine.proc) == PHYSICAL


def test_where_there_are_no_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none") is None
    assert memory_limit(tmp_path / "none") == PHYSICAL
