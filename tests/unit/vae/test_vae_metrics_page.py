"""docs/metrics.md says what the code does: the table of metrics, the states, and the converted weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raysweep.metrics import FINAL_METRICS, METRICS, TrialState
from raysweep.spec.config import TrialConfig
from raysweep.vae.conventions import pixel_mean_weight

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
BETTER = {"less": "min", "more": "max", "": None}


def table(first_heading: str) -> list[list[str]]:
    """The rows of the page's table whose first column has this heading, code marks taken off."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def test_the_page_lists_every_metric_as_the_code_does() -> None:
    found = [(name, unit, BETTER[better], meaning) for name, unit, better, meaning in table("metric")]
    assert found == [(metric.name, metric.unit, metric.mode, metric.meaning) for metric in METRICS.values()]


def test_the_page_lists_every_final_metric_as_the_code_does() -> None:
    found = [(name, unit, BETTER[better], meaning) for name, unit, better, meaning in table("final metric")]
    assert found == [(m.name, m.unit, m.mode, m.meaning.strip("`")) for m in FINAL_METRICS.values()]


def test_the_page_defines_every_metric() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in METRICS if f"**`{name}`**" not in text] == []


def test_the_page_lists_every_state_in_which_a_trial_stands() -> None:
    assert [state for state, _ in table("state")] == [state.value for state in TrialState]


@pytest.mark.parametrize("row", range(5))
def test_the_examples_of_converted_weights_are_right(row: int) -> None:
    *_, example, expected = table("convention")[row]
    quoted = example.replace("5e-4", "5.0e-4").replace(
        "8e-3", "8.0e-3"
    )  # YAML 1.1, which raysweep's files are not held to
    config = TrialConfig.model_validate(yaml.safe_load(quoted))
    assert pixel_mean_weight(config, 1024) == pytest.approx(float(expected), rel=1e-12)
