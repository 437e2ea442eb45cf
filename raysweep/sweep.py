"""Starting, resuming and stopping a sweep."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raysweep.backend.inline import InlineBackend
from raysweep.backend.nativelines import followed_by
from raysweep.backend.raybackend import RayBackend
from raysweep.backend.signals import stopping_on_signals
from raysweep.bucket.mirror import Mirror, mirroring
from raysweep.bucket.workingcopy import at_hand, foreign_objects, is_taken, locate, remote_of
from raysweep.confirming import most_trainings
from raysweep.data.cache import open_cache, prepare
from raysweep.driver.backends import Backend
from raysweep.driver.diskspace import free_space_fault, needed_bytes
from raysweep.driver.logfile import LogFile
from raysweep.driver.preflight import count_training_images, preflight, sized_by_images
from raysweep.driver.profiling import ProfiledSession, Profiler, profiling
from raysweep.driver.session import Observer, Session
from raysweep.errors import ArgumentError, DataUnavailable, RaysweepError, SpecError, SweepDirectoryError
from raysweep.messages import Slots
from raysweep.report.tensorboard.writer import TensorBoardWriter, rebuild
from raysweep.review.earlier import gather_past
from raysweep.review.remarks import remarks_before
from raysweep.review.sweep import Sweep, read_sweep
from raysweep.spec.defaults import settled_like, sized_like
from raysweep.spec.loading import load_spec, parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory, listed_names, shown, typed, write_atomically
from raysweep.storage.lock import locked
from raysweep.study.changes import Change, changes_between, listed, require_compatible, taken_message
from raysweep.study.description import (
    describe_sweep,
    edited_spec,
    images_checksum,
    read_description,
    read_spec,
    yaml_text,
)
from raysweep.study.ledger import Ledger
from raysweep.study.status import sweep_status
from raysweep.terminal.printing import Printing, Silence
from raysweep.vae.preflight import Preflight, Unpredictable
from raysweep.wording import counted, is_python, option, worded_for
from raysweep.worker.delivery import images_from, share_images

Progress = Callable[[int, int], None]
Warn = Callable[[str], None]
Inform = Callable[[str], None]
_log = logging.getLogger("raysweep")


@worded_for("python")
def run(
    spec: SweepSpec, output: str | os.PathLike[str] | None = None,
    *, resume: bool = False, observer: Observer | None = None, progress: Progress | bool | None = True,
    announce: Callable[[Preflight | Unpredictable], None] | None = None, inform: Inform | None = None,
    warn: Warn | None = None, source: str | None = None, profiler: Profiler | None = None,
) -> Sweep:  # fmt: skip
    """Run a new sweep to its end, on the cluster that RAY_ADDRESS names or on this machine.

    Args:
        spec: what to run, from `raysweep.load_spec`.
        output: the directory to make, or a URI such as s3://bucket/path; `results/<name>` if it is None.
        resume: continue the sweep that `output` holds, if it holds one. `spec` may then differ in what no trial depends
            on, such as more trials; a sweep that has more trials than `spec` keeps them.
        observer: is notified of each epoch and each trial's end; if it is given, nothing is printed.
        progress: True prints a line when a trial ends, and the results at the end; False prints nothing. A function is
            called with the images done and in total while the data cache is built.
        announce: is called with the prediction of collapse before anything is trained.
        inform: is called with what is taken over from each sweep of `search.start_from`, before anything is trained.
        warn: is called with what may end the sweep early.
        source: the file that `spec` came from, for messages.
        profiler: adds to the report where the time went (docs/profile.md).

    Raises:
        SpecError: if one of the sweeps to start from is missing, or says nothing about this one.
        SweepDirectoryError: if `output` holds a sweep or other files already.
        DataError: if the images cannot be obtained.
        ResourcesError: if no trial could ever start.
        StorageError: if the directory cannot be written; what was done stays, and `resume` continues it.
    """
    if not isinstance(spec, SweepSpec):
        raise ArgumentError(f"spec: must be what raysweep.load_spec returned, got {type(spec).__name__}")
    directory = locate(output if output is not None else Path("results") / spec.name)
    if resume and (directory.holds_a_sweep() if remote_of(directory) is None else is_taken(directory)):
        return _go_on_with(spec, directory.address, observer, progress, warn, profiler)
    printed = _printing(observer, progress)
    observer, announce, warn = observer or printed, announce or printed.announce, warn or printed.warn
    inform = inform or printed.inform
    with profiling(profiler):
        spec = sized_by_images(spec)
        _refuse_taken(directory, spec, source)
        backend = backend_of(spec)
        backend.require()
        printed.begin(spec)
        past = gather_past(spec, source)
        for earlier in past:
            inform(earlier.summary)
        cache = prepare(spec.data, _told_of_images(printed, progress), warn)
        prediction = preflight(spec, cache)
        if announce is not None:
            announce(prediction)
        train_images = count_training_images(spec, cache)
        for remark in remarks_before(spec, train_images, prediction):
            warn(remark)
        with _made(directory.root), backend.opened(spec, spec.trials, warn=warn):
            slots = backend.slots(spec)
            _warn_of_room(directory, spec, cache, slots, spec.trials + most_trainings(spec), warn)
            # Begin the log only once the directory is this sweep's: `mirroring` sets aside what a bucket's copy held.
            with locked(directory), mirroring(directory, new=True) as mirror, followed_by(directory.log):
                _refuse_taken(directory, spec, source)
                description = describe_sweep(
                    spec, open_cache(cache).info, slots, backend.machines(), prediction, train_images, past
                )
                write_atomically(directory.spec, yaml_text(description).encode())
                ledger = Ledger.create(directory, spec, description)
                ledger.start_from(past)
                images = backend.image_file(cache, directory.origin)
                if mirror is not None:
                    mirror.flush()  # before the first trial, so that `resume` finds whatever is trained from here on
                    share_images(mirror.remote, images)
                writer = TensorBoardWriter(directory, spec)
                session = _session(profiler, directory, spec, ledger, slots, images, writer, observer, prediction)
                session.mirror = mirror
                _drive(session, backend)
    sweep = _conclude(session, profiler)
    printed.conclude(sweep)
    return sweep


@worded_for("python")
def resume(
    location: str | os.PathLike[str], trials: int | str | None = None,
    *, time_budget: float | None = None, confirm: Mapping[str, int] | str | None = None,
    file: str | os.PathLike[str] | SweepSpec | None = None, observer: Observer | None = None,
    progress: Progress | bool | None = True, warn: Warn | None = None, profiler: Profiler | None = None,
) -> Sweep:  # fmt: skip
    """Continue a sweep: unfinished trials from their last epoch, then what is left.

    If nothing is left to do, the sweep is returned as it is. If the driver that finished it was killed before it wrote
    the report, the report is written now.

    Args:
        location: the sweep's directory or URI.
        trials: the total, or a text such as "+10" for that many more than before; replaces what `file` says.
        time_budget: seconds after which no more epochs are started; replaces what `file` says.
        confirm: which of the best trials are trained again, such as {"top": 3, "seeds": 3}, or "auto" or "none";
            replaces what `file` says.
        file: search space file, or what `raysweep.load_spec` returned; replaces the sweep's own sweep.yaml.
        observer: is notified of each epoch and each trial's end; if it is given, nothing is printed.
        progress: as for `run`.
        warn: is called with what may end the sweep early.
        profiler: adds to the report where the time of this session went, if there is anything to do.

    Raises:
        ArgumentError: if `trials` is neither a total nor such a text.
        SweepDirectoryError: if (a) there is no sweep, (b) another driver is at work on it, (c) its trials would not
            compare with those of the changed search space, or (d) its images have changed.
        LedgerError: if its journal cannot be read.
        SpecError: if `file` cannot be run.
        DataError: if the images can no longer be obtained.
        ResourcesError: if no trial could ever start.
    """
    directory = locate(location)
    if directory.origin is None:
        directory.require_sweep()
    session = None
    with profiling(profiler), locked(directory), mirroring(directory, new=False) as mirror:
        spec, changes = wanted_spec(directory, trials, time_budget, file, confirm)
        _, description = read_spec(directory)
        with _logging_to(directory.log):
            ledger = Ledger.open(directory, spec, writable=True)
        if ledger.lacks_past:  # the driver that made the sweep died before its first trial
            ledger.start_from(gather_past(spec, directory.address))
        if sweep_status(ledger.records(), spec).is_open:
            printed = _printing(observer, progress)
            printed.begin(spec, sweep_status(ledger.records(), spec).ended)
            session = _resume(
                directory, spec, description, ledger, changes, observer or printed,
                _told_of_images(printed, progress), warn or printed.warn, mirror, profiler,
            )  # fmt: skip
        else:
            if changes or not directory.spec.exists():
                _take_over(directory, spec, description, ledger, changes)
            if directory.unreported.exists():  # left by a driver that was killed before it had written the report
                read_sweep(directory, running=False).write_report()
    if session is None:
        sweep = read_sweep(directory, running=False)
        _printing(observer, progress).idle(sweep)
        return sweep
    sweep = _conclude(session, profiler)
    printed.conclude(sweep)
    return sweep


def _go_on_with(
    spec: SweepSpec, location: str, observer: Observer | None, progress: Progress | bool | None, warn: Warn | None,
    profiler: Profiler | None,
) -> Sweep:  # fmt: skip
    """Continue the sweep at `location` with `spec`; if the sweep has more trials than `spec`, it keeps them."""
    before, _ = read_spec(at_hand(location))
    trials = before.trials if before.trials > spec.trials else None
    return resume(location, trials, file=spec, observer=observer, progress=progress, warn=warn, profiler=profiler)


def _printing(observer: Observer | None, progress: Progress | bool | None) -> Printing | Silence:
    """Return what prints a sweep's progress: nothing is printed with an observer, or if `progress` is not True."""
    return Printing() if observer is None and progress is True else Silence()


