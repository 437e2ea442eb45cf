"""The seam between the driver and what trains: a session's orders go through it, and what came of them comes back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from raysweep.driver.session import Session
from raysweep.messages import ImageFile, Slots
from raysweep.spec.sections import SweepSpec


class Backend(Protocol):
    """What gives the orders of a session to workers. It decides nothing.

    Each report of a trial goes to `Session.receive`, each that lost its process to `Session.lose`. `Session.tick` is
    called as time passes, and a session that should stop is obeyed.
    """

    def require(self) -> None:
        """Refuse at once what could never be reached, before anything is prepared.

        Raises:
            ResourcesError: if what the user named as its cluster is none.
        """

    def opened(
        self, spec: SweepSpec, trials: int, *, log: Path | None = None, warn: Callable[[str], None] | None = None
    ) -> AbstractContextManager[None]:
        """Hold what is needed to train so many trials of `spec`, for as long as the context lasts.

        Raises:
            ResourcesError: if no trial of `spec` could ever start.
            RayStartError: if Ray is needed and does not start.
        """

    def slots(self, spec: SweepSpec) -> Slots:
        """Return how many trials are trained at once, and what each has of a machine.

        Raises:
            ResourcesError: if no machine could ever hold one.
        """

    def machines(self) -> list[dict[str, float]]:
        """Return what each machine has: CPU, GPU, memory in bytes."""

    def image_file(self, cache: Path, origin: str | None) -> ImageFile:
        """Return the prepared images as workers are told of them; `origin` is the URI of a sweep in a bucket."""

    def train(self, session: Session) -> None:
        """Train the session's remaining trials; return when it is over or should stop."""

    def test(self, session: Session) -> None:
        """Measure every finalist of the session that has no final metrics yet; return when it is over.

        A spent time budget does not keep finalists from being measured; any other stop does.
        """
