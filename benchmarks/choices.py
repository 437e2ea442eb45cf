"""What each choice of a training step is worth: raysweep's step beside the same with one choice taken back.

    python benchmarks/choices.py                                                   n = 5, some ten minutes
    python benchmarks/choices.py --rounds 1 --steps 4 --d-size 8 --batch-size 16   seconds

Torch alone, kld.yaml's network, random images of 1x32x32 in memory, one thread. An epoch of each takes its turn, and
the ratio is of the seconds of a step, the alternative's over raysweep's: above 1 the choice pays. What the two come to
is compared, too: `differs by` is the largest relative difference of an epoch's training loss, which is rounding.

    contiguous        images and kernels in rows of one channel, instead of channels last
    torch's Adam      torch.optim.Adam as it comes, instead of one fused operation
    fused Adam        torch.optim.Adam(fused=True), which imports more, and copies what is channels last
    library's bias    biases added by torch's convolutions, and their gradients
    library's layer   torch's transposed convolution at the decoder's end
    library's linear  torch's linear layers
    bfloat16          `precision: bfloat16`
    pictures          augmentation image by image, by torchvision on PIL images, instead of batch by batch on tensors
    two threads       one trial after the other with two threads, instead of two at once with one each
    glibc's memory    what is freed goes back to the system, instead of being kept; two processes take turns
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import stock
import torch
from fused import RandomImages
from spread import spread_in_a_table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from raysweep.metrics import EpochMetrics
from raysweep.spec.config import TrialConfig
from raysweep.vae.adam import Adam
from raysweep.vae.cpu.allocator import keep_freed_memory
from raysweep.vae.cpu.convolutions import Conv2d, ConvTranspose2d
from raysweep.vae.cpu.linear import Linear
from raysweep.vae.cpu.narrow import NarrowTransposed
from raysweep.vae.inputs import InputGenerators, augment
from raysweep.vae.training import Training

AUGMENTATION = {"rotation_degrees": 45.0, "autocontrast_probability": 0.5, "brightness_jitter": 0.5}
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d-size", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--steps", type=int, default=20, help="training steps an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}, n = {options.rounds}")
    for d_size, batch_size in itertools.product(options.d_size, options.batch_size):
        config = TrialConfig(d_size=d_size, batch_size=batch_size)
        train = RandomImages(options.steps * batch_size, CPU)
        print(f"\nd_size {d_size}, batch_size {batch_size}")
        compare_steps(config, train, options.rounds)
        compare_threads(config, options.steps, options.rounds)
        compare_memory(config, options.steps, options.rounds)
    for batch_size in options.batch_size:
        print(f"\naugmentation, batches of {batch_size}")
        compare_augmentation(batch_size, options.steps, options.rounds)


class TorchAdam:
    """torch's optimiser, where raysweep has its own."""

    def __init__(self, training: Training, **how: Any) -> None:
        self._adam = torch.optim.Adam(training.model.parameters(), training.config.learning_rate, **how)
        self.learning_rate = training.config.learning_rate
        self.zero_grad, self.step = self._adam.zero_grad, self._adam.step


