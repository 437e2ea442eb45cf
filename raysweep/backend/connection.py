"""The Ray of a sweep: one on this machine alone that it starts, or a cluster that it joins."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from raysweep.backend.address import (
    VARIABLE,
    Address,
    require_gcs,
    require_listener,
    require_node_here,
    require_token,
    running_here,
    wanted_address,
)
from raysweep.backend.nativelines import errors_said, followed_by
from raysweep.backend.raythread import RayThread, is_stuck
from raysweep.backend.resources import local_nodes, needed_processes
from raysweep.backend.socketdir import memory_folder, socket_folder
from raysweep.backend.startlogs import why_it_ended
from raysweep.clock import timed
from raysweep.errors import RayStartError, RaysweepError, ResourcesError
from raysweep.profiles import DriverPart
from raysweep.spec.sections import SweepSpec
from raysweep.storage.home import give_a_home

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
    "TUNE_WARN_THRESHOLD_S": "60",  # of steps of its loop: on a busy machine each may take seconds
}
"""Turns off Ray's and Tune's own output, loggers, signal handlers and snapshots: the ledger and the display replace
them. Also lifts Tune's limit of one trial that waits for a machine: the session hands out no more than can be at once.
"""

OBJECT_STORE_BYTES = 128 << 20
"""Trials share data through the page cache; Ray's object store carries only small reports."""

CLOSED = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""A Ray on this machine alone listens on loopback, as on macOS and Windows, and answers only those with its token."""

AGENT = "--dashboard_agent_command"
AGENTS_PORTS = ("DASHBOARD_AGENT_LISTEN", "METRICS_AGENT", "METRICS_EXPORT")
"""The raylet's option that starts its agent, and the ports that the agent reports to it."""

_log = logging.getLogger("raysweep")
WARM = "raysweep.worker.warm"
"""The module that processes import as they start."""

START_S = 90.0
"""How long a Ray of our own may take to start on a busy machine; on an idle one it takes 3 s."""
PORT_STEP_MS = 20
JOIN_S = 60.0
"""How long joining a cluster may take after its GCS has answered."""
ANSWER_S = 15.0
"""How long a GCS may take to answer. Ray itself would wait for 40 s."""
LEAST_ANSWER_S = 3.0
"""The same, at least, for each of several on this machine if the earlier ones took long."""
END_S = 20.0
"""How long Ray may take to end before its processes are killed."""
SETTLE_S = 45.0
"""How long a start that was given up may take to return: before that no other can be made. Ray looks for its GCS for
40 s at a time."""
TRIES = 2
"""How often a Ray of our own is started if it takes too long."""
LOOK_S = 1.0
"""How often to look whether Ray is still there."""


def ray_has_ended() -> bool:
    """Return whether the Ray that this process started or joined is gone.

    Ray itself would wait for it, in some cases for ever.
    """
    import ray

    node = ray._private.worker._global_node
    if node is None:
        return True
    if node.is_head():  # started here
        return bool(node.dead_processes())
    own = ray.get_runtime_context().get_node_id()
    return not any(found["NodeID"] == own and found["Alive"] for found in ray.nodes())


@contextmanager
def replaced(where: Any, **by: Any) -> Iterator[None]:
    """Replace these attributes of a module or class during the context, except those that it does not have."""
    kept = {name: getattr(where, name) for name in by if hasattr(where, name)}
    for name in kept:
        setattr(where, name, by[name])
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(where, name, value)


@contextmanager
def _recorded_in(started: list[subprocess.Popen[Any]]) -> Iterator[None]:
    """Record the processes that Ray starts, and give each a process group of its own.

    `timeout`, Slurm or a closed terminal send their signals to a whole process group. Ray's own processes must not get
    them, because a clean stop still needs these processes.
    """
    from ray._private import services

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[Any]:
        process = subprocess.Popen(*arguments, **options, process_group=0)  # noqa: S603 (Ray's own command)
        started.append(process)
        return process

    with replaced(services, ConsolePopen=start):
        yield


@contextmanager
def _without_services() -> Iterator[None]:
    """Make Ray start without dashboard, autoscaler and log monitor: a sweep alone on it never needs them.

    They are four Python processes; one is the dashboard's agent. Without them Ray starts and ends in two to three
    seconds less (docs/performance.md).
    """
    from ray._private.node import Node

    unneeded = ("start_api_server", "start_monitor", "start_log_monitor")
    with replaced(Node, **dict.fromkeys(unneeded, lambda *_, **__: None)), _raylet_started_by(_without_agent):
        yield


