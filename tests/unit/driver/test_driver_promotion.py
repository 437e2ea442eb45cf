"""Trials that pause on a rung and go on when they are among the best there: the rule, the session, and every resume."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.driver.session import Session
from raysweep.messages import Slots, TrialFault
from raysweep.metrics import Mode, TrialState
from raysweep.records import TrialRecord
from raysweep.search import sampling
from raysweep.search.scheduler import Promotion
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.ledger import Ledger
from tests.unit.conftest import IMAGES, SPACE, Watcher, play_at_random, report
from tests.unit.driver.test_driver_cuts import all_of
from tests.unit.search.test_search_decisions import NoWriter

PROMOTING = SPACE.replace("factor: 2", "factor: 2, promote: true").replace("trials: 6", "trials: 6\n  sampler: tpe")


@pytest.fixture
def spec() -> SweepSpec:
    return parse_spec(PROMOTING, "table.yaml")


def opened(ledger: Ledger, spec: SweepSpec, directory: SweepDirectory, at_once: int = 1, fused: int = 1) -> Session:
    slots = Slots(1, 0, at_once, fused=fused)
    return Session(directory, spec, ledger, slots, IMAGES, NoWriter(), Watcher())  # type: ignore[arg-type]


def naive(values: list[list[float]], paused: list[tuple[int, int]], factor: int, mode: Mode) -> list[int]:
    """The rule as a person would write it down: `values` by rung and trial, who is paused at which rung."""
    found = []
    for rung in reversed(range(len(values))):
        reached = [number for number, value in enumerate(values[rung]) if value is not None]
        finite = [number for number in reached if math.isfinite(values[rung][number])]
        best_first = sorted(finite, key=lambda number: values[rung][number], reverse=mode == "max")
        if mode == "max":  # Python keeps equal ones in the order in which `reverse` found them
            best_first = sorted(finite, key=lambda number: (-values[rung][number], number))
        for number in best_first[: math.floor(len(reached) / factor)]:
            if (number, rung) in paused:
                found.append(number)
    return found


@given(data=st.data(), factor=st.integers(2, 4), mode=st.sampled_from(["min", "max"]))
def test_who_goes_on_is_who_a_naive_reading_of_the_rule_sends_on(data: st.DataObject, factor: int, mode: Mode) -> None:
    count = data.draw(st.integers(0, 25))
    value = st.one_of(st.integers(-5, 5).map(float), st.just(math.nan), st.just(math.inf))
    heights = [data.draw(st.integers(0, 3)) for _ in range(count)]
    values = [[data.draw(value) if height > rung else None for height in heights] for rung in range(3)]
    waits = [data.draw(st.booleans()) for _ in range(count)]
    paused = [(number, height - 1) for number, height in enumerate(heights) if height and waits[number]]
    rungs = (1, 3, 9)
    rule = Promotion(rungs, factor, mode)
    on_rungs = {
        epoch: {number: value for number, value in enumerate(row) if value is not None}
        for epoch, row in zip(rungs, values, strict=True)
    }
    got = rule.going_on(on_rungs.__getitem__, {number: rungs[rung] for number, rung in paused})
    assert got == naive(values, paused, factor, mode)  # type: ignore[arg-type]


def test_the_leader_is_the_best_of_the_highest_rung_that_anyone_alive_has_reached() -> None:
    rule, rungs = Promotion((1, 3), 3, "max"), {1: {0: 5.0, 1: 9.0, 2: 1.0}, 3: {0: 2.0, 2: 8.0}}
    paused = {0: 3, 1: 1, 2: 3}
    assert rule.left_over(rungs.__getitem__, paused, {0, 1, 2}.__contains__) == [2]
    assert rule.left_over(rungs.__getitem__, {0: 3, 1: 1}, {0, 1, 2}.__contains__) == [], "the leader is no more paused"
    assert rule.left_over(rungs.__getitem__, paused, {0, 1}.__contains__) == [0]
    assert rule.left_over(rungs.__getitem__, paused, {1}.__contains__) == [1]
    assert rule.left_over(rungs.__getitem__, paused, set().__contains__) == []


def ask(session: Session) -> int:
    order = session.next_order()
    assert order is not None
    session.started(order.number)
    return order.number


def test_no_trial_passes_a_rung_before_it_has_been_compared(spec: SweepSpec, directory: SweepDirectory) -> None:
    session = opened(Ledger.create(directory, spec), spec, directory)
    assert ask(session) == 0
    assert session.receive(0, report(1, 100.0)), "the first arrival waits"
    assert session.ledger.record(0).state is TrialState.PAUSED
    assert ask(session) == 1, "and a new one takes its place"
    assert session.receive(1, report(1, 50.0))
    assert ask(session) == 0, "the better of two goes on, from its checkpoint"
    assert session.ledger.record(0).state is TrialState.RUNNING


def test_an_arrival_that_is_among_the_best_goes_on_in_its_process(spec: SweepSpec, directory: SweepDirectory) -> None:
    session = opened(Ledger.create(directory, spec), spec, directory)
    ask(session)
    assert session.receive(0, report(1, 50.0))
    ask(session)
    assert not session.receive(1, report(1, 100.0))
    assert session.ledger.record(1).state is TrialState.RUNNING
    assert list(session.training) == [1]


def test_a_trial_that_sends_its_rung_again_from_its_checkpoint_is_not_paused_again(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    session = opened(Ledger.create(directory, spec), spec, directory, at_once=2)
    for value in (100.0, 50.0):
        number = ask(session)
        assert session.receive(number, report(1, value))
    assert ask(session) == 0
    other = ask(session)
    assert not session.receive(other, report(1, 500.0)), "0 is not among the best any more, but on its way"
    assert not session.receive(0, report(1, 100.0))
    assert session.receive(0, report(2, 100.0)), "the next rung is another matter"


def test_a_trial_that_diverged_on_a_rung_is_not_sent_on(spec: SweepSpec, directory: SweepDirectory) -> None:
    session = opened(Ledger.create(directory, spec), spec, directory)
    for value in (100.0, math.nan):
        number = ask(session)
        assert session.receive(number, report(1, value))
    assert session.ledger.record(1).state is TrialState.DIVERGED
    assert ask(session) == 0, "but it has reached the rung, and 0 is the better one of the two there"


def test_a_process_that_dies_before_the_next_epoch_leaves_its_trial_where_the_rule_finds_it_again(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    session = opened(Ledger.create(directory, spec), spec, directory)
    for value in (100.0, 50.0):
        session.receive(ask(session), report(1, value))
    for _ in range(3):
        assert ask(session) == 0
        session.lose([0], TrialFault.DEATH, "its process died", "")
        assert session.ledger.record(0).state is TrialState.PAUSED
    assert ask(session) == 0
    session.lose([0], TrialFault.DEATH, "its process died", "")
    assert session.ledger.record(0).state is TrialState.FAILED


def test_the_leader_is_trained_out_and_the_others_end_as_pruned_with_their_place(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"trials": 3})})
    session = opened(Ledger.create(directory, spec), spec, directory)
    for value in (10.0, 5.0):
        session.receive(ask(session), report(1, value))
    assert ask(session) == 0
    assert session.receive(0, report(2, 10.0)), "alone on the second rung"
    assert session.receive(ask(session), report(1, 1.0))
    assert session.remaining == 1, "one of three may go on past the first rung; now the leader is trained out"
    assert ask(session) == 0
    assert not session.receive(0, report(3, 10.0))
    assert not session.is_over
    assert session.receive(0, report(4, 10.0))
    assert session.is_over
    told = [(record.state, record.cause) for record in session.ledger.records()]
    assert told == [
        (TrialState.COMPLETED, "all 4 epochs done"),
        (TrialState.PRUNED, "paused at epoch 1, 2nd of the 3 trials that had reached it, of which the best 1 goes on"),
        (TrialState.PRUNED, "paused at epoch 1, 3rd of the 3 trials that had reached it, of which the best 1 goes on"),
    ]


def test_if_the_leader_fails_the_next_one_is_trained_out(spec: SweepSpec, directory: SweepDirectory) -> None:
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"trials": 2})})
    session = opened(Ledger.create(directory, spec), spec, directory)
    for value in (10.0, 5.0):
        session.receive(ask(session), report(1, value))
    assert ask(session) == 0
    assert session.receive(0, report(2, math.nan))
    assert ask(session) == 1
    assert not session.receive(1, report(2, 5.0)), "the only one at the highest rung that is alive"
    assert not session.receive(1, report(3, 5.0))
    assert session.receive(1, report(4, 5.0))
    assert [record.state for record in session.ledger.records()] == [TrialState.DIVERGED, TrialState.COMPLETED]


def test_paused_trials_are_shown_as_paused_when_the_sweep_is_stopped(
    spec: SweepSpec, directory: SweepDirectory, reopen: Callable[[], Ledger]
) -> None:
    session = opened(Ledger.create(directory, spec), spec, directory, at_once=2)
    for value in (100.0, 50.0):
        session.receive(ask(session), report(1, value))
    assert ask(session) == 0
    assert ask(session) == 2
    session.stop("Ctrl-C", signal=2)
    session.release([0, 2])
    states = [record.state for record in Ledger.open(directory, spec, writable=False, running=False).records()]
    assert states == [TrialState.PAUSED, TrialState.PAUSED, TrialState.INTERRUPTED]
    assert session.ledger.unfinished() == [0, 1, 2], "nothing is told of them"
    again = opened(reopen(), spec, directory)
    assert [ask(again), again.receive(2, report(1, 10.0)), ask(again)] == [2, True, 0]


def test_more_trials_leave_those_ended_that_were_paused(spec: SweepSpec, directory: SweepDirectory) -> None:
    few = spec.model_copy(update={"search": spec.search.model_copy(update={"trials": 2})})
    play(opened(Ledger.create(directory, few), few, directory), {})
    ended = Ledger.open(directory, spec, writable=True)
    assert [record.state for record in ended.records()].count(TrialState.PRUNED) == 1
    before = repr(ended.records())
    play(opened(ended, spec, directory), {})
    after = Ledger.open(directory, spec, writable=True).records()
    assert repr(after[:2]) == before
    assert len(after) == 6
    assert all(record.ended_at for record in after)


def test_trials_that_pause_leave_the_processes_that_train_several_and_come_back(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    """Trials of latent sizes 8 and 16 by turns, three together: each goes on only beside those of its own shape."""
    points = tuple({"kld_weight": 1e-3, "latent_size": size} for size in (8, 16, 8, 16, 8, 8))
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"enqueue": points})})
    session = opened(Ledger.create(directory, spec), spec, directory, at_once=1, fused=3)
    held: list[int] = []
    draw, seen = random.Random(5), set()
    while not session.is_over:
        while (order := session.next_order(beside=held)) is not None:
            held.append(order.number)
            session.started(order.number)
        seen.add(tuple(sorted(held)))
        assert len({session.ledger.record(number).params["latent_size"] for number in held}) == 1
        for number in list(held):
            epoch = len(session.ledger.record(number).epochs) + 1
            if session.receive(number, report(epoch, draw.gauss(100, 10))):
                held.remove(number)
    assert any(len(together) > 1 for together in seen)
    states = [record.state for record in session.ledger.records()]
    assert states.count(TrialState.COMPLETED) >= 1
    assert set(states) == {TrialState.COMPLETED, TrialState.PRUNED}


# Every resume


def score(record: TrialRecord, epoch: int) -> float:
    """An objective that follows from the point, so that a trial that is trained again comes to the same."""
    noise = random.Random(f"{record.number} {epoch // 2}").gauss(0, 20)
    return -100 * abs(math.log10(float(str(record.params["kld_weight"]))) + 3.5) + epoch + noise


def play(session: Session, checkpoints: dict[int, int], steps: int | None = None) -> list[tuple[int, int]]:
    """Train with one process till the end, or for so many epochs; return the epochs that were trained, in order.

    `checkpoints` has how far each trial has come on the disk, which may be one epoch further than the ledger.
    """
    trained: list[tuple[int, int]] = []
    while (order := session.next_order()) is not None:
        session.started(order.number)
        over = False
        at = max(order.epochs_done, checkpoints.get(order.number, 0))
        if at:  # what a process that takes up a trial sends first
            over = session.receive(order.number, report(at, score(session.ledger.record(order.number), at)))
        while not over:
            at += 1
            checkpoints[order.number] = at
            trained.append((order.number, at))
            if steps is not None and len(trained) > steps:
                return trained
            over = session.receive(order.number, report(at, score(session.ledger.record(order.number), at)))
    assert session.is_over
    return trained


def outcome(directory: SweepDirectory, spec: SweepSpec) -> list[tuple[object, ...]]:
    records = Ledger.open(directory, spec, writable=False, running=False).records()
    return [(r.number, r.state, r.params, r.cause, [e.metrics for e in r.epochs]) for r in records]


def lines_cut(directory: SweepDirectory, root: Path) -> Iterator[SweepDirectory]:
    """Copies of a sweep whose journal ends after each of its lines from the first trial on."""
    lines = directory.journal.read_bytes().splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if b"kld_weight" in line)
    for count in range(first, len(lines)):
        copy = SweepDirectory.at(root / str(count))
        copy.root.mkdir(parents=True)
        copy.journal.write_bytes(b"".join(lines[:count]))
        yield copy


def test_a_driver_killed_at_any_line_of_the_journal_leaves_what_the_undisturbed_sweep_comes_to(
    spec: SweepSpec, directory: SweepDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "STARTUP_TRIALS", 2)  # so that most suggestions are learned from trials that pause
    monkeypatch.setattr("raysweep.driver.session.write_parquet", lambda *_: None)
    whole = play(opened(Ledger.create(directory, spec), spec, directory), {})
    expected, study = outcome(directory, spec), all_of(directory)
    assert sum(state is TrialState.PRUNED for _, state, *_ in expected) > 1
    assert len(whole) < 24, "some were spared epochs"
    count = 0
    for cut in lines_cut(directory, tmp_path / "cuts"):
        ledger = Ledger.open(cut, spec, writable=True)
        known = sum(len(record.epochs) for record in ledger.records())
        trained = play(opened(ledger, spec, cut), {})
        assert trained == whole[known:], cut
        assert outcome(cut, spec) == expected, cut
        assert all_of(cut) == study, cut
        count += 1
    assert count > 30


def test_a_checkpoint_that_is_ahead_of_the_ledger_is_reported_before_it_is_judged(
    spec: SweepSpec, directory: SweepDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raysweep.driver.session.write_parquet", lambda *_: None)
    whole = play(opened(Ledger.create(directory, spec), spec, directory), {})
    expected = outcome(directory, spec)
    for steps in range(len(whole)):
        cut = SweepDirectory.at(tmp_path / str(steps))
        cut.root.mkdir()
        checkpoints: dict[int, int] = {}
        play(opened(Ledger.create(cut, spec), spec, cut), checkpoints, steps)
        again = play(opened(Ledger.open(cut, spec, writable=True), spec, cut), checkpoints)
        assert again == whole[steps + 1 :], "no epoch is trained twice"
        assert outcome(cut, spec) == expected


def test_a_sweep_with_paused_trials_can_be_moved(spec: SweepSpec, directory: SweepDirectory, tmp_path: Path) -> None:
    checkpoints: dict[int, int] = {}
    play(opened(Ledger.create(directory, spec), spec, directory), checkpoints, steps=6)
    moved = SweepDirectory.at(shutil.move(directory.root, tmp_path / "elsewhere"))
    ledger = Ledger.open(moved, spec, writable=True)
    assert ledger.paused
    play(opened(ledger, spec, moved), checkpoints)
    assert {record.state for record in ledger.records()} == {TrialState.COMPLETED, TrialState.PRUNED}


def test_many_workers_leave_one_completed_trial_at_least_and_every_trial_ended(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"trials": 30})})
    session = opened(Ledger.create(directory, spec), spec, directory, at_once=8)
    for training in play_at_random(session, random.Random(3)):
        assert len(training) <= 8
    records = session.ledger.records()
    assert len(records) == 30
    assert {record.state for record in records} == {TrialState.COMPLETED, TrialState.PRUNED}
    reached = [sum(len(record.epochs) > epoch for record in records) for epoch in (1, 2)]
    assert 15 <= reached[0] <= 24, "half of them, and those that were among the best for a while"
    assert 7 <= reached[1] <= 16
