"""An existing sweep, running or ended: its tables, its best trials, its models. Starts no Ray."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from copy import copy
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep.bucket.lease import holder
from raysweep.bucket.workingcopy import (
    at_hand,
    fetch_checkpoints,
    fetch_pictures,
    fetch_profile,
    remote_of,
    send_report,
)
from raysweep.driver.queue import Queue
from raysweep.errors import ArgumentError, CheckpointError, SweepDirectoryError
from raysweep.metrics import FINAL_METRICS
from raysweep.profiles import Profile
from raysweep.records import TrialRecord, ranked
from raysweep.review.ranking import Ranking, checked_metric, loss_note, rank_sweeps
from raysweep.spec.claims import Claim
from raysweep.spec.sections import Objective, SweepSpec
from raysweep.storage.layout import SweepDirectory, shown, typed, write_atomically
from raysweep.storage.lock import has_driver
from raysweep.storage.remote import local_path, to_copy
from raysweep.study.description import read_spec
from raysweep.study.ledger import Ledger
from raysweep.study.status import SweepStatus, remaining_seconds, sweep_status
from raysweep.vae.plateau import stuck_trials
from raysweep.vae.preflight import Preflight
from raysweep.wording import counted, is_python, option, to_type, worded_for

if TYPE_CHECKING:
    import pyarrow as pa

    from raysweep.report.explanation.values import Explanation
    from raysweep.report.findings.decisions import Finding


class Sweep:
    """One sweep, as its ledger was at the moment when it was opened."""

    def __init__(
        self, directory: SweepDirectory, spec: SweepSpec, records: list[TrialRecord], running: bool,
        prediction: Preflight | None = None,
    ) -> None:  # fmt: skip
        self.directory = directory
        self.spec = spec
        self.records = records
        self.kept_by = spec.kept_by
        """By which metric the kept epoch of a trial is the best, from the objective that the sweep was run with."""
        self.running = running
        """True if a driver is at work on it."""
        self.prediction = prediction
        """At which KLD weight collapse was predicted before the sweep, if it was."""
        self.train_images: int | None = None
        """Images that each trial learns from; None for sweeps of raysweep 0.1, which did not record it."""
        self.spans: Any = None
        """The values by which images of more than 8 bits were scaled, as in sweep.yaml; None without such images."""
        self.stopped_by: str | None = None
        """What stopped the run that returned this before all was done, if anything did."""
        self.untested: dict[int, str] = {}
        """Finalists that the run which returned this could not test, and why."""
        self.signal: int | None = None
        """Number of the signal, if a signal stopped it."""
        self.profile: Profile | None = None
        """How the run that returned this spent its time, if it was profiled."""

    def trials(self) -> pa.Table:
        """Return a table with a row per trial and the columns of report/trials.parquet (docs/schema.md)."""
        from raysweep.report.tables import trials_table

        return trials_table(self.records, self.spec, self.stuck)

    def epochs(self) -> pa.Table:
        """Return a table with a row per epoch of a trial and the columns of report/epochs.parquet (docs/schema.md)."""
        from raysweep.report.tables import epochs_table

        return epochs_table(self.records, self.spec)

    @cached_property
    def stuck(self) -> dict[int, bool | None]:
        """True for trials that never left the plateau at the mean image (docs/metrics.md); None if that is unknown."""
        return stuck_trials(self.records, self.prediction)

    @property
    def _critical_weight(self) -> tuple[float, float] | None:
        return None if self.prediction is None else self.prediction.critical_weight

    @property
    def name(self) -> str:
        """The sweep's name, from its search space file."""
        return self.spec.name

    @property
    def objective(self) -> str:
        """The name of the metric that trials are compared by."""
        return self.spec.search.objective.metric

    @property
    def standing(self) -> str:
        """State of the sweep: `running`, `stopped` before all was done, or `finished`."""
        return "running" if self.running else "stopped" if self.status().is_open else "finished"

    @worded_for("python")
    def best(self, metric: str | None = None) -> list[TrialRecord]:
        """Return the trials with a result, the best first; those that ran to their end come before others.

        Args:
            metric: what they are ranked by: a metric of the last epoch, or a `test_...` metric of the test split. None
                means the objective.

        Raises:
            ArgumentError: if there is no such metric, or neither less nor more of it is better.
        """
        return ranked(self.records, self.objective if metric is None else checked_metric(metric))

    @worded_for("python")
    def ranking(self, *others: Sweep, metric: str | None = None) -> Ranking:
        """Rank the trials of this sweep and of others together; see `raysweep.review.ranking.rank_sweeps`."""
        return rank_sweeps((self, *others), metric)

    @worded_for("python")
    def why(self, metric: str | None = None) -> Explanation:
        """Return why the best trial is the best: each parameter's importance, and what a model of the trials expects.

        Args:
            metric: what trials are compared by, a metric of every epoch; None means the objective.

        Raises:
            ArgumentError: if there is no such metric, only finalists have it, or it contains what is searched.
            SweepDirectoryError: if no trial has a result.
        """
        from raysweep.search.explaining.explain import explain  # it imports scipy, which takes a second

        sweep = self if metric in (None, self.objective) else self._compared_by(str(metric), "metric")
        rank_sweeps([sweep])  # raises an error with the reason if there is nothing to explain
        found = explain(sweep.spec, sweep.records)
        assert found is not None
        return found

    @worded_for("python")
    def trial(self, number: int) -> TrialRecord:
        """Return a trial by its number.

        Raises:
            SweepDirectoryError: if there is no such trial.
        """
        found = [record for record in self.records if record.number == number]
        if not found:
            last = len(self.records) - 1
            has = "no trial has started" if last < 0 else f"it has trials 0 to {last}" if last else "it has trial 0"
            raise SweepDirectoryError(f"{self.directory.address}: has no trial {number}; {has}")
        return found[0]

    def status(self) -> SweepStatus:
        """Return the status of the sweep."""
        return sweep_status(self.records, self.spec)

    def remarks(self) -> list[str]:
        """Return what the tables do not say about the trials, one text for each remark: docs/remarks.md."""
        from raysweep.review.remarks import remarks_after

        finalists, address = self.status().finalists, typed(self.directory.address)
        return remarks_after(self.spec, self.records, finalists, self.prediction, self.train_images, address)

    def elapsed_s(self) -> float | None:
        """Return the seconds since the first trial's start; None before it.

        If no driver is at work, count to the last event. The time between two sessions counts, too.
        """
        started = [record.started_at for record in self.records if record.started_at]
        if not started:
            return None
        news = [epoch.recorded_at for record in self.records for epoch in record.epochs[-1:]]
        news += [record.ended_at for record in self.records if record.ended_at]
        until = datetime.now(UTC) if self.running else max([*started, *news])
        return max(0.0, (until - min(started)).total_seconds())

    def left_s(self) -> float | None:
        """Estimate the seconds that the trials still take from the epochs so far; None if that is impossible.

        It is impossible before the first epoch, and while no driver is at work on a sweep that is not finished.
        """
        status = self.status()
        if not self.running:
            return None if status.is_open else 0.0
        at_once = max(1, len(status.running))
        return remaining_seconds(self.records, self.spec, at_once)

    def place_of(self, record: TrialRecord) -> str:
        """Return where a trial's checkpoints and pictures are: a directory, or its address in the sweep's bucket."""
        place, origin = self.directory.trial(record.number), self.directory.origin
        return str(place) if origin is None else f"{origin}/{place.relative_to(self.directory.root)}"

    def files_of(self, record: TrialRecord) -> dict[str, list[str]]:
        """Return the paths of a trial's `checkpoints`, the newest first, its `pictures`, and its `strips`.

        A strip is a row of reconstructions after an epoch. For a sweep in a bucket, only the local copy is searched.
        """
        place = self.directory.trial(record.number)
        checkpoints = sorted(place.glob("epoch-*.safetensors"), reverse=True)
        strips = sorted((place / "epochs").glob("*.png"))
        return {
            "checkpoints": [shown(path) for path in checkpoints],
            "pictures": [shown(path) for path in sorted(place.glob("*.png"))],
            "strips": [shown(path) for path in strips],
        }

    def __repr__(self) -> str:
        """Return the name, the directory and the status on one line."""
        status = self.status()
        best = ""
        if status.best is not None:
            best = f", best trial {status.best.number} with {self.objective} {status.best.last(self.objective):.5g}"
        counts = f"{status.ended} of {counted(status.trials, 'trial')} ended"
        return f"<sweep {self.name} in {self.directory.address}: {self.standing}, {counts}{best}>"

    def _repr_html_(self) -> str:
        """Return HTML for a notebook: the line of `repr`, and a table of the best ten trials."""
        searched = list(self.spec.trial.searched)
        heads = ["trial", "state", "epochs_done", self.objective, *searched]
        rows: list[list[Any]] = [
            [record.number, record.state.value, record.epochs_done, f"{record.last(self.objective):.5g}"]
            + [f"{v:.4g}" if isinstance(v, float) else v for v in map(record.params.get, searched)]
            for record in self.best()[:10]
        ]
        head = "".join(f"<th>{escape(name)}</th>" for name in heads)
        body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
        return f"<p>{escape(repr(self)[1:-1])}</p>{table}"

    @worded_for("python")
    def by_objective(self, metric: str) -> Sweep:
        """Return the same sweep as if its trials were compared by another metric; the ledger does not change.

        Every metric is measured in every epoch, so any of them can rank the existing trials. But the objective that the
        sweep was run with decided which trials exist, and for how long they were trained.

        Raises:
            ArgumentError: if the metric is not a metric of an epoch, or contains what the sweep searches.
        """
        return self._compared_by(metric, "objective")

    def _compared_by(self, metric: str, argument: str) -> Sweep:
        """Implement `by_objective`; `argument` names the argument that gave the metric."""
        checked_metric(metric)
        if metric in FINAL_METRICS:
            best = to_type("best", self.directory.address, metric=metric)
            raise ArgumentError(
                f"{option(argument, metric)}: is measured once, of finalists alone; an objective is a metric of "
                f"every epoch. To rank finalists by it, type: {f'sweep.best({metric!r})' if is_python() else best}"
            )
        note = loss_note(self.spec, metric)
        if note is not None:
            raise ArgumentError(f"{option(argument, metric)}: {note}. Use elbo_nats, bits_per_dim or psnr_db")
        # The objective of the run decided what is confirmed, and which checkpoints are kept.
        search = self.spec.search.model_copy(update={"objective": Objective(metric=metric), "confirm": None})
        spec = self.spec.model_copy(update={"search": search})
        other = copy(self)
        other.spec = spec
        return other

    @worded_for("python")
    def findings(self, *others: Sweep, claims: Sequence[Claim] | None = None) -> list[Finding]:
        """Return the verdicts on the claims of this sweep, together with other sweeps; see docs/findings.md.

        Args:
            claims: tested instead of those in the sweeps' own search space files.

        Raises:
            SweepDirectoryError: if there are no claims, or the sweeps make different claims with the same name.
        """
        from raysweep.report.composition import tables_for_claims
        from raysweep.report.findings.decisions import decide_claims

        sweeps = (self, *others)
        claims = _claims_of(sweeps) if claims is None else claims
        return decide_claims(
            claims, [tables_for_claims(s.spec, s.records, s.stuck, s._critical_weight) for s in sweeps]
        )

    def write_findings(self, findings: Sequence[Finding]) -> list[Path]:
        """Write report/findings.md and report/findings.parquet, and return their paths."""
        from raysweep.report.findings.page import write_findings

        self.directory.refuse_foreign()
        write_findings(self.directory, findings)
        written = [self.directory.findings_markdown, self.directory.findings_parquet]
        send_report(self.directory, only=written)
        return written

    def write_report(self) -> list[Path]:
        """Write the whole report again from the ledger and the trials' own files; return its paths.

        `sweep.by_objective("psnr_db").write_report()` writes it by another metric.

        Raises:
            SweepDirectoryError: if a driver is at work (it writes the report itself), or a link leads elsewhere.
            StorageError: if the directory cannot be written.
        """
        from raysweep.report.composition import compose_report
        from raysweep.report.tensorboard.writer import FINDINGS_TAG, PROFILE_TAG, rebuild
        from raysweep.search.explaining.explain import explain

        if self.running:
            raise SweepDirectoryError(f"{self.directory.address}: is running and writes its report itself")
        self.directory.refuse_foreign()
        remote = remote_of(self.directory)
        if remote is not None:
            fetch_pictures(self.directory, remote)
            fetch_profile(self.directory, remote)
        write_atomically(self.directory.unreported, b"", durable=False)
        explanation = explain(self.spec, self.records)
        figures, texts = compose_report(
            self.directory, self.spec, self.records, self.stuck, self._critical_weight, explanation
        )
        rebuild(self.directory, self.spec, self.records, figures, texts)
        self.directory.unreported.unlink(missing_ok=True)
        send_report(self.directory)
        written = [self.directory.trials_parquet, self.directory.epochs_parquet, *(figure.path for figure in figures)]
        if FINDINGS_TAG in texts:
            written += [self.directory.findings_markdown, self.directory.findings_parquet]
        if PROFILE_TAG in texts:
            written.append(self.directory.profile_markdown)
        return [*written, self.directory.tensorboard]

    @worded_for("python")
    def export(self, out: str | os.PathLike[str], trial: int | None = None) -> TrialRecord:
        """Write a trial's model as a folder for `raysweep.load_model`; None means the best trial.

        Raises:
            ArgumentError: if `out` is the address of a bucket.
            CheckpointError: if the trial has no checkpoint, or `out` is not empty.
            SweepDirectoryError: if there is no such trial.
        """
        from raysweep.vae.export import export_model

        folder = local_path(out, "a model is written to a folder of this machine", self._export_to(out, trial))
        if trial is None:
            best = self.best()
            if not best:
                raise CheckpointError(
                    f"{self.directory.address}: no trial has a result yet, so there is no model to export"
                )
            record = best[0]
        else:
            record = self.trial(trial)
        remote = remote_of(self.directory)
        if remote is not None and not has_driver(self.directory):
            fetch_checkpoints(self.directory, remote, record.number)
        data = self.spec.data.model_dump(mode="json")
        if self.spans is not None:
            data["spans"] = self.spans
        origin = {"sweep": self.spec.name, "trial": record.number, "state": record.state.value, "data": data}
        export_model(self.directory.trial(record.number), folder, origin, self.kept_by)
        return record

    def _export_to(self, address: str | os.PathLike[str], trial: int | None) -> str:
        """Say how to get a model to the address of a bucket."""
        folder = f"exported/{self.spec.name}"
        if is_python():
            first = f"sweep.export({folder!r}{'' if trial is None else f', {trial}'})"
        else:
            first = to_type("export", self.directory.address, folder, trial=trial)
        return f"first type: {first}. Then {to_copy(folder, os.fspath(address))}"


