"""Sweeps in a bucket, on a real S3 server: nothing of one is lost with its driver, its machine or the way to it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import raysweep
from raysweep.bucket import mirror
from raysweep.bucket.workingcopy import checkpoint_epoch
from raysweep.driver.session import Session
from raysweep.errors import StorageError
from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.spec.sections import SweepSpec
from raysweep.storage.remote import RemoteDirectory
from tests.chaos.processes import actors, kill, left_after, marked
from tests.integration.conftest import TINY, call_raysweep, start_raysweep
from tests.integration.outcomes import StopsAfter, curves, outcomes
from tests.s3server import Wire, s3_server

ASHA = "early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


def on(server: str, machine: Path) -> dict[str, str]:
    """The environment of a machine that has a cache directory, and so working copies, of its own."""
    return {"AWS_ENDPOINT_URL": server, "AWS_DEFAULT_REGION": "us-east-1", "RAYSWEEP_CACHE": str(machine)}


def wait_for_epoch(there: RemoteDirectory, trial: str, epoch: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not any((checkpoint_epoch(name) or 0) >= epoch for name in there.list(f"trials/{trial}")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.1)


def test_a_sweep_goes_on_elsewhere_when_its_driver_and_its_machine_are_gone(tmp_path: Path, server: str) -> None:
    """Points of a random sampler depend on the trial's number alone, so the undisturbed sweep is the same one."""
    text = TINY.replace("tiny", "long").replace("d_size: 4", "d_size: 4\n  epochs: 24").replace(ASHA, "sampler: random")
    (tmp_path / "long.yaml").write_text(text.replace("trials: 5", "trials: 2"))
    uri = "s3://bucket/my sweeps/Größe 1"
    here, elsewhere, laptop = (on(server, tmp_path / name) for name in ("here", "elsewhere", "laptop"))
    there = RemoteDirectory.at(f"{uri}?endpoint_override={server}&region=us-east-1")
    process = start_raysweep("run", "long.yaml", "--output", uri, cwd=tmp_path, **here)
    wait_for_epoch(there, "0000", 5, process)
    machine = ("RAYSWEEP_CACHE", here["RAYSWEEP_CACHE"])
    for pid in actors(*machine):
        os.kill(pid, signal.SIGSTOP)  # the sweep waits while others look at it

    second = call_raysweep("resume", uri, cwd=tmp_path, **elsewhere)
    assert second.returncode == 2
    assert f"{uri}: another driver is at work here, process {process.pid} on " in second.stderr
    taken = call_raysweep("run", "long.yaml", "--output", uri, cwd=tmp_path, **elsewhere)
    assert taken.returncode == 2
    assert (
        f"holds a sweep already, run with this very search space. To go on with it, type: raysweep resume '{uri}'"
        in taken.stderr
    )
    assert call_raysweep("status", uri, cwd=tmp_path, **laptop).stdout.startswith("long  running, ")

    for pid in marked(*machine):
        kill(pid)
    process.communicate()
    assert not left_after(*machine, seconds=10)
    shutil.rmtree(tmp_path / "here")
    stopped = call_raysweep("status", uri, cwd=tmp_path, **laptop).stdout
    assert stopped.startswith("long  stopped, ")
    assert f"To go on, type: raysweep resume '{uri}'" in stopped
    saved = {trial: max(map(checkpoint_epoch_of, there.list(trial)), default=0) for trial in trials_in(there)}
    assert max(saved.values()) >= 5

    resumed = call_raysweep("resume", uri, cwd=tmp_path, **elsewhere)
    assert resumed.returncode == 0, resumed.stderr
    assert f"raysweep best '{uri}'" in resumed.stdout
    undisturbed = call_raysweep("run", "long.yaml", cwd=tmp_path, **elsewhere)
    assert undisturbed.returncode == 0, undisturbed.stderr
    (copy,) = (tmp_path / "elsewhere/sweeps").iterdir()
    expected = raysweep.open_sweep(tmp_path / "results/long")
    found = raysweep.open_sweep(copy)
    assert [record.state for record in found.records] == [TrialState.COMPLETED] * 2
    assert curves(found).equals(curves(expected))
    log = found.directory.log.read_text()
    again = re.findall(r"has (\d+) epochs, .* (?:of epoch (\d+)|is none); what lies between is trained again", log)
    assert log.count("is trained again") == len(again) <= len(saved)
    assert all(int(told) - int(kept or 0) == 1 for told, kept in again), "at most the checkpoint that was on its way"

    objects = there.list()
    assert ".driver.json" not in objects
    best = [record.best("elbo_nats") for record in found.records]
    assert {name for name in objects if checkpoint_epoch(name)} == {
        f"trials/{trial:04d}/epoch-{epoch:06d}.safetensors"
        for trial in range(2)
        for epoch in (23, 24, getattr(best[trial], "epoch", None))
    }
    assert there.read("study.journal") == found.directory.journal.read_bytes()
    assert {name for name in objects if name.startswith("report/")} == {
        path.relative_to(copy).as_posix() for path in (copy / "report").rglob("*") if path.is_file()
    }

    shutil.rmtree(tmp_path / "laptop")
    assert "trial" in call_raysweep("best", uri, cwd=tmp_path, **laptop).stdout
    assert call_raysweep("export", uri, "model", "--trial", "1", cwd=tmp_path, **laptop).returncode == 0
    assert raysweep.load_model(tmp_path / "model").latent_size == 4
    there.delete("report/trials.parquet")
    report = call_raysweep("report", uri, cwd=tmp_path, **laptop)
    assert report.returncode == 0, report.stderr
    assert there.find("report/trials.parquet") is not None
    again = call_raysweep("resume", uri, cwd=tmp_path, **laptop)
    assert (again.returncode, "nothing is left to do" in again.stdout) == (0, True)


