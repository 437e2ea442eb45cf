"""A clock of parts: every moment belongs to one, and the parts add up to all that passed."""

from __future__ import annotations

import threading
import time

import pytest

from raysweep.clock import PartClock, process_age_s, running, timed
from raysweep.profiles import DriverPart

IMPORTED_AT = time.monotonic()


def work(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_parts_within_parts_take_their_time_off_and_all_of_it_is_the_whole() -> None:
    before = time.monotonic()
    clock = PartClock(DriverPart.UNACCOUNTED)
    began = time.monotonic()
    with clock.at(DriverPart.REPORT):
        time.sleep(0.01)
        with clock.at(DriverPart.TENSORBOARD):
            time.sleep(0.02)
    ended = time.monotonic()
    spent = clock.spent()
    assert spent[DriverPart.TENSORBOARD] >= 0.02
    assert spent[DriverPart.REPORT] >= 0.01
    assert ended - began <= sum(spent.values()) <= time.monotonic() - before


def test_time_goes_back_to_the_part_around_also_after_an_exception() -> None:
    clock = PartClock(DriverPart.UNACCOUNTED)
    with pytest.raises(ValueError, match="no"), clock.at(DriverPart.REPORT), clock.at(DriverPart.LEDGER):
        raise ValueError("no")
    before = clock.spent()
    time.sleep(0.01)
    after = clock.spent()
    assert after[DriverPart.UNACCOUNTED] >= before[DriverPart.UNACCOUNTED] + 0.01
    assert after[DriverPart.LEDGER] == before[DriverPart.LEDGER]
    assert after[DriverPart.REPORT] == before[DriverPart.REPORT]


def test_what_was_measured_otherwise_is_taken_out_of_the_part_that_is_on() -> None:
    clock = PartClock(DriverPart.UNACCOUNTED)
    time.sleep(0.02)
    clock.move(DriverPart.IMAGES, 0.015)
    clock.move(DriverPart.PREFLIGHT, 1e9)
    spent = clock.spent()
    assert spent[DriverPart.IMAGES] == 0.015
    assert 0.005 <= spent[DriverPart.PREFLIGHT] < 1e9, "no more than there was"


def test_processor_time_leaves_out_what_was_waited_for() -> None:
    clock = PartClock(DriverPart.UNACCOUNTED)
    with clock.at(DriverPart.LOOP):
        time.sleep(0.05)
        work(0.02)
    spent, busy = clock.spent(), clock.busy()
    assert busy[DriverPart.LOOP] >= 0.02
    assert spent[DriverPart.LOOP] - busy[DriverPart.LOOP] >= 0.04


@timed(DriverPart.LEDGER)
def written(text: str) -> str:
    """Writes."""
    time.sleep(0.01)
    return text * 2


def test_functions_count_for_the_clock_that_runs_in_their_thread_and_for_no_other() -> None:
    clock = PartClock(DriverPart.UNACCOUNTED)
    assert written("a") == "aa", "without a clock"
    with running(clock):
        assert written("b") == "bb"
        thread = threading.Thread(target=written, args=("c",))
        with timed(DriverPart.BUCKET):
            thread.start()
            thread.join()
    written("d")
    spent = clock.spent()
    assert spent[DriverPart.LEDGER] >= 0.01
    assert spent[DriverPart.BUCKET] >= 0.01, "the thread's time is not the ledger's of this one"
    assert written.__doc__ == "Writes."


def test_a_process_knows_its_age() -> None:
    age_s = process_age_s()
    assert age_s is not None
    assert age_s >= time.monotonic() - IMPORTED_AT - 0.02, "it tells hundredths of a second"
    time.sleep(0.03)
    later = process_age_s()
    assert later is not None
    assert later > age_s
