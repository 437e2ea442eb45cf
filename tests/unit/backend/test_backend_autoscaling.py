"""What an autoscaler may add is counted in, where a driver can know of it."""

from __future__ import annotations

import pytest

from raysweep.backend.autoscaling import pods_of, workers_of
from raysweep.backend.resources import fit
from raysweep.spec.loading import parse_spec

SPACE = "name: r\ndata: {dataset: digits}\ntrial: {kld_weight: {low: 1, high: 2}}\n"
CONFIG = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0, "GPU": 0}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 8}, "max_workers": 4},
        "one_gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 8},
        "four_gpus": {"resources": {"CPU": 16, "GPU": 4, "memory": 1e9}, "max_workers": 2},
    },
}


def test_all_workers_that_may_be_are_counted_the_largest_first_up_to_the_most_at_once() -> None:
    spec = parse_spec(f"{SPACE}resources: {{cpu: 1, gpu: 1}}")
    nodes = workers_of(CONFIG, spec)
    assert [node["GPU"] for node in nodes] == [4, 4, 1, 1, 1]
    assert fit(spec, nodes).count == 11
    quarter = parse_spec(f"{SPACE}resources: {{cpu: 1, gpu: 0.25}}")
    assert fit(quarter, workers_of(CONFIG, quarter)).count == 16 + 16 + 3 * 4


def test_workers_without_a_gpu_hold_trials_that_want_none() -> None:
    spec = parse_spec(f"{SPACE}resources: {{cpu: 4, gpu: 0}}")
    assert sorted(node["CPU"] for node in workers_of(CONFIG, spec)) == [8, 8, 8, 16, 16]


def test_a_cluster_without_workers_has_none() -> None:
    spec = parse_spec(SPACE)
    assert workers_of({**CONFIG, "max_workers": 0}, spec) == []
    assert workers_of({"head_node_type": "head"}, spec) == []


@pytest.mark.parametrize(
    ("search", "processes", "trials_each"),
    [("trials: 9", 0, 1), ("max_concurrent: 6", 6, 1), ("max_concurrent: 12, fuse: 4", 3, 4), ("fuse: off", 0, 1)],
)
def test_on_kubernetes_as_many_processes_as_trials_may_be_at_once_are_waited_for(
    search: str, processes: int, trials_each: int
) -> None:
    spec = parse_spec(f"{SPACE}resources: {{cpu: 2, gpu: 1}}\nsearch: {{{search}}}")
    pods = pods_of(spec)
    assert pods == [{"CPU": 2, "GPU": 1}] * processes
    if pods:
        slots = fit(spec, pods)
        assert (slots.count, slots.fused) == (processes, trials_each)
