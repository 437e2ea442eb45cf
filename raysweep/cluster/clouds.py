"""Rules for files of `ray up` by provider: AWS, Google Cloud, Azure, or your own machines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from raysweep.cluster.files import PLACEHOLDER
from raysweep.cluster.launchfile import Launcher, mapping, sequence
from raysweep.spec.yamltext import KeyPath, shown

Found = Iterator[tuple[KeyPath, str]]

WORLD = ("0.0.0.0/0", "::/0")


def _aws_open_ports(launcher: Launcher) -> Found:
    nodes = {name: launcher.node(name) for name in launcher.types}
    own = mapping(launcher.provider, "security_group")
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
    permissions = sequence(own, "IpPermissions")
    if not any(isinstance(rule, dict) and rule.get("FromPort") == 22 for rule in permissions):
        yield (
            ("provider", "security_group", "IpPermissions"),
            "does not let you in: without a rule for port 22 Ray adds one that is open to the world",
        )
    for index, rule in enumerate(permissions):
        for kind, name in (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6")):
            for number, part in enumerate(sequence(rule, kind)):
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
        profile = mapping(launcher.node(name), "IamInstanceProfile")
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
        if mapping(node, "MetadataOptions").get("HttpTokens") != "required":
            yield (
                launcher.node_key(name, "MetadataOptions", "HttpTokens"),
                "whatever makes a request from the machine could get its credentials (IMDSv1); wanted: required",
            )
        disks = sequence(node, "BlockDeviceMappings")
        if not disks:
            yield (
                launcher.node_key(name, "BlockDeviceMappings"),
                "is missing: the disk would be as the image has it; wanted: Ebs with Encrypted: true, VolumeType: gp3",
            )
        for index, disk in enumerate(disks):
            ebs = mapping(disk, "Ebs")
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
        if not sequence(node, "networkInterfaces"):
            yield (
                launcher.node_key(name, "networkInterfaces"),
                "is missing: Ray would take the default network, whose port 22 is open to the world; wanted: a "
                "subnetwork with firewall rules of its own",
            )
        accounts = [part.get("email") for part in sequence(node, "serviceAccounts") if isinstance(part, dict)]
        if not accounts:
            lacks = "would have rights over the whole project" if name == launcher.head else "could not write results"
            yield launcher.node_key(name, "serviceAccounts"), f"is missing: the machine {lacks}; wanted: one of its own"
        elif name != launcher.head:
            heads = sequence(launcher.node(launcher.head), "serviceAccounts") if launcher.head in launcher.types else []
            if accounts == [part.get("email") for part in heads if isinstance(part, dict)]:
                yield (
                    launcher.node_key(name, "serviceAccounts"),
                    "is the head's, so that every trial could start machines; wanted: an account with the bucket alone",
                )
        for index, disk in enumerate(sequence(node, "disks")):
            image = str(mapping(disk, "initializeParams").get("sourceImage"))
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
        asked = mapping(launcher.node(name), "azure_arm_parameters")
        if "imageId" not in asked and str(asked.get("imageVersion", "latest")) == "latest":
            yield (
                launcher.node_key(name, "azure_arm_parameters", "imageVersion"),
                "is the latest, which changes with time; wanted: one version (az vm image list --all)",
            )


def _own_machines(launcher: Launcher) -> Found:
    head, workers = launcher.provider.get("head_ip"), sequence(launcher.provider, "worker_ips")
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
    if not mapping(launcher.config, "auth").get("ssh_user"):
        yield ("auth", "ssh_user"), "is missing"


RULES: dict[str, tuple[Callable[[Launcher], Found], ...]] = {
    "aws": (_aws_open_ports, _aws_profiles, _aws_machines),
    "gcp": (_gcp_machines,),
    "azure": (_azure_machines,),
    "local": (_own_machines,),
}
