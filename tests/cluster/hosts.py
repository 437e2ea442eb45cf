"""Fake hosts: whole machines of a cluster as namespaces of this one, on a network that leads nowhere.

    with Network() as network:
        head, worker = network.start("head"), network.start("worker")
        head.run("ssh", worker.name, "hostname").stdout   # worker
        worker.power_off()

A host has its own hostname, addresses, processes, devices, /tmp, /run and /dev/shm, an overlay of this machine's root
that keeps what is written to it in memory, an sshd, and a user that may become root by sudo. Its user has the key of
every other host. The Python environment and the checkout that the tests run in are there too, at their places, read
alone.

Everything lives in the namespaces of one process, the keeper, which ends when the tests' process does, however it ends:
the kernel then ends every process in them, and takes away mounts, links and files. Nothing has to be swept up.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "tests/cluster/scripts"
STORE = "/media"
"""Where the keeper's namespaces, and they alone, have the hosts' files; here it is an empty directory."""

COMMANDS = ("ip", "mount", "nsenter", "pivot_root", "rsync", "ssh", "ssh-keygen", "sudo", "unshare", "useradd")
SSHD = "/usr/sbin/sshd"
FIRST_ADDRESS = IPv4Address("10.99.0.1")
USER = "ubuntu"


def obstacle() -> str | None:
    """Why there can be no fake hosts here; None if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "fake hosts need Linux and root"
    missing = [name for name in (*COMMANDS, SSHD) if shutil.which(name) is None]
    if missing:
        return f"fake hosts need {', '.join(missing)} (apt-get install openssh-server rsync iproute2 sudo)"
    attempt = f"""
        mount --make-rprivate / && mount -t tmpfs none {STORE} && cd {STORE} && mkdir upper work root
        mount -t overlay none -o lowerdir=/,upperdir=upper,workdir=work root && ip link add attempt type bridge
    """
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "sh", "-ec", attempt], capture_output=True, text=True
    )
    return f"fake hosts need namespaces, overlays and bridges: {tried.stderr.strip()}" if tried.returncode else None


