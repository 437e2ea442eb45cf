"""The report of a sweep as a whole, except TensorBoard's part: Parquet, figures, findings, profile."""

from __future__ import annotations

from collections.abc import Sequence

from raysweep.records import TrialRecord, of_search
from raysweep.report.explanation.values import Explanation
from raysweep.report.figures.gallery import Figure, draw_figures
from raysweep.report.findings.decisions import decide_claims
from raysweep.report.findings.observations import SweepTables
from raysweep.report.findings.page import findings_markdown, write_findings
from raysweep.report.parquet import write_parquet
from raysweep.report.profile.page import rewrite_profile
from raysweep.report.tables import Stuck, epochs_table, trials_table
from raysweep.report.tensorboard.writer import FINDINGS_TAG, PROFILE_TAG
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory


def compose_report(
    directory: SweepDirectory, spec: SweepSpec, records: Sequence[TrialRecord], stuck: Stuck,
    critical_weight: tuple[float, float] | None, explanation: Explanation | None,
) -> tuple[list[Figure], dict[str, str]]:  # fmt: skip
    """Write the report and return its figures, and pages of Markdown by their TensorBoard tags.

    The pages are the findings, if the sweep has claims, and where the time went, if a session was profiled.

    Args:
        critical_weight: the least and the greatest KLD weight at which collapse was predicted to begin.
        explanation: why the best trial is the best, if trials have ended.

    Raises:
        StorageError: if the directory cannot be written, or is gone.
    """
    directory.require_present()
    write_parquet(directory, records, spec, stuck)
    numbers_stuck = [number for number, is_stuck in stuck.items() if is_stuck]
    figures = draw_figures(directory, spec, of_search(records), critical_weight, numbers_stuck, explanation)
    texts = {}
    if spec.claims:
        findings = decide_claims(spec.claims, [tables_for_claims(spec, records, stuck, critical_weight)])
        write_findings(directory, findings)
        texts[FINDINGS_TAG] = findings_markdown(findings)
    profile = rewrite_profile(directory)
    if profile is not None:
        figures.append(profile[0])
        texts[PROFILE_TAG] = profile[1]
    return figures, texts


def tables_for_claims(
    spec: SweepSpec, records: Sequence[TrialRecord], stuck: Stuck, critical_weight: tuple[float, float] | None
) -> SweepTables:
    """Return the trials of the search as the tables that claims are tested on.

    Confirmations are left out, because they were chosen by their outcome.
    """
    search = of_search(records)
    return SweepTables(spec, trials_table(search, spec, stuck), epochs_table(search, spec), critical_weight)
