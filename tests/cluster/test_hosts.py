"""The fake hosts themselves: what they are to each other and to this machine, and what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster.hosts import REPOSITORY, STORE, Network

pytestmark = pytest.mark.usefixtures("fake_hosts")


@pytest.fixture(scope="module")
def network(fake_hosts: None) -> Iterator[Network]:
    with Network(environment={"GREETING": "good day"}) as made:
        for name in ("one", "two", "three"):
            made.start(name)
        yield made


def answers(network: Network, name: str) -> bool:
    found = network.hosts["one"].run("ssh", "-o", "ConnectTimeout=2", name, "hostname", check=False)
    assert found.returncode == 0 or "timed out" in found.stderr or "No route to host" in found.stderr
    return found.returncode == 0


def test_three_hosts_are_up_within_seconds_and_each_lets_the_others_in() -> None:
    start = time.monotonic()
    with Network() as network:
        hosts = [network.start(name) for name in ("a", "b", "c")]
        took_s = time.monotonic() - start
        for host in hosts:
            for other in hosts:
                assert host.run("ssh", other.name, "hostname").stdout == f"{other.name}\n"
    assert took_s < 20  # half a second on two idle cores


def test_a_host_reaches_no_address_but_those_of_the_others(network: Network) -> None:
    one = network.hosts["one"]
    attempt = "import socket, sys; socket.create_connection((sys.argv[1], 53), timeout=2)"
    for address in ("1.1.1.1", "169.254.169.254", "192.168.0.1"):
        tried = one.run(sys.executable, "-c", attempt, address, check=False)
        assert "TimeoutError" in tried.stderr or "No route to host" in tried.stderr
    assert "Name or service not known" in one.run("ssh", "example.org", check=False).stderr
    links = one.run("ip", "-brief", "link").stdout
    assert [line.split("@")[0].split()[0] for line in links.splitlines()] == ["lo", "eth0"]


def test_a_host_has_files_processes_and_a_name_of_its_own(network: Network) -> None:
    one, two = network.hosts["one"], network.hosts["two"]
    one.run("bash", "-c", "echo mine > /tmp/note; echo mine > note; sudo bash -c 'echo mine > /etc/note'")
    assert one.path("note").read_text() == "mine\n"
    assert one.path("/etc/note").read_text() == "mine\n"
    assert not any(two.path(place).exists() for place in ("/tmp/note", "note", "/etc/note"))
    assert not Path("/etc/note").exists()
    listed = one.run("ps", "-e", "-o", "comm=").stdout.split()
    assert set(listed) <= {"bash", "sshd", "sleep", "sudo", "sh", "ps", "timeout"}
    assert one.run("ls", "/dev/shm").stdout == ""
    assert one.run("bash", "-c", "echo $GREETING").stdout == "good day\n"
    assert one.run("ssh", "two", "echo $GREETING").stdout == "good day\n"


def test_a_host_has_the_environment_of_the_tests_and_cannot_change_it(network: Network) -> None:
    one = network.hosts["one"]
    assert one.run(sys.executable, "-c", "import click; print(click.__file__)").stdout.startswith(sys.prefix)
    for place in (REPOSITORY, Path(sys.prefix)):
        assert "Read-only file system" in one.run("sudo", "touch", f"{place}/touched", check=False).stderr


def test_hosts_share_the_directories_that_were_named(tmp_path: Path) -> None:
    with Network(shared=[tmp_path]) as network:
        network.start("a").run("sudo", "touch", f"{tmp_path}/touched")
        network.start("b").run("sudo", "test", "-f", f"{tmp_path}/touched")
    assert (tmp_path / "touched").exists()


def test_a_host_answers_at_each_of_its_addresses(network: Network) -> None:
    four = network.start("four", ["10.1.2.3", "54.1.2.3"], environment={"GREETING": "good night"})
    for address in ("10.1.2.3", "54.1.2.3"):
        assert network.hosts["one"].run("ssh", address, "hostname; echo $GREETING").stdout == "four\ngood night\n"
    four.power_off()


def test_a_cut_host_is_silent_until_its_link_is_mended(network: Network) -> None:
    network.hosts["two"].cut()
    assert not answers(network, "two")
    assert answers(network, "three")
    network.hosts["two"].mend()
    deadline = time.monotonic() + 20
    while not answers(network, "two"):  # who has just found out that nobody answers says so for a second
        assert time.monotonic() < deadline


def test_a_frozen_host_does_nothing_until_it_is_thawed(network: Network) -> None:
    two = network.hosts["two"]
    counting = two.popen("bash", "-c", "while :; do date +%s%N > count; sleep 0.01; done")
    deadline = time.monotonic() + 20
    while not two.path("count").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    two.freeze()
    before = two.path("count").read_text()
    time.sleep(0.5)
    assert two.path("count").read_text() == before
    two.thaw()
    while two.path("count").read_text() == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(counting.pid, signal.SIGKILL)
    counting.communicate()


def test_a_host_that_loses_power_closes_no_connection_and_its_name_is_free_again(network: Network) -> None:
    """The other side of a connection hears nothing, as when a machine loses power, and not that it was closed."""
    lost = network.start("lost")
    talk = network.hosts["one"].popen("ssh", "lost", "echo here; sleep 600")
    assert talk.stdout is not None
    assert talk.stdout.readline() == "here\n"
    lost.power_off()
    assert not lost.is_on
    with pytest.raises(subprocess.TimeoutExpired):
        talk.wait(timeout=1)
    network.start("lost", ["10.1.2.4"])
    assert network.hosts["lost"].run("hostname").stdout == "lost\n"
    network.hosts["lost"].power_off()
    os.killpg(talk.pid, signal.SIGKILL)
    talk.communicate()


def networks() -> set[Path]:
    """The network namespaces that some process is in."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                found.add((process / "ns/net").readlink())
    return found


def test_nothing_is_left_when_the_process_that_made_the_hosts_is_killed() -> None:
    code = """
import time
from tests.cluster.hosts import Network
with Network() as network:
    for name in ("a", "b"):
        network.start(name).popen("sleep", "600")
    print(*(network.hosts[name]._init for name in network.hosts), flush=True)
    time.sleep(600)
"""
    before = Path("/proc/self/mountinfo").read_text()
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    made = [Path(f"/proc/{first}/ns/net").readlink() for first in process.stdout.readline().split()]
    assert len(made) == 2
    assert set(made) <= networks()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while set(made) & networks():
        assert time.monotonic() < deadline, "hosts outlive the process that made them"
        time.sleep(0.05)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert not list(Path(STORE).glob("*"))
