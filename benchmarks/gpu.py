"""What a GPU makes of trials: one by itself, eager, captured and fused, and many that share it. Torch alone, no Ray.

    python benchmarks/gpu.py                                              both parts, on the GPU
    python benchmarks/gpu.py --device cpu --seconds 1 --d-size 8 --batch-size 16 --sharing 1 2      that it runs at all

`one` is of images a second in training, of a trial of kld.yaml's network by itself or of K fused ones together, on
random images that stay on the device, n epochs of each in turns. Sides: `png`, the way of experiment E1 (a DataLoader
with 2 workers over PNG files, augmented by torchvision, a plain loop), where torchvision is there; `eager`, what a
sweep does; `captured`, its steps as CUDA graphs; `fused K` and `captured K`. In float32, and in --precision.

`sharing` is of trials an hour on one GPU, a trial being 20 epochs of 48,000 images: N processes that train one trial
each, the same under MPS (a server of its own, which ends with the benchmark) and N fused in one process. All train for
--seconds at the same time, after a warm-up epoch.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from fused import RandomImages
from spread import spread_in_a_table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from raysweep.spec.config import TrialConfig
from raysweep.vae.fusing.training import FusedTraining
from raysweep.vae.training import Training

TRIAL_IMAGES = 20 * 48_000
PNG_FILES = 2_000
EAGER = "eager"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--parts", nargs="+", choices=["one", "sharing"], default=["one", "sharing"])
    parser.add_argument("--d-size", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--fused", type=int, nargs="+", default=[4, 16], help="trials that are fused in part one")
    parser.add_argument(
        "--precision", nargs="+", default=["tf32", "bfloat16"], help="beside float32, eager and captured"
    )
    parser.add_argument("--steps", type=int, default=100, help="training steps an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sharing", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=10.0, help="that trials share the device for")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU here: nothing was measured. --device cpu shows that the benchmark runs")
        return 0
    torch.set_num_threads(1)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread: no figure of a GPU"
    print(f"{name}; torch {torch.__version__}; {os.cpu_count()} cores; {time.strftime('%Y-%m-%d')}")
    for d_size, batch_size in itertools.product(options.d_size, options.batch_size):
        if "one" in options.parts:
            measure_one(options, d_size, batch_size, device)
    for d_size, batch_size in itertools.product(options.d_size, options.batch_size):
        if "sharing" in options.parts:
            measure_sharing(options, d_size, batch_size)
    return 0


def configs_of(members: int, d_size: int, batch_size: int, **changes: Any) -> list[TrialConfig]:
    """Trials that differ in seed and KLD weight."""
    return [
        TrialConfig(d_size=d_size, batch_size=batch_size, seed=seed, kld_weight=10.0 ** -(1 + seed % 5), **changes)
        for seed in range(members)
    ]


def measure_one(options: argparse.Namespace, d_size: int, batch_size: int, device: torch.device) -> None:
    train, validation = RandomImages(options.steps * batch_size, device), RandomImages(256, device)
    is_gpu = device.type == "cuda"

    def side(members: int, capture: bool, **changes: Any) -> Callable[[], float]:
        group = FusedTraining(
            configs_of(members, d_size, batch_size, **changes), train, validation, device, capture=capture
        )
        return lambda: members * group.run_epoch()[0].images_per_s

    sides: dict[str, Callable[[], float]] = {EAGER: side(1, False)}
    captures = (False, True) if is_gpu else (False,)
    for members, capture in itertools.product([1, *options.fused], captures):
        if members > 1 or capture:
            sides[f"{'captured' if capture else 'fused'} {members if members > 1 else ''}".strip()] = side(
                members, capture
            )
    for precision, capture in itertools.product(options.precision, captures):
        sides[f"{'captured' if capture else EAGER}, {precision}"] = side(1, capture, precision=precision)
    with tempfile.TemporaryDirectory(prefix="gpu-") as scratch:
        if importlib.util.find_spec("torchvision"):
            sides["png"] = png_side(Path(scratch), d_size, batch_size, options.steps, device)
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(options.rounds + 1):
            for name in list(sides)[:: 1 if turn % 2 else -1]:
                try:
                    rate = sides[name]()
                except RuntimeError as error:  # the others are measured all the same
                    print(f"{name} failed: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
                    del sides[name], rates[name]
                    continue
                if turn:
                    rates[name].append(rate)
    if EAGER not in rates:
        print(f"nothing to compare with at d_size {d_size}, batch {batch_size}")
        return
    print(f"\none: d_size {d_size}, batch {batch_size}, n = {options.rounds}: images/s and, over eager, the ratio")
    for name, values in rates.items():
        ratios = [value / eager for value, eager in zip(values, rates[EAGER], strict=True)]
        print(f"    {name:20} {statistics.median(values):12,.0f}  {spread_in_a_table(ratios)}")
    if "png" in rates:
        ratios = [eager / png for eager, png in zip(rates[EAGER], rates["png"], strict=True)]
        print(f"    eager over png: {spread_in_a_table(ratios)}")


def png_side(scratch: Path, d_size: int, batch_size: int, steps: int, device: torch.device) -> Callable[[], float]:
    """Images a second of experiment E1's loop, over as many images as the others have, or as files were written."""
    import stock
    from PIL import Image
    from torch.utils.data import DataLoader, Subset

    count = min(PNG_FILES, steps * batch_size)
    bytes_ = torch.randint(0, 256, (count, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for part in ("train", "validation"):
        (scratch / part / "0").mkdir(parents=True)
    for number, image in enumerate(bytes_.numpy()):
        Image.fromarray(image).save(scratch / "train" / "0" / f"{number:05d}.png")
    Image.fromarray(bytes_[0].numpy()).save(scratch / "validation" / "0" / "0.png")
    pictures, _ = stock.png_pictures({"png": scratch})
    (config,) = configs_of(1, d_size, batch_size)
    model = stock.plain_network(config, (1, 32, 32)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        Subset(pictures, range(count)), batch_size, shuffle=True, num_workers=2, persistent_workers=True
    )

    def epoch() -> float:
        start, seen, total = time.perf_counter(), 0, 0.0
        for images, _ in loader:
            x = images.to(device)
            optimizer.zero_grad()
            loss = stock.loss_of(model, x, config)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()  # as such loops do
            seen += len(x)
        return seen / (time.perf_counter() - start)

    return epoch


def measure_sharing(options: argparse.Namespace, d_size: int, batch_size: int) -> None:
    print(f"\nsharing: d_size {d_size}, batch {batch_size}: trials an hour, {TRIAL_IMAGES:,} images each, n = 1")
    print("      N    processes    under MPS        fused")
    for count in options.sharing:
        job = (options.device, d_size, batch_size, options.steps, options.seconds)
        row = [told(trials_an_hour(count, 1, job))]
        with mps() as has_mps:
            row.append(told(trials_an_hour(count, 1, job)) if has_mps else "not there")
        row.append(told(trials_an_hour(1, count, job)))
        print(f"    {count:3}" + "".join(f"{cell:>13}" for cell in row))


def told(rate: float | None) -> str:
    return "failed" if rate is None else f"{rate:,.1f}"


@contextmanager
def mps() -> Iterator[bool]:
    """NVIDIA's Multi-Process Service, for processes that are started while it lasts; whether it is there."""
    if not torch.cuda.is_available() or shutil.which("nvidia-cuda-mps-control") is None:
        yield False
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as place:
        own = {"CUDA_MPS_PIPE_DIRECTORY": f"{place}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{place}/log"}
        os.environ.update(own)
        runs = subprocess.run(["nvidia-cuda-mps-control", "-d"]).returncode == 0
        try:
            yield runs
        finally:
            if runs:
                subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, check=True)
            for name in own:
                del os.environ[name]


Job = tuple[str, int, int, int, float]


def trials_an_hour(processes: int, members: int, job: Job) -> float | None:
    """Of so many processes with so many fused trials each; None if one of them fails, as for want of memory."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=work, args=(members, job, barrier, found)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    rates: list[float | None] = []
    while len(rates) < processes:
        try:
            rates.append(found.get(timeout=1.0))
        except Empty:
            if any(worker.exitcode for worker in workers):  # killed, which says nothing
                rates = [None]
                barrier.abort()  # for those that wait for it
                break
    for worker in workers:
        worker.join()
    return None if None in rates else sum(rate for rate in rates if rate) * 3600 / TRIAL_IMAGES


def work(members: int, job: Job, barrier: Barrier, found: Queue[float | None]) -> None:
    """One process: trains until the time is over, and says how many images a second that came to."""
    name, d_size, batch_size, steps, seconds = job
    torch.set_num_threads(1)
    try:
        device = torch.device(name)
        train, validation = RandomImages(steps * batch_size, device), RandomImages(256, device)
        configs = configs_of(members, d_size, batch_size)
        training: Training | FusedTraining = (
            FusedTraining(configs, train, validation, device)
            if members > 1
            else Training(configs[0], train, validation, device)
        )
        training.run_epoch()
        barrier.wait()
        start, epochs = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            training.run_epoch()  # reads its metrics, so that the device has done it
            epochs += 1
        found.put(members * epochs * len(train) / (time.perf_counter() - start))
    except (RuntimeError, MemoryError, multiprocessing.context.TimeoutError) as error:
        barrier.abort()
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        found.put(None)


if __name__ == "__main__":
    sys.exit(main())
