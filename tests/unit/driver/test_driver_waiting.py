"""The default form of early stopping: no trial passes a rung unjudged, not even the first ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.driver.session import Session
from raysweep.messages import TrialFault
from raysweep.metrics import TrialState
from raysweep.search import sampling
from raysweep.search.decisions import decision_text, decisions
from raysweep.search.scheduler import Waiting, standing
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.ledger import Ledger
from tests.unit.conftest import SPACE, play_at_random, report
from tests.unit.driver.test_driver_cuts import all_of
from tests.unit.driver.test_driver_promotion import lines_cut, opened, outcome, play

THREE = SPACE.replace("reduction_factor: 2", "reduction_factor: 3").replace("trials: 6", "trials: 7\n  confirm: none")


@pytest.fixture
def spec() -> SweepSpec:
    """Seven trials of four epochs, with rungs at 1 and 3, past which one in three goes on."""
    return parse_spec(THREE, "table.yaml")


def begin(session: Session, count: int) -> list[int]:
    orders = [session.next_order() for _ in range(count)]
    return [order.number for order in orders if order is not None]


def test_the_first_trials_wait_for_a_third_and_the_best_of_them_goes_on(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    ledger = Ledger.create(directory, spec)
    session = opened(ledger, spec, directory, at_once=2)
    assert begin(session, 2) == [0, 1]
    assert session.receive(0, report(1, 50.0)), "its process is given another trial"
    assert session.receive(1, report(1, 80.0))
    assert [ledger.record(number).state for number in (0, 1)] == [TrialState.PAUSED] * 2
    assert begin(session, 2) == [2, 3]
    assert session.receive(2, report(1, 70.0)), "the second of three, of which one goes on"
    cause = "not among the best 1/3 of the 3 trials that had reached it at epoch 1"
    assert ledger.record(2).cause == cause
    assert (ledger.record(0).state, ledger.record(0).cause) == (TrialState.PRUNED, cause)
    assert begin(session, 1) == [1], "before a new trial"
    assert not session.receive(1, report(1, 80.0)), "its process sends again what its checkpoint has"
    assert not session.receive(1, report(2, 90.0))
    assert not session.receive(3, report(1, 85.0)), "the best of four, of which two go on"
    told = [decision_text(decisions(ledger.record(n), ledger.records(), spec)[0], "elbo_nats") for n in range(4)]
    assert told == [
        "stopped at epoch 1: elbo_nats 50, 3rd of 3, 1 goes on, 80 was needed",
        "went on at epoch 1: elbo_nats 80, 1st of 3, 1 goes on",
        "stopped at epoch 1: elbo_nats 70, 2nd of 3, 1 goes on, 80 was needed",
        "went on at epoch 1: elbo_nats 85, 1st of 4, 2 go on",
    ]


def test_the_third_goes_on_in_its_process_if_it_is_the_best(spec: SweepSpec, directory: SweepDirectory) -> None:
    ledger = Ledger.create(directory, spec)
    session = opened(ledger, spec, directory, at_once=3)
    assert begin(session, 3) == [0, 1, 2]
    assert session.receive(0, report(1, 50.0))
    assert session.receive(1, report(1, 40.0))
    assert not session.receive(2, report(1, 60.0))
    assert [ledger.record(number).state for number in range(3)] == [
        TrialState.PRUNED, TrialState.PRUNED, TrialState.RUNNING,
    ]  # fmt: skip
    assert begin(session, 1) == [3]


def test_nobody_waits_on_a_later_rung_and_a_trial_past_one_is_judged_there_again(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    text = THREE.replace("reduction_factor: 3", "reduction_factor: 2").replace("max_epochs: 4", "max_epochs: 8")
    spec = parse_spec(text, "table.yaml")
    ledger = Ledger.create(directory, spec)
    session = opened(ledger, spec, directory, at_once=3)
    assert begin(session, 3) == [0, 1, 2]
    assert session.receive(0, report(1, 90.0)), "it waits"
    assert not session.receive(1, report(1, 91.0))
    assert not session.receive(2, report(1, 92.0))
    assert ledger.record(0).state is TrialState.PRUNED
    assert not session.receive(1, report(2, 95.0)), "the first on the second rung"
    assert not session.receive(1, report(3, 1000.0))
    assert not session.receive(2, report(2, 96.0))
    assert session.receive(1, report(4, 1000.0)) is False, "it has come to the third rung, where it is the first"

    assert not session.receive(2, report(3, 96.0))
    assert not session.receive(2, report(4, 1001.0))
    assert session.receive(1, report(5, 2000.0)), "its value at the rung counts, not the one of now"
    cause = "not among the best 1/2 of the 2 trials that had reached it at epoch 4, judged again after epoch 5"
    assert (ledger.record(1).state, ledger.record(1).cause) == (TrialState.PRUNED, cause)
    assert not session.receive(2, report(5, -1000.0)), "nobody better has come to its last rung"
    for epoch in (6, 7):
        assert not session.receive(2, report(epoch, -1000.0))
    assert session.receive(2, report(8, -1000.0))
    assert ledger.record(2).state is TrialState.COMPLETED


@pytest.mark.parametrize("trials", [1, 2])
def test_fewer_trials_than_are_judged_together_are_all_trained_to_their_end(
    directory: SweepDirectory, trials: int
) -> None:
    enqueue = "  enqueue: [{kld_weight: 1e-3, latent_size: 8}, {latent_size: 16}]"
    spec = parse_spec(THREE.replace("trials: 7", f"trials: {trials}").replace(enqueue, ""), "table.yaml")
    play(opened(Ledger.create(directory, spec), spec, directory), {})
    records = Ledger.open(directory, spec, writable=False, running=False).records()
    assert [record.state for record in records] == [TrialState.COMPLETED] * trials
    waited = decision_text(decisions(records[0], records, spec)[0], "elbo_nats")
    assert waited.endswith("nothing else was left to train")


def test_where_others_diverge_or_fail_those_that_wait_go_on(directory: SweepDirectory) -> None:
    spec = parse_spec(THREE.replace("trials: 7", "trials: 3"), "table.yaml")
    ledger = Ledger.create(directory, spec)
    session = opened(ledger, spec, directory, at_once=1)
    assert begin(session, 1) == [0]
    assert session.receive(0, report(1, 5.0))
    for number in (1, 2):
        assert begin(session, 1) == [number]
        session.lose([number], *gone(), "")
        assert begin(session, 1) == [number]
        session.lose([number], *gone(), "")
    assert begin(session, 1) == [0]
    for epoch in (1, 2, 3, 4):
        assert session.receive(0, report(epoch, 5.0)) == (epoch == 4)
    assert session.is_over
    assert [record.state for record in ledger.records()] == [
        TrialState.COMPLETED, TrialState.FAILED, TrialState.FAILED,
    ]  # fmt: skip


def test_one_that_fails_right_after_it_was_let_go_on_is_told_with_those_it_was_judged_among(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    ledger = Ledger.create(directory, spec)
    session = opened(ledger, spec, directory, at_once=3)
    assert begin(session, 3) == [0, 1, 2]
    assert session.receive(0, report(1, 80.0))
    assert session.receive(1, report(1, 50.0))
    assert session.receive(2, report(1, 60.0))
    for _ in range(2):
        assert begin(session, 1) == [0]
        session.lose([0], *gone(), "")
    assert ledger.record(0).state is TrialState.FAILED
    (decision,) = decisions(ledger.record(0), ledger.records(), spec)
    assert decision_text(decision, "elbo_nats") == "went on at epoch 1: elbo_nats 80, 1st of 3, 1 goes on"


def gone() -> tuple[TrialFault, str]:
    return TrialFault.EXCEPTION, "an exception"


def test_one_that_waits_in_a_stopped_sweep_is_said_to_wait(spec: SweepSpec, directory: SweepDirectory) -> None:
    play(opened(Ledger.create(directory, spec), spec, directory), {}, steps=1)
    ledger = Ledger.open(directory, spec, writable=False, running=False)
    assert [record.state for record in ledger.records()][:2] == [TrialState.PAUSED, TrialState.INTERRUPTED]
    (decision,) = decisions(ledger.records()[0], ledger.records(), spec)
    assert decision.waits
    assert ", 1st of 1, none goes on yet" in decision_text(decision, "elbo_nats")


def test_a_driver_killed_at_any_line_of_the_journal_leaves_what_the_undisturbed_sweep_comes_to(
    spec: SweepSpec, directory: SweepDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "STARTUP_TRIALS", 2)
    monkeypatch.setattr("raysweep.driver.session.write_parquet", lambda *_: None)
    whole = play(opened(Ledger.create(directory, spec), spec, directory), {})
    expected, study = outcome(directory, spec), all_of(directory)
    assert {state for _, state, *_ in expected} == {TrialState.PRUNED, TrialState.COMPLETED}
    assert [state for _, state, *_ in expected[:3]].count(TrialState.PRUNED) == 2, "one of the first three went on"
    assert len(whole) < 28, "some were spared epochs"
    count = 0
    for cut in lines_cut(directory, tmp_path / "cuts"):
        session = opened(Ledger.open(cut, spec, writable=True), spec, cut)
        play(session, {})
        assert outcome(cut, spec) == expected
        assert all_of(cut) == study
        count += 1
    assert count > 30


@given(
    values=st.lists(st.one_of(st.floats(-9, 9), st.just(float("nan"))), min_size=1, max_size=9),
    factor=st.integers(2, 4),
)
def test_each_trial_on_the_first_rung_waits_goes_on_or_ends(values: Sequence[float], factor: int) -> None:
    rule, rung = Waiting(5, factor, "max"), dict(enumerate(values))
    paused = dict.fromkeys(rung, 5)
    going = rule.going_on(lambda _: rung, paused)
    ending = [number for number, _ in rule.ending(lambda _: rung, paused, False)]
    if len(values) < factor:
        assert going == ending == []
        assert all(rule.holds(number, 5, lambda _: rung) for number in rung)
    else:
        assert sorted([*going, *ending]) == sorted(rung)
        survivors = [number for number in rung if standing(number, rung, factor, "max").survives]
        assert going == sorted(survivors, key=lambda number: (-rung[number], number))
        assert [number for number in rung if rule.holds(number, 5, lambda _: rung)] == ending
    assert not any(rule.holds(number, 4, lambda _: rung) for number in rung)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), at_once=st.integers(1, 6))
def test_nobody_passes_the_first_rung_before_three_stand_there_but_those_that_are_left(seed: int, at_once: int) -> None:
    from tempfile import TemporaryDirectory

    spec = parse_spec(THREE.replace("trials: 7", "trials: 9\n  sampler: random"), "table.yaml")
    with TemporaryDirectory() as root:
        directory = SweepDirectory.at(Path(root))
        ledger = Ledger.create(directory, spec)
        session = opened(ledger, spec, directory, at_once=at_once)
        for _ in play_at_random(session, random.Random(seed)):
            if ledger.values_at(2) and ledger.searched < 9:
                assert len(ledger.values_at(1)) >= 3
        states = [record.state for record in ledger.records()]
    assert TrialState.COMPLETED in states
    assert set(states) <= {TrialState.COMPLETED, TrialState.PRUNED}