def compare_steps(config: TrialConfig, train: RandomImages, rounds: int) -> None:
    def made(**changes: Any) -> Training:
        return Training(config.model_copy(update=changes), train, RandomImages(16, CPU), CPU, baseline_mse=0.1)

    names = (
        "raysweep", "contiguous", "torch's Adam", "fused Adam", "library's bias", "library's layer", "library's linear",
    )  # fmt: skip
    sides = {name: made() for name in names}
    sides["bfloat16"] = made(precision="bfloat16")
    rows = sides["contiguous"]
    rows.model.to(memory_format=torch.contiguous_format)
    rows.optimizer = Adam(rows.model.parameters(), config.learning_rate)
    sides["torch's Adam"].optimizer = TorchAdam(sides["torch's Adam"])  # type: ignore[assignment]
    sides["fused Adam"].optimizer = TorchAdam(sides["fused Adam"], fused=True)  # type: ignore[assignment]
    stock.use_plain_layers(sides["library's bias"].model, Conv2d, ConvTranspose2d)
    stock.use_plain_layers(sides["library's layer"].model, NarrowTransposed)
    stock.use_plain_layers(sides["library's linear"].model, Linear)
    found: dict[str, list[EpochMetrics]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            found[name].append(sides[name].run_epoch())
    ours = found.pop("raysweep")
    print(f"    raysweep        {statistics.median(epoch.images_per_s for epoch in ours[1:]):10,.0f} images/s")
    for name, epochs in found.items():
        pairs = list(zip(ours, epochs, strict=True))
        differs = max(abs(one.train_loss - other.train_loss) / abs(one.train_loss) for one, other in pairs)
        ratios = [one.images_per_s / other.images_per_s for one, other in pairs[1:]]
        print(f"    {name:17}{spread_in_a_table(ratios)}, differs by {differs:.1e}", flush=True)


def compare_memory(config: TrialConfig, steps: int, rounds: int) -> None:
    """A process that keeps the memory that it frees, and one that gives it back."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for keeps in (True, False):
        pipes[keeps], pipe = context.Pipe()
        context.Process(target=train_when_asked, args=(config, steps, keeps, pipe)).start()
    found: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(rounds + 1):
        for keeps in (True, False) if turn % 2 else (False, True):
            pipes[keeps].send(True)
            found[keeps].append(pipes[keeps].recv())
    for end in pipes.values():
        end.send(False)
    ratios = [given / kept for given, kept in zip(found[False][1:], found[True][1:], strict=True)]
    print(f"    glibc's memory   {spread_in_a_table(ratios)}", flush=True)


def train_when_asked(config: TrialConfig, steps: int, keeps: bool, pipe: Connection) -> None:
    """Trains an epoch whenever it is asked for one, and tells how long it took."""
    torch.set_num_threads(1)
    if keeps:
        keep_freed_memory()
    images = RandomImages(steps * config.batch_size, CPU)
    training = Training(config, images, RandomImages(16, CPU), CPU, baseline_mse=0.1)
    while pipe.recv():
        pipe.send(len(images) / training.run_epoch().images_per_s)


def compare_threads(config: TrialConfig, steps: int, rounds: int) -> None:
    """Two trials at once on a thread each, and two trials in turn on two."""
    context = multiprocessing.get_context("spawn")
    ratios = []
    for turn in range(rounds):
        took = {}
        for processes in (1, 2) if turn % 2 else (2, 1):
            barrier, found = context.Barrier(processes), context.Queue()
            job = (config, steps, 3 - processes, 3 - processes)
            workers = [context.Process(target=work, args=(job, barrier, found)) for _ in range(processes)]
            for worker in workers:
                worker.start()
            took[processes] = max(found.get() for _ in workers)
            for worker in workers:
                worker.join()
        ratios.append(took[1] / took[2])
    print(f"    two threads      {spread_in_a_table(ratios)}", flush=True)


def work(job: tuple[TrialConfig, int, int, int], barrier: Barrier, found: Queue[float]) -> None:
    """A process that trains an epoch of so many trials with so many threads; its seconds."""
    config, steps, threads, trials = job
    torch.set_num_threads(threads)
    keep_freed_memory()
    train = RandomImages(steps * config.batch_size, CPU)
    trainings = [Training(config, train, RandomImages(16, CPU), CPU, baseline_mse=0.1) for _ in range(trials)]
    for training in trainings:
        training.run_epoch()
    barrier.wait()
    start = time.perf_counter()
    for training in trainings:
        training.run_epoch()
    found.put(time.perf_counter() - start)


def compare_augmentation(batch_size: int, steps: int, rounds: int) -> None:
    from torchvision import transforms
    from torchvision.transforms.functional import to_pil_image

    config = TrialConfig(batch_size=batch_size, **AUGMENTATION)
    images = RandomImages(steps * batch_size, CPU)
    batches = [images.gather(batch) for batch in torch.arange(len(images)).split(batch_size)]  # type: ignore[no-untyped-call]
    pictures = [[to_pil_image(image) for image in batch] for batch in batches]
    drawn = InputGenerators.of(0, 0, CPU).augmentation
    one_by_one = transforms.Compose(
        [
            transforms.RandomRotation(45), transforms.RandomAutocontrast(0.5), transforms.ColorJitter(brightness=0.5),
            transforms.ToTensor(),
        ]
    )  # fmt: skip

    def by_batches() -> None:
        for batch in batches:
            augment(batch, config, drawn)

    def by_pictures() -> list[Tensor]:
        return [torch.stack([one_by_one(picture) for picture in batch]) for batch in pictures]

    ratios, ours = [], []
    for turn in range(rounds + 1):
        took = {side: seconds(side) for side in ((by_batches, by_pictures) if turn % 2 else (by_pictures, by_batches))}
        if turn:
            ours.append(len(images) / took[by_batches])
            ratios.append(took[by_pictures] / took[by_batches])
    print(f"    raysweep        {statistics.median(ours):10,.0f} images/s")
    print(f"    pictures         {spread_in_a_table(ratios)}", flush=True)


def seconds(what: Callable[[], object]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
