"""Where the time went, as a table, a page and a figure."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raysweep.profiles import EPOCH, IDLE, DriverPart, Profile, SlotPart, Spent
from raysweep.report.figures.marks import STYLE
from raysweep.report.figures.timebars import BANDS, MAX_BARS, time_bars
from raysweep.report.profile.page import profile_markdown, remove_profile, rewrite_profile, write_profile
from raysweep.report.profile.sentences import overview, seconds_text, sentences
from raysweep.report.profile.table import PROFILE_COLUMNS, profile_table, read_profile
from raysweep.report.tables import Column
from raysweep.report.tensorboard.writer import PROFILE_TAG, rebuild
from raysweep.storage.layout import SweepDirectory

BEGUN = datetime(2026, 11, 21, 12, 30, 5, tzinfo=UTC)
DOCS = Path(__file__).parents[3] / "docs" / "profile.md"


def profile(*spent: Spent, driver: dict[DriverPart, float] | None = None, slots: int = 2) -> Profile:
    seconds = {DriverPart.WAITING: 40.0, DriverPart.RAY: 5.0, DriverPart.COMMAND: 2.0} if driver is None else driver
    return Profile("run", BEGUN, slots, [*spent, *(Spent(part, value) for part, value in seconds.items())])


def epochs(trial: int, count: int, **seconds: float) -> list[Spent]:
    """So many epochs of a trial, each with these seconds by part."""
    return [
        Spent(SlotPart(part), value, trial, epoch)  # type: ignore[call-arg]
        for epoch in range(1, count + 1)
        for part, value in seconds.items()
    ]


STEADY = epochs(0, 10, forward=1.0, backward=2.0, optimiser=0.5, data=0.1, evaluation=0.3, checkpoint=0.05)


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STYLE, "savefig.dpi", 50)


SECONDS = st.floats(0, 1e6)
ROWS = st.one_of(
    st.builds(
        Spent,
        st.sampled_from(SlotPart),
        SECONDS,
        st.none() | st.integers(0, 9999),
        st.none() | st.integers(1, 2**31 - 1),
    ),
    st.builds(Spent, st.sampled_from(DriverPart), SECONDS),
)
PROFILES = st.builds(
    Profile,
    st.sampled_from(["run", "resume"]),
    st.just(BEGUN),
    st.integers(0, 64),
    st.lists(ROWS, max_size=8).map(tuple),
)


@settings(deadline=None)  # a busy machine is no failure
@given(PROFILES)
def test_a_profile_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, made: Profile) -> None:
    path = tmp_path_factory.mktemp("profile") / "profile.parquet"
    pq.write_table(profile_table(made), path)
    assert read_profile(path) == made


def test_the_table_answers_in_sql_and_its_two_scopes_are_the_two_sums(tmp_path: Path) -> None:
    directory = SweepDirectory(tmp_path)
    made = profile(*STEADY, Spent(SlotPart.START_UP, 12.0))
    write_profile(directory, made)
    found = dict(duckdb.sql(f"SELECT scope, sum(seconds) FROM '{directory.profile_parquet}' GROUP BY scope").fetchall())
    assert found == {"slots": pytest.approx(made.slot_s), "driver": pytest.approx(made.wall_s)}
    assert made.slot_s == pytest.approx(39.5 + 12.0)
    slowest = duckdb.sql(
        f"SELECT trial, epoch FROM '{directory.profile_parquet}' WHERE part = 'checkpoint' ORDER BY epoch LIMIT 1"
    )
    assert slowest.fetchall() == [(0, 1)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop_columns(["epoch"]), "its columns are not scope, trial, epoch, part, seconds"),
        (lambda table: table.replace_schema_metadata({}), "it is not of schema version 1"),
        (
            lambda table: table.replace_schema_metadata(
                {**table.schema.metadata, b"raysweep.profile": b'{"command": "rm", "begun": "2026-11-21", "slots": 1}'}
            ),
            "its session is none",
        ),
        (lambda table: table.set_column(4, table.schema.field(4), [[math.nan] * len(table)]), "took nan seconds"),
        (lambda table: table.set_column(4, table.schema.field(4), [[-1.0] * len(table)]), "took -1.0 seconds"),
        (lambda table: table.set_column(3, table.schema.field(3), [["tea"] * len(table)]), "holds no profile: 'tea'"),
    ],
)
def test_what_is_no_profile_is_refused_with_the_reason(tmp_path: Path, change, said: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "profile.parquet"
    pq.write_table(change(profile_table(profile(*STEADY))), path)
    with pytest.raises(ValueError, match=re.escape(said)):
        read_profile(path)


def test_a_damaged_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.parquet"
    with pytest.raises(ValueError, match="No such file"):
        read_profile(path)
    path.write_bytes(b"PAR1" * 8)
    with pytest.raises(ValueError, match="holds no profile"):
        read_profile(path)


def test_the_page_has_every_part_that_took_time_and_both_sums() -> None:
    spent = [Spent(part, 2.0, 3, 1 if part in EPOCH else None) for part in SlotPart if part not in IDLE]
    idle = [Spent(part, 3.0) for part in IDLE]
    page = profile_markdown(profile(*spent, *idle, driver=dict.fromkeys(DriverPart, 1.5)))
    slots, driver = page.split("## The slots")[1].split("## The driver")
    for part in SlotPart:
        assert f"| {part.label} | {3.0 if part in IDLE else 2.0:.2f} |" in slots
    for part in DriverPart:
        assert f"| {part.label} | 1.50 | 8% | {part.meaning} |" in driver
    assert f"| **all** | {2.0 * len(spent) + 15.0:.2f} | 100% | |" in slots
    assert f"| **all** | {1.5 * len(DriverPart):.2f} | 100% | |" in driver


def test_parts_that_took_none_are_left_out_of_the_page() -> None:
    page = profile_markdown(profile(*STEADY))
    assert "training: forward" in page
    assert "waiting for the bucket" not in page


def test_a_resumed_session_says_that_it_speaks_of_itself_alone() -> None:
    run, resumed = (Profile(command, BEGUN, 1, STEADY) for command in ("run", "resume"))
    assert "typed on 2026-11-21 at 12:30:05 UTC" in profile_markdown(run)
    assert "alone, not of those before it" in profile_markdown(resumed)
    assert "not of those before it" not in profile_markdown(run)


def test_slots_that_came_and_went_are_not_said_to_have_been_there_all_the_time() -> None:
    steady = profile(Spent(SlotPart.START_UP, 94.0))
    assert "UTC; 2 slots." in profile_markdown(steady)
    assert "UTC; at most 2 slots at a time" in profile_markdown(profile(Spent(SlotPart.START_UP, 60.0)))


def test_what_took_most_is_said_first_with_what_it_depends_on() -> None:
    made = profile(*STEADY, *epochs(1, 10, forward=0.2, checkpoint=3.0), Spent(SlotPart.START_UP, 14.0))
    assert overview(made) == "Of the time of 2 slots over 47.0 s, training had 44% and evaluation 4%; 16% was idle."
    checkpoints, start_up = sentences(made)
    assert checkpoints.startswith(
        "Checkpoints took 36% of the slots' time, 1.5 s an epoch beside 1.9 s of training. There is one after every "
    )
    assert start_up == (
        "The slots stood idle 16% of the time before the first trial: start-up took 7.0 s; importing and starting Ray "
        "took 5.0 s and Python, its imports and reading the file took 2.0 s. It is paid once a session."
    )


@pytest.mark.parametrize("part", [part for part in SlotPart if part.value not in ("forward", "backward", "optimiser")])
def test_every_part_that_is_no_training_step_has_a_sentence_if_it_is_large(part: SlotPart) -> None:
    trial = None if part in IDLE else 0
    large = profile(*STEADY, Spent(part, 100.0, trial, 1 if part in EPOCH else None))
    first = sentences(large)[0]
    assert re.search(r"\d\d%", first), first
    assert first.endswith(".")
    share = 0.005 if part is SlotPart.UNACCOUNTED else 0.02
    small = [one for one in STEADY if one.part is not part]
    slight = Spent(part, share * sum(one.seconds for one in small), trial, 1 if part in EPOCH else None)
    assert first.split()[0:3] not in [said.split()[0:3] for said in sentences(profile(*small, slight))]


def test_a_driver_that_never_waits_is_named_as_what_trials_wait_for() -> None:
    busy = {DriverPart.LEDGER: 30.0, DriverPart.LOOP: 15.0, DriverPart.WAITING: 5.0}
    said = sentences(profile(*STEADY, driver=busy))[-1]
    assert said.startswith("While trials ran, the driver was at work 90% of its time: it is what trials wait for.")
    assert not any("wait for" in text for text in sentences(profile(*STEADY)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "less than 1 ms"), (0.0449, "45 ms"), (0.9994, "999 ms"), (0.9996, "1.0 s"), (8.24, "8.2 s"),
        (99.9, "99.9 s"), (100.2, "1m 40s"), (187.0, "3m 07s"), (3599.7, "1h 00m"), (7500.0, "2h 05m"),
    ],
)  # fmt: skip
def test_seconds_are_written_as_one_says_them(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_every_part_has_one_colour() -> None:
    for part in (*SlotPart, *DriverPart):
        assert sum(part in band.parts for band in BANDS) == 1, part


@pytest.mark.parametrize("trials", [0, 1, MAX_BARS + 20])
def test_the_figure_is_drawn_of_no_trial_of_one_and_of_many(trials: int) -> None:
    spent = [one for number in range(trials) for one in epochs(3 * number, 2, forward=1.0, checkpoint=0.2)]
    drawn = time_bars("profile", profile(Spent(SlotPart.START_UP, 6.0), *spent))
    assert drawn.png.startswith(b"\x89PNG")
    assert drawn.title.startswith("Where the time went: training ")


def test_page_and_figure_are_made_again_from_the_table_alone(tmp_path: Path) -> None:
    directory = SweepDirectory(tmp_path)
    figure, page = write_profile(directory, profile(*STEADY))
    assert directory.profile_markdown.read_text() == page
    with Image.open(figure.path) as picture:
        assert min(picture.size) > 75
    directory.profile_markdown.unlink()
    figure.path.unlink()
    assert rewrite_profile(directory) == (figure, page)
    assert directory.profile_markdown.read_text() == page
    remove_profile(directory)
    assert rewrite_profile(directory) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_damaged_table_is_left_out_of_the_report_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = SweepDirectory(tmp_path)
    write_profile(directory, profile(*STEADY))
    directory.profile_parquet.write_bytes(b"PAR1PAR1PAR1")
    assert rewrite_profile(directory) is None
    assert "the profile is left out of the report" in caplog.text


def test_tensorboard_has_the_figure_and_the_page(tmp_path: Path, spec, sweep_records) -> None:  # type: ignore[no-untyped-def]
    directory = SweepDirectory(tmp_path)
    figure, page = write_profile(directory, profile(*STEADY))
    rebuild(directory, spec, sweep_records, [figure], {PROFILE_TAG: page})
    run = EventAccumulator(str(directory.tensorboard / "sweep"))
    run.Reload()
    assert {"figures/profile", PROFILE_TAG} <= set(run.Tags()["tensors"])
    assert run.Tensors(PROFILE_TAG)[0].tensor_proto.string_val[0].decode() == page


def rows_of(text: str, heading: str) -> list[str]:
    return [line for line in text.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines() if line.startswith("| `")]


def test_the_page_of_the_docs_says_of_every_part_and_column_what_the_code_says() -> None:
    text = DOCS.read_text()
    assert rows_of(text, "The slots' parts") == [f"| `{part}` | {part.meaning} |" for part in SlotPart]
    assert rows_of(text, "The driver's parts") == [f"| `{part}` | {part.meaning} |" for part in DriverPart]

    def row(column: Column) -> str:
        null = "yes" if column.nullable else "no"
        return f"| `{column.name}` | {column.type} | {column.unit} | {null} | {column.meaning} |"

    assert rows_of(text, "profile.parquet") == [row(column) for column in PROFILE_COLUMNS]