class Network:
    """A switch without an uplink, and the hosts at it. Every address is reached through it, or nowhere.

    `shared` are directories of this machine that every host has, at the same place, to read and to write.
    `environment` is what every session on a host starts with.
    """

    def __init__(self, shared: Sequence[Path] = (), environment: Mapping[str, str] | None = None) -> None:
        self.hosts: dict[str, Host] = {}
        self._shared = list(shared)
        self._environment = dict(environment or {})
        self._keeper: subprocess.Popen[str] | None = None
        self._count = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Network:
        # A pipe's end is noticed however this process ends, and by whichever thread the keeper was started.
        self._keeper = subprocess.Popen(
            [
                "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child",
                "bash", SCRIPTS / "network", STORE, USER,
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={"PATH": os.environ["PATH"], **{f"SESSION_{name}": text for name, text in self._environment.items()}},
        )  # fmt: skip
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != "ready\n":
            raise RuntimeError(f"the network of the fake hosts could not be made: {self._keeper.communicate()[1]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        keeper, self._keeper = self._keeper, None
        assert keeper is not None
        keeper.kill()
        keeper.communicate()
        for host in self.hosts.values():
            host.wait()
        self.hosts.clear()

    def start(
        self, name: str, addresses: Sequence[str] = (), keys: Sequence[str] = (), environment: Mapping[str, str] = {}
    ) -> Host:
        """A host that answers at these addresses, the first of which is its own; at one of its own choice if none.

        `keys` are the public SSH keys that it lets in besides the network's; `environment` adds to the network's.
        Any thread may ask for it. A name is free again once its host was powered off.
        """
        with self._lock:
            self._count += 1
            number = self._count
        addresses = list(addresses) or [str(FIRST_ADDRESS + number)]
        read_alone = {str(path) for path in (REPOSITORY, Path(sys.prefix), Path(sys.base_prefix))}
        process = subprocess.Popen(
            [
                *("nsenter", "--target", str(self._first_process()), "--net", "--mount", "--pid", "--"),
                *("unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"),
                *("bash", str(SCRIPTS / "host"), STORE, USER, name, f"{number}", " ".join(addresses)),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
            env={
                "PATH": os.environ["PATH"], "READ_ALONE": "\n".join(sorted(read_alone)),
                "SHARED": "\n".join(map(str, self._shared)), "KEYS": "\n".join(keys),
                **{f"SESSION_{key}": text for key, text in environment.items()},
            },
        )  # fmt: skip
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the fake host {name} could not be made: {process.communicate()[1]}")
        host = Host(self, name, addresses, f"port{number}", process)
        self.hosts[name] = host
        return host

    def run_in_control(self, *command: str) -> None:
        """Runs a command where the switch is."""
        entered = ["nsenter", "--target", str(self._first_process()), "--net", "--mount", "--", *command]
        subprocess.run(entered, check=True, capture_output=True, text=True)

    def _first_process(self) -> int:
        assert self._keeper is not None, "the network is closed"
        return _child(self._keeper.pid)


class Host:
    """One fake machine; `Network.start` makes it."""

    def __init__(
        self, network: Network, name: str, addresses: Sequence[str], port: str, process: subprocess.Popen[str]
    ) -> None:
        self.name = name
        self.address = addresses[0]
        self.home = Path("/home", USER)
        self.network = network
        self._port = port
        self._process = process
        self._init = _child(_child(process.pid))

    def __repr__(self) -> str:
        return f"Host({self.name!r}, {self.address!r})"

    @property
    def is_on(self) -> bool:
        return self._process.poll() is None

    def path(self, place: str | Path) -> Path:
        """A file of the host as this process reaches it; links in it that are absolute lead elsewhere."""
        return Path(f"/proc/{self._init}/root", str(place if str(place).startswith("/") else self.home / place)[1:])

    def popen(self, *command: str, user: str = USER, **environment: str) -> subprocess.Popen[str]:
        """Starts a command of `user` as in a session, in its home directory and environment; it ends with the host."""
        assigned = [f"{name}={text}" for name, text in environment.items()]
        return subprocess.Popen(
            [
                *("nsenter", "--target", str(self._init), "--mount", "--uts", "--ipc", "--net", "--pid", "--"),
                *("sudo", "--set-home", "--user", user, "env", *assigned),
                *("sh", "-c", 'cd && exec "$@"', "sh", *command),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={"PATH": os.environ["PATH"]},
        )  # fmt: skip

    def run(
        self, *command: str, user: str = USER, timeout: float = 60, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command likewise and waits for it.

        Raises:
            AssertionError: if it takes more than `timeout` seconds, or fails and `check` is set; it has what was said.
        """
        limited = "timeout", "--kill-after=5", f"{timeout}"
        process = self.popen(*limited, *command, user=user, **environment)
        out, err = process.communicate()
        if process.returncode == 124 or (check and process.returncode):
            raise AssertionError(f"{self.name}: {' '.join(command)} ended with {process.returncode}\n{out}\n{err}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def power_off(self) -> None:
        """Ends it as a power cut does: everything at once, and no connection is closed on the wire."""
        if self.is_on:
            self.cut()
            with suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGKILL)
        self.wait()
        self.network.hosts.pop(self.name, None)

    def wait(self) -> None:
        """Waits until it is off."""
        self._process.communicate()

    def cut(self) -> None:
        """Takes its cable out of the switch: nothing arrives, nothing is refused, its own link looks well."""
        self.network.run_in_control("ip", "link", "set", self._port, "nomaster")

    def mend(self) -> None:
        """Puts the cable back."""
        self.network.run_in_control("ip", "link", "set", self._port, "master", "switch")

    def freeze(self) -> None:
        """Stops all its processes where they are; its network goes on to acknowledge what it receives."""
        stopped: set[int] = set()
        while running := self._processes() - stopped:  # a process may be born of one that was not stopped yet
            for process in running:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGSTOP)
            stopped |= running
            time.sleep(0.01)

    def thaw(self) -> None:
        """Lets them go on."""
        for process in self._processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    def _processes(self) -> set[int]:
        """Those of its process namespace, as they are numbered here."""
        own = Path(f"/proc/{self._init}/ns/pid").readlink()
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if (entry / "ns/pid").readlink() == own:
                        found.add(int(entry.name))
        return found


def _child(process: int) -> int:
    """The one child of a process."""
    (child,) = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(child)
