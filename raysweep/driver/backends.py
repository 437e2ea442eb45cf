"""The interface between the driver and what trains: a session's orders pass through it, and the results come back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from raysweep.driver.session import Session
from raysweep.messages import ImageFile, Slots
from raysweep.spec.sections import SweepSpec


class Backend(Protocol):
    """A backend gives the orders of a session to workers. It decides nothing.

    It passes each report of a trial to `Session.receive`, and each trial that lost its process to `Session.lose`. It
    calls `Session.tick` as time passes, and stops when the session should stop.
    """

    def require(self) -> None:
        """Reject a cluster address that could never work, before anything is prepared.

        Raises:
            ResourcesError: if what the user named as the cluster cannot be one.
        """

    def opened(
        self, spec: SweepSpec, trials: int, *, log: Path | None = None, warn: Callable[[str], None] | None = None
    ) -> AbstractContextManager[None]:
        """Hold what is needed to train this number of trials of `spec`, as long as the context lasts.

        Raises:
            ResourcesError: if no trial of `spec` could ever start.
            RayStartError: if Ray is needed and does not start.
        """

    def slots(self, spec: SweepSpec) -> Slots:
        """Return how many trials are trained at once, and each one's share of a machine.

        Raises:
            ResourcesError: if no machine could ever hold a trial.
        """

    def machines(self) -> list[dict[str, float]]:
        """Return what each machine has: CPU, GPU, memory in bytes."""

    def image_file(self, cache: Path, origin: str | None) -> ImageFile:
        """Describe the prepared images for workers; `origin` is the URI of a sweep in a bucket."""

    def train(self, session: Session) -> None:
        """Train the session's remaining trials; return when the session is over or should stop."""

    def test(self, session: Session) -> None:
        """Measure every finalist of the session that has no final metrics yet; return when that is done.

        Finalists are measured even if the time budget is spent. Any other stop ends the measuring.
        """
