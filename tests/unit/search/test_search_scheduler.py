"""Asynchronous successive halving: at which epochs trials are compared, and who goes on."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.metrics import Mode
from raysweep.search.scheduler import survives
from raysweep.spec.sections import Asha


@pytest.mark.parametrize(
    ("grace", "factor", "max_epochs", "rungs"),
    [
        (2, 3, 12, (2, 6)),
        (1, 3, 27, (1, 3, 9)),
        (1, 2, 8, (1, 2, 4)),
        (5, 3, 5, ()),
        (4, 4, 17, (4, 16)),
        (1, 3, 1, ()),
    ],
)
def test_rungs_grow_by_the_factor_and_end_before_the_last_epoch(
    grace: int, factor: int, max_epochs: int, rungs: tuple[int, ...]
) -> None:
    assert Asha(grace_epochs=grace, reduction_factor=factor).rungs(max_epochs) == rungs


@pytest.mark.parametrize(
    ("arrivals", "factor", "mode", "expected"),
    [
        # values in the order in which trials reach the rung; whether each goes on at its arrival
        ([1.0], 3, "max", [True]),
        ([1.0, 0.5], 3, "max", [True, True]),
        ([1.0, 0.5, 0.2], 3, "max", [True, True, False]),
        ([1.0, 0.5, 2.0], 3, "max", [True, True, True]),
        ([1.0, 0.5, 0.7, 0.9], 3, "max", [True, True, False, True]),
        ([1.0, 0.5, 0.2], 3, "min", [True, True, True]),
        ([1.0, 1.0, 1.0], 3, "max", [True, True, False]),
        ([3.0, 2.0, 1.0, 4.0], 2, "max", [True, False, False, True]),
        ([math.nan, 1.0, 2.0], 3, "max", [False, True, True]),
        ([math.inf, 1.0], 3, "min", [False, True]),
    ],
)
def test_who_survives_a_rung(arrivals: list[float], factor: int, mode: Mode, expected: list[bool]) -> None:
    rung: dict[int, float] = {}
    decisions = []
    for number, value in enumerate(arrivals):
        rung[number] = value
        decisions.append(survives(number, rung, factor, mode))
    assert decisions == expected


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    factor=st.integers(2, 5),
    mode=st.sampled_from(["min", "max"]),
)
def test_the_best_survives_and_at_most_the_share_does(values: list[float], factor: int, mode: Mode) -> None:
    rung = dict(enumerate(values))
    survivors = [number for number in rung if survives(number, rung, factor, mode)]
    pick = max if mode == "max" else min
    best = pick(rung, key=lambda number: (rung[number], -number if mode == "max" else number))
    assert best in survivors
    if len(values) >= factor:
        assert len(survivors) == math.ceil(len(values) / factor)
    else:
        assert len(survivors) == len(values)
