"""What becomes of trials whose processes raise, die, hang or freeze."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import raysweep
from raysweep.data.cache import prepare
from raysweep.driver import session
from raysweep.messages import Share, TrialOrder
from raysweep.metrics import TrialState
from raysweep.spec.config import TrialConfig
from raysweep.spec.sections import DataSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.worker.delivery import image_file
from tests.integration.test_sweep import Tiny

pytestmark = [
    pytest.mark.usefixtures("ray_here"),
    pytest.mark.filterwarnings("default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"),
]
NO_EARLY_STOPPING = (
    "early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}", "early_stopping: none",
)  # fmt: skip
SLOW_EPOCHS = (("image_size: 16", "image_size: 32"), ("d_size: 4", "d_size: 16\n  epochs: 6"))


@contextmanager
def watching(file: Path, pattern: str, act: Callable[[str], None]) -> Iterator[None]:
    """Acts on what a pattern finds in a file of the sweep, as it appears, each place once."""
    done = threading.Event()

    def watch() -> None:
        seen = 0
        while not done.is_set():
            text = file.read_text() if file.exists() else ""
            found = [match.group(1) for match in re.finditer(pattern, text)]
            for what in found[seen:]:
                act(what)
            seen = len(found)
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def epochs_of(record: raysweep.TrialRecord) -> list[int]:
    return [epoch.metrics.epoch for epoch in record.epochs]


def kill(pid: str) -> None:
    os.kill(int(pid), signal.SIGKILL)


def test_a_trial_that_dies_again_and_again_at_one_epoch_has_failed_and_the_others_go_on(
    tiny: Tiny, tmp_path: Path
) -> None:
    spec = tiny(("trials: 5", "trials: 2\n  max_concurrent: 1"), NO_EARLY_STOPPING, *SLOW_EPOCHS)
    directory = SweepDirectory.at(tmp_path / "lost")
    with watching(directory.log, r"trial 0 trains on .* in process (\d+)", kill):
        sweep = raysweep.run(spec, directory.root)
    lost, other = sweep.records
    assert (lost.state, lost.cause) == (TrialState.FAILED, "its process died, 4 times at the same epoch")
    assert "The actor died unexpectedly" in str(lost.error)
    assert epochs_of(lost) == list(range(1, len(lost.epochs) + 1))
    assert other.state is TrialState.COMPLETED


def test_a_frozen_trial_is_ended_and_goes_on_from_its_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "HANG_GRACE_S", 1.0)
    spec = tiny(
        ("trials: 5", "trials: 1\n  epoch_timeout: 20"), NO_EARLY_STOPPING, ("d_size: 4", "d_size: 4\n  epochs: 9")
    )
    directory = SweepDirectory.at(tmp_path / "frozen")
    frozen: list[int] = []

    def freeze(pid: str) -> None:
        if not frozen:
            os.kill(int(pid), signal.SIGSTOP)
            frozen.append(int(pid))

    with watching(directory.log, r"trial 0 trains on .* in process (\d+)", freeze):
        sweep = raysweep.run(spec, directory.root)
    (record,) = sweep.records
    assert record.state is TrialState.COMPLETED
    assert epochs_of(record) == list(range(1, 10))
    assert (
        "trial 0: no epoch ended within search.epoch_timeout (20 s); it goes on from epoch" in directory.log.read_text()
    )
    assert not Path(f"/proc/{frozen[0]}").exists()


def test_a_trial_that_hangs_twice_has_failed_and_says_where_it_stood(tiny: Tiny, tmp_path: Path) -> None:
    """An epoch of half a second that may take a hundredth of one."""
    spec = tiny(("trials: 5", "trials: 1\n  epoch_timeout: 0.01"), NO_EARLY_STOPPING, *SLOW_EPOCHS)
    sweep = raysweep.run(spec, tmp_path / "hung")
    (record,) = sweep.records
    assert (record.state, record.cause) == (
        TrialState.FAILED, "no epoch ended within search.epoch_timeout (0.01 s), twice",
    )  # fmt: skip
    assert "most recent call first" in str(record.error)
    assert "trial.py" in str(record.error)


def test_an_exception_that_repeats_ends_the_trial_and_one_that_does_not_is_forgotten(
    tiny: Tiny, tmp_path: Path
) -> None:
    """A checkpoint of another configuration lies where trial 0 looks for its own; trial 1's is gone when it is back."""
    spec = tiny(
        ("trials: 5", "trials: 2\n  max_concurrent: 1"), NO_EARLY_STOPPING, ("d_size: 4", "d_size: 4\n  epochs: 2")
    )
    other = tiny(("trials: 5", "trials: 1"), NO_EARLY_STOPPING, ("d_size: 4", "d_size: 5\n  epochs: 1"))
    (foreign,) = raysweep.run(other, tmp_path / "other").directory.trial(0).glob("*.safetensors")
    directory = SweepDirectory.at(tmp_path / "sweep")

    def misplace(_: str) -> None:
        """As soon as the sweep has begun: one does not begin in a directory that holds anything."""
        for number in (0, 1):
            directory.trial(number).mkdir(parents=True)
            shutil.copy(foreign, directory.trial(number))

    def mend(number: str) -> None:
        (directory.trial(int(number)) / foreign.name).unlink()

    with (
        watching(directory.spec, r"\A(.)", misplace),
        watching(directory.log, r"trial (1): CheckpointError.* it goes on", mend),
    ):
        sweep = raysweep.run(spec, directory.root)
    broken, mended = sweep.records
    assert broken.state is TrialState.FAILED
    assert str(broken.cause).startswith("CheckpointError: ")
    assert str(broken.cause).endswith("was made by another configuration; move it away to train the trial anew, "
                                      "raised again when tried anew")  # fmt: skip
    assert "Traceback" in str(broken.error)
    assert mended.state is TrialState.COMPLETED


@pytest.mark.usefixtures("ray_here")
def test_a_machine_that_does_not_see_the_sweep_trains_nothing_and_says_what_is_needed(tmp_path: Path) -> None:
    """As one of a cluster whose machines share no directory, of a sweep with a local one."""
    # Not before Ray was started: it is closed to others only where nobody has imported it before.
    from raysweep.worker.actor import ORDERS, REPORTS, TrialActor

    data = DataSpec(dataset="digits", image_size=16)
    order = TrialOrder(
        number=0, config=TrialConfig(epochs=2), data=data, images=image_file(prepare(data)),
        directory=tmp_path / "elsewhere", picture_epochs=frozenset(), strip_epochs=frozenset(), threads=1,
        share=Share(1, 0),
    )  # fmt: skip
    actor = TrialActor({ORDERS: [order]})
    report = actor.step()[REPORTS][0][1]
    assert report.storage_failed
    assert "the sweep is not there on" in report.cause
    assert "--output s3://bucket/path" in report.cause
    assert not (tmp_path / "elsewhere").exists()
