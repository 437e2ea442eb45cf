"""One trial in the process that trains it: which checkpoints it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raysweep.clock import PartClock
from raysweep.messages import ImageFile, Share, TrialOrder
from raysweep.metrics import Criterion
from raysweep.profiles import SlotPart
from raysweep.spec.sections import DataSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.vae.checkpoint import kept_checkpoint, list_checkpoints
from raysweep.vae.fusing.training import FusedTraining
from raysweep.worker.trial import WorkerTrial
from tests.unit.vae.tensor_images import TensorImages, discs, small_config, untimed

SHAPE = (1, 8, 8)


def train(root: Path, upto: int, kept_by: Criterion | None) -> list[int]:
    """Take up the trial where its checkpoint stands and train it up to an epoch; return the epochs that are kept."""
    directory = SweepDirectory.at(root)
    directory.spec.touch()
    order = TrialOrder(
        number=0, config=small_config(epochs=8, learning_rate=0.3), data=DataSpec(dataset="digits"),
        images=ImageFile(root, "digits", "0" * 64, 0), directory=root, picture_epochs=frozenset(),
        strip_epochs=frozenset(), threads=1, share=Share(1, 0), kept_by=kept_by,
    )  # fmt: skip
    group = FusedTraining((), TensorImages(discs(40, SHAPE)), TensorImages(discs(20, SHAPE, 1)), torch.device("cpu"))
    trial, clock = WorkerTrial(order), PartClock(SlotPart.UNACCOUNTED)
    trial.open(lambda: group, clock)
    (training,) = group.members
    while training.epoch < upto:
        (metrics,) = group.run_epoch()
        trial.keep(metrics, clock)
    trial.leave(group)
    return [int(path.stem.removeprefix("epoch-")) for path in reversed(list_checkpoints(directory.trial(0)))]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_trial_that_is_taken_up_again_keeps_the_best_epoch_of_before(tmp_path: Path, mode: str) -> None:
    criterion = Criterion("elbo_nats", "max" if mode == "max" else "min")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = train(whole, 8, criterion)
    for upto in (2, 3, 6, 8):
        kept = train(parts, upto, criterion)
    assert kept == expected
    best = [kept_checkpoint(SweepDirectory.at(root).trial(0), criterion).metrics for root in (whole, parts)]
    assert untimed(best[0]) == untimed(best[1])
    assert len(expected) == (2 if best[0].epoch > 6 else 3)


def test_without_a_criterion_the_last_two_are_kept(tmp_path: Path) -> None:
    assert train(tmp_path, 4, None) == [3, 4]


@pytest.mark.parametrize("mode", ["min", "max", None])
def test_what_a_process_that_died_did_not_drop_is_dropped_when_the_trial_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    """The process dies behind any epoch, the last one too: its checkpoint is written, the old ones are still there."""
    criterion = None if mode is None else Criterion("elbo_nats", "max" if mode == "max" else "min")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    for upto in (3, 4, 8):
        expected = train(whole, upto, criterion)
        with monkeypatch.context() as dying:
            dying.setattr(Path, "unlink", lambda path, missing_ok=False: None)
            train(parts, upto, criterion)
        assert train(parts, upto, criterion) == expected


def test_torn_checkpoints_ahead_do_not_push_out_the_ones_that_a_trial_goes_on_from(tmp_path: Path) -> None:
    trial = SweepDirectory.at(tmp_path).trial(0)
    train(tmp_path, 4, None)
    for epoch in (5, 6):
        (trial / f"epoch-{epoch:06d}.safetensors").write_bytes(b"torn")
    assert train(tmp_path, 4, None) == [3, 4, 5, 6]
    assert train(tmp_path, 6, None) == [5, 6]
