"""How many trials fit, and which resource is named when none ever would."""

from __future__ import annotations

import os

import pytest

from raysweep.backend import resources
from raysweep.backend.resources import fit, needed_processes
from raysweep.errors import RaysweepError, ResourcesError
from raysweep.messages import Share, Slots
from raysweep.spec.loading import parse_spec

SPACE = "name: r\ndata: {dataset: digits}\ntrial: {kld_weight: {low: 1, high: 2}}\n"
LAPTOP = {"CPU": 4.0}
TWO_GPUS = {"CPU": 16.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("resources", "nodes", "slots"),
    [
        ("{cpu: 1}", [LAPTOP], Slots(1, 0, 4, Share(2, 0))),
        ("{cpu: 2}", [LAPTOP], Slots(2, 0, 2, Share(4, 0))),
        ("{cpu: 3}", [LAPTOP, LAPTOP], Slots(3, 0, 2, Share(4, 0))),
        ("{cpu: 0.5}", [LAPTOP], Slots(0.5, 0, 8, Share(1, 0))),
        ("{cpu: 1}", [TWO_GPUS], Slots(1, 1, 2, fused=2)),
        ("{cpu: 1, gpu: 0}", [TWO_GPUS], Slots(1, 0, 16, Share(2, 0))),
        ("{cpu: 1, gpu: 0.25}", [TWO_GPUS], Slots(1, 0.25, 8, Share(1, 0.5))),
        ("{cpu: 4, gpu: 0.25}", [TWO_GPUS], Slots(4, 0.25, 4, Share(4, 0.5))),
        ("{cpu: 4}", [LAPTOP], Slots(4, 0, 1)),
        ("{cpu: 1, gpu: 1}", [LAPTOP, TWO_GPUS], Slots(1, 1, 2, fused=2)),
        ("{gpu: 0.4}", [TWO_GPUS], Slots(1, 0.4, 4, Share(1, 0.8))),
        ("{gpu: 0.6}", [{"CPU": 16.0, "GPU": 8.0}], Slots(1, 0.6, 8, Share(1, 1))),
        ("{gpu: 0.35}", [{"CPU": 16.0, "GPU": 4.0}], Slots(1, 0.35, 8, Share(1, 0.7))),
        ("{gpu: 0.3333}", [TWO_GPUS], Slots(1, 0.3333, 6, Share(1, 0.6666))),
        ("{gpu: 0.1}", [{"CPU": 64.0, "GPU": 3.0}], Slots(1, 0.1, 30, Share(1, 0.2))),
        ("{gpu: 0.5}", [{"CPU": 16.0, "GPU": 1.5}], Slots(1, 0.5, 3, Share(1, 1))),
        ("{cpu: 0.1}", [{"CPU": 3.0}], Slots(0.1, 0, 30, Share(0.2, 0))),
    ],
)
def test_trials_fit_on_whole_machines(resources: str, nodes: list[dict[str, float]], slots: Slots) -> None:
    assert fit(parse_spec(f"{SPACE}resources: {resources}"), nodes) == slots


@pytest.mark.parametrize(
    ("rest", "node", "trials", "processes", "threads"),
    [
        ("resources: {cpu: 1}", LAPTOP, 24, 4, 1),
        ("resources: {cpu: 2}", LAPTOP, 24, 2, 2),
        ("resources: {cpu: 0.5}", LAPTOP, 24, 4, 1),
        ("resources: {cpu: 1}", LAPTOP, 3, 3, 1),
        ("resources: {cpu: 1}", LAPTOP, 0, 1, 1),
        ("search: {trials: 24, fuse: 8}", LAPTOP, 9, 2, 1),
        ("search: {max_concurrent: 1}", LAPTOP, 24, 1, 1),
        ("resources: {cpu: 4, gpu: 0.25}", TWO_GPUS, 24, 4, 4),
    ],
)
def test_no_more_processes_start_than_will_train(
    rest: str, node: dict[str, float], trials: int, processes: int, threads: int
) -> None:
    assert needed_processes(parse_spec(SPACE + rest), node, trials) == (processes, threads)


GB = float(1 << 30)


@pytest.mark.parametrize(
    ("node", "count"),
    [
        ({"CPU": 64.0, "memory": 3.5 * GB}, 7),
        ({"CPU": 64.0, "memory": 100 * GB}, 64),
        ({"CPU": 64.0, "memory": 0.2 * GB}, 1),
        ({"CPU": 64.0, "GPU": 8.0, "memory": 2 * GB}, 4),
    ],
)
def test_no_more_processes_train_than_the_memory_holds(node: dict[str, float], count: int) -> None:
    assert fit(parse_spec(SPACE), [node]).count == count


