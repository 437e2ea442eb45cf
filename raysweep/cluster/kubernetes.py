"""Rules for a sweep on Kubernetes: a RayJob of KubeRay, and the other documents of its file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from raysweep.cluster.files import PLACEHOLDER, ClusterFile, names_storage, same_version
from raysweep.spec.yamltext import KeyPath, shown

Found = Iterator[tuple[KeyPath, str]]

IMAGE = re.compile(r".+(?::(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})")
CLUSTER: KeyPath = ("spec", "rayClusterSpec")


def check_job(file: ClusterFile, installed_ray: str) -> list[str]:
    """Add a fault to a file for whatever is missing in it; return what to remember if nothing is."""
    job = file.documents[0]
    for rule in RULES:
        for key, message in rule(job):
            file.add(key, message)
    version = str(_at(job, *CLUSTER, "rayVersion"))
    if not same_version(version, installed_ray):
        file.add(
            (*CLUSTER, "rayVersion"),
            f"is {version}, this machine has {installed_ray}; wanted: the Ray that is in the image, {installed_ray}",
        )
    kinds = [document.get("kind") for document in file.documents if isinstance(document, dict)]
    if "NetworkPolicy" not in kinds and _at(job, *CLUSTER, "networkPolicy") is None:
        file.add(("spec",), "every pod of the cluster could reach Ray's ports; wanted: a NetworkPolicy, as in cluster/")
    return ["the operator has to be KubeRay 1.5.1 or newer, which makes the token"]


def _job(job: Any) -> Found:
    entrypoint = str(_at(job, "spec", "entrypoint"))
    if not re.search(r"\braysweep (run|resume)\b", entrypoint):
        yield ("spec", "entrypoint"), f"is {shown(entrypoint)}; wanted: raysweep run FILE --output s3://bucket/path"
    elif not names_storage(entrypoint):
        yield (
            ("spec", "entrypoint"),
            "the results would go with the pods; wanted: --output with the address of a bucket, s3://bucket/path",
        )
    if "raysweep run" in entrypoint and "--max-concurrent" not in entrypoint:
        yield (
            ("spec", "entrypoint"),
            "no pod would be started for a trial, since a sweep cannot see how many there may be; wanted: "
            "--max-concurrent N",
        )
    if _at(job, "spec", "shutdownAfterJobFinishes") is not True:
        yield ("spec", "shutdownAfterJobFinishes"), "the cluster would outlive the sweep, and cost money; wanted: true"
    for key, meaning in (
        ("activeDeadlineSeconds", "what hangs would cost money for ever"),
        ("preRunningDeadlineSeconds", "a cluster that never comes up would be waited for without end"),
    ):
        if not isinstance(_at(job, "spec", key), int):
            yield ("spec", key), f"is missing: {meaning}; wanted: seconds"


def _closed(job: Any) -> Found:
    mode = _at(job, *CLUSTER, "authOptions", "mode")
    if mode != "token":
        yield (
            (*CLUSTER, "authOptions", "mode"),
            f"is {'missing' if mode is None else mode}: Ray would answer to everyone who reaches it; wanted: token",
        )
    service = _at(job, *CLUSTER, "headGroupSpec", "serviceType")
    if service in ("NodePort", "LoadBalancer"):
        yield (
            (*CLUSTER, "headGroupSpec", "serviceType"),
            f"is {service}, which opens the dashboard to whoever reaches the cluster; wanted: ClusterIP",
        )
    if _at(job, *CLUSTER, "headGroupSpec", "enableIngress"):
        yield (*CLUSTER, "headGroupSpec", "enableIngress"), "opens the dashboard to the outside; wanted: false"


def _head(job: Any) -> Found:
    for name in ("num-cpus", "num-gpus"):
        given = _at(job, *CLUSTER, "headGroupSpec", "rayStartParams", name)
        if given != "0":
            yield (
                (*CLUSTER, "headGroupSpec", "rayStartParams", name),
                f'the head would run trials: {"not given" if given is None else shown(given)}; wanted: "0"',
            )


def _workers(job: Any) -> Found:
    groups = _at(job, *CLUSTER, "workerGroupSpecs")
    groups = groups if isinstance(groups, list) else []
    if not any((_at(group, "maxReplicas") or 0) > 0 for group in groups if isinstance(_at(group, "maxReplicas"), int)):
        yield (*CLUSTER, "workerGroupSpecs"), "has no group with maxReplicas above 0, so no trial could ever start"
    if _at(job, *CLUSTER, "enableInTreeAutoscaling") is not True:
        yield (
            (*CLUSTER, "enableInTreeAutoscaling"),
            "workers would neither come when they are wanted nor go when they are not; wanted: true",
        )


def _pods(job: Any) -> Found:
    groups = _at(job, *CLUSTER, "workerGroupSpecs")
    places: list[KeyPath] = [(*CLUSTER, "headGroupSpec")]
    places += [(*CLUSTER, "workerGroupSpecs", index) for index in range(len(groups) if isinstance(groups, list) else 0)]
    for place in places:
        pod: KeyPath = (*place, "template", "spec")
        if not _at(job, *pod, "serviceAccountName"):
            yield (*pod, "serviceAccountName"), "is missing: the pod could not write to the bucket"
        containers = _at(job, *pod, "containers")
        for index, container in enumerate(containers if isinstance(containers, list) else []):
            key: KeyPath = (*pod, "containers", index)
            image = str(_at(container, "image"))
            if not PLACEHOLDER.search(image) and not IMAGE.fullmatch(image):
                yield (*key, "image"), f"is {shown(image)}, which changes with time; wanted: a tag or a digest"
            for name in ("cpu", "memory"):
                if _at(container, "resources", "limits", name) is None:
                    yield (*key, "resources", "limits", name), "is missing, and Ray goes by it"
            wide = _at(container, "securityContext", "privileged") or _at(job, *pod, "hostNetwork")
            if wide:
                yield (*key, "securityContext"), "the pod could do to its node what it likes; wanted: no privileges"


RULES: tuple[Callable[[Any], Found], ...] = (_job, _closed, _head, _workers, _pods)


def _at(value: Any, *key: str | int) -> Any:
    """Return the value at a key; None if it is absent."""
    for part in key:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value