def _told_of_images(printed: Printing | Silence, progress: Progress | bool | None) -> Progress | None:
    """Return the function that is called while the data cache is built."""
    return printed.images if isinstance(progress, bool) else progress


def wanted_spec(
    directory: SweepDirectory, trials: int | str | None = None, time_budget: float | None = None,
    file: str | os.PathLike[str] | SweepSpec | None = None, confirm: Mapping[str, int] | str | None = None,
) -> tuple[SweepSpec, list[Change]]:  # fmt: skip
    """Return the specification that a sweep continues with, and its differences from the last one.

    Raises:
        ArgumentError: if `trials` is neither a total nor a text such as `+10` for that many more.
        SweepDirectoryError: if trials from before and after the changes would not compare; it lists the changes.
        SpecError: if `file` has faults.
    """
    before, _ = read_spec(directory)
    if isinstance(file, SweepSpec):
        spec = file
    else:
        spec = load_spec(file) if file is not None else edited_spec(directory) or before
    if spec.unsized:
        spec = sized_like(spec, before)
    spec = settled_like(spec, before).with_confirmation(before.search.confirm).with_kept(before.evaluation.keep)
    if before.asha is not None:
        spec = spec.with_rule(promote=before.asha.promote, rejudge=before.asha.rejudge)
    total = None if trials is None else total_trials(trials, before.trials)
    if total is not None or time_budget is not None or confirm is not None:
        spec = _with_overrides(directory, before, spec, total, time_budget, confirm)
    changes = changes_between(before, spec)
    require_compatible(directory, changes)
    return spec, changes


