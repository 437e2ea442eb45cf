"""Memory that each further trial process on a machine takes for its images: raysweep's mapped cache beside own copies.

    python benchmarks/memory.py                                    4 processes a way, 60,000 images of 28x28 pixels
    python benchmarks/memory.py --processes 2 --images 2000        half a minute

    without    no data: the runtime, and the model in training
    mapped     raysweep's ImageTensors on the cache file
    uint8      the same on a copy of the images that the process has to itself
    float32    a copy as float32 in [0, 1], from which a batch is an index

The images are synthetic and are written once, by the cache's own writer. All processes of a way are there at once. Each
imports the same, opens the data, goes through all images once in random order, builds the model of kld.yaml's enqueued
point and trains one step; then it stands still until all of them were looked at. Private memory is what the machine
would get back if the process ended (USS: Private_Clean + Private_Dirty of /proc/PID/smaps_rollup); Pss adds the
process's share of pages that it has in common with others, any other program that runs torch among them. `of data` is
the difference of medians to `without`. What Ray adds to a trial's process is the same whatever it trains on, and is
left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spread import spread

if TYPE_CHECKING:
    from torch import Tensor

    from raysweep.data.cachefile import ImageCache

ROOT = Path(__file__).parents[1]
WAYS = ("without", "mapped", "uint8", "float32")
IMAGE_SIZE = 28
GATHERED_AT_ONCE = 256
MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4, help="at once, 2 or more: one alone shares with nobody")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.way:
        way, path = options.way
        hold(way, Path(path))
        return
    if options.processes < 2:
        parser.error(f"argument --processes: must be 2 or more, got {options.processes}")
    if options.images < 1:
        parser.error(f"argument --images: must be 1 or more, got {options.images}")
    if not Path("/proc/self/smaps_rollup").exists():
        parser.error("it reads /proc/PID/smaps_rollup, which this machine does not have")
    with tempfile.TemporaryDirectory(prefix="memory-") as scratch:
        path = Path(scratch) / "synthetic.arrow"
        write_images(path, options.images)
        pixels_bytes = options.images * IMAGE_SIZE**2
        print(
            f"{options.images:,} images of {IMAGE_SIZE}x{IMAGE_SIZE}, {pixels_bytes / MB:.1f} MB as bytes; MB a process"
        )
        without: dict[str, float] = {}
        for way in WAYS:
            found = memory_of(way, path, options.processes)
            for kind, values in found.items():
                median = statistics.median(values)
                without.setdefault(kind, median)
                data = "" if way == "without" else f"; of data {(median - without[kind]) / MB:6.1f}"
                print(f"{way:8} {kind:8} {spread([value / MB for value in values], 'MB')}{data}", flush=True)


def write_images(path: Path, images: int) -> None:
    """A cache file of noise: no page of it is like another."""
    import numpy as np

    from raysweep.data.cachefile import write_cache
    from raysweep.data.images import Chunk, Counts, Fitting, Source, Transform

    class Noise(Source):
        name = "synthetic"
        origin = "random numbers"
        counts = Counts(images, 0)
        channels = 1
        size = f"{IMAGE_SIZE}x{IMAGE_SIZE}"
        classes = ()
        fingerprint = "0" * 64

        def chunks(self, transform: Transform) -> Iterator[Chunk]:
            draw = np.random.default_rng(0)
            for start in range(0, images, 4096):
                shape = (min(4096, images - start), IMAGE_SIZE, IMAGE_SIZE, 1)
                yield Chunk(transform(draw.integers(0, 256, shape, np.uint8)), None, official_test=False)

    write_cache(path, Noise(), Fitting(IMAGE_SIZE, 1, "resize"))


def memory_of(way: str, path: Path, processes: int) -> dict[str, list[int]]:
    """Bytes of each of so many processes that hold the images in one way at the same time: private ones, and Pss."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--way", way, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for _ in range(processes)
    ]  # fmt: skip
    try:
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"a process of the way {way} ended with exit code {process.wait()}")
        rollups = [read_rollup(process.pid) for process in started]
    finally:
        for process in started:
            process.communicate()  # closes its standard input, which is what it waits for
    return {
        "private": [rollup["Private_Clean"] + rollup["Private_Dirty"] for rollup in rollups],
        "Pss": [rollup["Pss"] for rollup in rollups],
    }


def read_rollup(pid: int) -> dict[str, int]:
    """Bytes of a process's memory by kind."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in fields}


def hold(way: str, path: Path) -> None:
    """One trial's process: opens the images, goes through them, trains one step, and waits."""
    import torch

    from raysweep.data.cachefile import open_cache
    from raysweep.spec.loading import load_spec
    from raysweep.vae.training import Training

    # Arrow imports pandas as soon as it makes arrays; in a trial's process Ray Tune has done so before.
    for module in ("pandas", "raysweep.data.tensors"):
        import_module(module)
    torch.set_num_threads(1)
    spec = load_spec(ROOT / "search_spaces" / "kld.yaml")
    config = spec.trial.config(spec.search.enqueue[0])
    images = None if way == "without" else opened(way, open_cache(path))
    if images is None:
        some: Any = OwnFloats(torch.rand(config.batch_size, 1, IMAGE_SIZE, IMAGE_SIZE))
    else:
        for batch in torch.randperm(len(images)).split(GATHERED_AT_ONCE):  # type: ignore[no-untyped-call]
            images.gather(batch)
        some = FirstImages(images, config.batch_size)
    training = Training(config, some, some)
    training.run_epoch()  # one step, and the validation of as many images
    print("ready", flush=True)
    sys.stdin.read()


def opened(way: str, cache: ImageCache) -> Any:
    """The images of the cache, held in one of the ways; `Images` of `vae.evaluation`."""
    import numpy as np
    import torch

    from raysweep.data.tensors import ImageTensors

    count = cache.info.count
    if way == "float32":
        floats = torch.empty(count, *cache.info.shape)
        start = 0
        for chunk in cache.chunks:
            for rows in np.array_split(chunk, max(1, len(chunk) // 1024)):
                torch.mul(torch.tensor(rows), 1 / 255, out=floats[start : start + len(rows)])
                start += len(rows)
        return OwnFloats(floats)
    chunks = cache.chunks if way == "mapped" else tuple(chunk.copy() for chunk in cache.chunks)
    return ImageTensors(chunks, np.arange(count), "cpu")


class OwnFloats:
    """Images [n, channels, height, width] as float32 in [0, 1]."""

    def __init__(self, pixels: Tensor) -> None:
        self._pixels = pixels
        self.shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])

    def __len__(self) -> int:
        return len(self._pixels)

    def gather(self, indices: Tensor) -> Tensor:
        return self._pixels.index_select(0, indices)

    def mean_image(self) -> Tensor:
        return self._pixels.mean(dim=0)


class FirstImages:
    """The first images of others: what one step trains on."""

    def __init__(self, images: Any, count: int) -> None:
        self._images = images
        self._count = min(count, len(images))
        self.shape: tuple[int, int, int] = images.shape

    def __len__(self) -> int:
        return self._count

    def gather(self, indices: Tensor) -> Tensor:
        batch: Tensor = self._images.gather(indices)
        return batch

    def mean_image(self) -> Tensor:
        import torch

        return self.gather(torch.arange(self._count)).mean(dim=0)


if __name__ == "__main__":
    main()
