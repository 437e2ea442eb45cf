"""Ray, as a sweep has it: one on this machine alone that it starts, or a cluster that it joins."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from raysweep.clock import timed
from raysweep.errors import ResourcesError
from raysweep.profiles import DriverPart
from raysweep.search.resources import local_nodes, needed_processes
from raysweep.search.stopping import signals_deferred
from raysweep.spec import SweepSpec

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
"""Without Ray's and Tune's own output, loggers, signal handlers and snapshots, which the ledger and the display
replace, and Tune's limit of one trial that waits for a machine: the session hands out no more than can be at once."""

OBJECT_STORE_BYTES = 128 << 20
"""Trials share data through the page cache; Ray's object store carries only small reports."""

CLOSED = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""A Ray on this machine alone listens on loopback, as on macOS and Windows, and answers to who has its token."""

AGENT = "--dashboard_agent_command"
AGENTS_PORTS = ("DASHBOARD_AGENT_LISTEN", "METRICS_AGENT", "METRICS_EXPORT")
"""Of a raylet, and what its agent tells it."""

WARM = "raysweep.search.warm"
"""What processes import as they start."""

KNOCK_S = 10.0
RAYLET_S = 5.0
"""How long a raylet that starts is looked for often; from then on Ray's own wait, of half a minute, goes on."""
_WHERE = "have the cluster's in ~/.ray/auth_token, RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"
LOOK_S = 1.0
"""How often to look whether Ray is still there."""


def ray_has_ended() -> bool:
    """Whether the Ray that this process started or joined is gone; Ray itself would wait for it, some for ever."""
    import ray

    node = ray._private.worker._global_node
    if node is None:
        return True
    if node.is_head():  # started here
        return bool(node.dead_processes())
    own = ray.get_runtime_context().get_node_id()
    return not any(found["NodeID"] == own and found["Alive"] for found in ray.nodes())


