"""Machines that fail under a sweep: three hosts by plain `ray start`, and nothing else than the driver knows of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import raysweep
from tests.chaos.comparison import compare
from tests.cluster.hosts import Host, Network
from tests.cluster.sweeps import RAY, alive, environment, shared_directory, trials_on, wait_until

pytestmark = [pytest.mark.usefixtures("fake_hosts"), pytest.mark.timeout(400)]

HEALTH = {
    "RAY_health_check_period_ms": "500", "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3", "RAY_health_check_initial_delay_ms": "500",
}  # fmt: skip
"""How soon Ray gives a machine up; docs/reliability.md has it."""


@pytest.fixture(scope="module")
def undisturbed(fake_hosts: None) -> Iterator[raysweep.Sweep]:
    """The sweep as it comes out on one host without a fault."""
    with shared_directory() as shared, Network([shared], environment()) as network:
        command = (sys.executable, "-m", "raysweep.cli", "run", f"{shared}/tiny.yaml", "--output", f"{shared}/kld")
        network.start("alone").run(*command, timeout=300)
        yield raysweep.open_sweep(shared / "kld")


FAULTS: dict[str, Callable[[Host], None]] = {
    "powered off": Host.power_off,
    "its link cut": Host.cut,
    "frozen": Host.freeze,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_sweep_that_loses_a_machine_comes_to_the_end_it_would_have_had(
    fault: str, undisturbed: raysweep.Sweep, record_property: Callable[[str, object], None]
) -> None:
    with shared_directory() as shared, Network([shared], environment() | HEALTH) as network:
        head, lost, kept = (network.start(name) for name in ("head", "lost", "kept"))
        address = f"{head.address}:6379"
        head.run(RAY, "start", "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false")
        for host in (lost, kept):
            host.run(RAY, "start", f"--address={address}", "--num-cpus=1")
        assert sorted(alive(head)) == ["head", "kept", "lost"]
        place = shared / "kld"
        driver = head.popen(
            *(sys.executable, "-m", "raysweep.cli", "run", f"{shared}/tiny.yaml", "--output", str(place)),
            RAY_ADDRESS=address,
        )
        try:
            wait_until(
                lambda: (
                    driver.poll() is not None
                    or (any(n >= 2 for n in trials_on(place, "lost").values()) and bool(trials_on(place, "kept")))
                ),
                "trials on both machines",
            )
            assert driver.poll() is None, driver.communicate()
            FAULTS[fault](lost)
            (hit,) = trials_on(place, "lost")
            noticed_s = wait_until(lambda: "was lost" in log(place) or driver.poll() is not None, "the loss noticed")
            resumed_s = noticed_s + wait_until(lambda: hit not in trials_on(place, "lost"), "the trial goes on")
            if fault == "its link cut":
                lost.mend()
            if fault == "frozen":
                lost.thaw()
            out, err = driver.communicate(timeout=300)
            assert driver.returncode == 0, (out, err, log(place))
        finally:
            driver.kill()
            driver.communicate()
        sweep = raysweep.open_sweep(place)
        assert {record.number: record.state.value for record in sweep.records} == dict.fromkeys(range(6), "completed")
        assert compare(sweep, undisturbed, whole=True).differences == []
        record_property("figures", json.dumps({"fault": fault, "noticed_s": noticed_s, "resumed_s": resumed_s}))
        print(f"{fault}: noticed after {noticed_s:.1f} s, its trial goes on elsewhere after {resumed_s:.1f} s")


def log(place: Path) -> str:
    path = place / "raysweep.log"
    return path.read_text() if path.exists() else ""