@contextmanager
def _raylet_started_by(change: Callable[[list[str]], list[str]], **environment: str) -> Iterator[None]:
    """Make Ray start its raylet with a changed command line and with these environment variables added.

    If the function that starts it has another name in this Ray, nothing changes.
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
    """Return a raylet's command line with a stand-in for the dashboard's agent.

    The raylet waits for the agent's ports, so it is told that there are none. If this Ray has other names for them,
    return the command line unchanged.
    """
    from ray import _raylet

    said = dict(part.split("=", 1) for part in command if "=" in part)
    persist = getattr(_raylet, "persist_port", None)
    ports = [getattr(_raylet, f"{name}_PORT_NAME", None) for name in AGENTS_PORTS]
    if persist is None or None in ports or not {AGENT, "--session_dir", "--node_id"} <= said.keys():
        return command
    for port in ports:
        persist(said["--session_dir"], said["--node_id"], port, -1)  # as the agent does if it serves nothing
    stand_in = subprocess.list2cmdline([sys.executable, "-I", "-S", str(Path(__file__).with_name("noagent.py"))])
    return [f"{AGENT}={stand_in}" if part.startswith(f"{AGENT}=") else part for part in command]


@contextmanager
def _starting_fast(processes: int, threads: int, is_over: Callable[[], bool]) -> Iterator[None]:
    """Make Ray start this number of processes for trials, and use the time that the driver waits for Ray.

    By default, Ray would start one for each core, and look only once a second whether its raylet is there. The raylet
    needs almost a second to start: in that time the driver imports what it needs next. Ray would also wait for the
    raylet for half a minute at most; here the driver waits until `is_over`. The processes import libraries before Ray
    tells them how many threads a trial has, and some libraries read that only once, so it is set in the environment.
    """
    from ray._private import services

    def get_node(gcs_address: str, node_id: str) -> Any:
        with suppress(Exception):  # if this fails, Ray or whoever needs it tries again, and reports the error
            import ray.tune  # noqa: F401
            from ray._raylet import GcsClient  # type: ignore[attr-defined]

            gcs = GcsClient(address=gcs_address)
            while not is_over() and not any(found.hex() == node_id for found in gcs.get_all_node_info()):
                time.sleep(0.02)
        return look(gcs_address, node_id)

    def started_beforehand(command: list[str]) -> list[str]:
        return [*command, f"--num_prestart_python_workers={processes}"]  # if a flag is given twice, the last one counts

    environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
    look: Any = getattr(services, "get_node", None)  # if this Ray has another name for it, nothing is replaced
    with replaced(services, get_node=get_node), _raylet_started_by(started_beforehand, **environment):
        yield


@contextmanager
def _waiting_for_ports_in_steps(is_over: Callable[[], bool]) -> Iterator[None]:
    """Make Ray wait for the ports of its daemons in short steps, until `is_over`.

    By default, it waits for half a minute inside C++ and lets no other Python thread run, so no signal is handled and
    no deadline is kept.
    """
    from ray._private import node

    def wait(*arguments: Any, timeout_ms: int = 0, **options: Any) -> Any:
        while True:
            try:
                return once(*arguments, timeout_ms=min(timeout_ms, PORT_STEP_MS), **options)
            except RuntimeError:
                if timeout_ms <= PORT_STEP_MS or is_over():
                    raise
            time.sleep(PORT_STEP_MS / 1000)

    once: Any = getattr(node, "wait_for_persisted_port", None)
    with replaced(node, wait_for_persisted_port=wait):
        yield


@contextmanager
def _connecting_deaf(thread: RayThread, what: str) -> Iterator[None]:
    """Guard the call in which Ray connects this process to its raylet and blocks all of Python.

    The raylet answers when processes for trials have started, so a process that cannot start is noticed here.
    """
    from ray import _raylet
    from ray._private import worker

    def connect(*arguments: Any, **options: Any) -> Any:
        logs = Path(worker._global_node.get_logs_dir_path())
        message = (
            f"{what}: no process for trials has come up within {START_S:g} s\n  its logs: {logs}\n"
            "Type the same command once more; if it comes again, see these logs. They end with:\n"
        )
        with thread.deaf(START_S, logs / "raylet.err", message):
            return core_worker(*arguments, **options)

    core_worker: Any = getattr(_raylet, "CoreWorker", None)  # if this Ray has another name for it, nothing is guarded
    with replaced(_raylet, CoreWorker=connect):
        yield


def _init_here(thread: RayThread, node: dict[str, float], processes: int, threads: int, folder: Path | None) -> None:
    """Start a Ray on this machine alone, from its thread."""
    import ray

    until = time.monotonic() + START_S
    memory = memory_folder(folder)

    def is_over() -> bool:
        return thread.given_up.is_set() or time.monotonic() > until

    with (
        _recorded_in(thread.processes),
        _without_services(),
        _waiting_for_ports_in_steps(is_over),
        _starting_fast(processes, threads, is_over),
        _connecting_deaf(thread, "Ray did not start on this machine"),
    ):
        ray.init(
            address="local",  # otherwise it joins a Ray that runs on this machine, and refuses our resources
            num_cpus=int(node["CPU"]),
            num_gpus=int(node["GPU"]),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _memory=int(node["memory"]) if "memory" in node else None,  # Ray sees only the outermost limit
            _system_config={"preload_python_modules": [WARM]},
            _temp_dir=str(folder) if folder is not None else None,
            **({"_plasma_directory": memory} if memory is not None else {}),  # only where it is needed
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )


def _started_here(spec: SweepSpec | None, trials: int, folder: Path | None, warn: Callable[[str], None]) -> RayThread:
    """Start a Ray on this machine alone; return the thread that has it.

    Raises:
        RayStartError: if it does not start, with the cause and where its logs are.
        ResourcesError: if no trial of `spec` could ever start on this machine.
    """
    (node,) = local_nodes()
    processes, threads = needed_processes(spec, node, trials) if spec is not None else (int(node["CPU"]), 1)
    for left in reversed(range(TRIES)):
        thread = RayThread()
        try:
            thread.call(partial(_init_here, thread, node, processes, threads, folder), START_S, watching=True)
        except RaysweepError:
            raise
        except Exception as error:  # Ray raises exceptions of any type, even a plain Exception
            if thread.is_stuck:
                thread.settle(SETTLE_S)
            _clear_away(thread)
            why = why_it_ended(error, thread.processes, errors_said())
            if left and _is_late(error, why) and not is_stuck():
                cause = f" within {START_S:g} s" if isinstance(error, TimeoutError) else f": {why.splitlines()[0]}"
                warn(f"Ray did not start{cause}; it is started once more")
                continue
            raise RayStartError(
                f"Ray did not start on this machine: {why}\n"
                "Type the same command once more; if it comes again, see these logs, and what this machine has left of "
                "memory (free -m), disk (df -h) and processes (ulimit -u)"
            ) from error
        return thread
    raise AssertionError("the last try returns or raises")


def _is_late(error: Exception, why: str) -> bool:
    """Return whether a start took too long, by our deadline or by one of Ray's own.

    A raylet ends itself if one of its agents has not started within 15 s, and says so only in its log.
    """
    said = f"{error} {why}".lower()
    return isinstance(error, TimeoutError) or "timed out" in said or "timeout" in said


def _joined(address: Address) -> RayThread:
    """Join the cluster at this address; return the thread that has the connection.

    Raises:
        ResourcesError: if no cluster answers there, or this machine is not part of it.
    """
    thread = RayThread()
    try:
        there = _only_one_here() if address.is_auto else address
        require_token()
        require_listener(there)
        _ask(thread, there, ANSWER_S)
        thread.call(partial(_init_there, thread, there), JOIN_S)
    except RaysweepError:
        raise
    except Exception as error:  # as above
        _clear_away(thread)
        separator = "\n" if "\n" in str(error) else "; "
        if address.is_auto:
            said, advice = f"{VARIABLE}=auto", f"name one that you may use: export {VARIABLE}=HOST:PORT"
        else:
            said, advice = f"{VARIABLE}={address}", "check the address"
        raise ResourcesError(
            f"Ray does not answer at {said}: {_first_line(error)}{separator}{advice}, or unset {VARIABLE} to run here"
        ) from error
    return thread


def _ask(thread: RayThread, address: Address, timeout_s: float) -> None:
    """Raise ConnectionError if no GCS answers at the address, or this machine is not in its cluster."""
    try:
        thread.call(partial(require_gcs, address), timeout_s)
    except TimeoutError as error:
        raise ConnectionError(
            f"what listens there has not answered as a Ray for {timeout_s:.0f} s; a cluster started by "
            "`ray start --head` has port 6379"
        ) from error
    try:
        thread.call(partial(require_node_here, address), timeout_s)
    except TimeoutError as error:
        raise ConnectionError(f"it has not said for {timeout_s:.0f} s which machines it has") from error


def _only_one_here() -> Address:
    """Return the address of the one Ray on this machine that answers this process.

    Raises:
        ConnectionError: if there are none or several; the message lists what was found, and why it is not used.
    """
    refused, answering, until = [], [], time.monotonic() + ANSWER_S
    for address in running_here():
        thread = RayThread()
        try:
            require_token()
            require_listener(address)
            _ask(thread, address, max(LEAST_ANSWER_S, until - time.monotonic()))
            answering.append(address)
        except ConnectionError as error:
            refused.append(f"{address}: {error}")
        finally:
            thread.close()
    if len(answering) == 1:
        return answering[0]
    if answering:
        raise ConnectionError(f"several answer on this machine: {', '.join(map(str, answering))}; name one of them")
    if refused:
        raise ConnectionError("none of those on this machine can be joined\n  " + "\n  ".join(refused))
    raise ConnectionError("no Ray runs on this machine")


def _init_there(thread: RayThread, address: Address) -> None:
    """Join a cluster, from its thread."""
    import ray

    with _connecting_deaf(thread, f"Ray does not answer at {VARIABLE}={address}"):
        ray.init(address=str(address), log_to_driver=False, logging_level=logging.CRITICAL)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text if isinstance(error, ConnectionError) else (text.splitlines() or [type(error).__name__])[0]


def _clear_away(thread: RayThread) -> None:
    """Clean up after a failed start: kill Ray's processes and reset Ray's state in this process."""
    import ray

    thread.kill()
    if not thread.is_stuck:
        thread.close()
        other = RayThread()
        with suppress(Exception):  # only the failure of the start is reported
            other.call(ray.shutdown, END_S)
        other.close()
    if is_stuck():
        _leave_to_the_system()


def _leave_to_the_system() -> None:
    """Keep Python, when it exits, from waiting for a call into Ray that does not return."""
    import ray

    atexit.unregister(ray.shutdown)


@contextmanager
def connected(
    spec: SweepSpec | None = None, trials: int = 1, *, log: Path | None = None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[None]:  # fmt: skip
    """Connect to Ray during the context: the cluster that RAY_ADDRESS names, otherwise one on this machine alone.

    The latter is closed to others, unless this process imported `ray` earlier, which fixes how it starts. It begins
    with as many processes as this number of trials of `spec` needs. What Ray's C++ half writes meanwhile goes to
    `log`; `warn` is called if Ray starts in another place, or a second time.

    Every wait for Ray has a deadline and ends with the first signal.

    Raises:
        ResourcesError: if no cluster answers at RAY_ADDRESS, or no trial of `spec` could ever start on this machine.
        RayStartError: if none starts on this machine, or Ray cannot be imported.
    """
    address = wanted_address()
    give_a_home()
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    if address is None and "ray" not in sys.modules:  # Ray reads them as it is imported
        os.environ.update(CLOSED)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with timed(DriverPart.RAY):
        ray = _imported()
    if ray.is_initialized():
        yield
        return
    warn = warn or (lambda _: None)
    if address is not None:
        with timed(DriverPart.RAY):
            thread = _joined(address)
        with followed_by(log), _held(thread):
            yield
        return
    with socket_folder(warn) as folder:
        with timed(DriverPart.RAY):
            thread = _started_here(spec, trials, folder, warn)
        with followed_by(log), _held(thread):
            yield


def _imported() -> Any:
    """Import Ray and return it.

    Raises:
        RayStartError: if it cannot be imported.
    """
    if sys.flags.optimize > 1:
        raise RayStartError(
            "Ray reads docstrings, which Python leaves out with -OO or PYTHONOPTIMIZE=2; type: unset PYTHONOPTIMIZE"
        )
    try:
        import ray
    except Exception as error:  # a library built for another machine: OSError; a user's module of its name: anything
        said = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise RayStartError(
            f"Ray cannot be imported: {type(error).__name__}: {said}\n"
            "If a file of yours in this directory bears a library's name, rename it; otherwise install Ray once more: "
            'pip install --force-reinstall "ray[tune]"'
        ) from error
    return ray


@contextmanager
def _held(thread: RayThread) -> Iterator[None]:
    """Keep the Ray of a thread until the context ends, then end it. Kill it if it does not end."""
    import ray

    try:
        yield
    finally:
        try:
            thread.call(ray.shutdown, END_S)
            thread.close()
        except TimeoutError:
            _log.warning("Ray did not end within %g s; its processes were killed", END_S)
        finally:
            thread.kill()
            if is_stuck():
                _leave_to_the_system()
