"""The floors of final metrics: for each metric, the field that holds the value of a perfect model."""

from __future__ import annotations

from raysweep.metrics import FINAL_METRICS, FINAL_PREFIX, FinalMetrics


def floor_name(name: str) -> str | None:
    """Return the field of `FinalMetrics` with the measure of field `name` between real images, or None."""
    if name.startswith("floor_"):
        return None
    measure = "sharpness" if name.endswith("_sharpness") else name.removeprefix("mixture_")
    floor = f"floor_{measure}"
    return floor if FINAL_PREFIX + floor in FINAL_METRICS else None


def floor_of(metrics: FinalMetrics, name: str) -> float | None:
    """Return the floor of field `name`; None if there is none or it was not measured."""
    floor = floor_name(name)
    value = getattr(metrics, floor) if floor else None
    return None if value is None else float(value)
