"""How the benchmarks print what they measured: the median and how far single values lie from it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def spread(values: Sequence[float], unit: str = "") -> str:
    """The median with the smallest and the largest value and how many there are, to three digits of the median."""
    middle = statistics.median(values)
    digits = max(0, 2 - math.floor(math.log10(abs(middle)))) if middle else 1
    median, least, most = (f"{value:,.{digits}f}" for value in (middle, min(values), max(values)))
    return f"median {median}{unit and ' '}{unit}, from {least} to {most}, n = {len(values)}"


def spread_in_a_table(ratios: Sequence[float]) -> str:
    """The same of ratios near 1, in a few characters, always as many."""
    return f"{statistics.median(ratios):5.2f}x [{min(ratios):5.2f}, {max(ratios):5.2f}]"
