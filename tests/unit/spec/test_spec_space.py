"""Distributions: what they contain, and that Optuna samples within them."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.spec.space import Choices, Distribution, Range, field_kind, optuna_distribution


@st.composite
def ranges(draw: st.DrawFn) -> tuple[str, Range]:
    """A field and a range that fits it."""
    if draw(st.booleans()):
        low, width = draw(st.integers(1, 100)), draw(st.integers(1, 100))
        step = draw(st.sampled_from([None, *(d for d in range(1, width + 1) if width % d == 0)]))
        return "d_size", Range(low=low, high=low + width, step=step, log=step is None and draw(st.booleans()))
    low, width = draw(st.floats(1e-9, 1e3)), draw(st.floats(1e-3, 1e3))
    return "kld_weight", Range(low=low, high=low + width, log=draw(st.booleans()))


@given(ranges(), st.integers(0, 2**32 - 1))
def test_what_optuna_samples_lies_within_the_range(field: tuple[str, Range], seed: int) -> None:
    name, distribution = field
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(5):
        value = study.ask({name: optuna_distribution(name, distribution)}).params[name]
        assert value in distribution
        assert isinstance(value, int if field_kind(name) == "int" else float)


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (Range(low=1, high=9, step=4), [1, 5, 9], [0, 2, 10, "5", True, None]),
        (Range(low=0.1, high=0.3, step=0.1), [0.1, 0.2, 0.3], [0.15, 0.4]),
        (Range(low=1e-5, high=1.0, log=True), [1e-5, 0.5, 1], [0.0, 1.1, float("nan")]),
        (Choices(choices=(2, 8, "x", None, True)), [2, 8.0, "x", None, True], [3, "8", False, 1]),
    ],
)
def test_what_a_distribution_contains(distribution: Distribution, inside: list[object], outside: list[object]) -> None:
    assert [value in distribution for value in inside] == [True] * len(inside)
    assert [value in distribution for value in outside] == [False] * len(outside)


def test_the_kind_of_a_field_follows_its_type() -> None:
    kinds = {name: field_kind(name) for name in ("d_size", "seed", "kld_weight", "max_gradient_norm", "likelihood")}
    assert kinds == {
        "d_size": "int", "seed": "int", "kld_weight": "float", "max_gradient_norm": "float", "likelihood": "other",
    }  # fmt: skip
