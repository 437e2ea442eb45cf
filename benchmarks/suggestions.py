"""What a suggestion costs as trials grow in number, and what it is worth if TPE sees only some of them.

    python benchmarks/suggestions.py                                 3,000 trials, 3 seeds, some ten minutes
    python benchmarks/suggestions.py --trials 10000 --views 1000 --seeds 1

Real ledgers, and an objective with a known best of 0 in five parameters, two of which depend on each other. For each
size of the view: milliseconds of an `ask` among the last hundred, how far the best trial is from the best there is, and
the median of the last hundred trials, which says how well the sampler keeps to what is good.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raysweep.layout import SweepDirectory
from raysweep.loading import parse_spec
from raysweep.metrics import EpochMetrics, TrialState
from raysweep.search import sampling
from raysweep.search.ledger import Ledger
from raysweep.spec import SweepSpec
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
search: {{trials: {trials}, early_stopping: none, objective: {{metric: mse, mode: min}}, seed: {seed}}}
evaluation: {{final_metrics: none}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--views", type=int, nargs="+", default=[250, 500, 1000, 10**9])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows: dict[int, list[tuple[float, float, float]]] = {view: [] for view in options.views}
    for seed in range(options.seeds):
        for view in options.views:
            rows[view].append(row := course(parse_spec(SPACE.format(trials=options.trials, seed=seed), "-"), view))
            print(f"seed {seed}, view {view:>10}: {told(row)}", flush=True)
    for view, found in rows.items():
        ask, best, last = ([row[column] for row in found] for column in range(3))
        middle = statistics.median(ask), statistics.median(best), statistics.median(last)
        print(f"view {view:>10}: {told(middle)}, medians of {len(found)} seeds")


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
            summary = summarise(value, 1.0, value, 1.0, 1, 256, 1.0)
            metrics = EpochMetrics(epoch=1, train_loss=value, **summary, images_per_s=1.0, epoch_s=1.0)
            ledger.add_epoch(record.number, metrics, "here", "cpu")
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
