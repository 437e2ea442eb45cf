"""Which final metric tells what a perfect model would have of which other."""

from __future__ import annotations

from raysweep.metrics import FINAL_METRICS, FINAL_PREFIX, FinalMetrics


def floor_name(name: str) -> str | None:
    """The field of `FinalMetrics` that holds the same measure between real images as field `name`, if there is one."""
    if name.startswith("floor_"):
        return None
    measure = "sharpness" if name.endswith("_sharpness") else name.removeprefix("mixture_")
    floor = f"floor_{measure}"
    return floor if FINAL_PREFIX + floor in FINAL_METRICS else None


def floor_of(metrics: FinalMetrics, name: str) -> float | None:
    """The floor of field `name`; None if there is none or it was not measured."""
    floor = floor_name(name)
    value = getattr(metrics, floor) if floor else None
    return None if value is None else float(value)
