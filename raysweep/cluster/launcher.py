"""Files of `ray up`: Ray's cluster launcher on AWS, Google Cloud, Azure and on machines of one's own.

A rule yields what is wrong: the key, and a message that says what was found, what is wanted, and what to type. Rules
look at what Ray would do with the file, so a key that is absent counts as Ray's default for it.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from raysweep.cluster.files import PINNED_RAY, PLACEHOLDER, ClusterFile, names_storage, same_version
from raysweep.yamltext import KeyPath, shown

Found = Iterator[tuple[KeyPath, str]]

CLOUDS = ("aws", "gcp", "azure")
MOUNTED = ".ray/auth_token"
WORLD = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True)
class Launcher:
    """A file of `ray up`, in the parts that rules ask for; what has another type than Ray wants counts as absent."""

    config: dict[str, Any]

    @property
    def provider(self) -> dict[str, Any]:
        return _mapping(self.config, "provider")

    @property
    def kind(self) -> str:
        return str(self.provider.get("type"))

    @property
    def head(self) -> str:
        return str(self.config.get("head_node_type"))

    @property
    def types(self) -> dict[str, dict[str, Any]]:
        """Node types by name, the head's included."""
        found = _mapping(self.config, "available_node_types")
        return {str(name): value for name, value in found.items() if isinstance(value, dict)}

    @property
    def workers(self) -> dict[str, dict[str, Any]]:
        return {name: value for name, value in self.types.items() if name != self.head}

    def node(self, name: str) -> dict[str, Any]:
        """What the cloud is asked for."""
        return _mapping(self.types[name], "node_config")

    def node_key(self, name: str, *below: str | int) -> KeyPath:
        return ("available_node_types", name, "node_config", *below)

    def commands(self, *keys: str) -> str:
        """The shell commands of some keys, a line each."""
        return "\n".join(str(line) for key in keys for line in _sequence(self.config, key))

    @property
    def all_commands(self) -> str:
        return self.commands(
            "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
            "head_start_ray_commands", "worker_start_ray_commands",
        )  # fmt: skip


def check_launcher(file: ClusterFile, installed_ray: str) -> list[str]:
    """Adds to a file whatever is missing in it; what to remember if nothing is."""
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
    """The constraints that the setup commands take, if they are in a directory that is sent to the machines."""
    if "constraints.txt" not in launcher.all_commands:
        return ""
    for local in _mapping(launcher.config, "file_mounts").values():
        path = Path(str(local)).expanduser()
        path = path / "constraints.txt" if path.is_dir() else path
        if path.name == "constraints.txt" and path.is_file():
            return path.read_text(errors="replace")
    return ""


