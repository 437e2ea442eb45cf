"""A sweep that is there already, running or ended: its tables, its best trials, its models. Starts no Ray."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep.claims import Claim
from raysweep.clock import timed
from raysweep.errors import CheckpointError, SweepDirectoryError
from raysweep.layout import SweepDirectory, typed, write_atomically
from raysweep.profiles import DriverPart, Profile
from raysweep.records import TrialRecord, ranked
from raysweep.search.description import read_spec
from raysweep.search.driving import is_driven
from raysweep.search.lease import holder
from raysweep.search.ledger import Ledger
from raysweep.search.status import SweepStatus, sweep_status
from raysweep.search.workingcopy import (
    at_hand,
    fetch_checkpoints,
    fetch_pictures,
    fetch_profile,
    remote_of,
    send_report,
)
from raysweep.spec import SweepSpec
from raysweep.vae.preflight import Preflight

if TYPE_CHECKING:
    import pyarrow as pa

    from raysweep.report.figures.gallery import Figure
    from raysweep.report.findings.decisions import Finding


class Sweep:
    """One sweep as its ledger has it at the moment it was opened."""

    def __init__(
        self, directory: SweepDirectory, spec: SweepSpec, records: list[TrialRecord], running: bool,
        prediction: Preflight | None = None,
    ) -> None:  # fmt: skip
        self.directory = directory
        self.spec = spec
        self.records = records
        self.running = running
        """Whether a driver is at work on it."""
        self.prediction = prediction
        """At which KLD weight collapse was predicted before the sweep, if it was."""
        self.stopped_by: str | None = None
        """What ended the run that returned this before all was done, if anything did."""
        self.untested: dict[int, str] = {}
        """Finalists that the run which returned this could not test, and why."""
        self.signal: int | None = None
        """Number of the signal, if it was one."""
        self.profile: Profile | None = None
        """Where the time of the run that returned this went, if it was profiled."""

    def trials(self) -> pa.Table:
        """One row a trial, with the columns of report/trials.parquet (docs/schema.md)."""
        from raysweep.report.tables import trials_table

        return trials_table(self.records, self.spec)

    def epochs(self) -> pa.Table:
        """One row an epoch of a trial, with the columns of report/epochs.parquet (docs/schema.md)."""
        from raysweep.report.tables import epochs_table

        return epochs_table(self.records, self.spec)

    def best(self) -> list[TrialRecord]:
        """The trials by the objective, the best first; those that ran to their end before those that did not."""
        return ranked(self.records, self.spec.search.objective.metric)

    def status(self) -> SweepStatus:
        return sweep_status(self.records, self.spec)

    def findings(self, *others: Sweep, claims: Sequence[Claim] | None = None) -> list[Finding]:
        """The verdicts on the claims of this sweep, and of others put together with it; docs/findings.md.

        Args:
            claims: to be tested in place of those of the sweeps' own search space files.

        Raises:
            SweepDirectoryError: if there are no claims, or the sweeps make different claims of one name.
        """
        from raysweep.report.findings.decisions import decide_claims
        from raysweep.report.findings.observations import SweepTables

        sweeps = (self, *others)
        claims = _claims_of(sweeps) if claims is None else claims
        tables = []
        for sweep in sweeps:
            critical = sweep.prediction.critical_weight if sweep.prediction else None
            tables.append(SweepTables(sweep.spec, sweep.trials(), sweep.epochs(), critical))
        return decide_claims(claims, tables)

    def write_findings(self, findings: Sequence[Finding]) -> list[Path]:
        """Writes report/findings.md and report/findings.parquet; their paths."""
        from raysweep.report.findings.page import write_findings

        self.directory.refuse_foreign()
        write_findings(self.directory, findings)
        written = [self.directory.findings_markdown, self.directory.findings_parquet]
        send_report(self.directory, only=written)
        return written

    @timed(DriverPart.REPORT)
    def write_pages(self) -> tuple[list[Figure], dict[str, str]]:
        """Writes all of the report but TensorBoard's part; the figures, and pages of Markdown by their tags.

        The pages are the findings, if the sweep has claims, and where the time went, if a session was profiled.

        Raises:
            StorageError: if the directory cannot be written.
        """
        from raysweep.report.figures.gallery import draw_figures
        from raysweep.report.findings.page import findings_markdown, write_findings
        from raysweep.report.parquet import write_parquet
        from raysweep.report.profile.page import rewrite_profile
        from raysweep.report.tensorboard.writer import FINDINGS_TAG, PROFILE_TAG

        self.directory.require_present()
        write_parquet(self.directory, self.records, self.spec)
        collapse = self.prediction.critical_weight if self.prediction else None
        figures = draw_figures(self.directory, self.spec, self.records, collapse)
        texts = {}
        if self.spec.claims:
            findings = self.findings()
            write_findings(self.directory, findings)
            texts[FINDINGS_TAG] = findings_markdown(findings)
        profile = rewrite_profile(self.directory)
        if profile is not None:
            figures.append(profile[0])
            texts[PROFILE_TAG] = profile[1]
        return figures, texts

    def write_report(self) -> list[Path]:
        """Writes the whole report anew from the ledger and the trials' own files; its paths.

        Raises:
            SweepDirectoryError: if a driver is at work, which writes the report itself, or a link leads elsewhere.
            StorageError: if the directory cannot be written.
        """
        from raysweep.report.tensorboard.writer import FINDINGS_TAG, PROFILE_TAG, rebuild

        if self.running:
            raise SweepDirectoryError(f"{self.directory.address}: is running and writes its report itself")
        self.directory.refuse_foreign()
        remote = remote_of(self.directory)
        if remote is not None:
            fetch_pictures(self.directory, remote)
            fetch_profile(self.directory, remote)
        write_atomically(self.directory.unreported, b"", durable=False)
        figures, texts = self.write_pages()
        rebuild(self.directory, self.spec, self.records, figures, texts)
        self.directory.unreported.unlink(missing_ok=True)
        send_report(self.directory)
        written = [self.directory.trials_parquet, self.directory.epochs_parquet, *(figure.path for figure in figures)]
        if FINDINGS_TAG in texts:
            written += [self.directory.findings_markdown, self.directory.findings_parquet]
        if PROFILE_TAG in texts:
            written.append(self.directory.profile_markdown)
        return [*written, self.directory.tensorboard]

    def export(self, out: str | os.PathLike[str], trial: int | None = None) -> TrialRecord:
        """Writes a trial's model, the best one's if `trial` is None, as a folder for `raysweep.load_model`.

        Raises:
            CheckpointError: if the trial has no checkpoint, or `out` is not empty.
            SweepDirectoryError: if there is no such trial.
        """
        from raysweep.vae.export import export_model

        if trial is None:
            best = self.best()
            if not best:
                raise CheckpointError(
                    f"{self.directory.address}: no trial has a result yet, so there is no model to export"
                )
            record = best[0]
        else:
            found = [record for record in self.records if record.number == trial]
            if not found:
                raise SweepDirectoryError(
                    f"{self.directory.address}: has no trial {trial}; it has trials 0 to {len(self.records) - 1}"
                )
            record = found[0]
        remote = remote_of(self.directory)
        if remote is not None and not is_driven(self.directory):
            fetch_checkpoints(self.directory, remote, record.number)
        origin = {"sweep": self.spec.name, "trial": record.number, "state": record.state.value}
        export_model(
            self.directory.trial(record.number), Path(out), origin | {"data": self.spec.data.model_dump(mode="json")}
        )
        return record


def _claims_of(sweeps: Sequence[Sweep]) -> list[Claim]:
    """The claims of all sweeps, each name once."""
    found: dict[str, tuple[Claim, Sweep]] = {}
    for sweep in sweeps:
        for claim in sweep.spec.claims:
            before, owner = found.setdefault(claim.name, (claim, sweep))
            if before != claim:
                raise SweepDirectoryError(
                    f"{sweep.directory.address}: its claim {claim.name} is another one than that of "
                    f"{owner.directory.address}; name the file whose claims are meant: --claims FILE"
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
            f"and type: raysweep findings {commands} --claims FILE\n"
            "docs/findings.md has all the tests."
        )
    return [claim for claim, _ in found.values()]


def strict_json(value: Any) -> Any:
    """`value` with null in the place of numbers that JSON does not have: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def open_sweep(location: str | os.PathLike[str]) -> Sweep:
    """The sweep in a directory or at a URI, running or ended.

    Raises:
        SweepDirectoryError: if there is none.
        LedgerError: if its journal cannot be read.
        StorageError: if the bucket it is in does not answer.
    """
    directory = at_hand(location)
    remote = remote_of(directory)
    return read_sweep(directory, is_driven(directory) or (remote is not None and holder(remote) is not None))


def read_sweep(directory: SweepDirectory, running: bool) -> Sweep:
    """The sweep in a directory of this machine, be it the copy of one in a bucket as it was fetched last.

    Raises:
        SweepDirectoryError: if its description cannot be read.
        LedgerError: if its journal cannot be read.
    """
    spec, description = read_spec(directory)
    ledger = Ledger.open(directory, spec, writable=False, running=running)
    return Sweep(directory, spec, ledger.records(), running, Preflight.from_mapping(description.get("preflight")))
