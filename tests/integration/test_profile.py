"""Profiled sweeps on real Ray."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import raysweep
from raysweep.cli import main
from raysweep.driver.profiling import Profiler
from raysweep.profiles import EPOCH, DriverPart, SlotPart, Spent
from raysweep.report.profile.table import read_profile
from raysweep.review.sweep import Sweep
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from tests.integration.conftest import TINY
from tests.integration.outcomes import curves

pytestmark = [
    pytest.mark.usefixtures("ray_here"),
    # Ray leaves sockets and subprocess handles to the garbage collector
    pytest.mark.filterwarnings("default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"),
]
NOT_IN_A_SOUND_SWEEP = {SlotPart.LOST, SlotPart.BUCKET, SlotPart.MACHINE, SlotPart.TESTS, SlotPart.BETWEEN}
"""Or only if something takes its time by chance."""
NOT_IN_THIS_DRIVER = {DriverPart.BUCKET, DriverPart.TERMINAL}
DOCS = Path(raysweep.__file__).parents[1] / "docs" / "profile.md"


@pytest.fixture(scope="module")
def one_at_a_time(ray_here: None) -> SweepSpec:
    text = TINY.replace("trials: 5", "trials: 4\n  max_concurrent: 1")
    return parse_spec(text.replace("final_metrics: none", "final_metrics: best 1, images: 50, importance_samples: 2"))


@pytest.fixture(scope="module")
def profiled(one_at_a_time: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return raysweep.run(one_at_a_time, tmp_path_factory.mktemp("profiled") / "sweep", profiler=Profiler(age_s=0.5))


def test_a_profiled_sweep_has_the_metrics_of_one_that_is_not(
    profiled: Sweep, one_at_a_time: SweepSpec, tmp_path: Path
) -> None:
    plain = raysweep.run(one_at_a_time, tmp_path / "plain")
    assert plain.profile is None
    assert not plain.directory.profile_parquet.exists()
    assert curves(profiled).equals(curves(plain))
    timed = ["images_per_s", "best_images_per_s", "epoch_s", "best_epoch_s", "train_s", "test_measured_s",
             "started_at", "ended_at"]  # fmt: skip
    assert profiled.trials().drop_columns(timed).equals(plain.trials().drop_columns(timed))


def test_every_part_is_there_and_all_add_up_to_the_whole(profiled: Sweep) -> None:
    profile = profiled.profile
    assert profile is not None
    slots, driver = profile.of(SlotPart), profile.of(DriverPart)
    assert {part for part in SlotPart if slots[part] == 0} <= NOT_IN_A_SOUND_SWEEP
    assert {part for part in DriverPart if driver[part] == 0} <= NOT_IN_THIS_DRIVER
    assert profile.slot_s == pytest.approx(profile.slots * profile.wall_s, rel=1e-3)
    assert slots[SlotPart.UNACCOUNTED] < 0.1 * profile.slot_s
    assert driver[DriverPart.UNACCOUNTED] < 0.1 * profile.wall_s


def test_each_epoch_has_its_parts_and_they_are_no_longer_than_it_was(profiled: Sweep) -> None:
    assert profiled.profile is not None
    found: dict[tuple[int | None, int | None], list[Spent]] = {}
    for spent in profiled.profile.spent:
        if spent.epoch is not None:
            found.setdefault((spent.trial, spent.epoch), []).append(spent)
    epochs = [(record.number, epoch.metrics) for record in profiled.records for epoch in record.epochs]
    assert sorted(found) == [(number, metrics.epoch) for number, metrics in epochs]
    for number, metrics in epochs:
        seconds = {spent.part: spent.seconds for spent in found[number, metrics.epoch]}
        assert set(EPOCH) - set(seconds) <= {SlotPart.BUCKET}
        within = (SlotPart.DATA, SlotPart.FORWARD, SlotPart.BACKWARD, SlotPart.OPTIMISER, SlotPart.EVALUATION)
        assert sum(seconds[part] for part in within) <= metrics.epoch_s


def test_the_profile_is_in_the_report_and_made_again_by_report(profiled: Sweep) -> None:
    directory = profiled.directory
    assert read_profile(directory.profile_parquet) == profiled.profile
    page = directory.profile_markdown.read_text()
    for path in (directory.profile_markdown, directory.figures / "profile.png"):
        assert path.stat().st_size > 500
        path.unlink()
    result = CliRunner().invoke(main, ["report", str(directory.root)])
    assert "profile.md" in result.stdout
    assert directory.profile_markdown.read_text() == page
    run = EventAccumulator(str(directory.tensorboard / "sweep"))
    run.Reload()
    assert {"figures/profile", "profile"} <= set(run.Tags()["tensors"])


def test_the_queries_of_the_docs_answer(profiled: Sweep) -> None:
    queries = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), flags=re.S)[0].split(";\n")
    shares, steps = (
        duckdb.sql(query.replace("results/kld", str(profiled.directory.root))).fetchall()
        for query in queries
        if query.strip()
    )
    assert sum(share for _, share in shares) == pytest.approx(1)
    assert [row[0] for row in steps] == [record.number for record in profiled.records]


def test_a_resumed_session_has_a_profile_of_its_own_and_the_terminal_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY.replace("trials: 5", "trials: 1"))
    first = CliRunner().invoke(main, ["run", "tiny.yaml", "--profile", "--output", "out"])
    assert first.exit_code == 0, first.output
    said = re.search(r"\nOf the time of \d slots? over .*\n.*\nout/report/profile\.md has the rest\.\n", first.stdout)
    assert said, first.stdout
    before = raysweep.open_sweep("out")
    assert before.profile is None, "it is of the run that returned it"
    second = CliRunner().invoke(main, ["resume", "out", "--trials", "2", "--profile"])
    assert second.exit_code == 0, second.output
    profile = read_profile(before.directory.profile_parquet)
    assert profile.command == "resume"
    assert list(profile.trials()) == [1]
    assert "not of those before it" in before.directory.profile_markdown.read_text()
    again = CliRunner().invoke(main, ["resume", "out", "--trials", "3"])
    assert "Of the time" not in again.stdout
    assert read_profile(before.directory.profile_parquet) == profile, "a session without one leaves it as it is"
