"""How long the ledger of many trials takes to open, as it was written and compacted, and how large each is.

    python benchmarks/journal.py                                     1,000 and 10,000 trials of 5 epochs, n = 5
    python benchmarks/journal.py --trials 200 --epochs 20 --rounds 1

A real ledger is written with trials that were never trained, and opened as `raysweep resume` does, in turns, each time
by a process of its own. Seconds are those of `Ledger.open`, imports left out.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from spread import spread

sys.path.insert(0, str(Path(__file__).parents[1]))

from raysweep.metrics import EpochMetrics, TrialState
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study import compaction
from raysweep.study.ledger import Ledger

SPACE = """
name: journal
data: {{dataset: digits}}
trial:
  kld_weight: {{low: 1e-5, high: 1e-1, log: true}}
  learning_rate: {{low: 1e-4, high: 1e-2, log: true}}
  latent_size: {{choices: [2, 8, 16, 64, 256]}}
  d_size: {{choices: [8, 16, 32]}}
search: {{sampler: random, trials: {trials}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--open", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        seconds_to_open(Path(options.open[0]), int(options.open[1]))
        return
    print(f"{time.strftime('%Y-%m-%d')}; trials of {options.epochs} epochs, n = {options.rounds}")
    for trials in options.trials:
        with tempfile.TemporaryDirectory(prefix="journal-") as scratch:
            measure(Path(scratch), trials, options)


def measure(scratch: Path, trials: int, options: argparse.Namespace) -> None:
    long, compacted = scratch / "long", scratch / "compacted"
    took = write(long, trials, options.epochs)
    print(f"\n{trials:,} trials: written in {took / trials * 1e3:.2f} ms each")
    shutil.copytree(long, compacted)
    compaction.FROM_LINES = 1
    start = time.perf_counter()
    Ledger.open(SweepDirectory(compacted), spec_of(trials), writable=True)
    print(f"    compacted in {time.perf_counter() - start:.2f} s, opening it twice included")
    rows: dict[Path, list[float]] = {long: [], compacted: []}
    for turn in range(options.rounds):
        for place in (long, compacted) if turn % 2 else (compacted, long):
            command = [sys.executable, __file__, "--open", str(place), str(trials)]
            rows[place].append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    for place, seconds in rows.items():
        content = (place / "study.journal").read_bytes()
        lines = content.count(b"\n")
        print(f"    {place.name:10} {lines:9,} lines {len(content) / 1e6:8.1f} MB   opened in {spread(seconds, 's')}")
    ratios = [slow / fast for slow, fast in zip(rows[long], rows[compacted], strict=True)]
    print(f"    long / compacted: {spread(ratios, 'x')}")


def spec_of(trials: int) -> SweepSpec:
    return parse_spec(SPACE.format(trials=trials), "journal.yaml")


def write(place: Path, trials: int, epochs: int) -> float:
    """Writes a ledger; the seconds it took."""
    place.mkdir()
    start = time.perf_counter()
    ledger = Ledger.create(SweepDirectory(place), spec_of(trials))
    for number in range(trials):
        ledger.ask()
        for epoch in range(1, epochs + 1):
            ledger.add_epoch(number, metrics_of(number, epoch), "host", "cpu")
        ledger.finish(number, TrialState.COMPLETED, f"all {epochs} epochs done")
    return time.perf_counter() - start


def metrics_of(number: int, epoch: int) -> EpochMetrics:
    """Metrics with as many digits as real ones have."""
    noise = (number * 7919 + epoch * 104_729) % 9973 / 9973
    return EpochMetrics(
        epoch=epoch, train_loss=noise / 10, val_loss=noise / 9, elbo_nats=700 * noise, elbo_binary_nats=-120 * noise,
        bits_per_dim=7 * noise, rate_nats=20 * noise, distortion_nats=-600 * noise, mse=noise / 100, psnr_db=20 * noise,
        r2=noise, active_units=8, collapsed=False, images_per_s=1e3 * noise, epoch_s=noise,
    )  # fmt: skip


def seconds_to_open(place: Path, trials: int) -> None:
    spec = spec_of(trials)
    compaction.FROM_LINES = sys.maxsize
    start = time.perf_counter()
    Ledger.open(SweepDirectory(place), spec, writable=True)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