def total_trials(trials: int | str, before: int) -> int:
    """Return a sweep's new total: `trials`, or with a plus sign that many more than `before`.

    Raises:
        ArgumentError: if `trials` is neither.
    """
    text = str(trials).strip()
    is_number = not isinstance(trials, bool) and re.fullmatch(r"\+?[0-9]{1,12}", text, re.ASCII) is not None
    if not is_number or int(text) < 1:
        raise ArgumentError(
            f"{option('trials')}: must be trials in all, such as {before + 10}, or how many more, such as "
            f"{repr('+10') if is_python() else '+10'}; got {trials!r}"
        )
    return before + int(text) if text.startswith("+") else int(text)


def _resume(
    directory: SweepDirectory, spec: SweepSpec, description: dict[str, Any], ledger: Ledger, changes: Sequence[Change],
    observer: Observer, progress: Progress | None, warn: Warn | None, mirror: Mirror | None,
    profiler: Profiler | None,
) -> Session:  # fmt: skip
    """Train what is left of a sweep that this process drives; return the finished session."""
    cache = _prepared(directory, spec, description, progress, warn)
    if open_cache(cache).info.checksum != images_checksum(directory, description):
        raise SweepDirectoryError(
            f"{directory.address}: was run on other images than {spec.data.dataset} has now; "
            "trials on the two would not compare. Bring the images back, or start a new sweep"
        )
    left = sweep_status(ledger.records(), spec).left
    backend = backend_of(spec)
    with backend.opened(spec, left, log=directory.log, warn=warn):
        slots = backend.slots(spec)
        to_confirm = most_trainings(spec) if ledger.ended < spec.trials else 0  # after the search, `left` counts them
        _warn_of_room(directory, spec, cache, slots, left + to_confirm, warn)
        _take_over(directory, spec, description, ledger, changes)
        rebuild(directory, spec, ledger.records())
        images = backend.image_file(cache, directory.origin)
        if mirror is not None:
            share_images(mirror.remote, images)
        writer = TensorBoardWriter(directory, spec, ledger.records())
        prediction = Preflight.from_mapping(description.get("preflight"))
        session = _session(profiler, directory, spec, ledger, slots, images, writer, observer, prediction)
        session.mirror = mirror
        _drive(session, backend)
    return session