def _claims_of(sweeps: Sequence[Sweep]) -> list[Claim]:
    """Return the claims of all sweeps, each name once."""
    found: dict[str, tuple[Claim, Sweep]] = {}
    for sweep in sweeps:
        for claim in sweep.spec.claims:
            before, owner = found.setdefault(claim.name, (claim, sweep))
            if before != claim:
                raise SweepDirectoryError(
                    f"{sweep.directory.address}: its claim {claim.name} is another one than that of "
                    f"{owner.directory.address}; name the file whose claims are meant: {_claims_option()}"
                )
    if not found:
        commands = " ".join(typed(sweep.directory.address) for sweep in sweeps)
        places = " and ".join(sweep.directory.address for sweep in sweeps)
        raise SweepDirectoryError(
            f"{places}: no claims were made. Add some to a search space file, for example\n\n"
            "    claims:\n"
            "      - name: rate_is_not_negative\n"
            "        statement: The KL divergence is never negative.\n"
            "        test: always\n"
            "        condition: rate_nats >= 0\n"
            "        each: epoch\n\n"
            f"and type: {_call_of_findings() if is_python() else f'raysweep findings {commands} --claims FILE'}\n"
            "docs/findings.md has all the tests."
        )
    return [claim for claim, _ in found.values()]


def _claims_option() -> str:
    return 'claims=raysweep.load_spec("FILE").claims' if is_python() else "--claims FILE"


