"""Record learning curves of a space for search_quality.py: random points trained to their end, by `raysweep run`.

    python benchmarks/record_curves.py benchmarks/curves/digits.yaml --work results/digits

First `--points` points drawn at random, each with a trial seed of its own. Then `--repeats` more trainings, with other
seeds, of three of them: the best, the one at the upper quartile and the median one. They show the noise of training.
Both are sweeps below `--work`; Ctrl-C stops them, and the same command goes on. What is recorded so far stands in
benchmarks/curves/ under the name of the space, as Parquet with one row an epoch. Points that stand there already are
not trained again: with another `--work` the command records repeats for them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from raysweep.records import mode_of
from raysweep.report.parquet import read_table
from raysweep.spec.loading import load_spec
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory

CURVES = Path(__file__).parent / "curves"
SEEDS = {"low": 0, "high": 2**32 - 1}
METRICS = ("elbo_nats", "val_loss", "psnr_db", "epoch_s")
"""Columns that are kept of an epoch."""
SHARES = (0.0, 0.25, 0.5)
"""Ranks of the points that are repeated, as parts of all points from the best on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("space", type=Path, help="search space file")
    parser.add_argument("--work", type=Path, required=True, help="directory of the two sweeps")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=20, help="further trainings of each of three points")
    parser.add_argument("--max-concurrent", type=int, help="most trials at once; as many as fit if it is not given")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    spec = load_spec(options.space)
    target = CURVES / f"{spec.name}.parquet"
    points, is_done = recorded_points(options, spec, target)
    parts = [points]
    if is_done and options.repeats:
        chosen = points_to_repeat(points, spec) * options.repeats
        given = [point for _, point in chosen]
        is_done = record(options.space, spec, options.work / "repeats", len(given), given, options.max_concurrent)
        parts.append(packed(options.work / "repeats", spec, [number for number, _ in chosen]))
    pq.write_table(pa.concat_tables(parts), target, compression="zstd")
    print(f"{target}: {sum(map(len, parts))} epochs, {target.stat().st_size / 1e6:.2f} MB")
    if not is_done:
        raise SystemExit("not all is recorded yet; to go on, type the same command again")


def recorded_points(options: argparse.Namespace, spec: SweepSpec, target: Path) -> tuple[pa.Table, bool]:
    """Return the epochs of random points, and whether all of them are trained: recorded now, or found in `target`."""
    place = options.work / "points"
    if target.exists() and not SweepDirectory.at(str(place)).holds_a_sweep():
        known = pq.read_table(target)
        return known.filter(pc.is_null(known["repeats"])), True
    is_done = record(options.space, spec, place, options.points, [], options.max_concurrent)
    return packed(place, spec, [None] * options.points), is_done


def record(
    space: Path, spec: SweepSpec, place: Path, trials: int, points: Sequence[Mapping[str, Any]], most: int | None
) -> bool:
    """Run or resume the sweep at `place`. Return whether all its trials have ended."""
    if SweepDirectory.at(str(place)).holds_a_sweep():
        command = ["resume", str(place)]
    else:
        file = place.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(recording_space(yaml.safe_load(space.read_text()), spec, trials, points, most)))
        command = ["run", str(file), "--output", str(place)]
    subprocess.run([sys.executable, "-m", "raysweep", *command], check=False)
    table = read_table(SweepDirectory.at(str(place)).trials_parquet)
    return bool(pc.sum(pc.is_in(table["state"], pa.array(["completed", "diverged"]))).as_py() == trials)


def recording_space(
    raw: Mapping[str, Any], spec: SweepSpec, trials: int, points: Sequence[Mapping[str, Any]], most: int | None
) -> dict[str, Any]:
    """Return the search space that records: nobody is stopped, nothing is tested, each trial has its own seed."""
    search = {
        "trials": trials, "sampler": "random", "early_stopping": "none", "objective": raw["search"]["objective"],
        "enqueue": [dict(point) for point in points], "seed": 1 if points else 0, "max_concurrent": most,
    }  # fmt: skip
    return {
        "name": "repeats" if points else "points",
        "data": raw["data"],
        "trial": {**raw["trial"], "epochs": spec.max_epochs, "seed": SEEDS},
        "search": search,
        "resources": {"cpu": 1, "gpu": "auto"},
        "evaluation": {"final_metrics": "none"},
    }


def packed(place: Path, spec: SweepSpec, repeats: Sequence[int | None]) -> pa.Table:
    """Return the epochs of a sweep, with the point of their trial; `repeats` has which point a trial repeats."""
    directory = SweepDirectory.at(str(place))
    trials, epochs = read_table(directory.trials_parquet), read_table(directory.epochs_parquet)
    names = [*spec.trial.searched]
    trials = trials.select(["trial", *names]).append_column(
        "repeats", pa.array([repeats[number] for number in trials["trial"].to_pylist()], pa.int32())
    )
    rows = (
        epochs.select(["trial", "epoch", *METRICS])
        .join(trials, "trial")
        .sort_by([("trial", "ascending"), ("epoch", "ascending")])
    )
    rows = rows.select(["repeats", "trial", "epoch", *names, *METRICS])
    narrow = {"trial": pa.int32(), "epoch": pa.int32()} | {name: pa.float32() for name in METRICS}
    return pa.table(
        {name: rows[name].cast(narrow.get(name, rows.schema.field(name).type)) for name in rows.column_names}
    )


def points_to_repeat(points: pa.Table, spec: SweepSpec) -> list[tuple[int, dict[str, Any]]]:
    """Return the number and the point of the trials at `SHARES` of those that were trained to their end."""
    metric = spec.search.objective.metric
    order = "descending" if mode_of(metric) == "max" else "ascending"
    ends = points.filter(pc.and_(pc.equal(points["epoch"], spec.max_epochs), pc.is_finite(points[metric])))
    rows = ends.sort_by([(metric, order)]).to_pylist()
    chosen = [rows[round(share * (len(rows) - 1))] for share in SHARES]
    return [(row["trial"], {name: row[name] for name in spec.trial.searched}) for row in chosen]


if __name__ == "__main__":
    main()
