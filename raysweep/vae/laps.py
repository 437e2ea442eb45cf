"""Laps of an epoch: the time of each part, for a profile. Training calls `lap` at the end of each part."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import torch

from raysweep.profiles import SlotPart

Lap = Callable[[SlotPart], None]


def no_lap(part: SlotPart) -> None:
    """Measure nothing; training calls this if there is no profile."""


class Laps:
    """The seconds of each part of an epoch, by the clock of the host."""

    def __init__(self) -> None:
        self._spent: dict[SlotPart, float] = {}
        self._at = 0.0

    def start(self) -> None:
        """Begin the first lap."""
        self._at = time.perf_counter()

    def lap(self, part: SlotPart) -> None:
        """End the current lap, which was of this part, and begin the next."""
        now = time.perf_counter()
        self._spent[part] = self._spent.get(part, 0.0) + now - self._at
        self._at = now

    def take(self) -> dict[SlotPart, float]:
        """Return the seconds of each part since the last call."""
        spent, self._spent = self._spent, {}
        return spent


class DeviceLaps(Laps):
    """The seconds by the clock of a GPU, which works through its queue while the host is steps ahead.

    Synchronising at the end of each lap would make the host wait, and so measure another program. Instead an event is
    put into the GPU's queue and read once the epoch is over. A lap lasts from the end of the GPU's previous work to the
    end of this work. If the GPU waits for the host, the wait is part of the lap.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._events: list[tuple[SlotPart | None, torch.cuda.Event]] = []

    def start(self) -> None:
        self._mark(None)

    def lap(self, part: SlotPart) -> None:
        self._mark(part)

    def take(self) -> dict[SlotPart, float]:
        """Wait for the GPU to finish, then return the seconds of each part since the last call."""
        events, self._events = self._events, []
        if events:
            events[-1][1].synchronize()
        for (_, before), (part, after) in pairwise(events):
            if part is not None:
                seconds = before.elapsed_time(after) / 1e3
                self._spent[part] = self._spent.get(part, 0.0) + seconds
        return super().take()

    def _mark(self, part: SlotPart | None) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._events.append((part, event))


def laps_on(device: torch.device) -> Laps:
    """Return an object that measures the laps of a training on this device."""
    return DeviceLaps(device) if device.type == "cuda" else Laps()
