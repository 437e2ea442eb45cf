"""A profile as a page and a figure, both made from its table and from nothing else."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import pyarrow.parquet as pq

from raysweep.profiles import DriverPart, P, Profile, SlotPart
from raysweep.report.figures.gallery import PROFILE_FIGURE, Figure, draw_profile
from raysweep.report.profile.sentences import overview, seconds_text, sentences
from raysweep.report.profile.table import profile_table, read_profile
from raysweep.storage.layout import SweepDirectory, replacing, write_atomically
from raysweep.wording import percent

_log = logging.getLogger("raysweep")


def write_profile(directory: SweepDirectory, profile: Profile) -> tuple[Figure, str]:
    """Write report/profile.parquet, report/profile.md and the figure; return the figure and the page.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    with replacing(directory.profile_parquet) as temporary:
        pq.write_table(profile_table(profile), temporary, compression="zstd")
    return _write_pages(directory, profile)


def rewrite_profile(directory: SweepDirectory) -> tuple[Figure, str] | None:
    """Write the page and the figure again from the table; return None if there is no readable table.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    if not directory.profile_parquet.exists():
        return None
    try:
        profile = read_profile(directory.profile_parquet)
    except ValueError as error:
        _log.warning("the profile is left out of the report: %s", error)
        return None
    return _write_pages(directory, profile)


def remove_profile(directory: SweepDirectory) -> None:
    """Remove the table, the page and the figure."""
    figure = directory.figures / f"{PROFILE_FIGURE}.png"
    for path in (directory.profile_parquet, directory.profile_markdown, figure):
        path.unlink(missing_ok=True)


def _write_pages(directory: SweepDirectory, profile: Profile) -> tuple[Figure, str]:
    page = profile_markdown(profile)
    write_atomically(directory.profile_markdown, page.encode())
    return draw_profile(directory, profile), page


def profile_markdown(profile: Profile) -> str:
    """Return a profile as a page: its sentences, then its two sums part by part."""
    lines = ["# Where the time went", "", overview(profile), ""]
    lines += [f"- {sentence}" for sentence in sentences(profile)]
    slots = f"{profile.slots} slot{'s' * (profile.slots != 1)}"
    if not math.isclose(profile.slot_s, profile.slots * profile.wall_s, rel_tol=1e-3):
        slots = f"at most {slots} at a time, as machines came or went"
    lines += [
        "",
        f"`raysweep {profile.command}`, typed on {profile.begun:%Y-%m-%d at %H:%M:%S} UTC; {slots}. "
        f"The page is of this session alone{_EARLIER if profile.command == 'resume' else ''}, from the typed command "
        "to the end of its report. `profile.parquet` has the same by trial and epoch.",
        "",
        "## The slots",
        "",
        f"{profile.slot_s:,.1f} slot-seconds: one passes each second for every trial that may run at once.",
        "",
        *_table(profile.of(SlotPart), "slot-seconds"),
        "",
        "## The driver",
        "",
        f"{seconds_text(profile.wall_s)}, the same time as seen by the one process that hands out trials and takes "
        "their reports.",
        "",
        *_table(profile.of(DriverPart), "seconds"),
    ]
    return "\n".join(lines) + "\n"


_EARLIER = ", not of those before it"


def _table(seconds: Mapping[P, float], unit: str) -> list[str]:
    whole = sum(seconds.values())
    rows = [f"| part | {unit} | share | what it is |", "| --- | ---: | ---: | --- |"]
    for part, value in seconds.items():
        if value > 0:
            rows.append(f"| {part.label} | {value:,.2f} | {percent(value / whole)} | {part.meaning} |")
    return [*rows, f"| **all** | {whole:,.2f} | 100% | |"]
