"""docs/findings.md: what it says of the keys, the columns and the statistics is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic_core import PydanticUndefined

from raysweep.report.findings.intervals import (
    DRAWS,
    mean_draws,
    mean_interval,
    rank_correlation,
    trend_chance,
    wilson_interval,
)
from raysweep.report.findings.page import FINDINGS_SCHEMA
from raysweep.spec.claims import CLAIM_KINDS
from raysweep.spec.loading import parse_spec

PAGE = (Path(__file__).parents[3] / "docs" / "findings.md").read_text()


def rows_of(section: str) -> dict[str, list[str]]:
    """The keys of the first table of a section, with the cells beside them."""
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: row[1:] for row in cells for name in re.findall(r"`(\w+)`", row[0])}


def section_of(heading: str) -> str:
    return re.split(r"\n##+ ", PAGE.split(f"{heading}\n", 1)[1])[0]


@pytest.mark.parametrize("kind", CLAIM_KINDS)
def test_the_page_has_every_key_of_every_kind_and_says_which_are_needed(kind: str) -> None:
    fields = CLAIM_KINDS[kind].model_fields
    own = section_of(f"### {kind}").split("| `expect` | holds")[0]
    stated = rows_of(section_of("## What all claims have")) | rows_of(own)
    assert set(fields) <= set(stated)
    for name, field in fields.items():
        is_needed = field.default is PydanticUndefined
        assert (stated[name][0] == "needed") == is_needed or name in ("below", "above"), name


def test_the_page_has_every_column_of_the_table() -> None:
    columns = set(rows_of(section_of("## findings.parquet")))
    assert columns == set(FINDINGS_SCHEMA.names)


def test_the_example_on_the_page_is_sound() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    spec = parse_spec("data: {dataset: digits}\n" + example)
    assert [claim.name for claim in spec.claims] == ["most_diverse_at_5e_3"]
    assert yaml.safe_load(example)["search"] == {"sampler": "grid"}


def test_wilson_s_interval_is_the_one_of_the_tables() -> None:
    assert wilson_interval(12, 12) == (pytest.approx(0.7575, abs=1e-4), 1.0)
    assert wilson_interval(1, 10) == (pytest.approx(0.0179, abs=1e-4), pytest.approx(0.4042, abs=1e-4))


def test_draws_of_means_spread_as_the_t_interval_of_a_paired_difference() -> None:
    sample = np.array([[0.0, 1.0], [10.0, 11.5], [20.0, 20.6]])
    draws = mean_draws(sample)
    difference = draws[:, 1] - draws[:, 0]
    assert draws.shape == (DRAWS, 2)
    low, high = np.quantile(difference, [0.025, 0.975])
    expected = mean_interval(sample[:, 1] - sample[:, 0])
    assert (low, high) == (pytest.approx(expected[0], rel=0.15, abs=0.05), pytest.approx(expected[1], rel=0.15))
    assert np.array_equal(draws, mean_draws(sample)), "the same sample has the same draws"


def test_draws_of_means_seldom_name_a_winner_where_there_is_none() -> None:
    generator = np.random.default_rng(1)
    named = 0
    for _ in range(400):
        share = float((mean_draws(generator.standard_normal((3, 2))).argmax(axis=1) == 0).mean())
        named += share >= 0.95 or share <= 0.05
    assert 0.05 < named / 400 < 0.15, "5% for each of the two"


def test_page_s_test_of_three_orders_of_three_is_as_likely_as_counting_says() -> None:
    x, y = np.array([1.0, 2.0, 3.0]), np.array([[1.0, 2.0, 3.0]] * 3)
    assert trend_chance(rank_correlation(x, y), x, y) == pytest.approx(1 / 6**3, abs=3e-3)
    assert trend_chance(rank_correlation(-x, y), -x, y) == 1.0


def test_a_constant_has_no_rank_correlation() -> None:
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([[5.0, 5.0, 5.0], [1.0, 2.0, 9.0]])).tolist() == [
        0.0,
        pytest.approx(1.0),
    ]
