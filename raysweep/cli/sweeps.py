"""The commands that train: `run` and `resume`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raysweep.backend.signals import at_work_on
from raysweep.cli.terminal import (
    Duration,
    display_of,
    plain_console,
    preparing,
    print_sentences,
    reports_errors,
    tensorboard_lines,
    warner,
)
from raysweep.storage.layout import shown, typed
from raysweep.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from raysweep.review.sweep import Sweep
    from raysweep.vae.preflight import Preflight, Unpredictable

MORE = re.compile(r"\+[0-9]{1,12}", re.ASCII)


class NewTotal(click.IntRange):
    """Number of trials of a new sweep: only a total, because there are no trials yet to add to."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and MORE.fullmatch(value.strip()):
            self.fail(f"{value!r} is how many more; a new sweep has a total: {value.strip(' +')}", param, ctx)
        return super().convert(value, param, ctx)


class Total(click.IntRange):
    """Number of trials of an existing sweep: a total, or with a plus sign how many more."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and MORE.fullmatch(value.strip()) and int(value) > 0:
            return value.strip()
        if isinstance(value, str) and not re.fullmatch(r"\s*-?[0-9]+\s*", value, re.ASCII):
            self.fail(f"{value!r} is neither a total, such as 20, nor how many more, such as +10", param, ctx)
        return super().convert(value, param, ctx)


class Confirmations(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Which of the best trials are trained again: `3x3` is three of them with three other seeds each."""

    name = "TOPxSEEDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from raysweep.spec.sections import MOST_CONFIRMED

        if value in ("auto", "none"):
            return value
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*x\s*([0-9]{1,9})\s*", str(value), re.ASCII | re.IGNORECASE)
        top, seeds = (int(number) for number in found.groups()) if found else (0, 0)
        if not (1 <= top <= MOST_CONFIRMED and 1 <= seeds <= MOST_CONFIRMED):
            self.fail(
                f"{value!r} is neither auto, none, nor how many of the best trials with how many other seeds each, "
                f"such as 3x3, at most {MOST_CONFIRMED}x{MOST_CONFIRMED}", param, ctx,
            )  # fmt: skip
        return {"top": top, "seeds": seeds}


CONFIRM_HELP = "How many of the best trials are trained again with how many other seeds; auto and none too."
PROFILE_HELP = "Write where the time went into the report (docs/profile.md)."


@click.command()
@click.argument("file", type=click.Path())
@click.option(
    "--output",
    type=click.Path(),
    metavar="DIR",
    help="Directory of the results, or s3://bucket/path.  [default: results/<name>]",
)
@click.option("--trials", type=NewTotal(min=1), metavar="N", help="Trials in all, in place of the file's number.")
@click.option("--max-concurrent", type=click.IntRange(min=1), metavar="N", help="Most trials at once.")
@click.option("--time-budget", type=Duration(), metavar="TIME", help="Stop after this long: 90s, 45m, 2h or 1h30m.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", help="Seed of the sampler.")
@click.option("--confirm", type=Confirmations(), metavar="TOPxSEEDS", help=CONFIRM_HELP)
@click.option("--profile", is_flag=True, help=PROFILE_HELP)
@reports_errors
def run(
    file: str, output: str | None, trials: int | None, max_concurrent: int | None, time_budget: float | None,
    seed: int | None, confirm: dict[str, int] | str | None, profile: bool,
) -> None:  # fmt: skip
    """Run the sweep that the search space FILE describes.

    It runs on the Ray cluster that RAY_ADDRESS names, else on this machine. Ctrl-C stops it cleanly: trials keep their
    last epoch, and `raysweep resume` goes on.
    """
    from raysweep.spec.loading import load_spec

    overrides = {
        "trials": trials, "max_concurrent": max_concurrent, "time_budget": time_budget, "seed": seed,
        "confirm": confirm,
    }  # fmt: skip
    spec = load_spec(file, overrides)

    from raysweep.driver.profiling import Profiler
    from raysweep.sweep import run as run_sweep
    from raysweep.terminal.views import what_runs
    from raysweep.vae.preflight import summary

    at_work_on(output if output is not None else Path("results") / spec.name)
    console = plain_console()
    console.print(f"{spec.name}  {what_runs(spec)}")

    def announce(prediction: Preflight | Unpredictable) -> None:
        print_sentences(console, f"collapse {summary(prediction, spec.trial)[0]}")

    def inform(summary: str) -> None:
        print_sentences(console, f"start from  {summary}")

    with display_of(console, spec) as display, preparing(console) as progress:
        sweep = run_sweep(
            spec, output, observer=display, progress=progress, announce=announce, inform=inform, warn=warner(console),
            source=file, profiler=Profiler.of_this_process("run") if profile else None,
        )  # fmt: skip
    _conclude(console, sweep)


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option(
    "--trials", type=Total(min=1), metavar="TOTAL|+MORE",
    help="Trials in all, or with a plus sign how many more than before, if there are to be more.",
)  # fmt: skip
@click.option("--time-budget", type=Duration(), metavar="TIME", help="Stop after this long: 90s, 45m, 2h or 1h30m.")
@click.option("--confirm", type=Confirmations(), metavar="TOPxSEEDS", help=CONFIRM_HELP)
@click.option(
    "--file", type=click.Path(), metavar="FILE",
    help="Search space file to go on with; how it differs from what the sweep was run with is shown.",
)  # fmt: skip
@click.option("--profile", is_flag=True, help=PROFILE_HELP)
@reports_errors
def resume(
    directory: str, trials: int | str | None, time_budget: float | None, confirm: dict[str, int] | str | None,
    file: str | None, profile: bool,
) -> None:  # fmt: skip
    """Go on with the sweep in DIR: unfinished trials from their last epoch, then those not started yet.

    What may change, in FILE or in sweep.yaml itself, is what no trial depends on: more trials, confirm,
    time_budget, epoch_timeout, max_concurrent, fuse, resources, evaluation.final_metrics, claims, where the images
    are, and data.broken_images. Anything else is refused.
    """
    from raysweep.driver.profiling import Profiler
    from raysweep.review.sweep import open_sweep
    from raysweep.study.changes import listed
    from raysweep.study.status import sweep_status
    from raysweep.sweep import resume as resume_sweep
    from raysweep.sweep import wanted_spec

    at_work_on(directory)
    console = plain_console()
    before = open_sweep(directory)
    spec, changes = wanted_spec(before.directory, trials, time_budget, file, confirm)
    total = None if trials is None else spec.trials  # also for +MORE, which counts from what the sweep has now
    status = sweep_status(before.records, spec)
    if changes:
        console.print(f"{before.spec.name}  goes on with another search space:")
        console.print(listed(changes), soft_wrap=True)
    is_missing = not before.directory.spec.exists()
    if not before.running and not status.is_open:
        is_behind = before.directory.unreported.exists()
        if changes or is_missing or is_behind or before.directory.origin is not None:  # its bucket may lack something
            resume_sweep(directory, total, time_budget=time_budget, confirm=confirm, file=file, progress=None)
        if is_missing:
            console.print(f"wrote {shown(before.directory.spec)} anew, from the ledger", soft_wrap=True)
        if is_behind:
            console.print(f"wrote {shown(before.directory.report)}, which the last session could not", soft_wrap=True)
        elif changes:
            console.print(f"For the report of it, type: raysweep report {typed(directory)}", soft_wrap=True)
        ended = "its one trial has" if status.ended == 1 else f"all {status.ended} trials have"
        console.print(f"{directory}: {ended} ended; nothing is left to do.", soft_wrap=True)
        console.print(f"For ten more of them, type: raysweep resume {typed(directory)} --trials +10", soft_wrap=True)
        return
    console.print(f"{before.spec.name}  resuming: {status.ended} of {counted(spec.trials, 'trial')} done")
    with display_of(console, spec) as display, preparing(console) as progress:
        sweep = resume_sweep(
            directory, total, time_budget=time_budget, confirm=confirm, file=file, observer=display,
            progress=progress, warn=warner(console),
            profiler=Profiler.of_this_process("resume") if profile else None,
        )  # fmt: skip
    _conclude(console, sweep)


