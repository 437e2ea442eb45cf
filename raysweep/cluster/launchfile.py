"""A file of `ray up`, split into the parts that the rules need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raysweep.spec.yamltext import KeyPath


@dataclass(frozen=True)
class Launcher:
    """A file of `ray up` as Ray would read it; a value of a wrong type counts as absent."""

    config: dict[str, Any]

    @property
    def provider(self) -> dict[str, Any]:
        return mapping(self.config, "provider")

    @property
    def kind(self) -> str:
        return str(self.provider.get("type"))

    @property
    def head(self) -> str:
        return str(self.config.get("head_node_type"))

    @property
    def types(self) -> dict[str, dict[str, Any]]:
        """Node types by name, the head's included."""
        found = mapping(self.config, "available_node_types")
        return {str(name): value for name, value in found.items() if isinstance(value, dict)}

    @property
    def workers(self) -> dict[str, dict[str, Any]]:
        return {name: value for name, value in self.types.items() if name != self.head}

    def node(self, name: str) -> dict[str, Any]:
        """Return the `node_config` of a node type: what the cloud is asked for."""
        return mapping(self.types[name], "node_config")

    def node_key(self, name: str, *below: str | int) -> KeyPath:
        return ("available_node_types", name, "node_config", *below)

    def commands(self, *keys: str) -> str:
        """Return the shell commands of some keys, one per line."""
        return "\n".join(str(line) for key in keys for line in sequence(self.config, key))

    @property
    def all_commands(self) -> str:
        return self.commands(
            "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
            "head_start_ray_commands", "worker_start_ray_commands",
        )  # fmt: skip


def is_spot(launcher: Launcher, name: str) -> bool:
    """Return whether the cloud can take away machines of a type at any time."""
    node = launcher.node(name)
    if launcher.kind == "aws":
        return mapping(node, "InstanceMarketOptions").get("MarketType") == "spot"
    if launcher.kind == "gcp":
        scheduling: Any = node.get("scheduling")
        parts = scheduling if isinstance(scheduling, list) else [scheduling]
        return any(
            isinstance(part, dict) and (part.get("provisioningModel") == "SPOT" or part.get("preemptible"))
            for part in parts
        )
    return str(mapping(node, "azure_arm_parameters").get("priority", "")).lower() == "spot"


def mapping(value: Any, key: str) -> dict[str, Any]:
    """Return the mapping at a key; empty if it is absent or no mapping."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def sequence(value: Any, key: str) -> list[Any]:
    """Return the sequence at a key; empty if it is absent or no sequence."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []
