"""Rules for files of `ray up`, Ray's cluster launcher on AWS, Google Cloud, Azure and your own machines.

A rule yields what is wrong: the key, and a message that says what was found, what is wanted, and what to type. Rules
judge what Ray would do with the file, so an absent key counts as Ray's default for it.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from raysweep.cluster.clouds import RULES, Found
from raysweep.cluster.files import PINNED_RAY, PLACEHOLDER, ClusterFile, names_storage, same_version
from raysweep.cluster.launchfile import Launcher, is_spot, mapping, sequence
from raysweep.spec.yamltext import shown
from raysweep.storage.home import expanded

CLOUDS = ("aws", "gcp", "azure")
MOUNTED = ".ray/auth_token"


def check_launcher(file: ClusterFile, installed_ray: str) -> list[str]:
    """Add a fault to a file for whatever is missing in it; return what to remember if nothing is."""
    launcher = Launcher(file.documents[0])
    if launcher.kind not in (*CLOUDS, "local"):
        file.add(("provider", "type"), f"is {launcher.kind!r}; wanted: aws, gcp, azure or local")
        return []
    rules: list[Callable[[Launcher], Found]] = [*COMMON, *RULES[launcher.kind]]
    for rule in rules:
        for key, message in rule(launcher):
            file.add(key, message)
    for key, message in _ray_version(launcher, installed_ray):
        file.add(key, message)
    if not names_storage(file.text) and launcher.kind != "local":
        scheme = {"aws": "s3", "gcp": "gs", "azure": "abfss"}[launcher.kind]
        file.add(
            ("setup_commands",), f"no bucket is named for the results; wanted: {scheme}://bucket in RAYSWEEP_RESULTS"
        )
    return list(_reminders(launcher))


def _ray_version(launcher: Launcher, installed: str) -> Found:
    commands = launcher.commands("setup_commands", "head_setup_commands", "worker_setup_commands")
    if "ray-wheels/latest" in commands or re.search(r"ray-[\w.]+dev", commands):
        yield ("setup_commands",), f"installs a nightly build of Ray; wanted: ray=={installed}"
    pinned = PINNED_RAY.findall(commands)
    if not pinned:
        constraints = _constraints(launcher)
        pinned = PINNED_RAY.findall(constraints)
    if not pinned:
        yield ("setup_commands",), f"installs no fixed version of Ray; wanted: ray=={installed}, as on this machine"
    for version in dict.fromkeys(pinned):
        if not same_version(version, installed):
            yield (
                ("setup_commands",),
                f"installs Ray {version}, this machine has {installed}, and ray up wants the same on both; "
                f"write ray=={installed}, or type: pip install ray=={version}",
            )


def _constraints(launcher: Launcher) -> str:
    """Return the constraints that the setup commands use; empty if `file_mounts` does not send them to the machines."""
    if "constraints.txt" not in launcher.all_commands:
        return ""
    for local in mapping(launcher.config, "file_mounts").values():
        path = expanded(str(local))
        path = path / "constraints.txt" if path.is_dir() else path
        if path.name == "constraints.txt" and path.is_file():
            return path.read_text(errors="replace")
    return ""


def _keys(launcher: Launcher) -> Found:
    """Yield the keys that are not in the schema of the Ray on this machine."""
    try:
        schema = Path(str(distribution("ray").locate_file("ray/autoscaler/ray-schema.json")))
        known = tuple(json.loads(schema.read_bytes())["properties"])
    except (PackageNotFoundError, OSError, ValueError, KeyError):  # another Ray, which may have another schema
        return
    for key in launcher.config:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            yield (str(key),), "is no key that Ray knows" + (f"; did you mean {close[0]}?" if close else "")


def _node_types(launcher: Launcher) -> Found:
    if launcher.kind == "local":
        return
    if launcher.head not in launcher.types:
        yield (
            ("head_node_type",),
            f"is {launcher.head!r}; wanted: one of {', '.join(launcher.types) or 'the node types'}",
        )
    if not launcher.workers:
        yield ("available_node_types",), "has no type for workers, so no trial could ever start"
    for name, kind in launcher.types.items():
        for key in ("resources", "node_config"):
            if not isinstance(kind.get(key), dict):
                yield ("available_node_types", name, key), "is missing"


def _head_trains(launcher: Launcher) -> Found:
    """Yield a fault if the head would run trials.

    The head runs the driver and keeps the ledger: a trial that used up its memory would end the sweep.
    """
    if launcher.kind == "local":
        if not re.search(r"--num-cpus[= ]0\b", launcher.commands("head_start_ray_commands")):
            yield ("head_start_ray_commands",), "the head would run trials; wanted: ray start --head --num-cpus=0"
        return
    resources = mapping(launcher.types.get(launcher.head, {}), "resources")
    for name in ("CPU", "GPU"):
        if resources.get(name, None if name == "CPU" else 0) != 0:
            got = shown(resources[name]) if name in resources else "not given, so all that it has"
            yield (
                ("available_node_types", launcher.head, "resources", name),
                f"the head would run trials: {got}; wanted: 0",
            )


def _worker_resources(launcher: Launcher) -> Found:
    """Yield a fault for each type of worker without CPUs in the file.

    The autoscaler starts machines, and a sweep lets trials wait for them, according to the resources in the file.
    """
    for name in launcher.workers:
        cores = mapping(launcher.types[name], "resources").get("CPU")
        if launcher.kind != "local" and not (isinstance(cores, int) and cores > 0):
            yield (
                ("available_node_types", name, "resources", "CPU"),
                f"is {'missing' if cores is None else shown(cores)}, so that no trial would wait for such a machine; "
                "wanted: its cores, and its GPUs as GPU",
            )


def _no_workers(launcher: Launcher) -> Found:
    if launcher.kind == "local":
        return
    total = launcher.config.get("max_workers")
    if total is None:
        yield ("max_workers",), "is missing, so that Ray starts 2 workers at most; wanted: how many there may be"
    elif total == 0:
        yield ("max_workers",), "is 0, so that no worker is ever started; wanted: how many there may be"
    if launcher.workers and all(kind.get("max_workers") == 0 for kind in launcher.workers.values()):
        yield ("available_node_types",), "max_workers is 0 for every type of worker; wanted: 1 or more for one of them"
    if launcher.types.get(launcher.head, {}).get("max_workers", total) != 0:
        yield (
            ("available_node_types", launcher.head, "max_workers"),
            "further machines of the head's type could be started, which run no trials; wanted: 0",
        )


def _starts_workers(launcher: Launcher) -> Found:
    commands = launcher.commands("head_start_ray_commands")
    if "head_start_ray_commands" not in launcher.config:
        yield ("head_start_ray_commands",), "is missing; Ray's own opens the dashboard to all interfaces"
        return
    if "--autoscaling-config" not in commands:
        yield (
            ("head_start_ray_commands",),
            "no worker would ever be started; wanted: ray start --head "
            "--autoscaling-config=~/ray_bootstrap_config.yaml",
        )
    for host in re.findall(r"--dashboard-host[= ](\S+)", commands):
        if host not in ("127.0.0.1", "localhost", "::1"):
            yield (
                ("head_start_ray_commands",),
                f"the dashboard, which runs any code, listens on {host}; wanted: --dashboard-host=127.0.0.1",
            )


def _token(launcher: Launcher) -> Found:
    if not re.search(r"RAY_AUTH_MODE=['\"]?token\b", launcher.all_commands):
        yield (
            ("setup_commands",),
            "Ray would answer to everyone who reaches it; wanted: RAY_AUTH_MODE=token in the environment of all nodes",
        )
    mounts = mapping(launcher.config, "file_mounts")
    if not any(str(remote).endswith(MOUNTED) for remote in mounts) and "RAY_AUTH_TOKEN" not in launcher.all_commands:
        yield ("file_mounts",), f"the token does not reach the machines; wanted: ~/{MOUNTED}: ~/{MOUNTED}"


def _local_files(launcher: Launcher) -> Found:
    for remote, local in mapping(launcher.config, "file_mounts").items():
        path = expanded(str(local))
        if str(remote).endswith(MOUNTED):  # check._check_token looks at it
            continue
        if not PLACEHOLDER.search(str(local)) and not path.exists():
            yield ("file_mounts", str(remote)), f"{local} is not on this machine; wanted: what is to be sent there"
    for key in ("ssh_private_key", "ssh_public_key"):
        named = mapping(launcher.config, "auth").get(key)
        if isinstance(named, str) and not PLACEHOLDER.search(named) and not expanded(named).exists():
            make = named.removesuffix(".pub")
            yield ("auth", key), f"{named} is not on this machine; to make one, type: ssh-keygen -t ed25519 -f {make}"


def _stopped_machines(launcher: Launcher) -> Found:
    if launcher.kind != "local" and launcher.provider.get("cache_stopped_nodes") is not False:
        yield (
            ("provider", "cache_stopped_nodes"),
            "machines that are scaled down would be stopped and kept, and their disks paid for; wanted: false",
        )


def _spot_head(launcher: Launcher) -> Found:
    if launcher.kind != "local" and launcher.head in launcher.types and is_spot(launcher, launcher.head):
        yield launcher.node_key(launcher.head), "the head would be a spot machine, and the driver go with it"


def _reminders(launcher: Launcher) -> Iterator[str]:
    """Yield reminders of what no change of the file can repair."""
    if launcher.kind == "local":
        yield "a firewall has to keep others away from the machines' ports: Ray listens on all interfaces, unencrypted"
        return
    yield "the head costs money from ray up until ray down"
    named = [str(group) for name in launcher.types for group in sequence(launcher.node(name), "SecurityGroupIds")]
    for group in dict.fromkeys(named):
        yield f"what {group} lets in cannot be seen here; wanted: SSH from your address, everything within the group"
    for name, kind in launcher.workers.items():
        if count := kind.get("min_workers", 0):
            cost = "machine of type {} costs" if count == 1 else "machines of type {} cost"
            yield f"{count} {cost.format(name)} money also while nothing runs (min_workers)"
        if not is_spot(launcher, name):
            yield f"machines of type {name} are on demand, which costs more than spot"
    if launcher.kind == "azure" and not launcher.provider.get("use_internal_ips"):
        yield "after every ray up, narrow the rule SSH, which Ray opens to the world: see the head of the file"


COMMON: tuple[Callable[[Launcher], Found], ...] = (
    _keys, _node_types, _head_trains, _worker_resources, _no_workers, _starts_workers, _token, _local_files,
    _stopped_machines, _spot_head,
)  # fmt: skip