def checkpoint_epoch_of(name: str) -> int:
    return checkpoint_epoch(name) or 0


def trials_in(there: RemoteDirectory) -> set[str]:
    return {name.rsplit("/", 1)[0] for name in there.list("trials") if checkpoint_epoch(name)}


def test_a_bucket_that_is_not_there_stops_the_sweep_before_it_begins(tmp_path: Path, server: str) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    refused = call_raysweep("run", "tiny.yaml", "--output", "s3://nowhere/x", cwd=tmp_path, **on(server, tmp_path))
    assert refused.returncode == 2
    assert "s3://nowhere/x: there is no bucket nowhere" in refused.stderr
    empty = call_raysweep("resume", "s3://bucket/none", cwd=tmp_path, **on(server, tmp_path))
    assert empty.returncode == 2
    assert "s3://bucket/none: holds no sweep" in empty.stderr
    assert "Traceback" not in refused.stderr + empty.stderr


class CutsTheWire:
    """Watches a session, and ends the way to the bucket in its midst."""

    def __init__(self, wire: Wire, after_epochs: int) -> None:
        self._wire = wire
        self._left = after_epochs

    def epoch_done(self, session: Session, record: TrialRecord) -> None:
        self._left -= 1
        if self._left == 0:
            self._wire.cut()

    def trial_ended(self, session: Session, record: TrialRecord) -> None: ...

    def trial_tested(self, session: Session, record: TrialRecord) -> None: ...

    def tick(self, session: Session) -> None: ...


@pytest.mark.usefixtures("ray_here")
@pytest.mark.filterwarnings("default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning")
def test_a_bucket_that_vanishes_stops_the_sweep_which_goes_on_once_it_is_back(
    server: str, tiny: Callable[..., SweepSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "MIRROR_INTERVAL_S", 0.5)
    monkeypatch.setattr(mirror, "PATIENCE_S", 2.0)
    wire = Wire(server)
    uri = f"s3://bucket/vanishing?endpoint_override={wire.address}&region=us-east-1"
    spec = tiny((ASHA, "sampler: random"), ("d_size: 4", "d_size: 4\n  epochs: 30"), ("trials: 5", "trials: 2"))
    with pytest.raises(StorageError, match=r"does not answer(.|\n)*Everything is kept in .*raysweep resume "):
        raysweep.run(spec, uri, observer=CutsTheWire(wire, after_epochs=8))
    wire.mend()
    left = sum(record.state is TrialState.INTERRUPTED for record in raysweep.open_sweep(uri).records)
    assert left > 0
    sweep = raysweep.resume(uri)
    assert [record.state for record in sweep.records] == [TrialState.COMPLETED] * 2
    assert [len(record.epochs) for record in sweep.records] == [30, 30]
    assert RemoteDirectory.at(uri).read("study.journal") == sweep.directory.journal.read_bytes()
    wire.cut()


@pytest.mark.usefixtures("ray_here")
@pytest.mark.filterwarnings("default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning")
def test_paused_trials_go_on_on_another_machine(
    server: str, tiny: Callable[..., SweepSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other machine has nothing but the bucket: the ledger, and each paused trial's checkpoints."""
    asha = ("reduction_factor: 2", "reduction_factor: 2, promote: true")
    spec = tiny(asha, ("trials: 5", "trials: 6\n  time_budget: 30m\n  max_concurrent: 1"))
    undisturbed = raysweep.run(spec, tmp_path / "undisturbed")
    uri = f"s3://bucket/paused?endpoint_override={server}&region=us-east-1"
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "here"))
    stopped = raysweep.run(spec, uri, observer=StopsAfter(5))
    assert any(record.state is TrialState.PAUSED and record.epochs for record in stopped.records)
    shutil.rmtree(tmp_path / "here")
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "elsewhere"))
    sweep = raysweep.resume(uri, time_budget=7200.0)
    assert outcomes(sweep) == outcomes(undisturbed)
    assert curves(sweep).equals(curves(undisturbed))
    assert "is trained again" not in sweep.directory.log.read_text()


def test_the_profile_of_a_sweep_outlives_its_machine(tmp_path: Path, server: str) -> None:
    """No ledger has it: a report or a session elsewhere must fetch it before it puts its own report into the bucket."""
    (tmp_path / "tiny.yaml").write_text(TINY.replace("trials: 5", "trials: 1"))
    uri = "s3://bucket/profiled"
    here, elsewhere, laptop = (on(server, tmp_path / name) for name in ("here", "elsewhere", "laptop"))
    there = RemoteDirectory.at(f"{uri}?endpoint_override={server}&region=us-east-1")
    first = call_raysweep("run", "tiny.yaml", "--output", uri, "--profile", cwd=tmp_path, **here)
    assert first.returncode == 0, first.stderr
    names = ("report/profile.parquet", "report/profile.md", "report/figures/profile.png")
    kept = [there.read(name) for name in names]
    page = (kept[1] or b"").decode()
    assert "| waiting for the bucket |" in page
    assert "| bucket |" in page
    assert call_raysweep("report", uri, cwd=tmp_path, **laptop).returncode == 0
    assert [there.read(name) for name in names] == kept
    again = call_raysweep("resume", uri, "--trials", "2", cwd=tmp_path, **elsewhere)
    assert again.returncode == 0, again.stderr
    assert [there.read(name) for name in names] == kept
