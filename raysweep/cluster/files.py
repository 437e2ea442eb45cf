"""Cluster files, read as by the program that starts the cluster, and the lines of their faults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from raysweep.errors import Fault, SpecError
from raysweep.spec.yamltext import Faults, KeyPath, check_unseen, dotted, yaml_fault
from raysweep.storage.layout import read_bounded
from raysweep.storage.plaintext import NotPlainText, decoded

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
"""Most keys and values once every alias is expanded; a cluster file has about 200."""

PLACEHOLDER = re.compile(r"<[A-Za-z][\w .-]*>|\b(?:FILL|CHANGE|REPLACE)[-_ ]?(?:ME|IN|THIS)\b")
URI = re.compile(r"\b(?:s3|gs|abfss)://[^\s'\"]+")
PINNED_RAY = re.compile(r"\bray(?:\[[\w,-]*\])?==([\w.+!-]+)")


class Kind(StrEnum):
    """The program that reads the file."""

    LAUNCHER = "ray up"
    KUBERNETES = "kubectl"
    SLURM = "sbatch"


@dataclass(frozen=True)
class ClusterFile:
    """A file that was read, and the faults found in it so far."""

    path: Path
    kind: Kind
    text: str
    documents: list[Any]
    """Contents of the YAML documents; empty for a batch script."""
    faults: list[Fault]
    nodes: list[yaml.Node]

    def add(self, key: KeyPath, message: str, document: int = 0) -> None:
        """Add a fault of a key, with the line of the deepest part of it that exists."""
        found = Faults(str(self.path), self.nodes[document])
        found.add(key, message)
        self.faults.append(found.found[0])

    def add_line(self, line: int, key: str, message: str) -> None:
        """Add a fault of a line, counted from 1; 0 is the whole file."""
        self.faults.append(Fault(line, key, message))

    def texts(self) -> Iterator[tuple[Fault, str]]:
        """Yield every text value once, even if aliases repeat it.

        Each comes with a fault that has its place, but no message yet.
        """
        seen: set[int] = set()
        for node in self.nodes:
            waiting: list[tuple[KeyPath, yaml.Node]] = [((), node)]
            while waiting:
                key, node = waiting.pop()
                if id(node) in seen:
                    continue
                seen.add(id(node))
                if isinstance(node, yaml.ScalarNode):
                    mark: Any = node.start_mark
                    yield Fault(mark.line + 1, dotted(key), ""), str(node.value)
                elif isinstance(node, yaml.MappingNode):
                    waiting += [((*key, str(k.value)), v) for k, v in reversed(node.value)]
                elif isinstance(node, yaml.SequenceNode):
                    waiting += [((*key, index), item) for index, item in reversed(list(enumerate(node.value)))]


def read_cluster_file(path: str | Path) -> ClusterFile:
    """Read a file of `ray up`, a RayJob of Kubernetes, or a batch script of Slurm.

    Raises:
        SpecError: if the file cannot be read or has another form.
    """
    path = Path(path)
    try:
        text = decoded(read_bounded(path, MAX_BYTES), str(path))
    except NotPlainText as error:
        raise SpecError(str(path), [Fault(error.line, "", str(error))], advice="") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(str(path), [Fault(0, "", f"cannot be read: {reason}")]) from error
    if text.lstrip("\ufeff \t\r\n").startswith("#!"):
        return ClusterFile(path, Kind.SLURM, text, [], [], [])
    try:
        nodes = [node for node in yaml.compose_all(text, yaml.SafeLoader) if node is not None]
        if sum(_size(node, {}) for node in nodes) > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MAX_VALUES:,} values")
        documents = [found for found in yaml.safe_load_all(text) if found is not None]
    except (yaml.YAMLError, RecursionError) as error:
        raise SpecError(str(path), [yaml_fault(error, text)], advice="") from error
    slips: list[Fault] = []
    for node in nodes:
        check_unseen(node, (), slips)
    if slips:
        raise SpecError(str(path), slips, advice="")
    main = documents[0] if documents else None
    if isinstance(main, dict) and "cluster_name" in main and isinstance(main.get("provider"), dict):
        return ClusterFile(path, Kind.LAUNCHER, text, documents, [], nodes)
    if isinstance(main, dict) and main.get("kind") == "RayJob" and isinstance(main.get("spec"), dict):
        return ClusterFile(path, Kind.KUBERNETES, text, documents, [], nodes)
    message = (
        "describes no cluster; wanted: a file of ray up (cluster_name, provider), a RayJob (kind, spec), or a batch "
        "script of Slurm (#!/bin/bash), such as those in cluster/"
    )
    raise SpecError(str(path), [Fault(0, "", message)])


def _size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Count the keys and values of a node with its aliases expanded; raise YAMLError if it contains itself."""
    found = known.get(id(node), 0)
    if found is None:
        raise yaml.YAMLError("an alias stands for what contains it")
    if found:
        return found
    known[id(node)] = None
    if isinstance(node, yaml.MappingNode):
        size = 1 + sum(_size(key, known) + _size(value, known) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        size = 1 + sum(_size(item, known) for item in node.value)
    else:
        size = 1
    known[id(node)] = size
    return size


def same_version(found: str, wanted: str) -> bool:
    """Return whether two versions are the same, ignoring a local part as in 2.60.0+cpu."""
    return found.partition("+")[0] == wanted.partition("+")[0]


def names_storage(text: str) -> bool:
    """Return whether a text has the address of a bucket; a placeholder in it is reported separately."""
    return URI.search(text) is not None
