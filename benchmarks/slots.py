"""How fast and how well a cluster's slots are filled: 3 nodes of 4 logical GPUs each, on this machine.

    python benchmarks/slots.py
    python benchmarks/slots.py --nodes 2 --gpus 1 --trials 6     # no more processes than a machine of 2 cores has

Each node has a cache of images of its own, so that each fetches them; what that takes is printed, for large ones with

    python benchmarks/slots.py --gpus 1 --trials 3 --epochs 1 --sweeps 2 --dataset mnist-5k --image-size 128

A cluster that is up already is given one sweep, then another. Of each: seconds from the typed command to the first
trial at work and to all slots at work, and the share of slot-seconds in which a trial held the slot, from then until
fewer trials than slots were left. Ray hands logical GPUs out like real ones; the trials train on the CPU.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.nodes import Nodes

SPACE = """
name: slots
data: {{dataset: {dataset}, image_size: {image_size}}}
trial:
  kld_weight: {{low: 1e-5, high: 1e-1, log: true}}
  d_size: 4
  latent_size: 4
  hidden_size: 16
  epochs: {epochs}
search: {{trials: {trials}, sampler: random}}
resources: {{cpu: 1, gpu: 1}}
evaluation: {{final_metrics: none}}
"""
_LINE = re.compile(r"^(\S+ \S+) \w+ raysweep: trial (\d+) (trains on|completed)", re.M)
_FETCHED = re.compile(r"fetched from .*, ([0-9.]+) MB in ([0-9.]+) s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--gpus", type=int, default=4, help="logical GPUs of each node")
    parser.add_argument("--trials", type=int, default=36)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--sweeps", type=int, default=3)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--image-size", type=int, default=16)
    options = parser.parse_args()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY")}
    with tempfile.TemporaryDirectory(prefix="slots-") as place:
        environment |= {
            "OMP_NUM_THREADS": "1", "RAYSWEEP_CACHE": f"{place}/cache", "RAY_TMPDIR": place,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }  # fmt: skip
        nodes = Nodes(0, environment)
        try:
            for number in range(options.nodes):
                cache = {"RAYSWEEP_CACHE": f"{place}/cache-{number}"}
                nodes.add({"num_cpus": options.gpus, "num_gpus": options.gpus}, cache)
            (Path(place) / "slots.yaml").write_text(SPACE.format(**vars(options)))
            for number in range(options.sweeps):
                measure(
                    Path(place), f"sweep-{number}", options.nodes * options.gpus,
                    {**environment, "RAY_ADDRESS": nodes.address},
                )  # fmt: skip
        finally:
            nodes.close()


def measure(place: Path, name: str, slots: int, environment: dict[str, str]) -> None:
    typed = time.time()
    subprocess.run(
        [sys.executable, "-m", "raysweep.cli", "run", "slots.yaml", "--output", name],
        cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    log = (place / name / "raysweep.log").read_text()
    for megabytes, seconds in _FETCHED.findall(log):
        print(f"{name}: a machine fetched the images, {megabytes} MB in {seconds} s")
    events = [
        (datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").timestamp() - typed, int(trial), what == "trains on")
        for at, trial, what in _LINE.findall(log)
    ]
    held, most, filled, last_full = 0, 0, None, 0.0
    busy: list[tuple[float, int]] = []
    begun = sum(starts for *_, starts in events)
    for at, _, starts in events:
        held += 1 if starts else -1
        begun -= starts
        busy.append((at, held))
        most = max(most, held)
        if filled is None and held == slots:
            filled = at
        if begun:  # a trial is still to come
            last_full = at
    print(f"{name}: first trial at work after {events[0][0]:.1f} s, ", end="")
    if filled is None:
        print(f"never more than {most} of {slots} at once")
        return
    spans = [(a, b, count) for (a, count), (b, _) in pairwise(busy) if a >= filled and b <= last_full]
    whole = sum(b - a for a, b, _ in spans) * slots
    share = sum((b - a) * count for a, b, count in spans) / whole if whole else float("nan")
    print(f"all {slots} after {filled:.1f} s, then {share:.1%} of slot-seconds held over {whole / slots:.0f} s")


if __name__ == "__main__":
    main()