def _call_of_findings() -> str:
    return f"sweep.findings({_claims_option()})"


def strict_json(value: Any) -> Any:
    """Return `value` with null instead of numbers that JSON does not have: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@worded_for("python")
def open_sweep(location: str | os.PathLike[str]) -> Sweep:
    """Return the sweep in a directory or at a URI, running or ended.

    Raises:
        SweepDirectoryError: if there is none.
        LedgerError: if its journal cannot be read.
        StorageError: if the bucket it is in does not answer.
    """
    directory = at_hand(location)
    remote = remote_of(directory)
    return read_sweep(directory, has_driver(directory) or (remote is not None and holder(remote) is not None))


def read_sweep(directory: SweepDirectory, running: bool) -> Sweep:
    """Return the sweep in a directory of this machine, which may be a bucket's last fetched copy.

    Raises:
        SweepDirectoryError: if its description cannot be read.
        LedgerError: if its journal cannot be read.
    """
    spec, description = read_spec(directory)
    ledger = Ledger.open(directory, spec, writable=False, running=running)
    if running:
        # A trial that was sent on from a rung has a process, or will soon, although no epoch of it shows this yet.
        for number in Queue(ledger, spec).sent_on():
            ledger.go_on(number)
    sweep = Sweep(directory, spec, ledger.records(), running, Preflight.from_mapping(description.get("preflight")))
    data = description.get("data")
    train_images = data.get("train_images") if isinstance(data, dict) else None
    sweep.train_images = train_images if isinstance(train_images, int) and train_images > 0 else None
    sweep.spans = data.get("spans") if isinstance(data, dict) else None
    return sweep
