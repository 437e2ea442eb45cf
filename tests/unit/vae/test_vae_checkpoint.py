"""Checkpoints: a resumed trial repeats the undisturbed one to the bit, and no damaged file is worse than refused."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tensor_images import small_config, small_training, untimed
from torch import Tensor

from raysweep.errors import CheckpointError, StorageError
from raysweep.metrics import Criterion, EpochMetrics
from raysweep.vae.checkpoint import (
    kept_checkpoint,
    list_checkpoints,
    read_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from raysweep.vae.training import Training

RESUMABLE = {
    "grey": ({}, (1, 8, 8)),
    "colour, clipped, warming up": ({"kld_warmup_epochs": 3, "max_gradient_norm": 0.1}, (3, 8, 16)),
    "calibrated": ({"likelihood": "calibrated_gaussian", "reduction": "sum", "kld_weight": 1.0}, (3, 16, 8)),
    "normalised": ({"batch_norm": "all", "negative_slope": 0.1, "kernel_size": 4}, (3, 8, 16)),
    "plateau": (
        {"learning_rate_schedule": "plateau", "learning_rate_patience_epochs": 0, "learning_rate": 1e-6},
        (1, 8, 8),
    ),
    "cosine, cyclical, free bits": (
        {"learning_rate_schedule": "cosine", "kld_warmup_epochs": 1, "kld_cycle_epochs": 2, "free_bits_nats": 0.1},
        (1, 8, 8),
    ),
    "drawn images": (
        {"rotation_degrees": 30.0, "autocontrast_probability": 0.5, "brightness_jitter": 0.5, "binarise": "sampled",
         "input_dropout": 0.2, "input_noise": 0.1, "likelihood": "bernoulli"},
        (1, 8, 8),
    ),
    "learned, dense": ({"likelihood": "learned_gaussian", "conv_blocks": "none"}, (1, 8, 8)),
}  # fmt: skip


def state(training: Training) -> dict[str, Tensor]:
    """Every number that the next step depends on."""
    numbers = {f"model.{name}": value.detach().clone() for name, value in training.model.state_dict().items()}
    numbers["val_losses"] = torch.tensor(training.val_losses, dtype=torch.float64)
    return numbers | {f"optimizer.{name}": value.clone() for name, value in training.optimizer.state().items()}


def assert_same_state(first: Training, second: Training) -> None:
    one, other = state(first), state(second)
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def trained(directory: Path, epochs: int = 1, **changes: Any) -> Training:
    """A trial whose every epoch left a checkpoint."""
    training = small_training(small_config(**changes), (1, 8, 8))
    for _ in range(epochs):
        save_checkpoint(directory, training, training.run_epoch())
    return training


def fresh(**changes: Any) -> Training:
    return small_training(small_config(**changes), (1, 8, 8))


@pytest.mark.parametrize("case", RESUMABLE)
@pytest.mark.parametrize("died_after", [1, 2, 3])
def test_a_resumed_trial_goes_on_exactly_as_it_would_have(tmp_path: Path, case: str, died_after: int) -> None:
    changes, shape = RESUMABLE[case]
    config = small_config(**changes)
    undisturbed = small_training(config, shape)
    history = [undisturbed.run_epoch() for _ in range(config.epochs)]

    first = small_training(config, shape)
    for _ in range(died_after):
        save_checkpoint(tmp_path, first, first.run_epoch())
    resumed = small_training(config, shape)
    restored = restore_checkpoint(tmp_path, resumed)
    assert restored is not None
    assert untimed(restored) == untimed(history[died_after - 1])
    assert_same_state(resumed, first)
    rest = [resumed.run_epoch() for _ in range(config.epochs - died_after)]
    assert [untimed(metrics) for metrics in rest] == [untimed(metrics) for metrics in history[died_after:]]
    assert_same_state(resumed, undisturbed)


def test_the_result_comes_back_whole_times_included(tmp_path: Path) -> None:
    training = fresh()
    metrics = training.run_epoch()
    save_checkpoint(tmp_path, training, metrics)
    assert restore_checkpoint(tmp_path, fresh()) == metrics


def test_a_result_that_is_no_number_comes_back_too(tmp_path: Path) -> None:
    training = fresh()
    metrics = EpochMetrics(**{**untimed(training.run_epoch()), "r2": float("nan"), "images_per_s": 1.0, "epoch_s": 1.0})
    save_checkpoint(tmp_path, training, metrics)
    restored = restore_checkpoint(tmp_path, fresh())
    assert restored is not None
    assert restored.r2 != restored.r2


def test_running_statistics_and_their_count_come_back_in_their_own_types(tmp_path: Path) -> None:
    training = trained(tmp_path, epochs=2, batch_norm="all")
    resumed = fresh(batch_norm="all")
    restore_checkpoint(tmp_path, resumed)
    restored = resumed.model.state_dict()
    counts = [value for name, value in restored.items() if name.endswith("num_batches_tracked")]
    assert counts
    assert all(value.dtype == torch.int64 and int(value) == 2 * 3 for value in counts)
    assert any(bool(value.any()) for name, value in restored.items() if name.endswith("running_mean"))
    assert_same_state(resumed, training)


@pytest.mark.parametrize("name", ["encoder.1.running_var", "encoder.1.num_batches_tracked"])
def test_a_checkpoint_without_a_running_statistic_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    trained(tmp_path, batch_norm="all")
    path = tmp_path / "epoch-000001.safetensors"
    header, tensors = read_header(path), load_file(path)
    del tensors[f"model.{name}"]
    save_file(tensors, path, metadata=header["__metadata__"])
    assert restore_checkpoint(tmp_path, fresh(batch_norm="all")) is None
    assert name in caplog.text


def test_losses_that_are_no_numbers_come_back_too(tmp_path: Path) -> None:
    training = fresh()
    metrics = training.run_epoch()
    training.val_losses = [float("nan")]
    save_checkpoint(tmp_path, training, metrics)
    resumed = fresh()
    assert restore_checkpoint(tmp_path, resumed) is not None
    assert resumed.val_losses[0] != resumed.val_losses[0]


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    trained(tmp_path, epochs=4)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "epoch-000004.safetensors",
        "epoch-000003.safetensors",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-000003.safetensors", "epoch-000004.safetensors"]


ELBO = Criterion("elbo_nats", "max")


def kept_after(directory: Path, elbos: list[float]) -> list[int]:
    """Save an epoch for each of these ELBOs as a worker does, and return the epochs whose checkpoints are there."""
    training, best = fresh(), None
    for elbo in elbos:
        metrics = replace(training.run_epoch(), elbo_nats=elbo)
        if best is None or ELBO.loss(metrics) <= ELBO.loss(best):
            best = metrics
        save_checkpoint(directory, training, metrics, best.epoch)
    return [read_checkpoint(path).metrics.epoch for path in reversed(list_checkpoints(directory))]


@pytest.mark.parametrize(
    ("elbos", "there", "kept"),
    [
        ([5.0, 9.0, 7.0, 6.0, 1.0], [2, 4, 5], 2),
        ([1.0, 2.0, 3.0, 4.0], [3, 4], 4),
        ([9.0, 1.0, 2.0, 9.0], [3, 4], 4),
        ([math.nan, 1.0, math.nan, math.nan], [2, 3, 4], 2),
    ],
)
def test_the_checkpoint_of_the_best_epoch_is_kept_beside_the_last_two(
    tmp_path: Path, elbos: list[float], there: list[int], kept: int
) -> None:
    assert kept_after(tmp_path, elbos) == there
    assert kept_checkpoint(tmp_path, ELBO).metrics.epoch == kept
    assert kept_checkpoint(tmp_path, None).metrics.epoch == len(elbos)
    assert kept_checkpoint(tmp_path, Criterion("elbo_nats", "min")).metrics.elbo_nats == min(
        elbos[epoch - 1] for epoch in there if math.isfinite(elbos[epoch - 1])
    )


def test_a_damaged_best_checkpoint_leaves_the_best_of_the_others(tmp_path: Path) -> None:
    kept_after(tmp_path, [9.0, 1.0, 5.0, 4.0])
    (tmp_path / "epoch-000001.safetensors").write_bytes(b"torn")
    assert kept_checkpoint(tmp_path, ELBO).metrics.epoch == 3
    for path in list_checkpoints(tmp_path):
        path.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="epoch-000004"):
        kept_checkpoint(tmp_path, ELBO)


def test_a_trial_without_checkpoints_starts_anew(tmp_path: Path) -> None:
    training = fresh()
    assert restore_checkpoint(tmp_path / "never written", training) is None
    assert training.epoch == 0
    assert_same_state(training, fresh())


def test_what_a_killed_write_leaves_behind_is_no_checkpoint(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / ".epoch-000002.safetensors.0badcafe.tmp").write_bytes(b"half")
    (tmp_path / "epoch-000002.safetensors.part").write_bytes(b"half")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["epoch-000001.safetensors"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def drop_a_moment(path: Path) -> None:
    with_header = read_header(path)
    tensors = load_file(path)
    del tensors["optimizer.0.exp_avg"]
    save_file(tensors, path, metadata=with_header["__metadata__"])


def change_a_shape(path: Path) -> None:
    with_header = read_header(path)
    tensors = load_file(path)
    tensors["model.posterior.bias"] = torch.zeros(1)
    save_file(tensors, path, metadata=with_header["__metadata__"])


def forget_the_metrics(path: Path) -> None:
    header = json.loads(read_header(path)["__metadata__"]["raysweep"])
    del header["metrics"]
    save_file(load_file(path), path, metadata={"raysweep": json.dumps(header)})


def forget_a_validation_loss(path: Path) -> None:
    header = json.loads(read_header(path)["__metadata__"]["raysweep"])
    header["val_losses"].pop()
    save_file(load_file(path), path, metadata={"raysweep": json.dumps(header)})


def change_a_type(path: Path) -> None:
    with_header = read_header(path)
    tensors = load_file(path)
    tensors["model.posterior.bias"] = tensors["model.posterior.bias"].double()
    save_file(tensors, path, metadata=with_header["__metadata__"])


DAMAGE = [
    truncate,
    empty,
    fill_with_zeros,
    drop_a_moment,
    change_a_shape,
    change_a_type,
    forget_the_metrics,
    forget_a_validation_loss,
]


def read_header(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_checkpoint_falls_back_to_the_older_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    trained(tmp_path, epochs=2)
    damage(tmp_path / "epoch-000002.safetensors")
    training = fresh()
    with caplog.at_level(logging.WARNING, logger="raysweep"):
        restored = restore_checkpoint(tmp_path, training)
    assert restored is not None
    assert restored.epoch == training.epoch == 1
    assert "epoch-000002.safetensors" in caplog.text
    assert "passed over" in caplog.text
    once = fresh()
    once.run_epoch()
    assert_same_state(training, once)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_trial_with_damaged_checkpoints_alone_starts_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    trained(tmp_path, epochs=2)
    for path in list_checkpoints(tmp_path):
        damage(path)
    training = fresh()
    assert restore_checkpoint(tmp_path, training) is None
    assert training.epoch == 0
    assert_same_state(training, fresh())


@pytest.mark.parametrize("change", [{"seed": 1}, {"kld_weight": 0.1}, {"d_size": 5}, {"epochs": 9}])
def test_a_checkpoint_of_another_configuration_is_refused_by_name(tmp_path: Path, change: dict[str, Any]) -> None:
    trained(tmp_path)
    with pytest.raises(CheckpointError, match=r"epoch-000001\.safetensors: was made by another configuration"):
        restore_checkpoint(tmp_path, fresh(**change))


def test_a_checkpoint_of_other_images_is_refused_by_name(tmp_path: Path) -> None:
    trained(tmp_path)
    with pytest.raises(CheckpointError, match=r"epoch-000001\.safetensors: was made by another configuration"):
        restore_checkpoint(tmp_path, small_training(small_config(), (1, 16, 8)))


def test_a_missing_checkpoint_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        read_checkpoint(tmp_path / "gone.safetensors")


def test_a_foreign_safetensors_file_is_no_checkpoint(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match=r"foreign\.safetensors: is not a checkpoint of this version"):
        read_checkpoint(tmp_path / "foreign.safetensors")


def test_a_checkpoint_is_a_json_header_and_plain_numbers_and_nothing_else(tmp_path: Path) -> None:
    """So there is no pickle in it: every byte is accounted for."""
    trained(tmp_path)
    path = tmp_path / "epoch-000001.safetensors"
    content = path.read_bytes()
    header = read_header(path)
    assert json.loads(header.pop("__metadata__")["raysweep"])["format"] == "raysweep-checkpoint-2"
    spans = sorted(tuple(entry["data_offsets"]) for entry in header.values())
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    assert spans[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    assert 8 + struct.unpack("<Q", content[:8])[0] + spans[-1][1] == len(content)


def test_a_restored_trial_does_not_read_its_checkpoint_again(tmp_path: Path) -> None:
    """A mapping of the file would change under the optimiser's feet, or fail once the file is dropped."""
    training = trained(tmp_path)
    resumed = fresh()
    restore_checkpoint(tmp_path, resumed)
    path = tmp_path / "epoch-000001.safetensors"
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_same_state(resumed, training)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    trained(directory, d_size=1, latent_size=1, hidden_size=1)
    return directory / "epoch-000001.safetensors"


