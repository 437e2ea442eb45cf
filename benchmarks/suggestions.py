"""What a suggestion costs as trials grow in number, and what it is worth if the sampler sees only some of them.

    python benchmarks/suggestions.py                                 TPE, 3,000 trials, 3 seeds, some ten minutes
    python benchmarks/suggestions.py --trials 10000 --views 1000 --seeds 1
    python benchmarks/suggestions.py --at 24 100 1000 10000          every sampler, one suggestion after so many trials

Real ledgers, and an objective with a known best of 0 in five parameters, two of which depend on each other. For each
size of the view: milliseconds of an `ask` among the last hundred, how far the best trial is from the best there is, and
the median of the last hundred trials, which says how well the sampler keeps to what is good.

With `--at` trials are drawn at random, and stop at the rungs of early stopping as they would. Of the suggestions that
follow come milliseconds of CPU on one core, with median and spread, and the memory that they leave behind.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raysweep.metrics import EpochMetrics, TrialState
from raysweep.search import sampling
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.ledger import Ledger
from raysweep.vae.evaluation import summarise

SPACE = """
name: suggestions
data: {{dataset: digits, image_size: 16}}
trial:
  kld_weight: {{low: 1e-6, high: 1, log: true}}
  learning_rate: {{low: 1e-5, high: 1e-1, log: true}}
  latent_size: {{choices: [2, 8, 16, 64, 256]}}
  d_size: {{choices: [4, 8, 16, 32]}}
  input_noise: {{low: 0.0, high: 1.0}}
  epochs: 1
search: {{trials: {trials}, sampler: {sampler}, early_stopping: none, objective: {{metric: mse}}, seed: {seed}}}
evaluation: {{final_metrics: none}}
"""


CURVES = SPACE.replace("  epochs: 1\n", "").replace(
    "early_stopping: none", "early_stopping: {{asha: {{max_epochs: 20, grace_epochs: 5}}}}"
)
SUGGESTIONS = 20
"""After each number of trials."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--views", type=int, nargs="+", default=[250, 500, 1000, 10**9])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sampler", choices=["gp", "tpe", "random"], default="tpe")
    parser.add_argument(
        "--at", type=int, nargs="+", metavar="TRIALS", help="cost after so many trials, of each sampler"
    )
    options = parser.parse_args()
    if options.at:
        for sampler in ("gp", "tpe", "random"):
            for trials in options.at:
                print(f"{sampler:>6} {trials:>6} trials: {cost(sampler, trials)}", flush=True)
        return
    rows: dict[int, list[tuple[float, float, float]]] = {view: [] for view in options.views}
    for seed in range(options.seeds):
        for view in options.views:
            rows[view].append(row := course(spec_of(options.sampler, options.trials, seed), view))
            print(f"seed {seed}, view {view:>10}: {told(row)}", flush=True)
    for view, found in rows.items():
        ask, best, last = ([row[column] for row in found] for column in range(3))
        middle = statistics.median(ask), statistics.median(best), statistics.median(last)
        print(f"view {view:>10}: {told(middle)}, medians of {len(found)} seeds")


def spec_of(sampler: str, trials: int, seed: int) -> SweepSpec:
    return parse_spec(SPACE.format(sampler=sampler, trials=trials, seed=seed), "-")


def cost(sampler: str, trials: int) -> str:
    """Say what suggestions cost after so many trials that were drawn at random."""
    drawn, asked = (parse_spec(CURVES.format(sampler=s, trials=10**6, seed=0), "-") for s in ("random", sampler))
    with tempfile.TemporaryDirectory(prefix="suggestions-") as place:
        directory = SweepDirectory(Path(place))
        ledger = Ledger.create(directory, drawn)
        for number in range(trials):
            value = misfit(ledger.ask().params)
            last = (5, 5, 5, 5, 5, 5, 15, 15, 20)[number % 9]  # as many as pass each rung
            for epoch in range(1, last + 1):
                ledger.add_epoch(number, metrics_of(epoch, value + 1 / epoch), "here", "cpu")
            ledger.finish(number, TrialState.COMPLETED if last == 20 else TrialState.PRUNED, "because")
        ledger = Ledger.open(directory, asked, writable=True)
        ledger.ask()  # what is imported and ranked once
        took, before = [], memory_mb()
        for _ in range(SUGGESTIONS):
            start = time.process_time()
            ledger.ask()
            took.append(1e3 * (time.process_time() - start))
        left = memory_mb() - before
    low, middle, high = sorted(took)[0], statistics.median(took), sorted(took)[-1]
    return f"{middle:6.1f} ms of CPU a suggestion ({low:.1f} to {high:.1f}, n = {SUGGESTIONS}), {left:+.1f} MB"


def memory_mb() -> float:
    """Return the memory that this process has in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def metrics_of(epoch: int, value: float) -> EpochMetrics:
    summary = summarise(value, 1.0, value, 1.0, 1, 256, 1.0)
    return EpochMetrics(epoch=epoch, train_loss=value, **summary, images_per_s=1.0, epoch_s=1.0)


def told(row: tuple[float, float, float]) -> str:
    return f"{row[0]:7.1f} ms a suggestion, best {row[1]:.5f}, median of the last hundred {row[2]:.4f}"


def course(spec: SweepSpec, view: int) -> tuple[float, float, float]:
    """Milliseconds of the last suggestions, the best objective, and the median of the last ones."""
    sampling.MOST_IN_VIEW = view
    took, values = [], []
    with tempfile.TemporaryDirectory(prefix="suggestions-") as place:
        ledger = Ledger.create(SweepDirectory(Path(place)), spec)
        for _ in range(spec.trials):
            start = time.perf_counter()
            record = ledger.ask()
            took.append(time.perf_counter() - start)
            value = misfit(record.params)
            values.append(value)
            ledger.add_epoch(record.number, metrics_of(1, value), "here", "cpu")
            ledger.finish(record.number, TrialState.COMPLETED, "all epochs done")
    return 1e3 * statistics.median(took[-100:]), min(values), statistics.median(values[-100:])


def misfit(params: Mapping[str, Any]) -> float:
    """Zero at a weight of 1e-3 for a latent size of 16, a rate of 2e-3, a width of 16 and noise of 0.3."""
    latents = math.log2(params["latent_size"]) - 4
    weight = math.log10(params["kld_weight"]) + 3 + 0.3 * latents
    rate = math.log10(params["learning_rate"] / 2e-3)
    width = math.log2(params["d_size"]) - 4
    noise = 3 * (params["input_noise"] - 0.3)
    return float(weight**2 + 2 * rate**2 + 0.1 * latents**2 + 0.1 * width**2 + noise**2 + rate * noise)


if __name__ == "__main__":
    main()
