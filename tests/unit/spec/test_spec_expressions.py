"""Conditions over columns: what they come to, what is unknown, and that no text does more than that."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.spec.expressions import MAX_CHARACTERS, ExpressionError, Kind, Values, parse_expression

COLUMNS: dict[str, Kind] = {
    "mse": "number", "rate_nats": "number", "seed": "number", "likelihood": "text", "collapsed": "truth",
}  # fmt: skip
TABLE = {
    "mse": Values.of(np.array([0.1, 0.2, np.nan, 0.4])),
    "rate_nats": Values.of(np.array([0.0, 5.0, 10.0, 20.0])),
    "seed": Values.of(np.array([0, 1, 2, 3])),
    "likelihood": Values.of(np.array(["gaussian", "bernoulli", "gaussian", ""], dtype=object),
                            np.array([True, True, True, False])),
    "collapsed": Values.of(np.array([True, False, False, False])),
}  # fmt: skip


def values(text: str, **more: Any) -> list[Any]:
    """One value a row; None where it is unknown."""
    found = parse_expression(text, COLUMNS, **more).evaluate(TABLE, (4,))
    return [data if known else None for data, known in zip(found.data.tolist(), found.known.tolist(), strict=True)]


def refused(text: str, **more: Any) -> str:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text, COLUMNS, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate_nats + 1", [1, 6, 11, 21]),
        ("-rate_nats ** 2 / 5", [0, -5, -20, -80]),
        ("1 + 2 * 3", [7, 7, 7, 7]),
        ("abs(rate_nats - 10)", [10, 5, 0, 10]),
        ("max(rate_nats, seed, 3)", [3, 5, 10, 20]),
        ("min(rate_nats, 7)", [0, 5, 7, 7]),
        ("sqrt(rate_nats * 20)", [0, 10, 200**0.5, 20]),
        ("0 < rate_nats <= 10", [False, True, True, False]),
        ("seed in (0, 3)", [True, False, False, True]),
        ("seed not in [0, 3]", [False, True, True, False]),
        ("not collapsed", [False, True, True, True]),
        ("collapsed == false", [False, True, True, True]),
        ("0.1 + 0.2 == 0.3", [True] * 4),
        ("'gaussian' == likelihood", [True, False, True, None]),
        ("likelihood in ('bernoulli', 'gaussian')", [True, True, True, None]),
    ],
)
def test_an_expression_has_the_value_that_it_says(text: str, expected: list[Any]) -> None:
    assert values(text) == pytest.approx(expected) if None not in expected else values(text) == expected


def test_what_is_null_or_no_number_is_unknown_and_stays_so() -> None:
    assert values("mse > 0.15") == [False, True, None, True]
    assert values("not mse > 0.15") == [True, False, None, False]
    assert values("mse * 0 == 0") == [True, True, None, True]


def test_what_has_no_value_is_unknown() -> None:
    assert values("1 / rate_nats > 0") == [None, True, True, True]
    assert values("log(rate_nats) > 0") == [None, True, True, True]
    assert values("sqrt(rate_nats - 5) >= 0") == [None, True, True, True]
    assert values("10 ** (rate_nats * 100) > 0") == [True, None, None, None]


def test_an_unknown_part_matters_only_where_the_rest_does_not_decide() -> None:
    assert values("mse > 0.15 and rate_nats < 5") == [False, False, False, False]
    assert values("mse > 0.15 and rate_nats > 5") == [False, False, None, True]
    assert values("mse > 0.15 or rate_nats > 5") == [False, True, True, True]
    assert values("mse > 0.15 or rate_nats < 5") == [True, True, None, True]


def test_best_is_the_best_along_the_last_axis_by_the_column_s_direction() -> None:
    text = "mse <= 2 * best(mse)"
    assert values(text, best={"mse": "min"}) == [True, True, None, False]
    assert "best() may stand only" in refused(text)
    assert "neither better small nor large" in refused(text, best={"rate_nats": "max"})
    table = {"mse": Values.of(np.array([[1.0, 2.0], [4.0, 3.0]]))}
    found = parse_expression("mse == best(mse)", COLUMNS, best={"mse": "max"}).evaluate(table, (2, 2))
    assert found.data.tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("mse >", "is no expression: invalid syntax"),
        ("mse > 1 2", "at character "),
        ("rat_nats >= 0", "at character 1: unknown column rat_nats; did you mean rate_nats?"),
        ("mse > 0 and xyzzy", "at character 13: unknown column xyzzy; docs/schema.md"),
        ("'ä' == likelihood and nope", "at character 23: unknown column nope"),
        ("likelihood == gaussian", "unknown column gaussian; docs/schema.md lists them; a text stands in quotes"),
        ("mse == 'small'", "at character 1: mse and 'small' cannot be compared: a number with a text"),
        ("likelihood < 'a'", "at character 1: likelihood is a text, which has no order"),
        ("collapsed + 1", "collapsed is true or false, where a number is needed"),
        ("mse and collapsed", "mse is a number, where true or false is needed"),
        ("mse", "must be true or false for each row, is a number"),
        ("mse in 3", "after in there must be a list of values"),
        ("mse in (seed,)", "seed is no value"),
        ("mse is 3", "'is' may not stand here; write == or !="),
        ("mse > 1j", "1j is no value"),
        ("mse > 1e999", "1e999 is no value"),
        ("mse > None", "None is no value"),
        ("mse > 7 % 2", "'7 % 2' may not stand here; allowed are columns"),
        ("exp(mse) > 1", "unknown function exp; there are abs"),
        ("abss(mse) > 1", "unknown function abss; did you mean abs?"),
        ("abs(mse, 2) > 1", "abs() takes 1 values, got 2"),
        ("abs(mse=2) > 1", "may not stand here"),
        ("().__class__", "may not stand here"),
        ("__import__('os').system('true')", "may not stand here"),
        ("[x for x in (1, 2)]", "may not stand here"),
        ("(lambda: 1)()", "may not stand here"),
        ("mse if collapsed else seed", "may not stand here"),
        ("(a := 1)", "may not stand here"),
        ("f'{mse}'", "may not stand here"),
        ("not " * 60 + "collapsed", "is nested deeper than"),
        ("1 +" * MAX_CHARACTERS, "characters, at most"),
        ("(" * 400 + ")" * 90, "is no expression"),
        ("\0", "is no expression"),
    ],
)  # fmt: skip
def test_what_is_no_condition_is_one_clear_error(text: str, message: str) -> None:
    assert message in refused(text, kind="truth")


def test_an_expression_names_the_columns_that_it_reads() -> None:
    assert parse_expression("abs(mse) < 1 and collapsed", COLUMNS).names == {"mse", "collapsed"}


PIECES = [
    *COLUMNS, "best", "abs", "max", "log", "sqrt", "(", ")", "[", "]", ",", "+", "-", "*", "/", "**", "%", "<", "<=",
    "==", "!=", " in ", " not in ", " is ", " and ", " or ", " not ", "1", "0", "2.5", "1e400", "9" * 60, "'a'", '"',
    "true", "None", "lambda x: ", ".", "x", "if", "else", ":=", "\\", "\n", "#", "ä", "b'x'", "1j", "f'{mse}'", "0777",
]  # fmt: skip


@given(st.one_of(st.text(max_size=120), st.lists(st.sampled_from(PIECES), max_size=25).map("".join)))
def test_any_text_has_a_value_for_each_row_or_is_refused(text: str) -> None:
    with suppress(ExpressionError):  # and nothing else
        found = parse_expression(text, COLUMNS, best={"mse": "min"}).evaluate(TABLE, (4,))
        assert found.data.shape == found.known.shape == (4,)


NUMBERS = st.recursive(
    st.sampled_from(["mse", "rate_nats", "seed", "1", "0", "2.5"]),
    lambda part: st.one_of(
        st.tuples(part, st.sampled_from(["+", "-", "*", "/", "**"]), part).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        part.map(lambda p: f"abs({p})"),
        part.map(lambda p: f"log({p})"),
        st.tuples(part, part).map(lambda p: f"max({p[0]}, {p[1]})"),
    ),
    max_leaves=8,
)
TRUTHS = st.tuples(NUMBERS, st.sampled_from(["<", "<=", "==", "!="]), NUMBERS).map(" ".join)


@given(TRUTHS, TRUTHS)
def test_negation_turns_what_is_known_and_de_morgan_holds(a: str, b: str) -> None:
    assert values(f"not ({a})") == [None if truth is None else not truth for truth in values(a)]
    assert values(f"not (({a}) and ({b}))") == values(f"not ({a}) or not ({b})")


@given(NUMBERS)
def test_a_known_number_is_finite(text: str) -> None:
    assert all(value is None or np.isfinite(value) for value in values(text))
