"""Working copies, leases, mirrors and trial files of sweeps in a bucket, on a real S3 server and without Ray."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raysweep.bucket import lease as leases
from raysweep.bucket.lease import Lease, holder
from raysweep.bucket.mirror import Mirror, mirroring
from raysweep.bucket.trialfiles import TrialFiles
from raysweep.bucket.workingcopy import at_hand, locate, read_epochs, remote_of, send_report, update, whole_lines
from raysweep.data.cache import prepare
from raysweep.data.tensors import load_splits
from raysweep.errors import SpecError, StorageError, SweepDirectoryError
from raysweep.messages import ImageFile, Share, TrialOrder
from raysweep.review.earlier import gather_past
from raysweep.spec.config import TrialConfig
from raysweep.spec.sections import DataSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.storage.remote import RemoteDirectory
from raysweep.vae.checkpoint import list_checkpoints, restore_checkpoint, save_checkpoint
from raysweep.vae.training import Training
from tests.s3server import s3_server
from tests.unit.search.test_search_past import earlier_sweep, next_spec

LINES = st.lists(st.sampled_from([b"a\n", b"bb\n", b"\n"]), max_size=4).map(b"".join)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def uri(server: str, request: pytest.FixtureRequest) -> str:
    return f"s3://bucket/{request.node.name}?endpoint_override={server}&region=us-east-1"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "machine"))
    return tmp_path / "machine"


def copy_of(uri: str) -> tuple[SweepDirectory, RemoteDirectory]:
    directory = locate(uri)
    directory.root.mkdir(parents=True, exist_ok=True)
    remote = remote_of(directory)
    assert remote is not None
    return directory, remote


def test_a_sweep_in_a_bucket_is_named_by_its_uri(machine: Path) -> None:
    directory = locate("s3://bucket/my sweeps/kld/")
    assert directory.address == "s3://bucket/my sweeps/kld"
    assert directory.root.parent == machine / "sweeps"
    assert directory.root != locate("s3://other/my sweeps/kld").root
    assert locate(f"file://{machine}/a%20b").root == machine / "a b"
    assert locate("results/kld").origin is None


@pytest.mark.usefixtures("machine")
@given(ours=LINES, theirs=LINES, half=st.sampled_from([b"", b"half"]))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_journal_of_the_bucket_counts_unless_the_one_here_goes_on_from_it(
    uri: str, ours: bytes, theirs: bytes, half: bytes
) -> None:
    directory, remote = copy_of(uri)
    remote.write("sweep.yaml", b"theirs")
    remote.write("study.journal", theirs)
    directory.spec.write_bytes(b"ours")
    directory.journal.write_bytes(ours + half)
    was_newer = update(directory, remote)
    assert was_newer == (ours.startswith(theirs) and ours != theirs)
    assert whole_lines(directory.journal.read_bytes()) == (ours if was_newer else theirs)
    assert directory.spec.read_bytes() == (b"ours" if was_newer else b"theirs")


@pytest.mark.usefixtures("machine")
def test_a_copy_of_another_course_of_the_sweep_is_set_aside_and_not_mixed_in(uri: str) -> None:
    directory, remote = copy_of(uri)
    remote.write("sweep.yaml", b"theirs")
    remote.write("study.journal", b"1\n2\n")
    directory.spec.write_bytes(b"ours")
    directory.journal.write_bytes(b"1\n3\n4\n")
    directory.trial(0).mkdir(parents=True)
    assert not update(directory, remote)
    assert not directory.trial(0).exists()
    (old,) = directory.root.parent.glob(f"{directory.root.name}.before-*")
    assert (old / "study.journal").read_bytes() == b"1\n3\n4\n"


@pytest.mark.usefixtures("machine")
def test_where_there_is_no_sweep_there_is_no_copy_of_one(uri: str) -> None:
    with pytest.raises(SweepDirectoryError, match="holds no sweep"):
        at_hand(uri)


@pytest.mark.usefixtures("machine")
def test_a_second_driver_is_refused_by_the_name_of_the_first(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, remote = copy_of(uri)
    first = Lease(remote)
    first.take()
    for _ in range(2):
        with pytest.raises(SweepDirectoryError, match=f"another driver is at work here, process {os.getpid()} on "):
            Lease(remote).take()
        first.renew()
    monkeypatch.setattr(leases, "_machine", lambda: "another")  # from there its process cannot be looked for
    assert holder(remote) is not None
    monkeypatch.setattr(leases, "DEAD_AFTER_S", 0.0)
    assert holder(remote) is None
    other = Lease(remote)
    other.take()
    with pytest.raises(SweepDirectoryError, match="has taken the sweep over"):
        first.renew()
    first.release()
    other.renew()
    other.release()
    assert remote.find(leases.NAME) is None


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"pid": "x", "machine": 3}'])
def test_a_damaged_lease_is_one_that_ends_like_every_other(
    uri: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, remote = copy_of(uri)
    remote.write(leases.NAME, content)
    with pytest.raises(SweepDirectoryError, match="another driver is at work"):
        Lease(remote).take()
    monkeypatch.setattr(leases, "DEAD_AFTER_S", 0.0)
    Lease(remote).take()


@pytest.mark.usefixtures("machine")
def test_the_lease_of_a_process_of_this_machine_ends_with_it(uri: str) -> None:
    directory, remote = copy_of(uri)
    code = (
        "import sys; from raysweep.storage.remote import RemoteDirectory; from raysweep.bucket.lease import Lease\n"
        "Lease(RemoteDirectory.at(sys.argv[1])).take(); print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, directory.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        found = holder(remote)
        assert found is not None
        assert found["pid"] == process.pid
        process.kill()
    assert holder(remote) is None


@pytest.mark.usefixtures("machine")
def test_what_is_mirrored_is_whole_and_what_is_gone_here_goes_there(uri: str) -> None:
    directory, remote = copy_of(uri)
    remote.write("report/of an earlier driver.png", b"old")
    with mirroring(directory, new=True) as mirror:
        assert mirror is not None
        directory.spec.write_text("spec")
        directory.journal.write_bytes(b'{"a": 1}\n{"b": ')
        directory.report.mkdir()
        directory.trials_parquet.write_bytes(b"1")
        (directory.report / ".half.tmp").write_bytes(b"")
        directory.epochs_parquet.write_bytes(b"2")
        mirror.flush()
        assert remote.read("study.journal") == b'{"a": 1}\n'
        assert remote.list("report").keys() == {"report/trials.parquet", "report/epochs.parquet"}
        directory.epochs_parquet.unlink()
        directory.journal.write_bytes(b'{"a": 1}\n{"b": 2}\n')
        directory.trial(3).mkdir(parents=True)
        directory.samples(3).write_bytes(b"picture")
        (directory.trial(3) / "epoch-000002.safetensors").write_bytes(b"checkpoint")
        (directory.trial(3) / "epochs.json").write_text("[]")
    assert remote.read("study.journal") == b'{"a": 1}\n{"b": 2}\n'
    assert remote.list().keys() == {"sweep.yaml", "study.journal", "report/trials.parquet", "trials/0003/samples.png"}


@pytest.mark.usefixtures("machine")
def test_a_driver_whose_sweep_was_taken_over_sends_nothing_more(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysweep.bucket.mirror.MIRROR_INTERVAL_S", 0.2)
    directory, remote = copy_of(uri)
    with mirroring(directory, new=True) as mirror:
        assert mirror is not None
        remote.write(leases.NAME, json.dumps({"pid": 1, "host": "other"}).encode())
        mirror._thread.join(timeout=20)
        assert "process 1 on other has taken the sweep over" in str(mirror.failure)
        directory.spec.write_text("spec")
    assert remote.find("sweep.yaml") is None


@pytest.mark.usefixtures("machine")
def test_a_bucket_that_is_gone_at_the_end_leaves_everything_here(uri: str) -> None:
    directory, remote = copy_of(uri)
    gone = RemoteDirectory.at("s3://bucket/x?endpoint_override=http://127.0.0.1:1&region=us-east-1")
    mirror = Mirror(directory, remote, Lease(gone))
    with pytest.raises(StorageError, match=r"Everything is kept in .*\n?.*type: raysweep resume "):
        mirror.close(patience_s=0)


@pytest.mark.usefixtures("machine")
def test_a_report_that_is_written_anew_takes_the_place_of_the_old_one(uri: str) -> None:
    directory, remote = copy_of(uri)
    remote.write("report/old.png", b"")
    directory.report.mkdir()
    directory.findings_markdown.write_text("x")
    send_report(directory, only=[directory.findings_markdown])
    assert remote.list("report").keys() == {"report/old.png", "report/findings.md"}
    send_report(directory)
    assert remote.list("report").keys() == {"report/findings.md"}


class Machine:
    """A machine that trains trial 0 of a sweep in a bucket, with working copies of its own."""

    def __init__(self, uri: str, home: Path, monkeypatch: pytest.MonkeyPatch, epochs_done: int = 0) -> None:
        data = DataSpec(dataset="digits", image_size=16)
        monkeypatch.setenv("RAYSWEEP_CACHE", str(home.parent / "data"))
        cache = prepare(data)
        monkeypatch.setenv("RAYSWEEP_CACHE", str(home))
        config = TrialConfig(d_size=4, latent_size=4, hidden_size=16, epochs=20)
        order = TrialOrder(
            number=0, config=config, data=data, images=ImageFile(cache, "digits", "", 0), directory=home,
            picture_epochs=frozenset({20}), strip_epochs=frozenset(), threads=1, share=Share(1, 0),
            epochs_done=epochs_done, origin=uri,
        )  # fmt: skip
        import torch

        device = torch.device("cpu")
        splits = load_splits(cache, data, device)
        self.training = Training(config, splits.train, splits.validation, device)
        self.files = TrialFiles(order)
        self.trial = self.files.directory.trial(0)

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            metrics = self.training.run_epoch()
            self.files.keep(metrics)
            save_checkpoint(self.trial, self.training, metrics)
            self.files.send(metrics)
        self.files.close()


@pytest.mark.parametrize("ledger", [0, 2, 3, 4])
def test_a_trial_goes_on_where_another_machine_left_it_and_tells_what_the_ledger_lacks(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: int
) -> None:
    one = Machine(uri, tmp_path / "one", monkeypatch)
    one.train(4)
    names = RemoteDirectory.at(uri).list("trials/0000")
    assert sorted(name.rsplit("/", 1)[1] for name in names) == [
        "epoch-000003.safetensors", "epoch-000004.safetensors", "epochs.json",
    ]  # fmt: skip

    two = Machine(uri, tmp_path / "two", monkeypatch, epochs_done=ledger)
    restored = restore_checkpoint(two.trial, two.training)
    assert restored is not None
    assert restored.epoch == 4
    told = [metrics.epoch for metrics in two.files.before(restored)]
    assert told == list(range(ledger + 1, 4))
    two.files.send(restored)
    two.train(1)
    one.training.run_epoch()
    assert two.training.val_losses == one.training.val_losses


def test_a_checkpoint_from_which_the_ledger_cannot_be_reached_is_not_used(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Machine(uri, tmp_path / "one", monkeypatch)
    one.train(4)
    RemoteDirectory.at(uri).delete("trials/0000/epochs.json")
    assert list_checkpoints(Machine(uri, tmp_path / "two", monkeypatch, epochs_done=1).trial) == []
    three = Machine(uri, tmp_path / "three", monkeypatch, epochs_done=2)
    assert [path.name for path in list_checkpoints(three.trial)] == ["epoch-000003.safetensors"]
    restored = restore_checkpoint(three.trial, three.training)
    assert restored is not None
    three.files.send(restored)
    three.files.wait()


def test_a_checkpoint_of_a_lost_suggestion_is_not_used(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Machine(uri, tmp_path / "one", monkeypatch)
    one.train(2)
    other = dataclasses.replace(one.files._order, config=TrialConfig(d_size=8, epochs=20))
    assert list_checkpoints(TrialFiles(other).directory.trial(0)) == []


@given(st.binary(max_size=200) | st.text('[]{}:,"epoch1', max_size=60).map(str.encode))
@settings(deadline=None)
def test_damaged_results_are_left_out(content: bytes) -> None:
    assert read_epochs(content) == []


@pytest.mark.usefixtures("machine")
def test_a_sweep_starts_from_one_in_a_bucket(uri: str, tmp_path: Path) -> None:
    earlier = SweepDirectory.at(earlier_sweep(tmp_path / "earlier", "kld_weight: {low: 1e-5, high: 1e-1, log: true}"))
    _, remote = copy_of(uri)
    for path in (earlier.spec, earlier.journal):
        remote.write(path.name, path.read_bytes())
    (past,) = gather_past(next_spec(f"start_from: [{uri!r}]"))
    assert past.summary == f"{uri}: 6 trials taken"
    with pytest.raises(SpecError, match=r"search.start_from\[0\]: s3://bucket/none.*: holds no sweep"):
        gather_past(next_spec(f"start_from: [{uri.replace('/test', '/none')!r}]"))
