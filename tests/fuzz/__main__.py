"""`python -m tests.fuzz --inputs 100000 --seed 0`: what became of so many damaged files, by reader."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.campaign import run_campaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a reader's name")
    parser.add_argument("--keep", type=Path, help="directory for the errors that should not be")
    chosen = parser.parse_args()
    tallies = run_campaign(chosen.inputs, chosen.seed, chosen.only, chosen.keep)
    print(f"{'reader':28} {'inputs':>8} {'accepted':>9} {'refused':>8} {'failures':>9} {'seconds':>8}")
    rows = [(name, t.inputs, t.accepted, t.refused, len(t.failures), t.seconds) for name, t in tallies.items()]
    rows.append(("all", *(sum(row[column] for row in rows) for column in range(1, 6))))  # type: ignore[misc]
    for name, inputs, accepted, refused, failures, seconds in rows:
        print(f"{name:28} {inputs:8,} {accepted:9,} {refused:8,} {failures:9,} {seconds:8.1f}")
    for name, tally in tallies.items():
        for error in dict.fromkeys(str(failure["error"]).strip().splitlines()[-1] for failure in tally.failures):
            print(f"{name}: {error}")
    return int(any(tally.failures for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
