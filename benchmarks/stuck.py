"""Which change of training gets stuck trials of kld.yaml off the mean image, and what it costs good ones.

    python benchmarks/stuck.py --output results/stuck.jsonl                      about an hour on one core
    python benchmarks/stuck.py --output results/stuck.jsonl --seeds 1            a third of it

Its points are recorded curves (benchmarks/curves/kld.parquet): those that never left the plateau although their KLD
weight is below predicted collapse, well below it or near it, and the five best. Each is trained again with each remedy
and seed, in this process and on one thread: stuck points for 6 epochs, good ones for all 20. A training that is
recorded in the output is not made again, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from spread import spread

from raysweep.data.cache import prepare
from raysweep.data.spectrum import training_spectrum
from raysweep.data.tensors import ImageSplits, load_splits
from raysweep.metrics import COLLAPSED_R2
from raysweep.spec.config import TrialConfig
from raysweep.spec.sections import DataSpec
from raysweep.vae.plateau import NEAR_COLLAPSE
from raysweep.vae.preflight import critical_weight
from raysweep.vae.training import Training

CURVES = Path(__file__).parent / "curves" / "kld.parquet"
DATA = DataSpec(dataset="mnist-5k", image_size=32)
EPOCHS = 20
STUCK_EPOCHS = 6
"""A stuck trial is flat from its second epoch on."""
GOOD = 5
"""Points that a remedy must not harm: so many of the best."""

REMEDIES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "negative_slope: 0.1": {"negative_slope": 0.1},
    "max_gradient_norm: 0.1": {"max_gradient_norm": 0.1},
    "learning rate warm-up, 1 epoch": {"warmup_epochs": 1},
    "negative_slope: 0.01": {"negative_slope": 0.01},
    "max_gradient_norm: 1": {"max_gradient_norm": 1.0},
    "kld_warmup_epochs: 4": {"kld_warmup_epochs": 4},
}
"""Fields of the trial, and `warmup_epochs`, for which there is no field: the rate grows linearly, step by step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="file with a line a training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--good-seeds", type=int, default=1)
    parser.add_argument("--remedies", type=int, default=len(REMEDIES), help="so many of the remedies, the first ones")
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = load_splits(prepare(DATA), DATA, "cpu")
    found = points(splits)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(max(options.seeds, options.good_seeds)):
        for kind, chosen in found.items():
            if seed < (options.good_seeds if kind == "good" else options.seeds):
                for number, point in chosen.items():
                    for remedy in [*REMEDIES][: options.remedies]:
                        key = {"kind": kind, "trial": number, "remedy": remedy, "seed": seed}
                        record(options.output, key, point, EPOCHS if kind == "good" else STUCK_EPOCHS, splits)
    print(table(recorded(options.output)))


def points(splits: ImageSplits) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the points of the curves by their kind and the number of their trial."""
    rows = pq.read_table(CURVES).to_pylist()
    curves: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        curves.setdefault(row["trial"], []).append(row)
    whole = {number: curve for number, curve in curves.items() if len(curve) == EPOCHS}
    baseline = Training(TrialConfig(), splits.train, splits.validation).baseline_mse
    image = splits.train.shape
    pixels = image[0] * image[1] * image[2]
    critical = critical_weight(TrialConfig(), training_spectrum(prepare(DATA), DATA), pixels)

    def is_stuck(curve: Sequence[dict[str, Any]]) -> bool:
        r2 = [1 - 10 ** (-row["psnr_db"] / 10) / baseline for row in curve]
        return bool(max(r2) < COLLAPSED_R2 and curve[0]["kld_weight"] < critical)

    names = ("kld_weight", "learning_rate", "latent_size", "d_size")
    point = {number: {name: curve[0][name] for name in names} for number, curve in whole.items()}
    best = sorted(whole, key=lambda number: -whole[number][-1]["elbo_nats"])[:GOOD]
    stuck = [number for number in whole if is_stuck(whole[number])]
    near = {number for number in stuck if point[number]["kld_weight"] >= NEAR_COLLAPSE * critical}
    return {
        "stuck": {number: point[number] for number in stuck if number not in near},
        "near collapse": {number: point[number] for number in stuck if number in near},
        "good": {number: point[number] for number in best},
    }


def record(output: Path, key: dict[str, Any], point: dict[str, Any], epochs: int, splits: ImageSplits) -> None:
    """Train a point with a remedy, and append what became of it to the output, unless it is there."""
    if any(all(line[name] == value for name, value in key.items()) for line in recorded(output)):
        return
    fields = dict(REMEDIES[key["remedy"]])
    warmup_epochs = fields.pop("warmup_epochs", 0)
    config = TrialConfig(**point, **fields, batch_size=64, epochs=EPOCHS, seed=key["seed"])
    training = Training(config, splits.train, splits.validation)
    if warmup_epochs:
        training.optimizer.step = warmed_up(training, warmup_epochs * training.steps_an_epoch)  # type: ignore[method-assign]
    metrics = [training.run_epoch() for _ in range(epochs)]
    line = {
        **key, "point": point, "r2": [m.r2 for m in metrics], "rate_nats": [m.rate_nats for m in metrics],
        "elbo_nats": [m.elbo_nats for m in metrics], "alive": alive(training, splits),
    }  # fmt: skip
    with output.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{key}: r2 {line['r2'][-1]:.4f}, elbo_nats {line['elbo_nats'][-1]:.1f}, alive {line['alive']}", flush=True)


def warmed_up(training: Training, steps: int) -> Callable[[], None]:
    """Return the optimiser's step at a learning rate that grows linearly over so many steps."""
    step, done = training.optimizer.step, 0

    def warmed_step() -> None:
        nonlocal done
        done += 1
        whole = training.optimizer.learning_rate
        training.optimizer.learning_rate = whole * min(1.0, done / steps)
        step()
        training.optimizer.learning_rate = whole

    return warmed_step


@torch.no_grad()
def alive(training: Training, splits: ImageSplits) -> list[float]:
    """Return the share of the outputs of each activation of the encoder that are above 0, on 200 images."""
    x, shares = splits.validation.gather(torch.arange(200)), []
    for layer in training.model.encoder:
        x = layer(x)
        if isinstance(layer, torch.nn.ReLU | torch.nn.LeakyReLU):
            shares.append(round(float((x > 0).float().mean()), 3))
    return shares


def recorded(output: Path) -> list[dict[str, Any]]:
    """Return the trainings in the output."""
    return [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return a row of Markdown for each kind of point and remedy: trainings that left the plateau, and their ends."""
    rows = [
        "| points | remedy | left the plateau | r2 at the end | elbo_nats at the end |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind in dict.fromkeys(line["kind"] for line in lines):
        for remedy in REMEDIES:
            chosen = [line for line in lines if (line["kind"], line["remedy"]) == (kind, remedy)]
            if chosen:
                left = sum(max(line["r2"]) >= COLLAPSED_R2 for line in chosen)
                r2, elbo = ([line[name][-1] for line in chosen] for name in ("r2", "elbo_nats"))
                rows.append(f"| {kind} | `{remedy}` | {left} of {len(chosen)} | {spread(r2)} | {spread(elbo)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
