"""The files of cluster/ against the schemas of what reads them, and against each other: nothing is started here.

Google Cloud, Azure and Kubernetes are exercised by this alone; AWS, own machines and Slurm by whole clusters of
fake hosts beside it.
"""

from __future__ import annotations

import gzip
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import raysweep

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
LAUNCHED = ("aws.yaml", "gcp.yaml", "azure.yaml", "on-prem.yaml")
CLOUDS = ("aws.yaml", "gcp.yaml", "azure.yaml")
FILES = (*LAUNCHED, "kuberay.yaml", "slurm.sbatch")
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def load(name: str) -> Any:
    """A file with every placeholder replaced by something of the right kind."""
    text = re.sub(r"<your-[\w-]+>", "x", (FOLDER / name).read_text())
    return list(yaml.safe_load_all(text))


def test_every_file_of_a_cluster_is_among_those_tested() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.suffix in (".yaml", ".sbatch")} == set(FILES)


@pytest.mark.parametrize("name", ["gcp.yaml", "azure.yaml", "on-prem.yaml"])
def test_ray_prepares_and_accepts_the_file_and_keeps_what_it_says(name: str) -> None:
    """Schema and defaults alone: no cloud is asked."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = load(name)
    prepared = prepare_config(config)
    validate_config(prepared)
    for key in ("head_start_ray_commands", "worker_start_ray_commands", "file_mounts", "auth"):
        assert prepared[key] == config[key]
    assert prepared["head_setup_commands"] == config["setup_commands"] + config.get("head_setup_commands", [])
    assert not any("ray-wheels" in command or "0.0.0.0" in command for command in commands(prepared))


def commands(config: dict[str, Any]) -> list[str]:
    return [line for key, lines in config.items() if key.endswith("_commands") for line in lines]


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_has_workers_with_one_gpu_with_several_and_with_none_from_0_on_and_a_head_that_trains_nothing(
    name: str,
) -> None:
    (config,) = load(name)
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert config["head_node_type"] == "head"
    workers = {key: kind for key, kind in types.items() if key != "head"}
    gpus = {kind["resources"]["GPU"] for kind in workers.values()}
    assert {0, 1} < gpus
    assert all(kind["min_workers"] == 0 and kind["max_workers"] > 0 for kind in workers.values())
    assert all("spot" in yaml.safe_dump(kind["node_config"]).lower() for kind in workers.values())
    assert "spot" not in yaml.safe_dump(types["head"]).lower()
    assert config["idle_timeout_minutes"] <= 10


@pytest.mark.parametrize("name", [*FILES, "kuberay.Dockerfile"])
def test_versions_are_those_of_the_constraints_and_of_raysweep(name: str) -> None:
    text = (FOLDER / name).read_text()
    for version in re.findall(r"\bray(?:\[\w+\])?==([\w.]+)|rayproject/ray:([\d.]+)|rayVersion: ([\d.]+)", text):
        assert "".join(version) == PINNED["ray"]
    for package, version in re.findall(r"\b([\w-]+)==([\d.]+)", text):
        assert PINNED.get(package, version) == version
    for version in re.findall(r"raysweep[ :](\d[\w.]*\d)", text):
        assert version == raysweep.__version__
    if name in LAUNCHED:
        assert f"ray[default]=={PINNED['ray']}" in text


@pytest.mark.parametrize("name", FILES)
def test_the_head_of_a_file_says_how_to_start_to_run_and_to_stop_and_the_page_of_clusters_says_the_same(
    name: str,
) -> None:
    header = []
    for line in (FOLDER / name).read_text().splitlines():
        if not line.startswith("#"):
            break
        header.append(line.removeprefix("#"))
    shown = [line.strip() for line in header if line.startswith("     ")]
    start = next(index for index, line in enumerate(shown) if line.startswith("raysweep cluster check"))
    page = (ROOT / "docs" / "clusters.md").read_text()
    stop = next(index for index, line in enumerate(shown) if re.match(r"ray down|kubectl delete|scancel", line))
    assert 2 <= stop - start <= 3
    for line in shown[start : stop + 1]:
        assert line.split("   #")[0].rstrip() in page


def closed(schema: Any) -> Any:
    """A schema of Kubernetes that refuses unknown keys, as its server does; what is free by its word stays so."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(part) for key, part in schema.items()}
    is_object = isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema
    if is_object and not schema.get("x-kubernetes-preserve-unknown-fields") and schema.get("type") == "object":
        found["additionalProperties"] = False
    return found


@pytest.fixture(scope="module")
def rayjob() -> Any:
    """KubeRay's schema of a RayJob."""
    with gzip.open(ROOT / "tests/cluster/kuberay/rayjob-crd.yaml.gz") as file:
        definition = yaml.load(file, yaml.CSafeLoader)
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    return closed(version["schema"]["openAPIV3Schema"])


def test_kubernetes_would_accept_the_rayjob(rayjob: Any) -> None:
    """By KubeRay's schema alone: there is no Kubernetes here."""
    job, policy = load("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    jsonschema.Draft202012Validator(rayjob).validate(job)
    assert policy["kind"] == "NetworkPolicy"


REFUSED: list[tuple[tuple[Any, ...], str, Any, str]] = [
    (("spec",), "activeDeadlineSecond", 1, "activeDeadlineSecond"),
    (("spec", "rayClusterSpec"), "rayversion", "2", "rayversion"),
    (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"), "num-cpus", 0, "0 is not of type 'string'"),
    (("spec", "rayClusterSpec", "workerGroupSpecs", 0), "maxReplicas", "8", "'8' is not of type 'integer'"),
    (("spec", "rayClusterSpec", "authOptions"), "mode", "tokens", "'tokens' is not one of"),
    (("spec", "rayClusterSpec", "workerGroupSpecs", 1, "template", "spec", "containers", 0), "images", "x", "images"),
]


@pytest.mark.parametrize(("place", "key", "value", "message"), REFUSED)
def test_kubernetes_would_refuse_a_wrong_key_or_value(
    rayjob: Any, place: tuple[Any, ...], key: str, value: Any, message: str
) -> None:
    job = load("kuberay.yaml")[0]
    node = job
    for part in place:
        node = node[part]
    node[key] = value
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.Draft202012Validator(rayjob).validate(job)


def test_the_rayjob_has_a_group_with_gpus_and_one_without_and_ends_with_the_sweep() -> None:
    job, policy = load("kuberay.yaml")
    spec = job["spec"]
    assert spec["shutdownAfterJobFinishes"]
    assert spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    limits = [
        group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in cluster["workerGroupSpecs"]
    ]
    assert ["nvidia.com/gpu" in limit for limit in limits] == [True, False]
    assert all(group["minReplicas"] == 0 for group in cluster["workerGroupSpecs"])
    selected = policy["spec"]["podSelector"]["matchLabels"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for template in (spec["submitterPodTemplate"], *(pod["template"] for pod in pods)):
        assert template["metadata"]["labels"] == selected


def test_the_batch_script_is_one_that_bash_can_read() -> None:
    subprocess.run(["bash", "-n", FOLDER / "slurm.sbatch"], check=True)