def _conclude(console: Console, sweep: Sweep) -> None:
    """Print the results of a run: the best trials, remarks, the counts, and what to type next.

    Exit with 128 + the signal's number if a signal stopped it, and with 1 if it ended without any result.
    """
    from raysweep.terminal.views import causes, finals_view, profile_lines, summary_lines, trials_view

    address = sweep.directory.address
    status = sweep.status()
    if sweep.best():
        console.print()
        console.print(trials_view(sweep.best(), sweep.spec))
    tested = [record for record in status.finalists if record.tested is not None]
    if tested:
        console.print("\nOn the test split, beside real images:")
        console.print(finals_view(tested))
    saved = f"{counted(status.epochs_saved, 'epoch')} saved by early stopping ({status.saved_share:.0%})"
    for index, remark in enumerate(sweep.remarks()):
        if index == 0:
            console.print()
        print_sentences(console, remark)
    console.print(f"\n{summary_lines(status)}; {counted(status.epochs_done, 'epoch')} trained, {saved}")
    for cause in causes(sweep.records):
        console.print(f"    {cause}", soft_wrap=True)
    if status.left:
        left = counted(status.left, "trial")
        paused = f", {len(status.paused)} of them paused" if status.paused else ""
        console.print(f"\nStopped by {sweep.stopped_by} with {left} to go{paused}. To go on, type:")
        console.print(f"    raysweep resume {typed(address)}", soft_wrap=True)
    elif status.untested:
        console.print(f"\n{counted(len(status.untested), 'finalist')} not tested yet. To go on, type:")
        console.print(f"    raysweep resume {typed(address)}", soft_wrap=True)
    for number, cause in sweep.untested.items():
        console.print(f"    trial {number} could not be tested: {cause}", soft_wrap=True)
    for index, line in enumerate(profile_lines(sweep)):
        console.print(f"{'' if index else chr(10)}{line}", soft_wrap=True)
    if sweep.best():
        console.print("\nTo look at it:")
        for line in (
            *tensorboard_lines(sweep.directory.tensorboard),
            *([f"raysweep findings {typed(address)}"] if sweep.spec.claims else []),
            f"raysweep best {typed(address)}",
            f"raysweep export {typed(address)} exported/{sweep.spec.name}",
        ):
            console.print(f"    {line}", soft_wrap=True)
    elif sweep.signal is None and sweep.stopped_by is None:
        console.print(f"\nNo trial came to a result; {shown(sweep.directory.log)} has the whole log.", soft_wrap=True)
        raise SystemExit(1)
    if sweep.signal is not None:
        raise SystemExit(128 + sweep.signal)
