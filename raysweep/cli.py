"""The command line: it parses, calls and prints. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from raysweep import __version__
from raysweep.errors import RaysweepError
from raysweep.layout import shown, typed
from raysweep.search.stopping import interrupting

if TYPE_CHECKING:
    from rich.console import Console

    from raysweep.search.review import Sweep
    from raysweep.spec import SweepSpec
    from raysweep.vae.preflight import Preflight, Unpredictable

PLAIN_WIDTH = 160
PROFILE_HELP = "Write where the time went into the report (docs/profile.md)."
P = ParamSpec("P")
R = TypeVar("R")


def _reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turns raysweep's own errors into their message and exit code: the one place that does."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with interrupting():
                return command(*args, **kwargs)
        except RaysweepError as error:
            click.echo(str(error), err=True)
            raise SystemExit(error.exit_code) from error
        except KeyboardInterrupt as stop:
            number = getattr(stop, "number", signal.SIGINT)
            click.echo(
                "stopped at once; if a sweep had begun, raysweep status DIR says what is done, raysweep resume DIR "
                "goes on, and raysweep report DIR writes the report", err=True,
            )  # fmt: skip
            raise SystemExit(128 + number) from None

    return wrapped


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from raysweep.spec import parse_duration

        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)
        if not seconds > 0:
            self.fail("must be more than nothing", param, ctx)
        return float(seconds)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="raysweep")
def main() -> None:
    """Hyperparameter search for convolutional VAEs on Ray.

    \b
    raysweep check search_spaces/kld.yaml       what would run, without running it
    raysweep run search_spaces/kld.yaml         run it, here or on the cluster that RAY_ADDRESS names
    tensorboard --logdir results/kld/report     look at it
    """


@main.command()
@click.argument("file", type=click.Path())
@click.option(
    "--output",
    type=click.Path(),
    metavar="DIR",
    help="Directory of the results, or s3://bucket/path.  [default: results/<name>]",
)
@click.option("--trials", type=click.IntRange(min=1), metavar="N", help="Trials in all, in place of the file's number.")
@click.option("--max-concurrent", type=click.IntRange(min=1), metavar="N", help="Most trials at once.")
@click.option("--time-budget", type=_Duration(), metavar="TIME", help="Stop after this long: 90s, 45m, 2h or 1h30m.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", help="Seed of the sampler.")
@click.option("--profile", is_flag=True, help=PROFILE_HELP)
@_reports_errors
def run(
    file: str, output: str | None, trials: int | None, max_concurrent: int | None, time_budget: float | None,
    seed: int | None, profile: bool,
) -> None:  # fmt: skip
    """Run the sweep that the search space FILE describes.

    It runs on the Ray cluster that RAY_ADDRESS names, else on this machine. Ctrl-C stops it cleanly: trials keep their
    last epoch, and `raysweep resume` goes on.
    """
    from raysweep.loading import load_spec

    overrides = {"trials": trials, "max_concurrent": max_concurrent, "time_budget": time_budget, "seed": seed}
    spec = load_spec(file, overrides)

    from raysweep.search.profiling import Profiler
    from raysweep.search.sweep import run as run_sweep
    from raysweep.search.views import what_runs
    from raysweep.vae.preflight import summary

    console = _console()
    console.print(f"{spec.name}  {what_runs(spec)}")

    def announce(prediction: Preflight | Unpredictable) -> None:
        console.print(f"collapse {summary(prediction, spec.trial)[0]}", soft_wrap=True)

    with _display(console) as display, _preparing(console) as progress:
        sweep = run_sweep(
            spec, output, observer=display, progress=progress, announce=announce, warn=_warner(console), source=file,
            profiler=Profiler.of_this_process("run") if profile else None,
        )  # fmt: skip
    _conclude(console, sweep)


@main.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--trials", type=click.IntRange(min=1), metavar="TOTAL", help="Trials in all, if there are to be more.")
@click.option("--time-budget", type=_Duration(), metavar="TIME", help="Stop after this long: 90s, 45m, 2h or 1h30m.")
@click.option(
    "--file", type=click.Path(), metavar="FILE",
    help="Search space file to go on with; how it differs from what the sweep was run with is shown.",
)  # fmt: skip
@click.option("--profile", is_flag=True, help=PROFILE_HELP)
@_reports_errors
def resume(directory: str, trials: int | None, time_budget: float | None, file: str | None, profile: bool) -> None:
    """Go on with the sweep in DIR: unfinished trials from their last epoch, then those not started yet.

    What may change, in FILE or in sweep.yaml itself, is what no trial depends on: more trials, time_budget,
    epoch_timeout, max_concurrent, resources, evaluation.final_metrics, claims, and where the images are. Anything else
    is refused.
    """
    from raysweep.search.changes import listed
    from raysweep.search.profiling import Profiler
    from raysweep.search.review import open_sweep
    from raysweep.search.status import sweep_status
    from raysweep.search.sweep import resume as resume_sweep
    from raysweep.search.sweep import wanted_spec

    console = _console()
    before = open_sweep(directory)
    spec, changes = wanted_spec(before.directory, trials, time_budget, file)
    status = sweep_status(before.records, spec)
    if changes:
        console.print(f"{before.spec.name}  goes on with another search space:")
        console.print(listed(changes), soft_wrap=True)
    is_missing = not before.directory.spec.exists()
    if not before.running and not status.is_open:
        is_behind = before.directory.unreported.exists()
        if changes or is_missing or is_behind or before.directory.origin is not None:  # its bucket may lack something
            resume_sweep(directory, trials, time_budget=time_budget, file=file)
        if is_missing:
            console.print(f"wrote {shown(before.directory.spec)} anew, from the ledger", soft_wrap=True)
        if is_behind:
            console.print(f"wrote {shown(before.directory.report)}, which the last session could not", soft_wrap=True)
        elif changes:
            console.print(f"For the report of it, type: raysweep report {typed(directory)}", soft_wrap=True)
        console.print(f"{directory}: all {status.ended} trials have ended; nothing is left to do.", soft_wrap=True)
        console.print(f"For more of them, type: raysweep resume {typed(directory)} --trials TOTAL", soft_wrap=True)
        return
    console.print(f"{before.spec.name}  resuming: {status.ended} of {spec.trials} trials done")
    with _display(console) as display, _preparing(console) as progress:
        sweep = resume_sweep(
            directory, trials, time_budget=time_budget, file=file, observer=display, progress=progress,
            warn=_warner(console), profiler=Profiler.of_this_process("resume") if profile else None,
        )  # fmt: skip
    _conclude(console, sweep)


@main.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@_reports_errors
def status(directory: str) -> None:
    """Show where the sweep in DIR stands."""
    from raysweep.search.review import open_sweep
    from raysweep.search.views import (
        causes,
        count_text,
        finals_view,
        params_text,
        summary_lines,
        trials_view,
        value_text,
    )

    sweep = open_sweep(directory)
    state = sweep.status()
    console = _console()
    standing = "running" if sweep.running else "stopped" if state.is_open else "finished"
    console.print(f"{sweep.spec.name}  {standing}, {state.ended} of {state.trials} trials ended")
    console.print(f"trials   {summary_lines(state)}")
    saved = f"{state.epochs_saved} saved by early stopping ({state.saved_share:.0%})"
    console.print(f"epochs   {state.epochs_done} trained, {saved}")
    if state.ended >= state.trials and state.finalists:
        done = len(state.finalists) - len(state.untested)
        console.print(f"tested   {done} of {count_text(len(state.finalists), 'finalist')}")
    for record in state.running:
        result = (
            value_text(getattr(record.final, sweep.spec.search.objective.metric)) if record.final else "no result yet"
        )
        epochs = f"epoch {len(record.epochs)}/{record.config.epochs}"
        console.print(
            f"running  trial {record.number}, {epochs}: {result}  {params_text(record.params)}", soft_wrap=True
        )
    for cause in causes(sweep.records):
        console.print(f"causes   {cause}", soft_wrap=True)
    if sweep.best():
        console.print()
        console.print(trials_view(sweep.best(), sweep.spec))
    if len(state.untested) < len(state.finalists):
        console.print("\nOn the test split, beside real images:")
        console.print(finals_view(state.finalists))
    if not sweep.running and sweep.directory.unreported.exists():
        console.print(f"\nThe report is behind. To write it, type: raysweep report {typed(directory)}", soft_wrap=True)
    if standing == "stopped":
        console.print(f"\nTo go on, type: raysweep resume {typed(directory)}", soft_wrap=True)


@main.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="A table of the best ten, or the best one with its configuration and metrics.",
)  # fmt: skip
@_reports_errors
def best(directory: str, form: str) -> None:
    """Show the best trials of the sweep in DIR, or the best one as JSON."""
    import dataclasses

    from raysweep.errors import SweepDirectoryError
    from raysweep.search.review import open_sweep, strict_json
    from raysweep.search.views import trials_view

    sweep = open_sweep(directory)
    ranking = sweep.best()
    if not ranking:
        raise SweepDirectoryError(
            f"{directory}: no trial has a result yet; raysweep status {typed(directory)} says why"
        )
    if form == "table":
        _console().print(trials_view(ranking, sweep.spec, limit=10))
        return
    record = ranking[0]
    assert record.final is not None
    answer = {
        "sweep": sweep.spec.name,
        "trial": record.number,
        "state": record.state.value,
        "objective": sweep.spec.search.objective.metric,
        "params": record.params,
        "config": record.config.model_dump(mode="json"),
        "metrics": dataclasses.asdict(record.final),
        "checkpoints": _checkpoints_of(sweep, record.number),
    }
    click.echo(json.dumps(strict_json(answer), indent=2))


@main.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@_reports_errors
def report(directory: str) -> None:
    """Write the report of the sweep in DIR anew, from its ledger and its trials."""
    from raysweep.search.review import open_sweep

    sweep = open_sweep(directory)
    for path in sweep.write_report():
        click.echo(f"wrote {shown(path)}")
    if sweep.directory.origin is not None:
        click.echo(f"\nand sent it to {sweep.directory.origin}. To look at it, type:")
        click.echo(f"    tensorboard --logdir {typed(sweep.directory.report)}")


@main.command()
@click.argument("directories", metavar="DIR...", type=click.Path(), nargs=-1, required=True)
@click.option(
    "--claims", "file", type=click.Path(), metavar="FILE",
    help="Search space file whose claims are tested, in place of those that the sweeps were run with.",
)  # fmt: skip
@_reports_errors
def findings(directories: tuple[str, ...], file: str | None) -> None:
    """Decide the claims that a search space file makes of the sweep in DIR.

    A claim holds, is refuted, depends on the convention, or cannot be decided here, with the figures that say so.
    Several sweeps are put together as one. The page and the table go to the report of the first DIR.
    """
    import shutil

    from raysweep.errors import Fault, SpecError
    from raysweep.loading import load_spec
    from raysweep.report.findings.page import findings_text
    from raysweep.search.review import open_sweep

    claims = None
    if file is not None:
        claims = load_spec(file).claims
        if not claims:
            raise SpecError(file, [Fault(0, "claims", "is missing; docs/findings.md says how to write one")])
    sweeps = [open_sweep(directory) for directory in directories]
    found = sweeps[0].findings(*sweeps[1:], claims=claims)
    written = sweeps[0].write_findings(found)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH
    click.echo(findings_text(found, min(width, PLAIN_WIDTH)))
    click.echo()
    for path in written:
        click.echo(f"wrote {shown(path)}")


@main.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.argument("out", metavar="OUT", type=click.Path())
@click.option("--trial", type=click.IntRange(min=0), metavar="N", help="Number of the trial.  [default: the best one]")
@_reports_errors
def export(directory: str, out: str, trial: int | None) -> None:
    """Write the model of a trial of the sweep in DIR as a folder OUT that needs nothing else."""
    from raysweep.search.review import open_sweep

    record = open_sweep(directory).export(out, trial)
    click.echo(f"wrote trial {record.number} to {out}. To use it:\n")
    click.echo(f'    import raysweep\n    model = raysweep.load_model("{out}")')


@main.command()
@click.argument("file", type=click.Path())
@_reports_errors
def check(file: str) -> None:
    """Say what the search space FILE would run, without running it.

    Also at which KLD weight models are predicted to collapse, if the images are on this machine: it prepares them as
    `run` would.
    """
    from raysweep.loading import load_spec

    spec = load_spec(file)

    from raysweep.data.cache import describe
    from raysweep.search.views import plan_view

    console = _console()
    description = describe(spec.data)
    slots, where = _slots(spec)
    console.print(f"{file}: sound", soft_wrap=True)
    collapse = _predicted_collapse(console, spec, description.is_present)
    console.print(plan_view(spec, description, collapse, slots, where))
    console.print(f"\nTo run it, type: raysweep run {typed(file)}", soft_wrap=True)


@main.group()
def cluster() -> None:
    """The files that describe a cluster."""


@cluster.command("check")
@click.argument("file", type=click.Path())
@_reports_errors
def check_cluster(file: str) -> None:
    """Say what is missing in a cluster FILE, before money is spent.

    FILE is one of `ray up` (AWS, Google Cloud, Azure, machines of one's own), a RayJob of Kubernetes, or a batch script
    of Slurm. It is looked at here: without a network, without credentials, and without starting anything.
    """
    from raysweep.cluster.check import check_cluster_file

    checked = check_cluster_file(file)
    click.echo(f"{file}: nothing is missing")
    for reminder in checked.reminders:
        click.echo(f"  remember: {reminder}")


@main.group()
def data() -> None:
    """The data caches on this machine."""


@data.command("list")
@_reports_errors
def list_data() -> None:
    """List the data sets there are, and the caches built of them."""
    from raysweep.data.cache import cache_directory, cached_files
    from raysweep.spec import BUNDLED

    click.echo(
        f"data sets    bundled: {', '.join(BUNDLED)}; fetched or from data.root: mnist, fashion_mnist, cifar10, folder"
    )
    click.echo(f"caches in    {cache_directory()}")
    for file in cached_files():
        size = f"{file.cache_bytes / 1e6:,.1f} MB"
        if file.info is None:
            click.echo(f"  {file.path.name}  {size}  {file.fault}")
        else:
            info = file.info
            shape = f"{info.channels}x{info.height}x{info.width}"
            click.echo(f"  {file.path.name}  {size}  {info.count:,} images of {shape} from {info.origin}")


@data.command()
@click.argument("name", metavar="NAME_OR_FILE")
@click.option("--root", type=click.Path(), metavar="DIR", help="Directory of the raw files.")
@click.option(
    "--image-size", type=int, metavar="PIXELS", default=32, show_default=True,
    help="Height and width after preprocessing.",
)  # fmt: skip
@_reports_errors
def prepare(name: str, root: str | None, image_size: int) -> None:
    """Build the cache of a data set, or of the one a search space file names, before a sweep needs it."""
    from raysweep.data.cache import open_cache
    from raysweep.data.cache import prepare as prepare_cache
    from raysweep.loading import load_spec, parse_data

    if name.endswith((".yaml", ".yml")):
        spec = load_spec(name).data
    else:
        spec = parse_data({"dataset": name, "root": root, "image_size": image_size}, f"raysweep data prepare {name}")
    with _preparing(_console()) as progress:
        path = prepare_cache(spec, progress)
    info = open_cache(path).info
    click.echo(f"{info.count:,} images of {info.channels}x{info.height}x{info.width} from {info.origin}\n{path}")


def _warner(console: Console) -> Callable[[str], None]:
    return lambda warning: console.print(f"warning  {warning}", soft_wrap=True, markup=False)


def _slots(spec: SweepSpec) -> tuple[Any, str]:
    """What a trial takes and how many fit, and on what."""
    import os

    from raysweep.search.autoscaling import slots_of
    from raysweep.search.resources import cluster_nodes, connected, fit, local_nodes

    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return fit(spec, local_nodes()), "this machine"
    with connected():
        nodes = cluster_nodes()
        count = "1 machine" if len(nodes) == 1 else f"{len(nodes)} machines"
        return slots_of(spec), f"the cluster at {address} ({count})"


def _predicted_collapse(console: Console, spec: SweepSpec, is_present: bool) -> tuple[str, ...]:
    """At which KLD weight models are predicted to collapse; builds the data cache if the images are on this machine."""
    from raysweep.data.cache import prepare as prepare_cache
    from raysweep.errors import StorageError
    from raysweep.search.preflight import preflight
    from raysweep.vae.preflight import Unpredictable, summary, unpredictable

    prediction: Preflight | Unpredictable | None = unpredictable(spec.trial)
    if prediction is None and is_present:
        try:
            with _preparing(console) as progress:
                prediction = preflight(spec, prepare_cache(spec.data, progress))
        except StorageError as error:  # a file is no less sound for the disk of the machine that checks it
            prediction = Unpredictable(str(error))
    return summary(prediction or Unpredictable("the images are not on this machine yet"), spec.trial)


def _conclude(console: Console, sweep: Sweep) -> None:
    """What came of a run: the best trials, the counts, what to type next.

    Exits with 128 + the signal's number if one stopped it, with 1 if no trial came to a result.
    """
    from raysweep.search.views import causes, count_text, finals_view, profile_lines, summary_lines, trials_view

    address = sweep.directory.address
    status = sweep.status()
    if sweep.best():
        console.print()
        console.print(trials_view(sweep.best(), sweep.spec))
    tested = [record for record in status.finalists if record.tested is not None]
    if tested:
        console.print("\nOn the test split, beside real images:")
        console.print(finals_view(tested))
    saved = f"{status.epochs_saved} epochs saved by early stopping ({status.saved_share:.0%})"
    console.print(f"\n{summary_lines(status)}; {status.epochs_done} epochs trained, {saved}")
    for cause in causes(sweep.records):
        console.print(f"    {cause}", soft_wrap=True)
    if status.ended < status.trials:
        left = status.trials - status.ended
        console.print(f"\nStopped by {sweep.stopped_by} with {left} trials to go. To go on, type:")
        console.print(f"    raysweep resume {typed(address)}", soft_wrap=True)
    elif status.untested:
        console.print(f"\n{count_text(len(status.untested), 'finalist')} not tested yet. To go on, type:")
        console.print(f"    raysweep resume {typed(address)}", soft_wrap=True)
    for number, cause in sweep.untested.items():
        console.print(f"    trial {number} could not be tested: {cause}", soft_wrap=True)
    for index, line in enumerate(profile_lines(sweep)):
        console.print(f"{'' if index else chr(10)}{line}", soft_wrap=True)
    if sweep.best():
        console.print("\nTo look at it:")
        for line in (
            f"tensorboard --logdir {typed(sweep.directory.report)}",
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


def _checkpoints_of(sweep: Sweep, number: int) -> str:
    place, origin = sweep.directory.trial(number), sweep.directory.origin
    return str(place) if origin is None else f"{origin}/{place.relative_to(sweep.directory.root)}"


def _console() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(width=width, markup=False, highlight=False)


def _display(console: Console) -> Any:
    from raysweep.search.progress import LiveDisplay, PlainDisplay

    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


@contextmanager
def _preparing(console: Console) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar that shows itself only while a data cache is built."""
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(TextColumn("data cache"), BarColumn(), MofNCompleteColumn(), console=console, transient=True)
    task = bar.add_task("", total=None)

    def progress(done: int, total: int) -> None:
        if done < total:
            bar.start()
        bar.update(task, completed=done, total=total)
        if done >= total:
            bar.stop()

    try:
        yield progress
    finally:
        bar.stop()


if __name__ == "__main__":
    main()