def _prepared(
    directory: SweepDirectory, spec: SweepSpec, description: dict[str, Any], progress: Progress | None,
    warn: Warn | None,
) -> Path:  # fmt: skip
    """Return the images of an earlier sweep; from its bucket if this machine cannot obtain them otherwise."""
    try:
        return prepare(spec.data, progress, warn)
    except DataUnavailable:
        remote = remote_of(directory)
        checksum = images_checksum(directory, description)
        found = images_from(remote, spec.data.dataset, checksum) if remote is not None else None
        if found is None:
            raise
        return found


def _warn_of_room(
    directory: SweepDirectory, spec: SweepSpec, cache: Path, slots: Slots, trials: int, warn: Warn | None
) -> None:
    """Warn if the disk of the sweep's directory may be too small for what so many trials leave there."""
    info = open_cache(cache).info
    needed = needed_bytes(spec, (info.channels, info.height, info.width), trials, slots.trials)
    fault = free_space_fault(directory.root, needed)
    if fault is not None and warn is not None:
        warn(fault)


def _take_over(
    directory: SweepDirectory, spec: SweepSpec, description: dict[str, Any], ledger: Ledger, changes: Sequence[Change]
) -> None:
    """Write what the sweep continues with: first to sweep.yaml, then to the ledger, which decides.

    In this order, because a driver that dies between the two then leaves what looks like a file edited by hand.
    """
    described = {**description, "spec": spec.as_mapping()}
    there = read_description(directory)
    if there is None or there["spec"] != described["spec"]:
        write_atomically(directory.spec, yaml_text(described).encode())
    ledger.describe(described)
    with _logging_to(directory.log):
        if there is None:
            _log.warning("%s was missing, and is written anew from the ledger", shown(directory.spec))
        if changes:
            _log.info("the search space is another one from here on:\n%s", listed(changes))


def _with_overrides(
    directory: SweepDirectory, before: SweepSpec, spec: SweepSpec, trials: int | None, time_budget: float | None,
    confirm: Mapping[str, int] | str | None,
) -> SweepSpec:  # fmt: skip
    """Return the specification with another total, time budget or confirmation, checked like the file it came from.

    Raises:
        SweepDirectoryError: if the total is less than before, or more than a grid has.
    """
    if trials is not None and trials < before.trials:
        raise SweepDirectoryError(
            f"{directory.address}: is a sweep of {counted(before.trials, 'trial')}; a total can only grow, got "
            f"{option('trials', trials)}. For {trials} more, give {option('trials', f'+{trials}')}"
        )
    try:
        overrides = {"trials": trials, "time_budget": time_budget, "confirm": confirm}
        return parse_spec(yaml_text(spec.as_mapping()), overrides=overrides)
    except SpecError as error:
        faults = "; ".join(fault.message for fault in error.faults)
        wanted = counted(trials, "trial") if trials is not None else f"a time budget of {time_budget} s"
        if confirm is not None:
            wanted = f"search.confirm: {confirm}"
        raise SweepDirectoryError(f"{directory.address}: cannot have {wanted}: {faults}") from None


