"""A short campaign of damaged files; `python -m tests.fuzz` runs a long one."""

from __future__ import annotations

import random

from tests.fuzz.campaign import run_campaign
from tests.fuzz.mutation import mutate_bytes, mutate_text

INPUTS = 1_500


def test_every_damaged_file_is_read_or_refused_with_an_error_of_our_own() -> None:
    tallies = run_campaign(INPUTS, seed=7)
    failures = {name: [failure["error"] for failure in tally.failures] for name, tally in tallies.items()}
    assert {name: errors for name, errors in failures.items() if errors} == {}
    assert sum(tally.inputs for tally in tallies.values()) > 0.9 * INPUTS
    for name, tally in tallies.items():
        assert tally.refused, f"no input of {name} was damaged enough"
    assert sum(tally.accepted for tally in tallies.values()) > INPUTS / 20


def test_an_input_is_the_same_for_a_seed() -> None:
    for mutate in (mutate_bytes, mutate_text):
        one, other = (mutate(b"name: tiny\ntrials: 5\n" * 5, random.Random(3)) for _ in range(2))
        assert one == other
