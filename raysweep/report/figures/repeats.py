"""Repeats: trials whose configurations are equal except for the seed."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from raysweep.records import TrialRecord

Key = tuple[object, ...]


def configuration(record: TrialRecord) -> Key:
    """Return what repeats of a trial have in common: every field except the seed."""
    return tuple(value for name, value in record.config.model_dump().items() if name != "seed")


def group_repeats(records: Iterable[TrialRecord]) -> list[list[TrialRecord]]:
    """Return the trials by configuration, in the order of first appearance; a trial without repeats is alone."""
    groups: dict[Key, list[TrialRecord]] = {}
    for record in records:
        groups.setdefault(configuration(record), []).append(record)
    return list(groups.values())


def first_repeats(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the first trial of each configuration."""
    return [group[0] for group in group_repeats(records)]


def mean_and_range(values: Iterable[float]) -> tuple[float, float, float]:
    """Return the mean, the least and the most."""
    numbers = list(values)
    return fmean(numbers), min(numbers), max(numbers)
