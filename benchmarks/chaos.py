"""How sweeps survive what befalls them: many rounds of tests/chaos/, and a table over all runs so far.

    python benchmarks/chaos.py --rounds 40 --seed 1 --minutes 35
    python benchmarks/chaos.py --round 17 --seed 1        one round again, alone
    python benchmarks/chaos.py --rounds 8 --settings fused

Each round runs a real sweep on real Ray, interrupts it at moments drawn from the seed, resumes it until it is done and
compares it with the same sweep undisturbed. Every round is one line of chaos.jsonl, written as it ends, so that a run
can be stopped at any time and the next one goes on counting. A round that differs keeps its directory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests.chaos.faults import draw_plan  # noqa: E402 (the repository's own tests, found by the line before)
from tests.chaos.harness import ABREAST, ALONE, NODES, SETTINGS, Result, Round, Setting, Workplace  # noqa: E402

RESULTS = HERE / "chaos.jsonl"
ORDER = (ALONE, NODES, ALONE, ABREAST)
"""Settings of the rounds in turn; half of them are of the one that everything must be identical in."""
FAULTS_A_ROUND = (5, 9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--round", type=int, help="run this round of the seed alone, and add it to no table")
    parser.add_argument("--minutes", type=float, help="begin no further round after so many minutes")
    names = [setting.name for setting in SETTINGS]
    parser.add_argument("--settings", nargs="+", choices=names, default=[setting.name for setting in ORDER],
                        help="kinds of sweep, in turn")  # fmt: skip
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    alone = options.round is not None
    settings = [next(setting for setting in SETTINGS if setting.name == name) for name in options.settings]
    began = time.monotonic()
    try:
        with Workplace.made() as workplace:
            for number in [options.round] if alone else range(options.rounds):
                if options.minutes and time.monotonic() - began > 60 * options.minutes:
                    break
                row = run_round(workplace, settings[number % len(settings)], options.seed, number)
                if not alone:
                    with open(options.results, "a") as file:
                        file.write(json.dumps(row) + "\n")
    except KeyboardInterrupt:
        print("stopped; the round under way is not counted")
    if options.results.exists():
        print("\n" + table([json.loads(line) for line in options.results.read_text().splitlines()]))


def run_round(workplace: Workplace, setting: Setting, seed: int, number: int) -> dict[str, Any]:
    """One round, printed as it ends; its line of the results."""
    chance = random.Random(f"{seed}:{number}")
    plan = draw_plan(
        chance, chance.randint(*FAULTS_A_ROUND), cluster=setting.cluster, finalists=setting.finals != "none"
    )
    name = f"seed-{seed}-round-{number:03d}"
    try:
        result = Round(workplace, setting, plan, seed, name).run()
    except Exception as error:
        kept = keep(workplace.root / "rounds" / name, name)
        raise SystemExit(f"seed {seed}, round {number}: the harness itself failed: {error!r}; see {kept}") from error
    struck = Counter(planned.fault.value for planned in result.faults)
    said = ", ".join(f"{count} {kind}" for kind, count in struck.items()) or "no fault struck"
    verdict = "survived" if not result.failures else f"{len(result.failures)} differences"
    print(f"seed {seed}, round {number} ({setting.name}, {result.took_s:.0f} s): {verdict}; {said}", flush=True)
    if result.failures:
        kept = keep(result.directory, name)
        print("".join(f"    {failure}\n" for failure in result.failures[:12]) + f"    see {kept}", flush=True)
    shutil.rmtree(result.directory, ignore_errors=True)
    workplace.clear_temporary()
    return row_of(result, seed, number)


def row_of(result: Result, seed: int, number: int) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "seed": seed,
        "round": number,
        "setting": result.setting,
        "faults": [[planned.fault.value, planned.moment.value] for planned in result.faults],
        "failures": result.failures,
        "trials_lost": result.lost,
        "trials_doubled": result.doubled,
        "epochs_cut_short": result.cut_short,
        "epochs_trained_again": result.trained_again,
        "most_repeated": result.most_repeated,
        "resumed_s": [round(seconds, 2) for seconds in result.resumed_s],
        "stopped_s": [round(seconds, 2) for seconds in result.stopped_s],
        "lives": result.lives,
        "took_s": round(result.took_s, 1),
    }


def keep(directory: Path, name: str) -> Path:
    """Moves a round's directory to where it outlives the run."""
    kept = Path(tempfile.gettempdir()) / "chaos-kept" / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    kept.parent.mkdir(exist_ok=True)
    shutil.move(directory, kept)
    return kept


def table(rows: list[dict[str, Any]]) -> str:
    """All rounds so far as Markdown."""
    faults = Counter(kind for row in rows for kind, _ in row["faults"])
    moments = Counter(moment for row in rows for _, moment in row["faults"])
    whole = [row for row in rows if not row["failures"]]
    survived = sum(len(row["faults"]) for row in whole)
    days = sorted({row["date"][:10] for row in rows})
    lines = [
        "| figure | value |",
        "| --- | --- |",
        f"| measured | {' to '.join(dict.fromkeys((days[0], days[-1])))}, {rows[-1]['machine']} |",
        f"| rounds | {len(rows)}, of which {len(whole)} without any difference |",
        f"| faults | {sum(faults.values())}, of which {survived} in rounds without any difference |",
        f"| trials lost, doubled | {sum(r['trials_lost'] for r in rows)}, {sum(r['trials_doubled'] for r in rows)} |",
        f"| most epochs that one fault cost a trial | {max(row['most_repeated'] for row in rows)} |",
        f"| epochs begun again | {sum(r['epochs_cut_short'] for r in rows)} that a fault cut short, "
        f"{sum(r['epochs_trained_again'] for r in rows)} that were trained and not yet kept |",
    ]
    for what, key in (
        ("`resume` to the first new epoch", "resumed_s"),
        ("INT or TERM to the driver's end", "stopped_s"),
    ):
        seconds = [value for row in rows for value in row[key]]
        if seconds:
            lines.append(
                f"| from {what} | median {statistics.median(seconds):.1f} s, worst {max(seconds):.1f} s, "
                f"n = {len(seconds)} |"
            )
    lines += ["", "| fault | times |", "| --- | --- |"]
    lines += [f"| {kind} | {count} |" for kind, count in faults.most_common()]
    lines += ["", "| moment | faults |", "| --- | --- |"]
    lines += [f"| {moment} | {count} |" for moment, count in moments.most_common()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
