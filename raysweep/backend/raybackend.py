"""Ray as a backend: on this machine alone, or the cluster that RAY_ADDRESS names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from raysweep.backend.address import wanted_address
from raysweep.backend.autoscaling import slots_of
from raysweep.backend.connection import connected
from raysweep.backend.resources import cluster_nodes
from raysweep.clock import timed
from raysweep.driver.session import Session
from raysweep.messages import ImageFile, Slots
from raysweep.profiles import DriverPart
from raysweep.spec.sections import SweepSpec
from raysweep.worker.delivery import image_file


class RayBackend:
    """Trains in processes of Ray, on as many machines as it has. See `raysweep.driver.backends.Backend`."""

    def require(self) -> None:
        wanted_address()

    def opened(
        self, spec: SweepSpec, trials: int, *, log: Path | None = None, warn: Callable[[str], None] | None = None
    ) -> AbstractContextManager[None]:
        return connected(spec, trials, log=log, warn=warn)

    def slots(self, spec: SweepSpec) -> Slots:
        return slots_of(spec)

    def machines(self) -> list[dict[str, float]]:
        return cluster_nodes()

    def image_file(self, cache: Path, origin: str | None) -> ImageFile:
        return image_file(cache, origin)

    def train(self, session: Session) -> None:
        with timed(DriverPart.RAY):
            from raysweep.backend.tuning import run_trials  # it imports Ray

        run_trials(session)

    def test(self, session: Session) -> None:
        with timed(DriverPart.RAY):
            from raysweep.backend.finals import run_tests

        run_tests(session)
