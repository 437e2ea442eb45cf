"""Images a second of one trial's training: raysweep beside a plain PyTorch loop, on one thread and the same images.

    python benchmarks/trial_throughput.py                                                n = 5, some minutes
    python benchmarks/trial_throughput.py --repeats 1 --steps 4 --d-size 8 --batch-size 16            half a minute

raysweep trains on its memory-mapped cache of mnist-5k. The plain loop has a data set like torchvision's MNIST, with
ToTensor of a PIL image an item, a DataLoader without workers and one with 2 that stay alive and have the other cores
to themselves, of which the better one counts, torch.optim.Adam, and raysweep's network of torch's own layers. The loss
is raysweep's. The two take turns, each in a process of its own, as a trial has one; a repeat is one epoch of a fixed
number of steps.

Of the machine's peak: floating-point operations of the model's layers in a step, counted by torch.utils.flop_counter,
over the seconds of raysweep's step and over the best that a float32 matrix product of 1024 x 1024 x 1024 reaches
beside it on one thread, by `@` or by raysweep's linear layer, which may be another library's.
Of the step: the seconds that gathering and converting the same batches takes on its own, and, for the plain loop,
those of going through the DataLoader without workers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import stock
import torch
from numpy.typing import NDArray
from PIL import Image
from spread import spread
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import ToTensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from raysweep.data.cache import open_cache, prepare
from raysweep.data.cachefile import ImageCache
from raysweep.data.tensors import ImageTensors, load_splits
from raysweep.spec.config import TrialConfig
from raysweep.spec.sections import DataSpec
from raysweep.vae.cpu.allocator import keep_freed_memory
from raysweep.vae.cpu.linear import Linear
from raysweep.vae.training import Training

DATA = DataSpec(dataset="mnist-5k", image_size=32)
MATRIX_SIDE = 1024
VALIDATION_IMAGES = 64
"""Few, since validation is left out of the measurement."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d-size", type=count, nargs="+", default=[8, 32, 64])
    parser.add_argument("--batch-size", type=count, nargs="+", default=[16, 128])
    parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("--steps", type=count, default=30, help="of one repeat")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="throughput-") as scratch:
        os.environ["RAYSWEEP_CACHE"] = scratch
        path = prepare(DATA)
        train = load_splits(path, DATA, "cpu").train.indices
        for d_size in options.d_size:
            for batch_size in options.batch_size:
                config = TrialConfig(d_size=d_size, batch_size=batch_size, latent_size=16, epochs=10_000)
                # The training split over and over, until there are enough images for the steps.
                measure(config, path, np.resize(train, options.steps * batch_size), options.repeats)


