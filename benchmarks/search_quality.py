"""How good a search is, and in how few epochs: raysweep's own code and its rivals on recorded and synthetic problems.

    python benchmarks/search_quality.py --output results/quality                          all of it: hours on one core
    python benchmarks/search_quality.py --output results/quality --problems kld --workers 2 --seeds 10

Trainings are simulated: curves of real trainings are recorded (record_curves.py), a model is fitted to them, and
workers train epochs that take as long as recorded ones did. What searches is real: raysweep's session, ledger, sampler
and stopping rule, and the rivals' own classes. Every simulated sweep is a line of OUTPUT/runs.jsonl, and one that is
there is not run again; from all of them come OUTPUT/table.md, OUTPUT/summary.parquet and OUTPUT/regret.png.
docs/search.md says what the figures mean.

What a right and a wrong past do to the search (`search: {start_from: ..., prior: ...}`), compared with none:

    python benchmarks/search_quality.py --output results/past --problems kld synthetic --workers 2 --seeds 20 \
        --methods "raysweep GP + ASHA" pasts
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from searching.measures import found
from searching.ours import PROMOTING, STOPPING, STOPPING_ONCE, Raysweep
from searching.pasts import cost_table, hint_of, past_of
from searching.problems import Point, Problem, cube_size, features, from_cube, problem_of
from searching.report import write_report
from searching.rivals import RIVALS
from searching.simulation import Searcher, simulate
from searching.surrogates import MODELS, Surrogate, held_out, rank_correlations, read_recording
from searching.synthetic import DIMENSIONS, FAMILIES, synthetic_problem
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

from raysweep.errors import SpecError
from raysweep.spec.loading import load_spec
from raysweep.spec.sections import SweepSpec

CURVES = Path(__file__).parent / "curves"
BUDGET = 300
"""Epochs of a simulated sweep with 2 workers: what a run of kld.yaml spends. More workers get more."""
OURS = {
    "raysweep GP + ASHA": ("gp", STOPPING),
    "raysweep GP + ASHA, judged once": ("gp", STOPPING_ONCE),
    "raysweep GP + promotion": ("gp", PROMOTING),
    "raysweep TPE + ASHA": ("tpe", STOPPING),
    "raysweep TPE + ASHA, judged once": ("tpe", STOPPING_ONCE),
    "raysweep TPE + promotion": ("tpe", PROMOTING),
}
"""raysweep's own samplers with each form of its early stopping: the first trials wait for others, and a trial is judged
at its last rung again and again (the default), or once when it arrives, or it pauses there until it is promoted."""
PASTS = {
    f"raysweep GP + ASHA from {words}": kind
    for kind, words in (
        ("same", "the same space"), ("shifted", "a shifted optimum"), ("unrelated", "an unrelated past"),
        ("opposite", "an opposite past"),
    )
}  # fmt: skip
"""The same search that starts from an earlier sweep (`search: {start_from: ...}`), a right or a wrong one."""
HINTS = {"raysweep GP + ASHA, right hint": "right", "raysweep GP + ASHA, wrong hint": "wrong"}
"""The same search with a hint at one parameter (`search: {prior: ...}`): its value at the best point, or far away."""


class Run(NamedTuple):
    """One simulated sweep."""

    problem: str
    method: str
    workers: int
    seed: int
    epochs: int


def main() -> None:
    options = read_options()
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.problems:
        if name != "synthetic":
            print(described_surrogates(name), flush=True)
    named = [name for method in options.methods for name in ((*PASTS, *HINTS) if method == "pasts" else (method,))]
    methods = [method for method in named if is_there(method)]
    runs = [
        Run(problem, method, workers, seed, options.epochs or budget_of(workers))
        for seed in range(options.seeds)  # seeds last, so that a run that is cut short has some of everything
        for workers in options.workers
        for name in options.problems
        for problem in problem_names(name, seed, options.surrogate)
        for method in methods
    ]
    record = options.output / "runs.jsonl"
    known = set(map(run_of, read_rows(record)))
    with open(record, "a") as lines:
        for row in in_processes(perform, [run for run in runs if run not in known], options.jobs):
            lines.write(json.dumps(row) + "\n")
            lines.flush()
    wanted = set(runs)
    rows = [row for row in read_rows(record) if run_of(row) in wanted]
    print(write_report(options.output, rows))
    if any(row["method"] in (*PASTS, *HINTS) for row in rows):
        print(cost_table(rows, "raysweep GP + ASHA", (*PASTS, *HINTS)))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    recorded = sorted(path.stem for path in CURVES.glob("*.parquet"))
    parser.add_argument("--output", type=Path, required=True, help="directory of the results")
    parser.add_argument("--problems", nargs="+", choices=[*recorded, "synthetic"], default=[*recorded, "synthetic"])
    methods = [*OURS, "pasts", *PASTS, *HINTS, *RIVALS]
    parser.add_argument("--methods", nargs="+", choices=methods, default=[*OURS, *RIVALS], metavar="METHOD",
                        help=f"{', '.join(methods)}; pasts stands for those that start from something")  # fmt: skip
    parser.add_argument("--workers", nargs="+", type=int, default=[2, 8, 32])
    budgets = ", ".join(f"{budget_of(workers)} with {workers}" for workers in (2, 8, 32))
    parser.add_argument("--epochs", type=int, help=f"of all trials together; default: {budgets} workers")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--surrogate", choices=["best", *MODELS], default="best",
                        help="model of the recorded curves; best is the one with the least held-out error")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    return parser.parse_args()


def is_there(method: str) -> bool:
    """Return whether the method is installed, or this version of raysweep has it; say so if not."""
    if method.startswith("Syne Tune") and find_spec("syne_tune") is None:
        print(f"{method}: left out; to have it, type: pip install syne-tune statsmodels")
        return False
    if method not in OURS:
        return True
    try:
        Raysweep(space_of("kld"), 1, 0, *OURS[method]).close()
    except SpecError as error:
        print(f"{method}: left out, this version has no such setting ({error.faults[0].message})")
        return False
    return True


def space_of(name: str) -> SweepSpec:
    """Return the search space whose curves are recorded under this name."""
    beside = CURVES / f"{name}.yaml"
    return load_spec(beside if beside.exists() else name)


@cache
def surrogate_errors(name: str) -> dict[str, Any]:
    """Return the held-out errors of every model of a recording, by name of the model."""
    spec = space_of(name)
    recording = read_recording(CURVES / f"{name}.parquet", spec)
    x = features(spec.trial, recording.points)
    return {model: held_out(model, x, recording.curves) for model in MODELS}


def described_surrogates(name: str) -> str:
    """Return how well each model predicts curves that it has not seen, and how much early epochs tell of the end."""
    spec = space_of(name)
    recording = read_recording(CURVES / f"{name}.parquet", spec)
    trainings = sum(map(len, recording.repeats))
    lines = [f"{name}: {len(recording.points)} points, {trainings} repeats"]
    for model, errors in surrogate_errors(name).items():
        lines.append(
            f"  {model:10}  held-out error of the end {errors.error:.3f} of the spread of ends, "
            f"{errors.error_of_best:.3f} among the best tenth; rank correlation {errors.rank:.3f}"
        )
    epochs = [1, 2, 3, 5, 10]
    rng = np.random.default_rng(0)
    model = best_surrogate(name)
    surrogate = make_problem(f"{name}/{model}").landscape
    points: list[Point] = [from_cube(spec.trial, row) for row in rng.random((300, cube_size(spec.trial)))]
    means = surrogate.mean(points)
    curves = means + np.stack([surrogate.noise(point, rng) for point in points])
    told = {
        "recorded": rank_correlations(recording.curves, recording.curves[:, -1], epochs),
        model: rank_correlations(curves, means[:, -1], epochs),
    }
    for kind, found_of in told.items():
        shown = ", ".join(f"{value:.2f}" for value in found_of)
        lines.append(f"  rank correlation of epochs {', '.join(map(str, epochs))} with the end, {kind}: {shown}")
    return "\n".join(lines)


def best_surrogate(name: str) -> str:
    """Return the model with the least held-out error; that of the nearest curve is for a check."""
    errors = surrogate_errors(name)
    return min(("forest", "gaussian", "neighbours"), key=lambda model: float(errors[model].error))


def problem_names(name: str, seed: int, surrogate: str) -> list[str]:
    """Return the problems that a seed is run on: of synthetic ones each seed has another."""
    if name == "synthetic":
        problems = [f"synthetic/{family}/{index}" for index in range(len(DIMENSIONS)) for family in FAMILIES]
        return [problems[seed % len(problems)]]
    return [f"{name}/{best_surrogate(name) if surrogate == 'best' else surrogate}"]


@cache
def make_problem(name: str) -> Problem:
    kind, *rest = name.split("/")
    if kind == "synthetic":
        return synthetic_problem(rest[0], int(rest[1]))
    spec = space_of(kind)
    return problem_of(name, Surrogate(spec, read_recording(CURVES / f"{kind}.parquet", spec), rest[0]))


def make_searcher(method: str, problem: Problem, workers: int, seed: int) -> Searcher:
    if method in OURS:
        return Raysweep(problem.spec, workers, seed, *OURS[method])
    if method in PASTS:
        past = past_of(PASTS[method], problem, BUDGET, seed)
        return Raysweep(problem.spec, workers, seed, "gp", STOPPING, past)
    if method in HINTS:
        hint = hint_of(HINTS[method], problem, seed)
        return Raysweep(problem.spec, workers, seed, "gp", STOPPING, prior=hint)
    return RIVALS[method](problem.spec, seed)


def budget_of(workers: int) -> int:
    """Return the epochs of a sweep: more workers are given more, or nobody would have learned anything."""
    return BUDGET if workers <= 2 else BUDGET * 2 if workers <= 8 else BUDGET * 4


def perform(run: Run) -> dict[str, Any]:
    """Simulate one sweep and return its line of the record."""
    torch.set_num_threads(1)  # of Optuna's GP; small matrices gain nothing from a second thread
    with threadpool_limits(1):
        problem = make_problem(run.problem)
        searcher = make_searcher(run.method, problem, run.workers, run.seed)
        try:
            history = simulate(problem, searcher, run.workers, run.epochs, run.seed)
        finally:
            searcher.close()
    in_hand, true_end = found(problem, history)
    return {
        **run._asdict(),
        "best": problem.best, "median": problem.median, "trials": len(history.points),
        "cpu_ms_a_suggestion": 1000 * history.suggest_cpu_s / len(history.points),
        "cpu_ms_an_epoch": 1000 * history.report_cpu_s / len(history.epochs),
        "in_hand": [round(float(score), 4) for score in in_hand],
        "true_end": [round(float(score), 4) for score in true_end],
    }  # fmt: skip


def in_processes(work: Callable[[Run], dict[str, Any]], runs: Sequence[Run], jobs: int) -> Iterable[dict[str, Any]]:
    """Yield what comes of each run, in order."""
    if jobs == 1:
        yield from map(work, runs)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, runs)


def run_of(row: dict[str, Any]) -> Run:
    """Return which sweep a line of the record is of."""
    return Run(row["problem"], row["method"], row["workers"], row["seed"], len(row["in_hand"]))


def read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()
