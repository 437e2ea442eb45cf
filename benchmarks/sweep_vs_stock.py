"""A whole sweep of kld.yaml's model: raysweep beside the usual ways to write one, on the same images and points.

    python benchmarks/sweep_vs_stock.py                                n = 5, half an hour or more on two cores
    python benchmarks/sweep_vs_stock.py --rounds 1 --trials 2 --images 64 --sides raysweep optuna       half a minute

    raysweep             `raysweep run` on a search space file that enqueues the points; builds its cache on the clock
    tune                 Ray Tune as its tutorials use it: a function trainable, torchvision's MNIST with ToTensor,
                         DataLoaders with 2 workers, torch.optim.Adam, Tune's own loggers and reporter, no checkpoints
    optuna               `study.optimize` in one process: the same loop, DataLoaders without workers, 2 threads
    raysweep-augmented   raysweep with the augmentation of experiment E1
    png                  E1's way: as `tune`, from a folder of PNG files through PIL and torchvision's transforms

All train raysweep's ConvVAE under raysweep's loss, the others of torch's own layers, so what is compared is the way to
sweep. Two trials run at once, on one thread each; optuna's one trial at a time has both threads. After each epoch every
side has the loss of the same validation images, and nobody stops early or measures a test split. raysweep also does
what it does by default: the metrics of an epoch, checkpoints, the ledger, pictures and the report. Each side is a
process of its own, and they take turns. Seconds are those of a typed command, imports and Ray's start and end included.
Images are stored at their final size before the clock starts, so that nobody resizes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stock
from spread import spread

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
OPPONENT = {"tune": "raysweep", "optuna": "raysweep", "png": "raysweep-augmented"}
"""Whom each of the usual ways is compared with."""
SIDES = ("raysweep", "tune", "optuna", "raysweep-augmented", "png")
SLOTS = 2
IMAGE_SIZE = 32
SEARCHED = ("kld_weight", "learning_rate")
AUGMENTATION = {"rotation_degrees": 45.0, "autocontrast_probability": 0.5, "brightness_jitter": 0.5}


def main() -> None:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--trials", type=count, default=16)
    parser.add_argument("--epochs", type=count, default=1)
    parser.add_argument("--images", type=count, default=2000, help="training images; an eighth as many validate")
    parser.add_argument("--batch-size", type=count, default=16)
    parser.add_argument("--d-size", type=count, default=32)
    parser.add_argument("--seed", type=int, default=0, help="draws the points from kld.yaml's ranges")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, job_file = options.side
        run_side(side, json.loads(Path(job_file).read_text()), Path.cwd(), began)
        return
    sys.path.insert(0, str(ROOT))
    sides = [side for side in SIDES if side in options.sides]
    with tempfile.TemporaryDirectory(prefix="stock-") as scratch:
        try:
            job = prepare_job(Path(scratch), options)
        except ValueError as error:
            parser.error(str(error))
        rows: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for number in range(options.rounds):
            turn = number % len(sides)
            for side in sides[turn:] + sides[:turn]:
                place = Path(scratch) / f"{number}{side[0]}{side[-1]}"  # short: Ray keeps its sockets below it
                row = in_a_process_of_its_own(side, place, job)
                rows[side].append(row)
                print(f"round {number + 1}, {side:18} {row['took_s']:7.1f} s", flush=True)
    print_results(rows, options)


def count(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return number


def print_results(rows: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    print(
        f"\n{options.trials} trials of {options.epochs} epochs of {options.images} images, d_size {options.d_size}, "
        f"batch_size {options.batch_size}, {SLOTS} at once"
    )
    for side, runs in rows.items():
        losses = [statistics.median(run["val_losses"]) for run in runs]
        took = spread([run["took_s"] for run in runs], "s")
        print(f"{side:18} {took}; median val_loss {statistics.median(losses):.4f}")
    for side, base in OPPONENT.items():
        if side in rows and base in rows:
            ratios = [slow["took_s"] / fast["took_s"] for slow, fast in zip(rows[side], rows[base], strict=True)]
            print(f"{side} / {base}: {spread(ratios, 'x')}; rounds {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    for side, runs in rows.items():
        if "step_s" in runs[0]:
            of_all = [100 * run["step_s"] / (SLOTS * run["took_s"]) for run in runs]
            of_trials = [100 * run["step_s"] / (SLOTS * run["trials_s"]) for run in runs]
            print(f"{side}, share of slot-seconds in training steps")
            print(f"    of the whole command             {spread(of_all, '%')}")
            print(f"    while there were trials at work  {spread(of_trials, '%')}")


def prepare_job(scratch: Path, options: argparse.Namespace) -> Path:
    """Writes the images, and a file of what every side is to do; its path.

    Raises:
        ValueError: if there are not so many images.
    """
    from raysweep.spec.loading import load_spec
    from raysweep.spec.space import Range

    job: dict[str, Any] = write_images(scratch, options.images)
    space = load_spec(ROOT / "search_spaces" / "kld.yaml").trial
    ranges = {name: space.searched[name] for name in SEARCHED}
    draw = random.Random(options.seed)
    job["ranges"], job["points"] = {}, [{} for _ in range(options.trials)]
    for name, searched in ranges.items():
        assert isinstance(searched, Range)
        low, high = float(searched.low), float(searched.high)
        job["ranges"][name] = [low, high]
        for point in job["points"]:
            point[name] = min(high, max(low, math.exp(draw.uniform(math.log(low), math.log(high)))))
    job["trial"] = {
        "latent_size": 16, "d_size": options.d_size, "batch_size": options.batch_size, "epochs": options.epochs,
    }  # fmt: skip
    path = scratch / "job.json"
    path.write_text(json.dumps(job))
    return path


def write_images(scratch: Path, wanted: int) -> dict[str, Any]:
    """Writes `wanted` training images of mnist-5k and an eighth as many for validation, as IDX and as PNG files.

    raysweep splits the IDX files by itself; the others are told which images it trains on.
    """
    import numpy as np
    from PIL import Image

    from raysweep.data import tensors
    from raysweep.data.cache import open_cache, prepare
    from raysweep.spec.sections import DataSpec

    os.environ["RAYSWEEP_CACHE"] = str(scratch / "cache")
    bundled = DataSpec(dataset="mnist-5k", image_size=IMAGE_SIZE)
    path = prepare(bundled)
    cache, splits = open_cache(path), tensors.load_splits(path, bundled, "cpu")
    validation = max(1, wanted // 8)
    if wanted + validation > len(splits.train):
        most = max(n for n in range(len(splits.train)) if n + max(1, n // 8) <= len(splits.train))
        raise ValueError(f"argument --images: must be at most {most}, got {wanted}")
    assert cache.labels is not None
    pixels = np.concatenate([chunk[:, 0] for chunk in cache.chunks])
    raw = scratch / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, split, number in (
        ("train", splits.train, wanted + validation),
        ("t10k", splits.test, min(validation, len(splits.test))),
    ):
        rows = split.indices[tensors.spread(number, len(split)).numpy()]
        write_idx(raw / f"{stem}-images-idx3-ubyte", pixels[rows])
        write_idx(raw / f"{stem}-labels-idx1-ubyte", cache.labels[rows].astype(np.uint8))

    data = DataSpec(
        dataset="mnist", root=str(scratch), image_size=IMAGE_SIZE, download=False,
        validation_fraction=validation / (wanted + validation),
    )  # fmt: skip
    path = prepare(data)
    cache, splits = open_cache(path), tensors.load_splits(path, data, "cpu")
    assert (len(splits.train), len(splits.validation)) == (wanted, validation)
    assert cache.labels is not None
    pixels = np.concatenate([chunk[:, 0] for chunk in cache.chunks])
    for name, split in (("train", splits.train), ("validation", splits.validation)):
        for row in split.indices:
            folder = scratch / "png" / name / str(cache.labels[row])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[row]).save(folder / f"{row:05d}.png")
    return {
        "data": data.model_dump(mode="json"), "png": str(scratch / "png"),
        "train": splits.train.indices.tolist(), "validation": splits.validation.indices.tolist(),
    }  # fmt: skip


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.tobytes())


def in_a_process_of_its_own(side: str, place: Path, job: Path) -> dict[str, Any]:
    """What `run_side` wrote; what it printed goes to a file, as its display or reporter would be redirected to."""
    place.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "TUNE", "OMP"))}
    environment |= {
        "PYTHONPATH": str(ROOT), "RAYSWEEP_CACHE": str(place / "cache"), "RAY_TMPDIR": str(place),
        "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    output = place / "output.txt"
    with open(output, "w") as printed:
        done = subprocess.run(
            [sys.executable, __file__, "--side", side, str(job)],
            cwd=place, env=environment, stdout=printed, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{side} ended with exit code {done.returncode}:\n{output.read_text()[-4000:]}")
    row: dict[str, Any] = json.loads((place / "row.json").read_text())
    shutil.rmtree(place, ignore_errors=True)  # raysweep's checkpoints of a run are some hundred MB
    return row


def run_side(side: str, job: dict[str, Any], place: Path, began: float) -> None:
    """Runs one side's sweep, and writes down its seconds since `began` and each trial's validation loss."""
    row: dict[str, Any] = {}
    if side.startswith("raysweep"):
        row["val_losses"] = sweep_with_raysweep(job, place, AUGMENTATION if side == "raysweep-augmented" else {})
    elif side == "optuna":
        row["val_losses"] = stock.sweep_with_optuna(job, threads=SLOTS)
    else:
        row["val_losses"] = stock.sweep_with_tune(job, place, SLOTS, from_png=side == "png")
    row["took_s"] = time.perf_counter() - began
    if len(row["val_losses"]) != len(job["points"]):
        raise SystemExit(f"{side}: {len(row['val_losses'])} of {len(job['points'])} trials came to a result")
    if side.startswith("raysweep"):
        row |= seconds_in_steps(place / "sweep", len(job["train"]))
    (place / "row.json").write_text(json.dumps(row))


def sweep_with_raysweep(job: dict[str, Any], place: Path, augmentation: dict[str, float]) -> list[float]:
    import yaml

    space = {
        "name": "sweep",
        "data": job["data"],
        "trial": {
            **{name: {"low": low, "high": high, "log": True} for name, (low, high) in job["ranges"].items()},
            **job["trial"], **augmentation,
        },
        "search": {
            "trials": len(job["points"]), "sampler": "random", "enqueue": job["points"], "max_concurrent": SLOTS,
        },
        "resources": {"cpu": 1, "gpu": 0},
        "evaluation": {"final_metrics": "none"},
    }  # fmt: skip
    (place / "sweep.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
    from raysweep.cli import command

    sys.argv = ["raysweep", "run", "sweep.yaml", "--output", "sweep"]
    try:
        command()
    except SystemExit as end:
        if end.code:
            raise
    from raysweep import open_sweep

    return [record.final.val_loss for record in open_sweep("sweep").records if record.final is not None]


def seconds_in_steps(directory: Path, train_images: int) -> dict[str, float]:
    """From the ledger: seconds of all trials' steps, and those from the first trial's start to the last one's end."""
    from raysweep import open_sweep

    records = open_sweep(directory).records
    started = min(record.started_at for record in records if record.started_at)
    ended = max(record.ended_at for record in records if record.ended_at)
    return {
        "step_s": sum(train_images / epoch.metrics.images_per_s for record in records for epoch in record.epochs),
        "trials_s": (ended - started).total_seconds(),
    }


if __name__ == "__main__":
    main()