def _knock(address: str) -> None:
    """Raises ConnectionError for what Ray itself would wait on for minutes, or end the process: nothing listens at
    `host:port`, or this process has not the token that is asked for there.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import RayError

    if os.environ.get("RAY_AUTH_MODE") == "token" and not _has_token():
        raise ConnectionError(f"RAY_AUTH_MODE is token, and there is none; {_WHERE}")
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
        except OSError as error:
            raise ConnectionError(f"nothing listens there ({error.strerror or error})") from error
        try:
            GcsClient(address=address)
        except RayError as error:
            if "InvalidAuthToken" not in str(error):
                raise ConnectionError(str(error)) from error
            raise ConnectionError(
                f"it asks for a token that is not this process's; set RAY_AUTH_MODE=token, and {_WHERE}"
            ) from error


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    return path.is_file() and path.stat().st_size > 0


@contextmanager
def replaced(where: Any, **by: Any) -> Iterator[None]:
    """Has these attributes of a module or class replaced for a while, but those that it has not."""
    kept = {name: getattr(where, name) for name in by if hasattr(where, name)}
    for name in kept:
        setattr(where, name, by[name])
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(where, name, value)


@contextmanager
def _apart_from_signals() -> Iterator[None]:
    """Has signals mean to Ray nothing but what raysweep makes of them.

    `ray.init` would replace the handler of SIGTERM by one that ends the process on the spot. And `timeout`, Slurm or a
    closed terminal send theirs to a whole process group: Ray's own processes, which a clean stop still needs, get one
    of their own.
    """
    from ray._private import services, utils

    in_a_group = partial(subprocess.Popen, process_group=0)
    with replaced(utils, set_sigterm_handler=lambda handler: None), replaced(services, ConsolePopen=in_a_group):
        yield


@contextmanager
def _without_services() -> Iterator[None]:
    """Has a Ray that starts leave out what a sweep alone on it never asks: dashboard, autoscaler and log monitor.

    They are four processes of Python, one of which is the dashboard's agent. Without them Ray starts and ends in two to
    three seconds less (docs/performance.md).
    """
    from ray._private.node import Node

    unneeded = ("start_api_server", "start_monitor", "start_log_monitor")
    with replaced(Node, **dict.fromkeys(unneeded, lambda *_, **__: None)), _raylet_started_by(_without_agent):
        yield


@contextmanager
def _raylet_started_by(change: Callable[[list[str]], list[str]], **environment: str) -> Iterator[None]:
    """Has a Ray that starts start its raylet by what is made of its command line, with these variables besides.

    A Ray that starts it by another name starts it as it is.
    """
    from ray._private import services
    from ray._private.ray_constants import PROCESS_TYPE_RAYLET

    def start(command: list[str], process_type: str, **options: Any) -> Any:
        if process_type == PROCESS_TYPE_RAYLET:
            command = change(command)
            options["env_updates"] = {**(options.get("env_updates") or {}), **environment}
        return run(command, process_type, **options)

    run: Any = getattr(services, "start_ray_process", None)
    with replaced(services, start_ray_process=start):
        yield


def _without_agent(command: list[str]) -> list[str]:
    """A raylet's command line with a stand-in for the dashboard's agent, whose ports it waits for: it is told of none.

    As it is, where this Ray has them by other names.
    """
    from ray import _raylet

    said = dict(part.split("=", 1) for part in command if "=" in part)
    persist = getattr(_raylet, "persist_port", None)
    ports = [getattr(_raylet, f"{name}_PORT_NAME", None) for name in AGENTS_PORTS]
    if persist is None or None in ports or not {AGENT, "--session_dir", "--node_id"} <= said.keys():
        return command
    for port in ports:
        persist(said["--session_dir"], said["--node_id"], port, -1)  # as the agent does where it serves nothing
    stand_in = subprocess.list2cmdline([sys.executable, "-I", "-S", str(Path(__file__).with_name("standin.py"))])
    return [f"{AGENT}={stand_in}" if part.startswith(f"{AGENT}=") else part for part in command]


@contextmanager
def _starting_fast(processes: int, threads: int) -> Iterator[None]:
    """Has a Ray that starts start so many processes for trials, and this one use the time that it waits for Ray.

    Ray would start one for each core, and look but once a second for whether its raylet is there, which takes that
    nearly a second: time for what the driver imports next. The processes import libraries before Ray tells them how
    many threads a trial has, and some of these look at that but once.
    """
    from ray._private import services

    def get_node(gcs_address: str, node_id: str) -> Any:
        with suppress(Exception):  # what fails here is tried again, by Ray or by who needs it, and reported there
            import ray.tune  # noqa: F401
            from ray._raylet import GcsClient  # type: ignore[attr-defined]

            until, gcs = time.monotonic() + RAYLET_S, GcsClient(address=gcs_address)
            while time.monotonic() < until and not any(found.hex() == node_id for found in gcs.get_all_node_info()):
                time.sleep(0.02)
        return look(gcs_address, node_id)

    def started_beforehand(command: list[str]) -> list[str]:
        return [*command, f"--num_prestart_python_workers={processes}"]  # of a flag given twice the last counts

    environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
    look: Any = getattr(services, "get_node", None)  # a Ray that has it by another name starts without
    with replaced(services, get_node=get_node), _raylet_started_by(started_beforehand, **environment):
        yield


def _start(address: str | None, spec: SweepSpec | None, trials: int) -> None:
    """Joins the cluster at this address, or starts a Ray on this machine alone."""
    import ray

    try:
        if address:
            _knock(address)
            ray.init(log_to_driver=False, logging_level=logging.CRITICAL)
        else:
            (node,) = local_nodes()
            processes, threads = needed_processes(spec, node, trials) if spec is not None else (int(node["CPU"]), 1)
            with _without_services(), _starting_fast(processes, threads):
                ray.init(
                    address="local",  # else it joins what Ray was started on this machine, and refuses our resources
                    num_cpus=int(node["CPU"]),
                    num_gpus=int(node["GPU"]),
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _memory=int(node["memory"]) if "memory" in node else None,  # Ray sees the outermost limit alone
                    _system_config={"preload_python_modules": [WARM]},
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"at RAY_ADDRESS={address}" if address else "on this machine"
        advice = (
            "check the address, or unset RAY_ADDRESS to run here" if address else "see Ray's logs in its session folder"
        )
        raise ResourcesError(f"Ray does not answer {where}: {str(error).splitlines()[0]}; {advice}") from error


@contextmanager
def connected(spec: SweepSpec | None = None, trials: int = 1) -> Iterator[None]:
    """Ray, for as long as the context lasts: the cluster that RAY_ADDRESS names, else one on this machine alone.

    The latter is closed to others, unless this process has imported `ray` before and so fixed how it starts. It begins
    with as many processes as are needed to train so many trials of `spec`.

    Raises:
        ResourcesError: if no cluster answers at RAY_ADDRESS, or no trial of `spec` could ever start on this machine.
    """
    address = os.environ.get("RAY_ADDRESS")
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    if not address and "ray" not in sys.modules:  # Ray reads them as it is imported
        os.environ.update(CLOSED)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with timed(DriverPart.RAY):
        import ray

        is_ours = not ray.is_initialized()
        if is_ours:
            with _apart_from_signals(), nullcontext() if address else signals_deferred():
                _start(address, spec, trials)
    try:
        yield
    finally:
        if is_ours:
            ray.shutdown()
