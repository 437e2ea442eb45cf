"""The results of simulated sweeps: a table in Markdown, the same as Parquet, and a picture."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from searching.measures import epochs_to, estimate, fifth_percentile, interquartile_mean, mean, mean_over
from searching.picture import LOOKS, regret_picture
from searching.problems import Array

Row = dict[str, Any]
BASE = "OptunaSearch + ASHA, our rungs"
"""The method that each other one is compared with, seed by seed: the best of the rivals."""
BASES = (BASE, "OptunaSearch + ASHA")
"""Rivals that all others are compared with over all problems together."""
NEAR = (0.95, 0.99)


def write_report(output: Path, rows: list[Row]) -> str:
    """Write table, summary and, if it would show one of the methods, picture of simulated sweeps. Return the table."""
    summary = summarise(rows)
    pq.write_table(pa.Table.from_pylist(summary), output / "summary.parquet")
    if any(row["method"] in LOOKS for row in rows):
        (output / "regret.png").write_bytes(regret_picture(groups(rows)))
    table = "\n\n".join([as_markdown(summary), *over_all(rows), *shares_of_best(rows)])
    (output / "table.md").write_text(table)
    return table


def groups(rows: list[Row]) -> dict[tuple[str, int], dict[str, list[Row]]]:
    """Return the sweeps by problem and workers, then by method; synthetic problems are one."""
    found: dict[tuple[str, int], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        problem = row["problem"].split("/")[0] if row["problem"].startswith("synthetic") else row["problem"]
        found[problem, row["workers"]][row["method"]].append(row)
    return found


def summarise(rows: list[Row]) -> list[Row]:
    """Return one row of figures for each problem, number of workers and method, the best method first."""
    lines = []
    for (problem, workers), methods in groups(rows).items():
        of_methods = []
        for method, runs in methods.items():
            in_hand = [run["in_hand"][-1] for run in runs]
            true_end = [run["true_end"][-1] for run in runs]
            line: Row = {"problem": problem, "workers": workers, "method": method, "seeds": len(runs)}
            line["epochs"] = len(runs[0]["in_hand"])
            for name, values in (("in_hand", in_hand), ("true_end", true_end)):
                for statistic in (interquartile_mean, fifth_percentile):
                    value, low, high = estimate(statistic, values)
                    figure = f"{name}_{'iqm' if statistic is interquartile_mean else 'p5'}"
                    line |= {figure: value, f"{figure}_low": low, f"{figure}_high": high}
            for share in NEAR:
                took = np.array([epochs_to(share, np.array(run["true_end"])) for run in runs])
                name = f"epochs_to_{round(100 * share)}"
                line |= {name: float(np.median(took)), f"{name}_share": float(np.mean(np.isfinite(took)))}
            gains = _gains(runs, methods.get(BASE, []))
            if gains:
                value, low, high = estimate(mean, gains)
                line |= {"gain": value, "gain_low": low, "gain_high": high}
                line["wins"] = float(np.mean(np.array(gains) > 0))
            line["cpu_ms_a_suggestion"] = float(np.median([run["cpu_ms_a_suggestion"] for run in runs]))
            line["trials"] = float(np.median([run["trials"] for run in runs]))
            of_methods.append(line)
        lines += sorted(of_methods, key=lambda line: -float(line["true_end_iqm"]))
    return lines


def as_markdown(summary: list[Row]) -> str:
    """Return the tables, one for each problem and number of workers."""
    lines: list[str] = []
    heading: tuple[str, int] | None = None
    for line in summary:
        if (line["problem"], line["workers"]) != heading:
            heading = line["problem"], line["workers"]
            lines += [
                "", f"### {line['problem']}, {line['workers']} workers, {line['epochs']} epochs", "",
                "| method | in hand | 5th percentile | true end | 5th percentile | epochs to 95 % | to 99 % | "
                f"over {BASE.removeprefix('raysweep ')} | CPU | seeds |",
                "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            ]  # fmt: skip
        gain = "" if "gain" not in line or line["method"] == BASE else (
            f"{line['gain']:+.3f} ({line['gain_low']:+.3f} to {line['gain_high']:+.3f})"
        )  # fmt: skip
        cells = [
            line["method"], _interval(line, "in_hand_iqm"), _interval(line, "in_hand_p5"),
            _interval(line, "true_end_iqm"), _interval(line, "true_end_p5"), _took(line, 95), _took(line, 99), gain,
            f"{line['cpu_ms_a_suggestion']:.0f} ms", str(line["seeds"]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).strip() + "\n"


def over_all(rows: list[Row]) -> list[str]:
    """Return a table for each number of workers: the true end less a rival's with the same seed, mean of the problems.

    A method that was not run on one of the problems is left out.
    """
    found = groups(rows)
    tables = []
    for workers in sorted({workers for _, workers in found}):
        by_problem = [methods for (_, count), methods in found.items() if count == workers]
        names = [name for name in by_problem[0] if all(name in methods for methods in by_problem)]
        bases = [base for base in BASES if base in names]
        if len(by_problem) < 2 or not bases:
            continue
        lines = []
        for name in names:
            gains = [mean_over([_gains(methods[name], methods[base]) for methods in by_problem]) for base in bases]
            cells = ["" if base == name else f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
                     for base, gain in zip(bases, gains, strict=True)]  # fmt: skip
            fewest = min(len(methods[name]) for methods in by_problem)
            lines.append((-gains[0].value, f"| {name} | {' | '.join(cells)} | {fewest} |"))
        tables.append("\n".join([
            f"### all {len(by_problem)} problems together, {workers} workers", "",
            f"| method | {' | '.join(f'over {base}' for base in bases)} | seeds a problem, at least |",
            "| --- " * (len(bases) + 2) + "|", *(line for _, line in sorted(lines)),
        ]))  # fmt: skip
    return tables


def shares_of_best(rows: list[Row]) -> list[str]:
    """Return a table for each number of workers: values in hand as shares of the best value, no median taken off.

    Synthetic problems are left out: their values have no zero.
    """
    found = {key: methods for key, methods in groups(rows).items() if not key[0].startswith("synthetic")}
    tables = []
    for workers in sorted({workers for _, workers in found}):
        lines = []
        for (problem, count), methods in found.items():
            of_problem = []
            for method, runs in methods.items() if count == workers else ():
                shares = np.array([_share_of_best(run) for run in runs])
                middle, low = estimate(interquartile_mean, shares[:, -1]), estimate(fifth_percentile, shares[:, -1])
                took = [epochs_to(NEAR[0], share) for share in shares]
                spent = f"{np.median(took):.0f}" if np.isfinite(np.median(took)) else f"> {shares.shape[1]}"
                cells = [
                    problem.split("/")[0], method, str(middle), str(low),
                    f"{spent} ({np.mean(np.isfinite(took)):.0%})", str(len(runs)),
                ]  # fmt: skip
                of_problem.append((-middle.value, f"| {' | '.join(cells)} |"))
            lines += [line for _, line in sorted(of_problem)]
        tables.append("\n".join([
            f"### in hand, over the best value of the space, {workers} workers", "",
            "| problem | method | in hand | 5th percentile | epochs to 95 % in hand | seeds |",
            "| --- | --- | --- | --- | --- | --- |", *lines,
        ]))  # fmt: skip
    return tables


def _share_of_best(run: Row) -> Array:
    scores: Array = np.array(run["in_hand"])
    best, median = float(run["best"]), float(run["median"])
    return (scores * (best - median) + median) / best


def _gains(runs: list[Row], base: list[Row]) -> list[float]:
    """Return by how much each sweep's true end is over that of the base with the same seed."""
    of = {(row["problem"], row["seed"]): float(row["true_end"][-1]) for row in base}
    return [
        float(run["true_end"][-1]) - of[run["problem"], run["seed"]]
        for run in runs if (run["problem"], run["seed"]) in of
    ]  # fmt: skip


def _interval(line: Row, key: str) -> str:
    return f"{line[key]:.3f} ({line[f'{key}_low']:.3f} to {line[f'{key}_high']:.3f})"


def _took(line: Row, percent: int) -> str:
    """Return the median of the epochs it took, and in how many sweeps it came so far at all."""
    median, share = line[f"epochs_to_{percent}"], line[f"epochs_to_{percent}_share"]
    epochs = f"{median:.0f}" if np.isfinite(median) else f"> {line['epochs']}"
    return f"{epochs} ({share:.0%})"
