"""Why a trial was stopped: the decision as it was taken, told from the ledger afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from raysweep.driver.session import Session
from raysweep.messages import Slots
from raysweep.metrics import TrialState
from raysweep.records import EpochRecord, TrialRecord
from raysweep.search.decisions import RungDecision, decision_text, decisions, told_apart
from raysweep.search.scheduler import Standing, standing
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.ledger import Ledger
from raysweep.wording import ordinal
from tests.unit.conftest import IMAGES, NOW, SPACE, Watcher, epoch_metrics, play_at_random


class NoWriter:
    """TensorBoard is of no concern here."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def test_each_decision_of_a_session_is_told_as_it_was_taken(
    directory: SweepDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty trials, eight at once, reports in any order: replayed from the journal, nothing but the journal."""
    spec = parse_spec(SPACE.replace("trials: 6", "trials: 40").replace("max_epochs: 4", "max_epochs: 9"), "t.yaml")
    taken: dict[tuple[int, int, bool], Standing] = {}
    """By trial, rung, and whether it was judged there again; what changed nothing is not told."""

    def remembering(number: int, rung: dict[int, float], factor: int, mode: str) -> bool:
        place = standing(number, rung, factor, mode)  # type: ignore[arg-type]
        epochs = len(session.ledger.record(number).epochs)
        epoch = next(epoch for epoch in (1, 2, 4, 8) if session.ledger.values_at(epoch) is rung)
        if epochs == epoch or not place.survives:
            taken[number, epoch, epochs > epoch] = place
        return place.survives

    monkeypatch.setattr("raysweep.driver.session.survives", remembering)
    ledger = Ledger.create(directory, spec)
    session = Session(directory, spec, ledger, Slots(1, 0, 8), IMAGES, NoWriter(), Watcher())  # type: ignore[arg-type]
    for _ in play_at_random(session, random.Random(3)):
        pass
    records = Ledger.open(directory, spec, writable=False).records()
    replayed = {(r.number, d.epoch, d.after is not None): d for r in records for d in decisions(r, records, spec)}
    assert len(replayed) > 50
    told = {key: decision.standing for key, decision in replayed.items()}
    waited = {key for key, place in taken.items() if key[1] == 1 and place.of == 1}
    assert len(waited) == 1, "the first one waits, and is judged when the second comes"
    assert {place.of for key in waited if (place := told[key]) is not None} == {2}
    assert {key: told[key] for key in told.keys() - waited} == {key: taken[key] for key in taken.keys() - waited}
    stopped = [key for key, decision in replayed.items() if not decision.went_on]
    assert {number for number, *_ in stopped} == {r.number for r in records if r.state is TrialState.PRUNED}
    assert any(key[1] == 4 for key in stopped)
    assert any(again for *_, again in stopped)


def trial(number: int, values: list[float], state: TrialState, arrived: float, cause: str | None = None) -> TrialRecord:
    """A trial whose epochs came one second apart, the first `arrived` seconds after noon."""
    space = parse_spec(SPACE, "table.yaml").trial
    times = [NOW + timedelta(seconds=arrived + index) for index in range(len(values))]
    epochs = [
        EpochRecord.of(epoch_metrics(index, value), time)
        for index, (value, time) in enumerate(zip(values, times, strict=True), start=1)
    ]
    ended = times[-1] if times and state is not TrialState.RUNNING else None
    params = {"kld_weight": 1e-3, "latent_size": 8}
    return TrialRecord(number, space, params, state, tuple(epochs), cause=cause, ended_at=ended)


def on_a_rung(spec: SweepSpec) -> list[TrialRecord]:
    """Three trials: the second is stopped at its first epoch by the other two, the third comes after that."""
    cause = "not among the best 1/2 of the 2 trials that had reached it at epoch 1"
    return [
        trial(0, [101.91, 102.0], TrialState.RUNNING, 0),
        trial(1, [101.59], TrialState.PRUNED, 5, cause),
        trial(2, [300.0, 301.0], TrialState.RUNNING, 9),
    ]


def test_a_stop_is_told_with_its_numbers(spec: SweepSpec) -> None:
    records = on_a_rung(spec)
    found = decisions(records[1], records, spec)
    assert [decision_text(decision, "elbo_nats") for decision in found] == [
        "stopped at epoch 1: elbo_nats 101.59, 2nd of 2, 1 goes on, 101.91 was needed"
    ], "the trial that came later is not among them"
    first = decisions(records[2], records, spec)
    assert [decision_text(decision, "elbo_nats") for decision in first] == [
        "went on at epoch 1: elbo_nats 300, 1st of 3, 2 go on",
        "went on at epoch 2: elbo_nats 301, 1st of 2, 1 goes on",
    ]


def test_a_stop_behind_its_last_rung_is_told_with_the_epoch_after_which_it_was_judged_again(spec: SweepSpec) -> None:
    cause = "not among the best 1/2 of the 3 trials that had reached it at epoch 2, judged again after epoch 3"
    records = [
        trial(0, [90.0, 95.0, 99.0], TrialState.PRUNED, 0, cause),
        trial(1, [91.0, 96.0], TrialState.RUNNING, 0.2),
        trial(2, [92.0, 97.0], TrialState.RUNNING, 0.5),
    ]
    found = decisions(records[0], records, spec)
    assert [decision_text(decision, "elbo_nats") for decision in found] == [
        "went on at epoch 1: elbo_nats 90, 1st of 1, 1 goes on",
        "went on at epoch 2: elbo_nats 95, 1st of 1, 1 goes on",
        "stopped after epoch 3, judged again at epoch 2: elbo_nats 95, 3rd of 3, 2 go on, 96 was needed",
    ]


def test_what_was_decided_where_trials_pause_is_told_as_of_when_each_went_on() -> None:
    """Epochs take 1.5 s: trial 0 waited for the second arrival, 2 went on at once, 1 waits still."""
    promoting = parse_spec(SPACE.replace("reduction_factor: 2", "reduction_factor: 2, promote: true"), "table.yaml")
    records = [
        trial(0, [101.91, 102.0], TrialState.PAUSED, 0),
        trial(1, [101.59], TrialState.PAUSED, 5),
        trial(2, [300.0, 301.0], TrialState.PAUSED, 9),
    ]
    began_after_the_second = replace(records[0].epochs[1], recorded_at=NOW + timedelta(seconds=7))
    after_a_pause = replace(records[2].epochs[1], recorded_at=NOW + timedelta(seconds=12))
    records[0] = replace(records[0], epochs=(records[0].epochs[0], began_after_the_second))
    records[2] = replace(records[2], epochs=(records[2].epochs[0], after_a_pause))
    records = [replace(r, ended_at=None) for r in records]
    told = [[decision_text(decision, "elbo_nats") for decision in decisions(r, records, promoting)] for r in records]
    assert told == [
        ["went on at epoch 1: elbo_nats 101.91, 1st of 2, 1 goes on",
         "paused at epoch 2: elbo_nats 102, 2nd of 2, 1 goes on, 301 is needed"],
        ["paused at epoch 1: elbo_nats 101.59, 3rd of 3, 1 goes on, 300 is needed"],
        ["went on at epoch 1: elbo_nats 300, 1st of 3, 1 goes on",
         "paused at epoch 2: elbo_nats 301, 1st of 2, 1 goes on"],
    ]  # fmt: skip
    ended = [replace(r, state=TrialState.PRUNED, ended_at=NOW + timedelta(hours=1)) for r in records]
    assert decision_text(decisions(ended[1], ended, promoting)[0], "elbo_nats").startswith("stopped at epoch 1")


def test_the_leader_went_on_since_nothing_else_was_left() -> None:
    text = SPACE.replace("reduction_factor: 2", "reduction_factor: 3, promote: true").replace("trials: 6", "trials: 2")
    promoting = parse_spec(text, "table.yaml")
    records = [trial(0, [1.0, 2.0, 3.0, 4.0], TrialState.COMPLETED, 0), trial(1, [0.5], TrialState.PRUNED, 0.2)]
    late = [replace(e, recorded_at=e.recorded_at + timedelta(seconds=9)) for e in records[0].epochs[1:]]
    records[0] = replace(records[0], epochs=(records[0].epochs[0], *late))
    (found,) = (decision for decision in decisions(records[0], records, promoting) if decision.epoch == 1)
    assert decision_text(found, "elbo_nats") == (
        "went on at epoch 1: elbo_nats 1, 1st of 2, nothing else was left to train"
    )


def test_clocks_that_disagree_are_noticed_and_no_number_is_made_up(spec: SweepSpec) -> None:
    records = on_a_rung(spec)
    late = replace(records[0].epochs[0], recorded_at=NOW + timedelta(hours=1))
    records[0] = replace(records[0], epochs=(late, *records[0].epochs[1:]))
    (found,) = decisions(records[1], records, spec)
    assert found == RungDecision(1, went_on=False, standing=None)
    assert "do not tell" in decision_text(found, "elbo_nats")


def test_a_trial_that_diverged_on_a_rung_was_not_judged_there(spec: SweepSpec) -> None:
    diverged = trial(0, [float("nan")], TrialState.DIVERGED, 0)
    assert decisions(diverged, [diverged], spec) == []
    failed = trial(0, [1.0], TrialState.FAILED, 0)
    assert [decision.went_on for decision in decisions(failed, [failed], spec)] == [True]


def test_without_early_stopping_nothing_was_decided(spec: SweepSpec) -> None:
    plain = parse_spec("data: {dataset: digits}\ntrial: {kld_weight: {low: 1e-3, high: 1}}\n", "plain.yaml")
    records = on_a_rung(spec)
    assert decisions(records[1], records, plain) == []


def test_numbers_have_as_many_digits_as_tell_them_apart() -> None:
    assert told_apart(101.59, 101.91) == ("101.59", "101.91")
    assert told_apart(101.591, 101.5912) == ("101.591", "101.5912")
    assert told_apart(0.012345678, 0.0123) == ("0.012346", "0.0123")
    assert told_apart(1.0, 1.0) == ("1", "1")
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 21, 112, 122)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "21st", "112th", "122nd",
    ]  # fmt: skip