@pytest.fixture(scope="module")
def victim() -> Training:
    return fresh(d_size=1, latent_size=1, hidden_size=1)


def restore_from(content: bytes, directory: Path, victim: Training) -> None:
    """Reads and restores what may be damaged; anything but a result or a CheckpointError is a failure."""
    directory.mkdir(exist_ok=True)
    path = directory / "epoch-000001.safetensors"
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        read_checkpoint(path)
    with contextlib.suppress(CheckpointError):
        restored = restore_checkpoint(directory, victim)
        assert restored is None or type(restored.epoch) is int


@given(data=st.data())
def test_no_truncation_is_worse_than_a_checkpoint_error(data: st.DataObject, whole: Path, victim: Training) -> None:
    content = whole.read_bytes()
    length = data.draw(st.integers(0, len(content) - 1))
    directory = whole.parent / "cut"
    restore_from(content[:length], directory, victim)
    with pytest.raises(CheckpointError):
        read_checkpoint(directory / "epoch-000001.safetensors")


@given(data=st.data())
def test_no_flipped_byte_of_the_header_is_worse_than_a_checkpoint_error(
    data: st.DataObject, whole: Path, victim: Training
) -> None:
    content = bytearray(whole.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, 7 + length))
        content[where] = data.draw(st.integers(0, 255) | st.sampled_from(b'"{}[],:0129eE.-FI'))
    restore_from(bytes(content), whole.parent / "flipped", victim)


@given(content=st.binary(max_size=300))
def test_no_bytes_at_all_are_worse_than_a_checkpoint_error(
    content: bytes, tmp_path_factory: pytest.TempPathFactory, victim: Training
) -> None:
    restore_from(content, tmp_path_factory.getbasetemp() / "noise", victim)


def test_a_trial_whose_directory_is_gone_is_not_continued_in_a_second_place(tmp_path: Path) -> None:
    (tmp_path / "mount" / "trials").mkdir(parents=True)
    training = trained(tmp_path / "mount" / "trials" / "0000")
    (tmp_path / "mount").rename(tmp_path / "elsewhere")
    metrics = training.run_epoch()
    with pytest.raises(StorageError, match="was the directory moved, or its disk taken away"):
        save_checkpoint(tmp_path / "mount" / "trials" / "0000", training, metrics)
    assert not (tmp_path / "mount").exists()