def test_a_machine_without_cpus_to_spare_holds_none_however_much_memory_it_has() -> None:
    nodes = [{"CPU": 0.0, "memory": 8 * GB}, {"CPU": 2.0, "memory": 8 * GB}]
    assert fit(parse_spec(SPACE), nodes).count == 2


@pytest.mark.parametrize(("quota", "cpus"), [(None, 4), (1.0, 1), (2.5, 2), (0.2, 1), (64.0, 4)])
def test_this_machine_has_the_whole_cpus_that_its_container_may_use(
    quota: float | None, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    monkeypatch.setattr(resources, "cpu_quota", lambda: quota)
    monkeypatch.setattr(resources, "memory_limit", lambda: 2 << 30)
    (node,) = resources.local_nodes()
    assert node["CPU"] == cpus
    assert node["memory"] == (2 << 30) - resources.DRIVER_BYTES


def test_a_tiny_container_still_trains_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "memory_limit", lambda: 256 << 20)
    assert fit(parse_spec(SPACE), resources.local_nodes()).count == 1


@pytest.mark.parametrize("share", ["cpu: 0.001", "cpu: 0", "gpu: 0.001", "gpu: 1.5", "gpu: -1", "cpu: 1025"])
def test_a_share_that_no_machine_could_give_is_refused(share: str) -> None:
    with pytest.raises(RaysweepError, match=r"resources\.[cg]pu: must be"):
        parse_spec(f"{SPACE}resources: {{{share}}}")


def test_the_file_may_ask_for_fewer_at_once() -> None:
    assert fit(parse_spec(f"{SPACE}search: {{max_concurrent: 2}}"), [LAPTOP]).count == 2


@pytest.mark.parametrize(
    ("search", "node", "fused"),
    [
        ("{trials: 100}", LAPTOP, 1),
        ("{trials: 100}", TWO_GPUS, 8),
        ("{trials: 30}", TWO_GPUS, 3),
        ("{trials: 3}", TWO_GPUS, 1),
        ("{trials: 100, fuse: off}", TWO_GPUS, 1),
        ("{trials: 100, fuse: 'off'}", TWO_GPUS, 1),
        ("{trials: 100, fuse: 5}", LAPTOP, 5),
        ("{trials: 3, fuse: 16, max_concurrent: 6}", TWO_GPUS, 3),
        ("{trials: 100, max_concurrent: 1}", TWO_GPUS, 1),
    ],
)
def test_trials_are_fused_as_the_file_says_or_by_itself_on_gpus_alone(
    search: str, node: dict[str, float], fused: int
) -> None:
    assert fit(parse_spec(f"{SPACE}search: {search}"), [node]).fused == fused


def test_trials_that_have_a_part_of_a_gpu_each_are_not_fused_by_itself() -> None:
    text = f"{SPACE}search: {{trials: 1000}}\nresources: {{gpu: 0.25}}"
    assert fit(parse_spec(text), [TWO_GPUS]).fused == 1


@pytest.mark.parametrize("fuse", ["0", "65", "1.5", "on", "true", "many"])
def test_a_way_to_fuse_that_is_none_is_refused_with_those_that_are(fuse: str) -> None:
    with pytest.raises(RaysweepError, match=r"fuse.*must be auto, off or a number of trials from 1 to 64, got"):
        parse_spec(f"{SPACE}search: {{fuse: {fuse}}}")


@pytest.mark.parametrize(
    ("resources", "nodes", "named"),
    [
        ("{cpu: 8}", [LAPTOP, LAPTOP], "resources.cpu: a trial asks for 8, the largest machine has 4"),
        ("{gpu: 1}", [LAPTOP], "resources.gpu: a trial asks for 1, the largest machine has 0"),
        ("{cpu: 8, gpu: 1}", [{"CPU": 16.0}, {"CPU": 2.0, "GPU": 1.0}], "no single machine has both"),
    ],
)
def test_what_can_never_start_names_the_binding_resource(
    resources: str, nodes: list[dict[str, float]], named: str
) -> None:
    with pytest.raises(ResourcesError, match=named):
        fit(parse_spec(f"{SPACE}resources: {resources}"), nodes)