@contextmanager
def _made(root: Path) -> Iterator[None]:
    """Make a directory and its missing parents for a block; then remove those that are empty.

    Raises:
        SweepDirectoryError: if it cannot be made.
    """
    missing = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SweepDirectoryError(
            f"{shown(root)}: cannot be made: {error.strerror}; give another directory with {option('output')}"
        ) from None
    try:
        yield
    finally:
        for path in missing:
            if path.is_dir() and not any(path.iterdir()):  # it may have been moved away meanwhile
                path.rmdir()


def _session(profiler: Profiler | None, *arguments: Any) -> Session:
    return Session(*arguments) if profiler is None else ProfiledSession(profiler, *arguments)


def backend_of(spec: SweepSpec) -> Backend:
    """Return the backend that trains the trials of a sweep: `resources.backend`."""
    return InlineBackend() if spec.resources.backend == "inline" else RayBackend()


def _drive(session: Session, backend: Backend) -> None:
    """Train what remains, test the finalists and write the report; a signal causes a clean stop."""
    with _logging_to(session.directory.log), stopping_on_signals(session):
        write_atomically(session.directory.unreported, b"", durable=False)
        try:
            if session.remaining:
                backend.train(session)
            backend.test(session)
        except Exception:  # unforeseen: write the report of what was done, then raise it again
            _close(session)
            raise
        # A second signal skips the report: `raysweep report` or the next session then writes it from the ledger.
        _close(session)
    if session.failure is not None:
        raise session.failure


def _close(session: Session) -> None:
    try:
        session.close()
    except RaysweepError as error:
        session.stop("an error", error)


def _conclude(session: Session, profiler: Profiler | None) -> Sweep:
    sweep = read_sweep(session.directory, running=False)
    sweep.stopped_by, sweep.signal, sweep.untested = session.stopped_by, session.signal, session.untested
    sweep.profile = profiler.profile if profiler is not None else None
    return sweep


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send the log messages of raysweep and its libraries to the sweep's log file, and nowhere else."""
    handler = LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("raysweep", "ray", "optuna", "matplotlib", "py.warnings")]
    kept = [(logger, logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, handlers, propagate, level in kept:
            logger.handlers[:] = handlers
            logger.propagate = propagate
            logger.setLevel(level)
        handler.close()


def _refuse_taken(directory: SweepDirectory, spec: SweepSpec, source: str | None) -> None:
    root, name = directory.root, directory.address
    if remote_of(directory) is not None:
        if not is_taken(directory):
            foreign = foreign_objects(directory)
            if foreign:
                raise SweepDirectoryError(_occupied(name, spec, source, foreign))
            return
        at_hand(name)
    if directory.holds_a_sweep():
        try:
            before, _ = read_spec(directory)
        except RaysweepError as error:
            raise SweepDirectoryError(
                f"{name}: holds a sweep already, which cannot be read: {error}\n"
                f"For a new one, give another directory with {option('output')}, or move {name} away"
            ) from error
        if before.asha is not None:
            spec = spec.with_rule(promote=before.asha.promote, rejudge=before.asha.rejudge)
        spec = settled_like(spec, before).with_confirmation(before.search.confirm).with_kept(before.evaluation.keep)
        raise SweepDirectoryError(taken_message(directory, before, spec, source))
    if root.exists() and not root.is_dir():
        raise SweepDirectoryError(f"{name}: is a file; give another directory with {option('output')}")
    foreign = directory.foreign_entries()
    if foreign:
        raise SweepDirectoryError(_occupied(name, spec, source, foreign))


def _occupied(name: str, spec: SweepSpec, source: str | None, foreign: Sequence[str]) -> str:
    """Return the message that a new sweep's directory holds other files, with what to type."""
    place, mark, options = name.partition("?") if "://" in name else (name, "", "")
    inside = f"{place.rstrip('/')}/{spec.name}{mark}{options}"
    command = f"type: raysweep run {typed(source) if source else 'FILE'} --output {typed(inside)}"
    return (
        f"{name}: is not empty, it holds {listed_names(foreign)}; a sweep has a directory of its own. For one inside, "
        f"{'give ' + option('output', inside) if is_python() else command}"
    )
