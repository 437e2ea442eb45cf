"""How many trials fit, and which resource is named when none ever would."""

from __future__ import annotations

import pytest

from raysweep.errors import RaysweepError, ResourcesError
from raysweep.loading import parse_spec
from raysweep.search.exchange import Share
from raysweep.search.resources import Slots, fit, needed_processes

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
