"""What a trial costs that trains nothing, how that grows with the number of trials, and what it leaves in the driver.

    python benchmarks/overhead.py                         1,000 trials, and 100 of stock Tune; some five minutes
    python benchmarks/overhead.py --trials 10000 --stock 0

A trial of raysweep is whole but for its epoch, which takes no time: a sampler suggests it, a process opens the data and
builds the model, its checkpoint and its pictures are written, and the ledger, the tables and TensorBoard have it. A
trial of stock Tune is a function that reports one number. Either side has as many processes as the machine has cores;
seconds are slot-seconds: those of the clock, times the processes, through the trials. Ray's start is left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spread import spread

ROOT = Path(__file__).parents[1]
SPACE = """
name: overhead
data: {{dataset: digits, image_size: 16}}
trial:
  kld_weight: {{low: 1e-5, high: 1e-1, log: true}}
  learning_rate: {{low: 1e-4, high: 1e-1, log: true}}
  d_size: {{choices: [2, 3, 4]}}
  latent_size: 2
  epochs: {epochs}
search: {{trials: {trials}, early_stopping: none, sampler: {sampler}, confirm: none}}
evaluation: {{final_metrics: none}}
"""

FEWEST = 3
"""Trials from which a start, a beginning and an end can be told apart."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--stock", type=int, default=100, help="trials of stock Tune; 0 for none")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--sampler", choices=["tpe", "random"], default="tpe")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", choices=["raysweep", "stock"], help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, least in (("trials", FEWEST), ("stock", FEWEST if options.stock else 0), ("epochs", 1), ("rounds", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name}: must be at least {least}, got {getattr(options, name)}")
    if options.side:
        print(json.dumps(raysweep_side(options) if options.side == "raysweep" else stock_side(options)))
        return
    rows: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        for number in range(options.rounds):
            for side in ("raysweep", "stock")[:: 1 if number % 2 == 0 else -1]:
                if side == "stock" and not options.stock:
                    continue
                found = in_a_process_of_its_own(side, Path(scratch) / f"{number}-{side}")
                rows.setdefault(side, []).append(found)
                told = ", ".join(f"{name} {value:,.4g}" for name, value in found.items())
                print(f"{side}: {told}", flush=True)
    for side, runs in rows.items():
        print(side)
        for name in runs[0]:
            print(f"    {name:30} {spread([run[name] for run in runs])}")
    if "stock" in rows:
        pairs = zip(rows["raysweep"], rows["stock"], strict=True)
        print(f"stock / raysweep, slot_s: {spread([slow['slot_s'] / fast['slot_s'] for fast, slow in pairs], 'x')}")


def in_a_process_of_its_own(side: str, place: Path) -> dict[str, float]:
    place.mkdir()
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--side", side, "--place", str(place)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


class Course:
    """When trials ended, and how much memory this process had then."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._ends, self._bytes = array("d"), array("q")  # the least memory beside what is measured

    def ended(self) -> None:
        self._ends.append(time.perf_counter())
        self._bytes.append(resident_bytes())

    def told(self) -> dict[str, float]:
        """Of the trials after the first tenth, which pays for the start of the processes: what each came to."""
        count = len(self._ends)
        part, half = max(1, count // 10), count // 2
        first = (self._ends[2 * part] - self._ends[part]) / part * self._slots
        last = (self._ends[-1] - self._ends[-1 - part]) / part * self._slots
        return {
            "trials": count,
            "slot_s": (self._ends[-1] - self._ends[part]) / (count - 1 - part) * self._slots,
            "slot_s_second_tenth": first,
            "slot_s_last_tenth": last,
            "growth": last / first,
            "driver_mb": self._bytes[-1] / 1e6,
            "driver_kb_a_trial": (self._bytes[-1] - self._bytes[part]) / (count - 1 - part) / 1e3,
            "driver_kb_a_trial_second_half": (self._bytes[-1] - self._bytes[half]) / (count - 1 - half) / 1e3,
        }


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def raysweep_side(options: argparse.Namespace) -> dict[str, float]:
    from raysweep import sweep
    from raysweep.backend.connection import CLOSED, OBJECT_STORE_BYTES, QUIET
    from raysweep.backend.resources import local_nodes
    from raysweep.spec.loading import parse_spec
    from raysweep.study.ledger import Ledger

    spec = parse_spec(SPACE.format(trials=options.trials, epochs=options.epochs, sampler=options.sampler), "overhead")
    os.environ.update(QUIET | CLOSED)
    import ray

    (node,) = local_nodes()
    ray.init(
        address="local", num_cpus=int(node["CPU"]), include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False, logging_level=logging.CRITICAL,
        runtime_env={"worker_process_setup_hook": train_nothing},
    )  # fmt: skip
    course = Course(int(node["CPU"]))

    class Watch:
        def epoch_done(self, session: Any, record: Any) -> None: ...

        def trial_ended(self, session: Any, record: Any) -> None:
            course.ended()

        def trial_tested(self, session: Any, record: Any) -> None: ...

        def tick(self, session: Any) -> None: ...

    asked, asking = timed(Ledger.ask)
    Ledger.ask = asked  # type: ignore[method-assign]
    done = sweep.run(spec, options.place / "sweep", observer=Watch())
    ray.shutdown()
    start = time.perf_counter()
    done.write_report()
    took = time.perf_counter() - start
    rows = sum(1 + len(record.epochs) for record in done.records)
    part = max(1, len(asking) // 10)
    return course.told() | {
        "suggest_ms_second_tenth": 1e3 * statistics.median(asking[part : 2 * part]),
        "suggest_ms_last_tenth": 1e3 * statistics.median(asking[-part:]),
        "report_rows_per_s": rows / took,
        "journal_kb_a_trial": (options.place / "sweep" / "study.journal").stat().st_size / 1e3 / len(asking),
    }


def timed(method: Callable[..., Any]) -> tuple[Callable[..., Any], array[float]]:
    """The method, and the seconds that each of its calls took."""
    took = array("d")

    def call(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*arguments, **named)
        finally:
            took.append(time.perf_counter() - start)

    return call, took


def train_nothing() -> None:
    """In every worker: an epoch is its number and metrics that follow from the configuration."""
    import math

    from raysweep.metrics import EpochMetrics
    from raysweep.vae.evaluation import summarise
    from raysweep.vae.training import Training

    def run_epoch(self: Any, laps: Any = None) -> EpochMetrics:
        self.epoch += 1
        misfit = (math.log10(self.config.learning_rate) + 3) ** 2 + (math.log10(self.config.kld_weight) + 3) ** 2
        self.val_losses.append(misfit)
        metrics = summarise(misfit, 5.0, 0.01 * (1 + misfit), 50.0, 2, 256, 0.1)
        return EpochMetrics(epoch=self.epoch, train_loss=misfit, **metrics, images_per_s=1.0, epoch_s=1e-6)

    Training.run_epoch = run_epoch  # type: ignore[method-assign]


def stock_side(options: argparse.Namespace) -> dict[str, float]:
    import ray
    from ray import tune

    slots = len(os.sched_getaffinity(0))
    ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False)
    course = Course(slots)

    class Watch(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            course.ended()

        def __getstate__(self) -> dict[str, Any]:
            return {}

    def train(config: dict[str, float]) -> None:
        tune.report({"loss": config["rate"]})

    tune.Tuner(
        train,
        param_space={"rate": tune.loguniform(1e-4, 1e-1)},
        tune_config=tune.TuneConfig(num_samples=options.stock, metric="loss", mode="min"),
        run_config=tune.RunConfig(storage_path=str(options.place), callbacks=[Watch()], verbose=0),
    ).fit()
    ray.shutdown()
    return course.told()


if __name__ == "__main__":
    main()
