"""Images a second of K fused trials against the same K trained one after the other, in turns, for small models.

    python benchmarks/fused.py                                  # all of it, on the GPU if there is one
    python benchmarks/fused.py --device cpu --members 4 --d-size 8 --batch-size 16

Torch alone, with one thread; images of 1x32x32 of random bytes stay on the device. A round trains one epoch of each
side, whichever side comes first in turns, after one epoch of each that does not count. The ratio is of images a second
in training, fused over one after the other; of `epoch` it is of whole epochs, with the pass over a tenth as many
validation images. Median over the rounds, and the smallest and largest in brackets.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from spread import spread_in_a_table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from raysweep.metrics import EpochMetrics
from raysweep.spec.config import TrialConfig
from raysweep.vae.fusing.training import FusedTraining
from raysweep.vae.training import Training

SHAPE = (1, 32, 32)
FORMATS = {"default": None, "contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class RandomImages:
    """Images of random bytes on a device."""

    shape = SHAPE

    def __init__(self, count: int, device: torch.device) -> None:
        bytes_ = torch.randint(
            0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(count)
        )
        self._bytes = bytes_.to(device)

    def __len__(self) -> int:
        return len(self._bytes)

    def gather(self, indices: Tensor) -> Tensor:
        """Images at `indices` as float32 in [0, 1]."""
        return self._bytes.index_select(0, indices.to(self._bytes.device)).to(torch.float32).mul_(1 / 255)

    def mean_image(self) -> Tensor:
        """The mean over all images."""
        return self._bytes.to(torch.float32).mean(dim=0) / 255


class Seconds(NamedTuple):
    """What one epoch of all members took."""

    training: float
    epoch: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--d-size", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--steps", type=int, default=20, help="training steps an epoch (default: 20)")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each side that count (default: 5)")
    parser.add_argument("--memory-format", choices=FORMATS, default="default", help="of the fused networks' images")
    options = parser.parse_args()
    if min(*options.members, *options.d_size, *options.batch_size, options.steps, options.rounds) < 1:
        parser.error("every number must be 1 or more")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --device cpu")
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"
    print(f"{name}; torch {torch.__version__}; {options.steps} steps an epoch, n = {options.rounds}")
    print("d_size batch  K   apart img/s   fused img/s  training              epoch")
    for d_size, batch_size in itertools.product(options.d_size, options.batch_size):
        train = RandomImages(options.steps * batch_size, device)
        validation = RandomImages(max(1, len(train) // 10), device)
        for members in options.members:
            configs = [
                TrialConfig(d_size=d_size, batch_size=batch_size, seed=seed, kld_weight=10.0 ** -(1 + seed % 5))
                for seed in range(members)
            ]
            alone = [Training(config, train, validation, device) for config in configs]
            fused = FusedTraining(configs, train, validation, device, FORMATS[options.memory_format])
            apart_s, fused_s = measure(alone, fused, options.rounds)
            images = len(train) * members
            print(
                f"{d_size:6} {batch_size:5} {members:2} {rate(images, apart_s)} {rate(images, fused_s)}  "
                f"{spread_in_a_table([a.training / b.training for a, b in zip(apart_s, fused_s, strict=True)])}  "
                f"{spread_in_a_table([a.epoch / b.epoch for a, b in zip(apart_s, fused_s, strict=True)])}",
                flush=True,
            )


def measure(alone: list[Training], fused: FusedTraining, rounds: int) -> tuple[list[Seconds], list[Seconds]]:
    """Seconds of each round, of trials one after the other and of fused ones."""
    apart_s, fused_s = [], []
    for turn in range(rounds + 1):
        for side in ("apart", "fused") if turn % 2 else ("fused", "apart"):
            if side == "apart":
                apart_s.append(total([training.run_epoch() for training in alone], len(alone[0].train_images)))
            else:
                fused_s.append(total(fused.run_epoch()[:1], len(fused.train_images)))
    return apart_s[1:], fused_s[1:]


def total(epochs: list[EpochMetrics], images: int) -> Seconds:
    """Of epochs that followed each other; of fused ones each member says the same."""
    return Seconds(sum(images / epoch.images_per_s for epoch in epochs), sum(epoch.epoch_s for epoch in epochs))


def rate(images: int, seconds: list[Seconds]) -> str:
    return f"{statistics.median(images / second.training for second in seconds):13,.0f}"


if __name__ == "__main__":
    main()
