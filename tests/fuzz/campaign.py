"""Feeds damaged files to every reader: each is read, or refused with an error of raysweep's own.

Another exception, a hang, a crash or too much memory is a failure. The readers run in a process of their own, whose
memory is limited and whose death is noticed.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

MEMORY_BYTES = 3 << 30
"""What the readers may take beyond what their process has when it begins."""
HANG_S = 30


@dataclass
class Tally:
    """What became of a target's inputs."""

    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: list[dict[str, object]] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        return self.accepted + self.refused + len(self.failures)


def run_campaign(inputs: int, seed: int, only: str = "", kept: Path | None = None) -> dict[str, Tally]:
    """Tries `inputs` inputs in all; the inputs that failed are kept in the directory `kept`."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        reached: dict[str, int] = {}
        tallies: dict[str, Tally] = {}
        while True:
            order = {"inputs": inputs, "seed": seed, "only": only, "scratch": scratch, "reached": reached}
            child = subprocess.run(
                [sys.executable, "-m", "tests.fuzz.campaign", json.dumps(order)],
                cwd=Path(__file__).parents[2], capture_output=True, check=False,
            )  # fmt: skip
            lines = [json.loads(line) for line in child.stdout.splitlines() if line.startswith(b"{")]
            for line in lines:
                _count(line, tallies, reached)
            if child.returncode == 0:
                break
            started = [line for line in lines if line["kind"] in ("target", "failure", "progress")]
            mark = Path(scratch) / "now.json"
            if not started or not mark.exists():
                raise RuntimeError(f"the readers could not be started: {child.stderr.decode(errors='replace')}")
            now = json.loads(mark.read_text())
            cause = f"the process died: {child.returncode}\n{child.stderr.decode(errors='replace')[-3000:]}"
            failure = {"kind": "failure", "target": now["target"], "number": now["number"], "error": cause}
            _count(
                {**now, "kind": "progress", "accepted": now["accepted"], "refused": now["refused"]}, tallies, reached
            )
            _count(failure, tallies, reached)
        for name, tally in tallies.items():
            for failure in tally.failures:
                if kept is not None:
                    kept.mkdir(parents=True, exist_ok=True)
                    (kept / f"{name.replace(' ', '_')}-{seed}-{failure['number']}.txt").write_text(
                        str(failure["error"])
                    )
    return tallies


def _count(line: dict[str, object], tallies: dict[str, Tally], reached: dict[str, int]) -> None:
    tally = tallies.setdefault(str(line["target"]), Tally())
    if line["kind"] == "failure":
        tally.failures.append(line)
        reached[str(line["target"])] = int(str(line["number"])) + 1
    elif line["kind"] == "progress":
        tally.accepted += int(str(line["accepted"]))
        tally.refused += int(str(line["refused"]))
        tally.seconds += float(str(line["seconds"]))
        reached[str(line["target"])] = int(str(line["number"]))


def _hang(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"no answer after {HANG_S} s")


def _child(order: dict[str, object]) -> None:
    """Reads the inputs from where the last process died, and prints a line of JSON for each stretch of them."""
    import torch

    from raysweep.errors import RaysweepError
    from tests.fuzz.targets import all_targets

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    faulthandler.enable()
    scratch = Path(str(order["scratch"]))
    targets = all_targets(Path(tempfile.mkdtemp(dir=scratch)))
    now_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now_bytes + MEMORY_BYTES,) * 2)
    signal.signal(signal.SIGALRM, _hang)
    chosen = [target for target in targets if str(order["only"]) in target.name]
    total = sum(target.weight for target in chosen)
    reached: dict[str, int] = order["reached"]  # type: ignore[assignment]
    for target in chosen:
        end = int(str(order["inputs"])) * target.weight // total
        counts: Counter[str] = Counter()
        start = time.perf_counter()
        first = reached.get(target.name, 0)
        if first >= end:
            continue
        print(json.dumps({"kind": "target", "target": target.name}), flush=True)

        def progress(number: int) -> dict[str, object]:
            return {
                "kind": "progress", "target": target.name, "number": number, "accepted": counts["accepted"],  # noqa: B023
                "refused": counts["refused"], "seconds": time.perf_counter() - start,  # noqa: B023
            }  # fmt: skip

        for number in range(first, end):
            content = target.input(int(str(order["seed"])), number)
            target.file.write_bytes(content)
            (scratch / "now.json").write_text(json.dumps(progress(number)))
            faulthandler.dump_traceback_later(2 * HANG_S, exit=True)
            signal.alarm(HANG_S)
            try:
                target.read(target.file)
                counts["accepted"] += 1
            except (RaysweepError, *target.refusals):
                counts["refused"] += 1
            except BaseException:  # noqa: BLE001 (whatever it is, it is the finding)
                (signal.alarm(0), faulthandler.cancel_dump_traceback_later())
                error = traceback.format_exc()[-3000:]
                failure = {"kind": "failure", "target": target.name, "number": number, "error": error}
                print(json.dumps(failure), flush=True)
            finally:
                signal.alarm(0)
                faulthandler.cancel_dump_traceback_later()
        print(json.dumps(progress(end)), flush=True)


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))