def count(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return number


@dataclass
class Timings:
    """Seconds of each repeat of one setting: an epoch, a pass over its data, or a product of matrices."""

    raysweep: list[float] = field(default_factory=list)
    gather: list[float] = field(default_factory=list)
    plain: dict[int, list[float]] = field(default_factory=lambda: {0: [], 2: []})
    """By the DataLoader's workers."""
    loading: list[float] = field(default_factory=list)
    matmul: list[float] = field(default_factory=list)


def measure(config: TrialConfig, path: Path, indices: NDArray[np.int64], repeats: int) -> None:
    """Times one setting and prints what came of it."""
    cache = open_cache(path)
    timings, images = Timings(), ImageTensors(cache.chunks, indices, "cpu")
    validation = ImageTensors(cache.chunks, indices[:VALIDATION_IMAGES], "cpu")
    training = Training(config, images, validation)
    plain = PlainSide(config, path, indices, tuple(timings.plain))
    a, b = torch.rand(MATRIX_SIDE, MATRIX_SIDE), torch.rand(MATRIX_SIDE, MATRIX_SIDE)
    layer = Linear(MATRIX_SIDE, MATRIX_SIDE, bias=False)
    for repeat in range(repeats + 1):
        took_s = len(indices) / training.run_epoch().images_per_s
        gather_s = seconds(lambda: gather(images, config.batch_size))
        plain_s = {workers: plain.seconds("run_epoch", workers) for workers in timings.plain}
        loading_s = plain.seconds("load", 0)
        with torch.no_grad():
            matmul_s = min(seconds(product) for product in (lambda: a @ b, lambda: layer(a)) for _ in range(5))
        if repeat:  # the first one starts the workers, and warms caches and allocators up
            timings.raysweep.append(took_s)
            timings.gather.append(gather_s)
            for workers, s in plain_s.items():
                timings.plain[workers].append(s)
            timings.loading.append(loading_s)
            timings.matmul.append(matmul_s)
    plain.close()
    print_setting(config, timings, len(indices))


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def gather(images: ImageTensors, batch_size: int) -> None:
    """The data path of an epoch: batches in random order, as float32."""
    for batch in torch.randperm(len(images)).split(batch_size):  # type: ignore[no-untyped-call]
        images.gather(batch)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images in memory, item by item, as torchvision.datasets.MNIST has them."""

    def __init__(self, cache: ImageCache, indices: NDArray[np.int64]) -> None:
        self._pixels = torch.from_numpy(np.concatenate([chunk[:, 0] for chunk in cache.chunks])[indices])
        self._transform = ToTensor()

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._pixels[index].numpy())), 0


class PlainLoop:
    """Training as tutorials write it."""

    def __init__(self, config: TrialConfig, cache: ImageCache, indices: NDArray[np.int64], workers: int) -> None:
        self._config = config
        self._loader = DataLoader(
            Pictures(cache, indices), config.batch_size, shuffle=True, num_workers=workers,
            persistent_workers=workers > 0,
        )  # fmt: skip
        self._model = stock.plain_network(config, cache.info.shape)
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=config.learning_rate)

    def run_epoch(self) -> None:
        for x, _ in self._loader:
            self._optimizer.zero_grad()
            stock.loss_of(self._model, x, self._config).backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()

    def load(self) -> None:
        """Goes through the images without training."""
        for _ in self._loader:
            pass


class PlainSide:
    """The plain loops, in a process of their own."""

    def __init__(self, config: TrialConfig, path: Path, indices: NDArray[np.int64], workers: Sequence[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, pipe = context.Pipe()
        self._process = context.Process(target=run_plain, args=(pipe, config, path, indices, workers))
        self._process.start()

    def seconds(self, what: str, workers: int) -> float:
        """Seconds that this method of the loop with so many workers takes."""
        self._pipe.send((what, workers))
        took: float = self._pipe.recv()
        return took

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()


def run_plain(
    pipe: Connection, config: TrialConfig, path: Path, indices: NDArray[np.int64], workers: Sequence[int]
) -> None:
    torch.set_num_threads(1)
    loops = {count: PlainLoop(config, open_cache(path), indices, count) for count in workers}
    while (asked := pipe.recv()) is not None:
        what, of = asked
        pipe.send(seconds(getattr(loops[of], what)))


def print_setting(config: TrialConfig, timings: Timings, images: int) -> None:
    rates = {workers: [images / s for s in took] for workers, took in timings.plain.items()}
    best = max(rates, key=lambda workers: statistics.median(rates[workers]))
    ratios = [slow / fast for slow, fast in zip(timings.plain[best], timings.raysweep, strict=True)]
    flops = step_flops(config) * images / config.batch_size
    peak = 2 * MATRIX_SIDE**3 / min(timings.matmul)
    reached = [100 * flops / s / peak for s in timings.raysweep]
    gathering = [100 * part / whole for part, whole in zip(timings.gather, timings.raysweep, strict=True)]
    loading = [100 * part / whole for part, whole in zip(timings.loading, timings.plain[0], strict=True)]
    print(f"d_size {config.d_size}, batch_size {config.batch_size}, {images // config.batch_size} steps a repeat")
    print(f"    raysweep           {spread([images / s for s in timings.raysweep], 'images/s')}")
    for workers, values in rates.items():
        print(f"    plain, {workers} workers   {spread(values, 'images/s')}")
    print(f"    raysweep / plain   {spread(ratios, 'x')}; against {best} workers")
    print(f"    of the GEMM peak   {spread(reached, '%')}; peak {peak / 1e9:.1f} GFLOP/s")
    print(f"    data, raysweep     {spread(gathering, '% of the step')}")
    print(f"    data, plain        {spread(loading, '% of the step')}; 0 workers", flush=True)


def step_flops(config: TrialConfig) -> int:
    """Floating-point operations of the convolutions and matrix products of one step, forward and backward."""
    model = stock.plain_network(config, (1, DATA.image_size, DATA.image_size))
    x = torch.rand(config.batch_size, *model.shape)
    with FlopCounterMode(display=False) as counter:
        stock.loss_of(model, x, config).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
