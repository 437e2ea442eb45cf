"""The best trials trained again with other seeds: which, how often, what it changes, and every resume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.confirming import Confirmation, another_seed, confirmed, due, most_trainings, plan
from raysweep.errors import LedgerError, SpecError
from raysweep.metrics import TrialState
from raysweep.records import TrialRecord, ranked
from raysweep.report.tables import trials_table
from raysweep.review.remarks import remarks_after
from raysweep.review.sweep import read_sweep
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import Confirm, SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.description import FORMAT, yaml_text
from raysweep.study.ledger import Ledger
from raysweep.study.status import epochs_to_come, sweep_status
from raysweep.terminal.mappings import status_mapping, trial_mapping
from tests.unit.conftest import SPACE, report
from tests.unit.driver.test_driver_cuts import all_of
from tests.unit.driver.test_driver_promotion import lines_cut, opened, outcome, play

CONFIRMING = SPACE.replace("trials: 6", "trials: 6\n  sampler: random\n  confirm: {top: 2, seeds: 2}")


@pytest.fixture
def spec() -> SweepSpec:
    return parse_spec(CONFIRMING, "table.yaml")


def with_search(spec: SweepSpec, **changes: object) -> SweepSpec:
    return spec.model_copy(update={"search": spec.search.model_copy(update=changes)})


def train_all(directory: SweepDirectory, spec: SweepSpec, values: Sequence[float], again: Sequence[float]) -> Ledger:
    """A sweep without early stopping whose trials come to `values`, and those that confirm them to `again`."""
    spec = with_search(spec, early_stopping=None, trials=len(values))
    session = opened(Ledger.create(directory, spec), spec, directory)
    while (order := session.next_order()) is not None:
        value = (*values, *again)[order.number]
        session.started(order.number)
        for epoch in range(1, order.config.epochs + 1):
            if session.receive(order.number, report(epoch, value)):
                break
    assert session.is_over
    return session.ledger


def search_of(spec: SweepSpec, count: int) -> SweepSpec:
    return with_search(spec, early_stopping=None, trials=count)


def test_the_best_are_trained_again_with_other_seeds_and_the_best_mean_wins(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    ledger = train_all(directory, spec, (10.0, 50.0, 40.0, 20.0), (30.0, 42.0, 32.0, 44.0))
    records = ledger.records()
    assert [record.confirms for record in records] == [None] * 4 + [1, 2, 1, 2], "a seed of each, the best first"
    seeds = [record.config.seed for record in records]
    assert seeds == [0] * 4 + [another_seed(0, 0)] * 2 + [another_seed(0, 1)] * 2
    for record in records[4:]:
        assert record.confirms is not None
        assert record.params == records[record.confirms].params
        assert not record.enqueued
    found = confirmed(records, search_of(spec, 4))
    assert [(row.trial, row.values, row.mean) for row in found] == [(2, (42.0, 44.0), 43.0), (1, (30.0, 32.0), 31.0)]
    assert found[0].half_width == pytest.approx(4.303, abs=1e-3), "Student's t of 2 degrees; both spread alike"
    assert found[0].margin_over(found[1]) == pytest.approx(6.085, abs=1e-3)
    assert [record.number for record in ranked(records, "elbo_nats")] == [2, 1, 3, 0]
    status = sweep_status(records, search_of(spec, 4))
    assert status.best is not None
    assert status.best.number == 2
    assert status.ended == 4
    assert status.by_state == {TrialState.COMPLETED: 4}
    assert (status.confirmed, status.unconfirmed, status.is_open) == (4, 0, True), "finalists are untested"


def test_confirmations_begin_when_the_last_trial_of_the_search_has_ended(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    spec = search_of(spec, 2)
    session = opened(Ledger.create(directory, spec), spec, directory, at_once=2)
    assert [order.number for order in (session.next_order(), session.next_order()) if order] == [0, 1]
    for number in (0, 1):
        assert session.next_order() is None
        assert not session.is_over
        session.started(number)
        assert [session.receive(number, report(epoch, 5.0)) for epoch in range(1, 5)] == [False] * 3 + [True]
    assert session.remaining == 4
    assert epochs_to_come(session.ledger.records(), spec) == 16
    order = session.next_order()
    assert order is not None
    assert (order.number, order.config.seed) == (2, another_seed(0, 0))


def test_no_rung_stops_a_confirmation_or_counts_it(spec: SweepSpec, directory: SweepDirectory) -> None:
    session = opened(Ledger.create(directory, spec), spec, directory)
    while (order := session.next_order()) is not None and session.ledger.record(order.number).confirms is None:
        for epoch in range(1, 5):
            if session.receive(order.number, report(epoch, 10.0 * order.number)):
                break
    assert order is not None
    on_rungs = {epoch: dict(session.ledger.values_at(epoch)) for epoch in (1, 2)}
    assert [session.receive(order.number, report(epoch, -1e3)) for epoch in range(1, 5)] == [False] * 3 + [True]
    assert {epoch: dict(session.ledger.values_at(epoch)) for epoch in (1, 2)} == on_rungs
    reopened = Ledger.open(directory, spec, writable=False)
    assert {epoch: dict(reopened.values_at(epoch)) for epoch in (1, 2)} == on_rungs


def test_a_confirmation_that_diverges_puts_its_trial_behind_and_one_that_fails_says_nothing(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    ledger = train_all(directory, spec, (50.0, 40.0), (math.nan, 39.0, 60.0, 41.0))
    assert [record.number for record in ranked(ledger.records(), "elbo_nats")] == [1, 0]
    found = confirmed(ledger.records(), search_of(spec, 2))
    assert [row.trial for row in found] == [1, 0]
    assert math.isnan(found[1].mean)
    assert found[0].half_width is not None, "of the two finite ones"


def test_the_order_stays_that_of_the_search_until_all_confirmations_have_ended(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    ledger = train_all(directory, spec, (50.0, 40.0, 30.0), (10.0, 42.0, 12.0, 44.0))
    whole = ledger.records()
    assert [record.number for record in ranked(whole, "elbo_nats")] == [1, 0, 2]
    assert [record.number for record in ranked(whole, "psnr_db")] == [0, 1, 2], "they were not chosen by it"
    for ended in range(3, 7):
        begun = [without(record, {*range(ended, 7)}) for record in whole[:ended]]
        assert [record.number for record in ranked(begun, "elbo_nats")] == [0, 1, 2]


def without(record: TrialRecord, numbers: set[int]) -> TrialRecord:
    by = tuple(other for other in record.confirmed_by if other.number not in numbers)
    return replace(record, confirmed_by=by)


def test_a_trial_whose_confirmations_all_failed_leaves_the_order_as_it_was(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    records = train_all(directory, spec, (50.0, 40.0), (10.0, 42.0, 12.0, 44.0)).records()
    failed = tuple(replace(other, state=TrialState.FAILED) for other in records[0].confirmed_by)
    records[0] = replace(records[0], confirmed_by=failed)
    assert [record.number for record in ranked(records, "elbo_nats")] == [0, 1]


def test_a_trial_that_diverges_with_other_seeds_comes_after_those_nobody_confirmed(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    records = train_all(directory, spec, (50.0, 40.0, 30.0), (math.nan, 42.0, 12.0, 44.0)).records()
    assert [record.number for record in ranked(records, "elbo_nats")] == [1, 2, 0]


def test_the_even_spread_of_the_first_points_goes_on_after_confirmations(
    spec: SweepSpec, directory: SweepDirectory, tmp_path: Path
) -> None:
    spec = with_search(spec, sampler="gp", enqueue=(), early_stopping=None, trials=2)
    train_all(directory, spec, (50.0, 40.0), (30.0, 42.0, 32.0, 44.0))
    other = SweepDirectory.at(tmp_path / "other")
    other.root.mkdir()
    unconfirmed = with_search(spec, confirm=None)
    train_all(other, unconfirmed, (50.0, 40.0), ())
    longer = with_search(spec, trials=12)
    points = [Ledger.open(place, longer, writable=True).ask().params for place in (directory, other)]
    assert points[0] == points[1]


def test_auto_confirms_where_it_costs_little_and_the_end_says_so_where_it_does_not(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    auto = with_search(search_of(spec, 6), confirm="auto")
    ledger = train_all(directory, auto, [float(value) for value in range(6)], ())
    planned = plan(ledger.records(), auto)
    assert planned is not None
    assert (planned.trials, planned.seeds, planned.epochs, planned.searched) == ((5, 4, 3), 3, 36, 24)
    assert not planned.is_wanted
    assert due(ledger.records(), auto) == []
    said = "\n".join(remarks_after(auto, ledger.records(), (), None, None, "results/table"))
    assert "To train the best 3 trials with 3 other seeds each: 36 epochs, 150% of the 24 of the search, type:" in said
    assert "    raysweep resume results/table --confirm 3x3" in said
    many = [record for shift in range(0, 60, 6) for record in moved(ledger.records(), shift)]
    large = with_search(auto, trials=60)
    assert len(due(many, large)) == 9, "9 of 60 trainings are 15 %"
    assert due(many[:59], with_search(auto, trials=59)) == []


def test_trials_that_differ_in_their_seed_alone_are_one_of_the_best(spec: SweepSpec, directory: SweepDirectory) -> None:
    text = SPACE.replace("trials: 6", "sampler: grid\n  confirm: {top: 2, seeds: 1}").replace("[2, 8, 16]", "[8]")
    text = text.replace("  enqueue: [{kld_weight: 1e-3, latent_size: 8}, {latent_size: 16}]", "")
    text = text.replace("{low: 1e-5, high: 1e-1, log: true}", "{choices: [1e-4, 1e-3]}\n  seed: {choices: [0, 1]}")
    seeds = search_of(parse_spec(text, "table.yaml"), 4)
    values = (10.0, 50.0, 40.0, 60.0)
    records = train_all(directory, seeds, values, (1.0, 2.0)).records()
    weight_of = [record.params["kld_weight"] for record in records[:4]]
    others = [number for number in range(4) if weight_of[number] != weight_of[3]]
    assert len(others) == 2
    best = (3, max(others, key=values.__getitem__))
    assert tuple(record.confirms for record in records[4:]) == best
    planned = plan(records, seeds)
    assert planned is not None
    assert planned.trials == best

    auto = with_search(seeds, confirm="auto")
    assert plan(records, auto) is None, "the search itself trains with several seeds"


@pytest.mark.parametrize(
    ("confirm", "trials", "most"),
    [(None, 100, 0), ("auto", 59, 8), ("auto", 60, 9), ("auto", 1000, 9), ("auto", 3, 0),
     (Confirm(top=2, seeds=4), 10, 8), (Confirm(top=5, seeds=2), 3, 6)],
)  # fmt: skip
def test_room_is_reckoned_with_for_all_that_may_confirm(
    spec: SweepSpec, confirm: object, trials: int, most: int
) -> None:
    assert most_trainings(with_search(spec, confirm=confirm, trials=trials)) == most


def moved(records: Sequence[TrialRecord], shift: int) -> list[TrialRecord]:
    return [replace(record, number=record.number + shift) for record in records]


def test_without_confirmation_or_without_a_result_nothing_is_trained_again(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    ledger = train_all(directory, with_search(spec, confirm=None), (math.nan, math.nan), ())
    assert due(ledger.records(), search_of(spec, 2)) == []
    assert plan(ledger.records(), search_of(with_search(spec, confirm=None), 2)) is None


def test_a_sweep_that_goes_on_with_more_trials_confirms_only_who_is_new_among_the_best(
    spec: SweepSpec, directory: SweepDirectory
) -> None:
    ledger = train_all(directory, spec, (10.0, 50.0, 40.0), (30.0, 42.0, 32.0, 44.0))
    longer = search_of(spec, 4)
    ledger = Ledger.open(directory, longer, writable=True)
    session = opened(ledger, longer, directory)
    assert session.remaining == 1
    order = session.next_order()
    assert order is not None
    assert (order.number, order.config.seed) == (7, 0)
    for epoch in range(1, 5):
        session.receive(7, report(epoch, 45.0))
    assert due(ledger.records(), longer) == [Confirmation(7, another_seed(0, index), 6) for index in (0, 1)]
    assert ledger.records()[7].params != ledger.records()[1].params


def test_enqueued_points_and_grids_are_counted_without_confirmations(directory: SweepDirectory) -> None:
    text = SPACE.replace("trials: 6", "trials: 1\n  sampler: random\n  confirm: {top: 1, seeds: 1}")
    text = text.replace("  enqueue: [{kld_weight: 1e-3, latent_size: 8}, {latent_size: 16}]", "")
    spec = search_of(parse_spec(text, "table.yaml"), 1)
    train_all(directory, spec, (1.0,), (2.0,))
    points = ({"kld_weight": 1e-3, "latent_size": 8}, {"kld_weight": 1e-2, "latent_size": 2})
    longer = with_search(spec, trials=2, enqueue=points)
    ledger = Ledger.open(directory, longer, writable=True)
    assert ledger.ask().params == points[1]
    assert ledger.records()[2].enqueued


def test_a_driver_killed_at_any_line_leaves_what_the_undisturbed_sweep_comes_to(
    spec: SweepSpec, directory: SweepDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raysweep.driver.session.write_parquet", lambda *_: None)
    asha = spec.asha
    assert asha is not None
    spec = spec.with_rule(promote=True, rejudge=True)
    assert spec.asha is not None
    assert spec.asha.promote
    whole = play(opened(Ledger.create(directory, spec), spec, directory), {})
    expected, study = outcome(directory, spec), all_of(directory)
    confirming = [r for r in Ledger.open(directory, spec, writable=False).records() if r.confirms is not None]
    assert len(confirming) == 2, "one trial ran to its end, and is trained again twice"
    for cut in lines_cut(directory, tmp_path / "cuts"):
        ledger = Ledger.open(cut, spec, writable=True)
        known = sum(len(record.epochs) for record in ledger.records())
        assert play(opened(ledger, spec, cut), {}) == whole[known:], cut
        assert outcome(cut, spec) == expected, cut
        assert all_of(cut) == study, cut


def test_tables_and_json_have_what_confirms_what(spec: SweepSpec, directory: SweepDirectory) -> None:
    ledger = train_all(directory, spec, (50.0, 40.0), (30.0, 42.0, 32.0, 44.0))
    table = trials_table(ledger.records(), search_of(spec, 2))
    assert table["confirms"].to_pylist() == [None, None, 0, 1, 0, 1]
    assert table["confirmations"].to_pylist() == [2, 2, 0, 0, 0, 0]
    assert table["confirmed_mean"].to_pylist() == [31.0, 43.0, None, None, None, None]
    assert pc.sum(pc.equal(table["seed"], 0)).as_py() == 2
    ended = search_of(spec, 2)
    ended = ended.model_copy(update={"evaluation": ended.evaluation.model_copy(update={"final_metrics": "none"})})
    directory.spec.write_text(yaml_text({"format": FORMAT, "spec": ended.as_mapping()}))
    sweep = read_sweep(directory, running=False)
    assert sweep.best()[0].number == 1
    best = trial_mapping(sweep, sweep.best()[0])
    assert best["confirmed"]["trials"] == [3, 5]
    assert best["confirmed"]["mean"] == 43.0
    assert trial_mapping(sweep, sweep.trial(3))["confirms"] == 1
    status = status_mapping(sweep)
    assert (status["trials"], status["ended"], status["confirming"], status["unconfirmed"]) == (2, 2, [2, 3, 4, 5], 0)
    said = sweep.remarks()[0]
    assert said.startswith("Trained again with 2 other seeds, trial 1 comes to elbo_nats 43 ± ")
    assert said.endswith(". By one training alone trial 0 was ahead, with 50")


def test_a_journal_whose_confirmation_makes_no_sense_is_refused(spec: SweepSpec, directory: SweepDirectory) -> None:
    ended = search_of(spec, 2)
    train_all(directory, spec, (50.0, 40.0), (30.0, 42.0, 32.0, 44.0))
    whole = directory.journal.read_bytes()
    for before, after, said in (
        (b'"confirms":1', b'"confirms":9', "trial 3: confirms 9, which is no trial before it"),
        (b'"confirms":1', b'"confirms":true', "trial 3: confirms True, which is no trial before it"),
        (b'"confirms":1,', b"", "trial 3: has confirms without seed, or the other way round"),
    ):
        changed = whole.replace(before, after, 1)
        assert changed != whole
        directory.journal.write_bytes(changed)
        with pytest.raises(LedgerError, match=said):
            Ledger.open(directory, ended, writable=False)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("", "auto"), ("confirm: none", None), ("confirm: null", None), ("confirm: auto", "auto"),
        ("confirm: {top: 5}", Confirm(top=5, seeds=3)), ("confirm: {}", Confirm()),
    ],
)  # fmt: skip
def test_a_file_says_what_is_confirmed(written: str, read: object) -> None:
    assert parse_spec(SPACE.replace("trials: 6", f"trials: 6\n  {written}"), "table.yaml").search.confirm == read


@pytest.mark.parametrize("written", ["3", "yes", "{top: 0}", "{seeds: 101}", "{tops: 3}", "[3, 3]"])
def test_anything_else_is_a_fault(written: str) -> None:
    with pytest.raises(SpecError):
        parse_spec(SPACE.replace("trials: 6", f"trials: 6\n  confirm: {written}"), "table.yaml")


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 100))
def test_further_seeds_differ_from_each_other_and_from_the_first(seed: int, count: int) -> None:
    seeds = [another_seed(seed, index) for index in range(count)]
    assert len({seed, *seeds}) == count + 1
    assert all(0 <= other < 2**32 for other in seeds)