def _keys(launcher: Launcher) -> Found:
    """Names that Ray does not know, by the schema of the Ray that is installed here."""
    try:
        schema = Path(str(distribution("ray").locate_file("ray/autoscaler/ray-schema.json")))
        known = tuple(json.loads(schema.read_bytes())["properties"])
    except (PackageNotFoundError, OSError, ValueError, KeyError):  # another Ray, which may say it otherwise
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
    """The head keeps the driver and the ledger: a trial that takes its memory takes the sweep along."""
    if launcher.kind == "local":
        if not re.search(r"--num-cpus[= ]0\b", launcher.commands("head_start_ray_commands")):
            yield ("head_start_ray_commands",), "the head would run trials; wanted: ray start --head --num-cpus=0"
        return
    resources = _mapping(launcher.types.get(launcher.head, {}), "resources")
    for name in ("CPU", "GPU"):
        if resources.get(name, None if name == "CPU" else 0) != 0:
            got = shown(resources[name]) if name in resources else "not given, so all that it has"
            yield (
                ("available_node_types", launcher.head, "resources", name),
                f"the head would run trials: {got}; wanted: 0",
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
    mounts = _mapping(launcher.config, "file_mounts")
    if not any(str(remote).endswith(MOUNTED) for remote in mounts) and "RAY_AUTH_TOKEN" not in launcher.all_commands:
        yield ("file_mounts",), f"the token does not reach the machines; wanted: ~/{MOUNTED}: ~/{MOUNTED}"


def _local_files(launcher: Launcher) -> Found:
    for remote, local in _mapping(launcher.config, "file_mounts").items():
        path = Path(str(local)).expanduser()
        if str(remote).endswith(MOUNTED):  # looked at on its own
            continue
        if not PLACEHOLDER.search(str(local)) and not path.exists():
            yield ("file_mounts", str(remote)), f"{local} is not on this machine; wanted: what is to be sent there"
    for key in ("ssh_private_key", "ssh_public_key"):
        named = _mapping(launcher.config, "auth").get(key)
        if isinstance(named, str) and not PLACEHOLDER.search(named) and not Path(named).expanduser().exists():
            make = named.removesuffix(".pub")
            yield ("auth", key), f"{named} is not on this machine; to make one, type: ssh-keygen -t ed25519 -f {make}"


def _stopped_machines(launcher: Launcher) -> Found:
    if launcher.kind != "local" and launcher.provider.get("cache_stopped_nodes") is not False:
        yield (
            ("provider", "cache_stopped_nodes"),
            "machines that are scaled down would be stopped and kept, and their disks paid for; wanted: false",
        )


def _spot_head(launcher: Launcher) -> Found:
    if launcher.kind != "local" and launcher.head in launcher.types and _is_spot(launcher, launcher.head):
        yield launcher.node_key(launcher.head), "the head would be a spot machine, and the driver go with it"


def _is_spot(launcher: Launcher, name: str) -> bool:
    node = launcher.node(name)
    if launcher.kind == "aws":
        return _mapping(node, "InstanceMarketOptions").get("MarketType") == "spot"
    if launcher.kind == "gcp":
        scheduling: Any = node.get("scheduling")
        parts = scheduling if isinstance(scheduling, list) else [scheduling]
        return any(
            isinstance(part, dict) and (part.get("provisioningModel") == "SPOT" or part.get("preemptible"))
            for part in parts
        )
    return str(_mapping(node, "azure_arm_parameters").get("priority", "")).lower() == "spot"


def _aws_open_ports(launcher: Launcher) -> Found:
    nodes = {name: launcher.node(name) for name in launcher.types}
    own = _mapping(launcher.provider, "security_group")
    if not own:
        if any(not node.get("SecurityGroupIds") for node in nodes.values()):
            yield (
                ("provider", "security_group"),
                "is missing: Ray would make one with port 22 open to the world; wanted: GroupName and IpPermissions "
                "with your address",
            )
        return
    if not own.get("GroupName"):
        yield ("provider", "security_group", "GroupName"), "is missing"
    permissions = _sequence(own, "IpPermissions")
    if not any(isinstance(rule, dict) and rule.get("FromPort") == 22 for rule in permissions):
        yield (
            ("provider", "security_group", "IpPermissions"),
            "does not let you in: without a rule for port 22 Ray adds one that is open to the world",
        )
    for index, rule in enumerate(permissions):
        for kind, name in (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6")):
            for number, part in enumerate(_sequence(rule, kind)):
                if isinstance(part, dict) and str(part.get(name)) in WORLD:
                    port = "SSH" if rule.get("FromPort") == 22 else f"port {rule.get('FromPort', 'all')}"
                    yield (
                        ("provider", "security_group", "IpPermissions", index, kind, number, name),
                        f"{port} is open to the world: {part[name]}; wanted: your address, such as 198.51.100.7/32 "
                        "(curl https://checkip.amazonaws.com)",
                    )


def _aws_profiles(launcher: Launcher) -> Found:
    profiles = {}
    for name in launcher.types:
        profile = _mapping(launcher.node(name), "IamInstanceProfile")
        profiles[name] = profile.get("Name") or profile.get("Arn")
        if not profiles[name]:
            lacks = "could start no workers" if name == launcher.head else "could not write to the bucket"
            yield (
                launcher.node_key(name, "IamInstanceProfile"),
                f"is missing: the machine {lacks}; wanted: Name or Arn of an instance profile",
            )
        elif name != launcher.head and profiles[name] == profiles.get(launcher.head):
            yield (
                launcher.node_key(name, "IamInstanceProfile"),
                "is the head's, so that every trial could start machines; wanted: a profile with the bucket alone",
            )


def _aws_machines(launcher: Launcher) -> Found:
    for name in launcher.types:
        node = launcher.node(name)
        image = str(node.get("ImageId"))
        if not PLACEHOLDER.search(image) and not re.fullmatch(r"ami-[0-9a-f]{8,17}", image):
            yield launcher.node_key(name, "ImageId"), f"is {shown(node.get('ImageId'))}; wanted: one image, ami-..."
        if _mapping(node, "MetadataOptions").get("HttpTokens") != "required":
            yield (
                launcher.node_key(name, "MetadataOptions", "HttpTokens"),
                "whatever makes a request from the machine could get its credentials (IMDSv1); wanted: required",
            )
        disks = _sequence(node, "BlockDeviceMappings")
        if not disks:
            yield (
                launcher.node_key(name, "BlockDeviceMappings"),
                "is missing: the disk would be as the image has it; wanted: Ebs with Encrypted: true, VolumeType: gp3",
            )
        for index, disk in enumerate(disks):
            ebs = _mapping(disk, "Ebs")
            for key, wanted in (("Encrypted", True), ("VolumeType", "gp3")):
                if ebs.get(key) != wanted:
                    yield (
                        launcher.node_key(name, "BlockDeviceMappings", index, "Ebs", key),
                        f"is {shown(ebs.get(key)) if key in ebs else 'missing'}; wanted: {str(wanted).lower()}",
                    )


def _gcp_machines(launcher: Launcher) -> Found:
    for key in ("project_id", "region", "availability_zone"):
        if not launcher.provider.get(key):
            yield ("provider", key), "is missing"
    for name in launcher.types:
        node = launcher.node(name)
        if not _sequence(node, "networkInterfaces"):
            yield (
                launcher.node_key(name, "networkInterfaces"),
                "is missing: Ray would take the default network, whose port 22 is open to the world; wanted: a "
                "subnetwork with firewall rules of its own",
            )
        accounts = [part.get("email") for part in _sequence(node, "serviceAccounts") if isinstance(part, dict)]
        if not accounts:
            lacks = "would have rights over the whole project" if name == launcher.head else "could not write results"
            yield launcher.node_key(name, "serviceAccounts"), f"is missing: the machine {lacks}; wanted: one of its own"
        elif name != launcher.head:
            heads = (
                _sequence(launcher.node(launcher.head), "serviceAccounts") if launcher.head in launcher.types else []
            )
            if accounts == [part.get("email") for part in heads if isinstance(part, dict)]:
                yield (
                    launcher.node_key(name, "serviceAccounts"),
                    "is the head's, so that every trial could start machines; wanted: an account with the bucket alone",
                )
        for index, disk in enumerate(_sequence(node, "disks")):
            image = str(_mapping(disk, "initializeParams").get("sourceImage"))
            if "/family/" in image or image == "None":
                yield (
                    launcher.node_key(name, "disks", index, "initializeParams", "sourceImage"),
                    f"is {shown(image)}, which changes with time; wanted: one image, projects/.../global/images/NAME",
                )


def _azure_machines(launcher: Launcher) -> Found:
    for key in ("location", "resource_group", "subscription_id"):
        if not launcher.provider.get(key):
            yield ("provider", key), "is missing"
    if not (launcher.provider.get("msi_name") and launcher.provider.get("msi_resource_group")):
        yield (
            ("provider", "msi_name"),
            "is missing, with msi_resource_group: the machines could not write to the storage account; wanted: an "
            "identity that has the role Storage Blob Data Contributor there",
        )
    for name in launcher.types:
        asked = _mapping(launcher.node(name), "azure_arm_parameters")
        if "imageId" not in asked and str(asked.get("imageVersion", "latest")) == "latest":
            yield (
                launcher.node_key(name, "azure_arm_parameters", "imageVersion"),
                "is the latest, which changes with time; wanted: one version (az vm image list --all)",
            )


def _own_machines(launcher: Launcher) -> Found:
    head, workers = launcher.provider.get("head_ip"), _sequence(launcher.provider, "worker_ips")
    if not head:
        yield ("provider", "head_ip"), "is missing"
    if not workers:
        yield ("provider", "worker_ips"), "names no machine, so no trial could ever start"
    for index, worker in enumerate(workers):
        if worker == head or worker in workers[:index]:
            yield ("provider", "worker_ips", index), f"{worker} is there twice"
    for key in ("available_node_types", "head_node_type"):
        if key in launcher.config:
            yield (key,), "is not for machines of one's own; remove it"
    if "RAY_enable_autoscaler_v2=0" not in launcher.commands("head_start_ray_commands"):
        yield (
            ("head_start_ray_commands",),
            "Ray's second autoscaler starts no second worker here; wanted: export RAY_enable_autoscaler_v2=0",
        )
    if not _mapping(launcher.config, "auth").get("ssh_user"):
        yield ("auth", "ssh_user"), "is missing"


def _reminders(launcher: Launcher) -> Iterator[str]:
    """What the file cannot mend."""
    if launcher.kind == "local":
        yield "a firewall has to keep others away from the machines' ports: Ray listens on all interfaces, unencrypted"
        return
    yield "the head costs money from ray up until ray down"
    for name, kind in launcher.workers.items():
        if kind.get("min_workers", 0):
            yield f"{kind['min_workers']} machines of type {name} cost money also while nothing runs (min_workers)"
        if not _is_spot(launcher, name):
            yield f"machines of type {name} are on demand, which costs more than spot"
    if launcher.kind == "azure" and not launcher.provider.get("use_internal_ips"):
        yield "after every ray up, narrow the rule SSH, which Ray opens to the world: see the head of the file"


COMMON: tuple[Callable[[Launcher], Found], ...] = (
    _keys, _node_types, _head_trains, _no_workers, _starts_workers, _token, _local_files, _stopped_machines, _spot_head,
)  # fmt: skip

RULES: dict[str, tuple[Callable[[Launcher], Found], ...]] = {
    "aws": (_aws_open_ports, _aws_profiles, _aws_machines),
    "gcp": (_gcp_machines,),
    "azure": (_azure_machines,),
    "local": (_own_machines,),
}


def _mapping(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _sequence(value: Any, key: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []
