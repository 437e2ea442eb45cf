"""A sweep that is interrupted in every way there is comes to the end that it would have had undisturbed.

`python benchmarks/chaos.py --rounds N` does the same at moments drawn from a seed, for as long as one likes.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import raysweep
from raysweep.records import TrialRecord
from tests.chaos.comparison import compare, config_digest, damages, differences_within, repeated_epochs
from tests.chaos.faults import Fault, Moment, Planned, draw_plan
from tests.chaos.harness import ALONE, NODES, Result, Round, Setting, Workplace

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"),
]

SEED = 0


@pytest.fixture(scope="module")
def workplace() -> Iterator[Workplace]:
    with Workplace.made() as made:
        yield made


def survive(workplace: Workplace, setting: Setting, plan: list[Planned], name: str) -> Result:
    """Runs a round; fails with everything that differs, and what the drivers said."""
    result = Round(workplace, setting, plan, SEED, name).run()
    said = "\n\n".join(f"{path.name}:\n{path.read_text()[-1500:]}" for path in sorted(result.directory.glob("*.out")))
    assert not result.failures, "\n".join(result.failures) + "\n\n" + said
    assert (result.lost, result.doubled) == (0, 0)
    assert result.most_repeated <= 1
    return result


def test_one_trial_at_a_time_is_identical_after_every_fault_of_one_machine(workplace: Workplace) -> None:
    """TPE's suggestions, ASHA's verdicts, every epoch, the final metrics, and the files of the report."""
    plan = [
        Planned(Fault.KILL_ACTOR, Moment.CHECKPOINT, 2),
        Planned(Fault.INT, Moment.TRAINING, 2, 0.05),
        Planned(Fault.KILL_DRIVER, Moment.ASKING),
        Planned(Fault.TERM, Moment.TRAINING, 2, 0.02),
        Planned(Fault.KILL_ACTOR, Moment.TRAINING, 3, 0.06),
        Planned(Fault.KILL_RAYLET, Moment.TRAINING, 2, 0.03),
        Planned(Fault.KILL_MEASURER, Moment.MEASURING),
        Planned(Fault.KILL_DRIVER, Moment.CLOSING, delay_s=0.5),
    ]
    result = survive(workplace, ALONE, plan, "alone")
    struck = {planned.fault for planned in result.faults}
    assert struck >= {Fault.KILL_ACTOR, Fault.INT, Fault.KILL_DRIVER, Fault.TERM, Fault.KILL_RAYLET}


def test_trials_abreast_are_neither_lost_nor_doubled_when_nodes_and_the_driver_die(workplace: Workplace) -> None:
    plan = [
        Planned(Fault.KILL_NODE, Moment.TRAINING, 3, 0.05),
        Planned(Fault.KILL_ACTOR, Moment.TRAINING, 4, 0.02),
        Planned(Fault.TERM_TWICE, Moment.TRAINING, 4, gap_s=0.1),
        Planned(Fault.KILL_DRIVER, Moment.CHECKPOINT, 4),
        Planned(Fault.INT_TWICE, Moment.TRAINING, 3, gap_s=0.3),
    ]
    result = survive(workplace, NODES, plan, "nodes")
    assert Fault.KILL_NODE in {planned.fault for planned in result.faults}


def test_a_plan_is_drawn_from_its_seed_alone() -> None:
    drawn = [
        [draw_plan(random.Random(seed), 6, cluster=cluster, finalists=True) for seed in range(40)]
        for cluster in (False, True, False)
    ]
    assert drawn[0] == drawn[2]
    assert len({tuple(plan) for plan in drawn[0]}) == 40
    kinds = [{planned.fault for plan in plans for planned in plan} for plans in drawn]
    assert kinds[0] | kinds[1] == set(Fault)
    assert Fault.KILL_NODE not in kinds[0]
    assert {planned.moment for plan in drawn[0] for planned in plan} == set(Moment)


def test_the_comparison_sees_what_was_lost_doubled_changed_or_torn(workplace: Workplace, tmp_path: Path) -> None:
    """A verdict that finds nothing is worth as much as its eyes: each damage is done once, and seen."""
    reference = workplace.reference(ALONE, SEED)
    assert differences_within(reference) == []
    assert compare(reference, reference, whole=True).differences == []

    def changed(records: list[TrialRecord]) -> raysweep.Sweep:
        return raysweep.Sweep(reference.directory, reference.spec, records, False)

    first, *others = reference.records
    assert compare(changed(others), reference, whole=True).lost == 1
    more = dataclasses.replace(first, number=len(reference.records))
    assert compare(changed([first, *others, more]), reference, whole=False).doubled == 1
    short = dataclasses.replace(first, epochs=first.epochs[:-1])
    assert any("epoch 012" in found for found in compare(changed([short, *others]), reference, whole=True).differences)
    gap = dataclasses.replace(first, epochs=first.epochs[1:])
    assert any("its epochs are" in found for found in compare(changed([gap, *others]), reference, whole=False)[0])

    copy = tmp_path / "copy"
    shutil.copytree(reference.directory.root, copy)
    (copy / "trials/0000/.epoch-000003.safetensors.1234.tmp").touch()
    torn = [
        copy / "trials/0000/epoch-000012.safetensors", copy / "report/epochs.parquet",
        copy / "report/figures/objective.png", copy / "study.journal",
        next(copy.glob("report/tensorboard/0001/*.tfevents.*")),
    ]  # fmt: skip
    for path in torn:
        path.write_bytes(path.read_bytes()[:-7])
    found = [line.partition(":")[0] for line in damages(copy)]
    assert set(found) >= {str(path.relative_to(copy)) for path in torn}
    assert any(name.endswith(".tmp") for name in found)


def test_an_epoch_begun_again_is_put_down_to_the_fault_before_it(workplace: Workplace) -> None:
    record = workplace.reference(ALONE, SEED).records[1]
    config = config_digest(record)
    lines = [
        f"10.0 1 {config} 1 begun", f"11.0 1 {config} 1 done",
        f"12.0 1 {config} 2 begun",  # a fault at 12.5 cuts it short
        f"13.0 2 {config} 2 begun", f"14.0 2 {config} 2 done",  # another at 14.1, before its checkpoint is there
        f"15.0 3 {config} 2 begun", f"16.0 3 {config} 2 done",
    ]  # fmt: skip
    repeats = repeated_epochs(lines, [record], [(12.5, 12.5), (14.1, 14.1)])
    assert (repeats.cut_short, repeats.trained_again, repeats.most_by_trial, repeats.unexplained) == (1, 1, 1, [])
    assert repeated_epochs(lines, [record], [(12.5, 12.5)]).most_by_trial == 2
    # The second is asked for before the first one's repeat begins, and done after: each has cost one epoch.
    assert repeated_epochs(lines, [record], [(12.5, 12.6), (12.9, 14.1)]).most_by_trial == 1
    assert repeated_epochs(lines, [record], []).unexplained
    assert repeated_epochs(lines[:2], [record], []).unexplained == [
        "trial 1: epochs [2] are in the ledger and were never trained"
    ]
