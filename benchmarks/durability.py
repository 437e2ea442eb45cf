"""What checkpoints and the ledger cost of a search, measured with and without them.

    python benchmarks/durability.py                       n = 3 pairs of kld.yaml's space, some ten minutes on two cores
    python benchmarks/durability.py --pairs 1 --trials 1 --epochs 1

Without: workers write no checkpoints and the study's journal is kept in memory. The two sides take turns, each run in a
process and a Ray of its own, with the same trials. A run is timed from the first trial's order to the end of the last
trial. Ray's start is left out, and the report, which draws the latent space of the winner where there is a checkpoint
of it. Because the machine's own spread is easily larger than the cost, the seconds spent in `save_checkpoint` and in
writing the journal are added up as well.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from spread import spread

ROOT = Path(__file__).parents[1]
SIDES = ("with", "without")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, default=ROOT / "search_spaces" / "kld.yaml")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(run_side(options.side, options.place, options.file, options.trials, options.epochs)))
        return
    ratios, shares = [], []
    with tempfile.TemporaryDirectory(prefix="durability-") as scratch:
        for pair in range(options.pairs):
            rows = {}
            for side in SIDES if pair % 2 == 0 else SIDES[::-1]:
                place = Path(scratch) / f"{pair}-{side}"
                rows[side] = row = in_a_process_of_its_own(side, place, options)
                print(
                    f"pair {pair}, {side:7}: {row['took_s']:7.2f} s for {row['epochs']} epochs; "
                    f"{row['checkpoint_s']:.2f} s in {row['checkpoints']} checkpoints, "
                    f"{row['journal_s']:.2f} s in {row['appends']} journal writes",
                    flush=True,
                )
            ratios.append(rows["with"]["took_s"] / rows["without"]["took_s"])
            # Trials run beside each other: a checkpoint holds up one slot of them, the journal all.
            spent = rows["with"]["checkpoint_s"] / rows["with"]["slots"] + rows["with"]["journal_s"]
            shares.append(spent / rows["with"]["took_s"])
    print(f"with / without             {spread(ratios)}")
    print(f"share spent in them, timed {spread(shares)}")


def in_a_process_of_its_own(side: str, place: Path, options: argparse.Namespace) -> dict[str, Any]:
    place.mkdir()
    done = subprocess.run(
        [
            sys.executable, __file__, "--side", side, "--place", str(place), "--file", str(options.file.resolve()),
            "--trials", str(options.trials), "--epochs", str(options.epochs),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def run_side(side: str, place: Path, file: Path, trials: int, epochs: int) -> dict[str, Any]:
    """One run of the search; its seconds, and those spent in what is measured."""
    from raysweep.backend.connection import CLOSED, OBJECT_STORE_BYTES, QUIET
    from raysweep.backend.resources import local_nodes
    from raysweep.spec.loading import parse_spec

    mapping = yaml.safe_load(file.read_text())
    mapping["trial"]["epochs"] = epochs
    mapping["search"] |= {"trials": trials, "early_stopping": "none"}
    mapping["evaluation"] = {"final_metrics": "none"}  # they are measured from checkpoints
    spec = parse_spec(yaml.safe_dump(mapping, sort_keys=False), str(file))

    os.environ.update(QUIET | CLOSED, RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray

    times = place / "checkpoints"
    (node,) = local_nodes()
    ray.init(
        address="local", num_cpus=int(node["CPU"]), num_gpus=int(node["GPU"]), include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES, log_to_driver=False, logging_level=logging.CRITICAL,
        runtime_env={
            "worker_process_setup_hook": time_checkpoints,
            "env_vars": {"DURABILITY_SIDE": side, "DURABILITY_TIMES": str(times)},
        },
    )  # fmt: skip
    try:
        journal, took = _timed_run(side, spec, place / "sweep")
    finally:
        ray.shutdown()
    written = [float(line) for line in times.read_text().split()] if times.exists() else []
    return {
        "took_s": took["s"],
        "epochs": took["epochs"],
        "slots": took["slots"],
        "checkpoints": len(written),
        "checkpoint_s": sum(written),
        "appends": len(journal),
        "journal_s": sum(journal),
    }


def time_checkpoints() -> None:
    """In every worker: writes down what a checkpoint takes, or replaces its writing by nothing."""
    import os
    import time

    from raysweep.vae import checkpoint

    save, times, keeps = checkpoint.save_checkpoint, os.environ["DURABILITY_TIMES"], os.environ["DURABILITY_SIDE"]

    def timed(directory: Any, training: Any, metrics: Any, best_epoch: int | None = None) -> Any:
        if keeps == "without":
            directory.mkdir(parents=True, exist_ok=True)  # pictures go there
            return directory
        start = time.perf_counter()
        path = save(directory, training, metrics, best_epoch)
        with open(times, "a") as file:
            file.write(f"{time.perf_counter() - start}\n")
        return path

    checkpoint.save_checkpoint = timed


def _timed_run(side: str, spec: Any, directory: Path) -> tuple[list[float], dict[str, Any]]:
    """Seconds of each write to the journal, and what the run took."""
    from raysweep import sweep
    from raysweep.study import ledger
    from raysweep.study.journal import Journal, Operation

    writes: list[float] = []
    took: dict[str, Any] = {}

    class Timed(Journal):
        def append_logs(self, logs: list[Operation]) -> None:
            start = time.perf_counter()
            super().append_logs(logs)
            writes.append(time.perf_counter() - start)

    class InMemory(Journal):
        """Written to its file when the run is over: what comes after the measurement reads it from there."""

        kept: list[InMemory] = []  # noqa: RUF012 (one run a process)

        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.logs: list[Operation] = []
            self.kept.append(self)

        def read_logs(self, log_number_from: int) -> Iterator[Operation]:
            # Through JSON, as from a file: Optuna replays what it reads, and tuples must be lists.
            for log in self.logs[log_number_from:]:
                self.line += 1
                yield json.loads(json.dumps(log))

        def append_logs(self, logs: list[Operation]) -> None:
            if self._held is None:
                self.logs += logs
            else:
                self._held += logs

        def write(self) -> None:
            super().append_logs(self.logs)

    ledger.Journal = Timed if side == "with" else InMemory  # type: ignore[attr-defined]
    drive, close = sweep._drive, sweep._close

    def timed(session: Any, backend: Any) -> None:
        took["start"] = time.perf_counter()
        drive(session, backend)
        took["epochs"] = sum(len(record.epochs) for record in session.ledger.records())
        took["slots"] = session.slots.count
        for kept in InMemory.kept:
            kept.write()
        ledger.Journal = Journal  # type: ignore[attr-defined]

    def untimed(session: Any) -> None:
        took["s"] = time.perf_counter() - took["start"]
        close(session)

    sweep._drive, sweep._close = timed, untimed
    sweep.run(spec, directory)
    return writes, took


if __name__ == "__main__":
    main()
