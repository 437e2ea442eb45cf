"""Fused training: each member comes to what it comes to alone, whoever else is there, and none touches another.

Equality is tested in double precision, where fused and separate training differ by some 1e-14 over an epoch. In single
precision some networks magnify rounding whatever rounds: under batch normalisation the gradient of a weight whose input
does not vary is 0 but for rounding, and Adam makes a whole step of it.
"""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tensor_images import TensorImages, discs, small_config, untimed
from torch import Tensor

from raysweep.metrics import EpochMetrics
from raysweep.spec.config import TrialConfig
from raysweep.storage.layout import SweepDirectory
from raysweep.vae.checkpoint import restore_checkpoint, save_checkpoint
from raysweep.vae.fusing.network import FusedNetwork
from raysweep.vae.fusing.training import SHARED_FIELDS, FusedTraining, fusion_key
from raysweep.vae.networks import ConvVAE
from raysweep.vae.training import Training
from raysweep.worker.pictures import draw_grids, draw_strip

SHAPE = (3, 8, 16)
TOLERANCE = 1e-6
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
FORMATS = [torch.contiguous_format, torch.channels_last]

NETWORKS: dict[str, dict[str, Any]] = {
    "halving": {},
    "plain blocks": {"conv_blocks": "d 2d/2 2d/2 2d", "negative_slope": 0.01},
    "kernels of 4": {"kernel_size": 4},
    "trimmed": {"upsampling": "trimmed", "conv_blocks": "d 2d/2 2d/2"},
    "no hidden layer": {"hidden_size": None},
    "normalised convolutions": {"batch_norm": "conv"},
    "normalised linear layers": {"batch_norm": "linear"},
    "normalised everywhere": {"batch_norm": "all", "negative_slope": 0.1, "hidden_size": None},
    "dense": {"conv_blocks": "none"},
    "dense, normalised": {"conv_blocks": "none", "batch_norm": "all"},
    "dense, no hidden layer": {"conv_blocks": "none", "hidden_size": None},
    "calibrated": {"likelihood": "calibrated_gaussian"},
    "learned": {"likelihood": "learned_gaussian"},
    "learned, dense": {"likelihood": "learned_gaussian", "conv_blocks": "none"},
    "bernoulli": {"likelihood": "bernoulli"},
    "continuous bernoulli": {"likelihood": "continuous_bernoulli"},
}
MEMBERS: list[dict[str, Any]] = [
    {"seed": 1, "kld_weight": 0.01},
    {"seed": 2, "kld_weight": 0.5, "learning_rate": 3e-3, "max_gradient_norm": 0.05, "free_bits_nats": 0.2},
    {"seed": 3, "reduction": "sum", "kld_warmup_epochs": 1, "kld_cycle_epochs": 2, "sigma": 0.3,
     "learning_rate_schedule": "cosine", "epochs": 5},
    {"seed": 4, "reduction": "pixel_and_latent_mean", "learning_rate_schedule": "plateau", "learning_rate": 1e-5,
     "learning_rate_patience_epochs": 0, "learning_rate_factor": 0.5, "binarise": "threshold"},
    {"seed": 5, "learning_rate_schedule": "step", "learning_rate_epochs": "2 3", "max_gradient_norm": 0.01,
     "rotation_degrees": 30.0, "autocontrast_probability": 0.5, "brightness_jitter": 0.5, "binarise": "sampled",
     "input_dropout": 0.2, "input_noise": 0.1},
]  # fmt: skip
"""Trials that differ in all that fused trials may differ in."""


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def images(device: str = "cpu", train: int = 40) -> tuple[TensorImages, TensorImages]:
    """Training images, which 16 does not divide, and validation images, in the default precision."""
    dtype = torch.get_default_dtype()
    return (
        TensorImages(discs(train, SHAPE).to(device, dtype)),
        TensorImages(discs(20, SHAPE, seed=1).to(device, dtype)),
    )


def member_configs(**shared: Any) -> list[TrialConfig]:
    return [small_config(**(own | shared)) for own in MEMBERS]


def state(training: Training) -> dict[str, Tensor]:
    """Every number that the next step depends on, as a copy."""
    numbers = {name: value.detach().clone() for name, value in training.model.state_dict().items()}
    return numbers | {name: value.clone() for name, value in training.optimizer.state().items()}


def assert_same_results(found: Sequence[EpochMetrics], expected: Sequence[EpochMetrics], rel: float = 1e-6) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert untimed(one) == pytest.approx(untimed(other), rel=rel, abs=1e-9, nan_ok=True)


def assert_same_state(one: Training, other: Training, tolerance: float = TOLERANCE) -> None:
    assert one.epoch == other.epoch
    assert one.val_losses == pytest.approx(other.val_losses, rel=tolerance, nan_ok=True)
    torch.testing.assert_close(state(one), state(other), rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_each_member_comes_to_what_it_comes_to_alone(
    network: str, memory_format: torch.memory_format, device: str
) -> None:
    configs, (train, validation) = member_configs(**NETWORKS[network]), images(device)
    fused = FusedTraining(configs, train, validation, device, memory_format)
    alone = [Training(config, train, validation, device) for config in configs]
    for _ in range(3):
        assert_same_results(fused.run_epoch(), [training.run_epoch() for training in alone])
    for member, training in zip(fused.members, alone, strict=True):
        assert_same_state(member, training)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("members", [1, 5])
@pytest.mark.parametrize("network", NETWORKS)
def test_captured_steps_come_to_what_steps_come_to(network: str, members: int) -> None:
    """Over epochs whose last batch is smaller, with a member that leaves, and with one that joins."""
    configs, (train, validation) = member_configs(**NETWORKS[network])[:members], images("cuda", train=90)
    fused, captured = (FusedTraining(configs, train, validation, "cuda", capture=capture) for capture in (False, True))
    for change in ((), (0,), ()):
        for training in (fused, captured):
            for _ in training.remove(change):
                training.add(configs[0])
        assert_same_results(captured.run_epoch(), fused.run_epoch())
    for member, expected in zip(captured.members, fused.members, strict=True):
        assert_same_state(member, expected)


def test_members_differ_in_every_field_that_is_not_shared() -> None:
    """So that the test above is of each of them."""
    assert {name for member in MEMBERS for name in member} | set(SHARED_FIELDS) == set(TrialConfig.model_fields)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("network", [n for n, f in NETWORKS.items() if f.get("batch_norm") not in ("linear", "all")])
def test_in_single_precision_members_differ_from_separate_trials_by_rounding(
    network: str, memory_format: torch.memory_format, device: str
) -> None:
    torch.set_default_dtype(torch.float32)
    configs, (train, validation) = member_configs(**NETWORKS[network]), images(device)
    fused = FusedTraining(configs, train, validation, device, memory_format)
    alone = [Training(config, train, validation, device) for config in configs]
    for _ in range(3):
        assert_same_results(fused.run_epoch(), [training.run_epoch() for training in alone], rel=1e-3)


@pytest.mark.parametrize("batch_norm", ["none", "all"])
def test_a_last_batch_of_one_image_is_what_it_is_alone(batch_norm: str) -> None:
    configs, (train, validation) = member_configs(batch_norm=batch_norm), images(train=33)
    fused = FusedTraining(configs, train, validation)
    train.log.clear()
    found = fused.run_epoch()
    sizes = [16, 17] if batch_norm == "all" else [16, 16, 1]
    assert [len(indices) for _, indices in train.log] == [size * len(configs) for size in sizes]
    assert_same_results(found, [Training(config, train, validation).run_epoch() for config in configs])


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_members_come_and_go_and_stand_at_different_epochs(memory_format: torch.memory_format) -> None:
    configs, (train, validation) = member_configs(batch_norm="conv"), images()
    alone = [Training(config, train, validation) for config in configs]
    fused = FusedTraining(configs[:3], train, validation, memory_format=memory_format)
    at_work = alone[:3]
    for leaving, coming in (((), ()), ((1,), ()), ((), (3,)), ((0, 1), (4,))):
        removed = fused.remove(leaving)
        assert [member.config for member in removed] == [at_work[position].config for position in leaving]
        at_work = [training for position, training in enumerate(at_work) if position not in leaving]
        for number in coming:
            fused.add(configs[number])
            at_work.append(alone[number])
        assert [member.config for member in fused.members] == [training.config for training in at_work]
        assert_same_results(fused.run_epoch(), [training.run_epoch() for training in at_work])
        for member, training in zip(fused.members, at_work, strict=True):
            assert_same_state(member, training)
    assert [member.epoch for member in fused.members] == [2, 1]


def test_a_removed_member_goes_on_alone_and_touches_the_others_no_more() -> None:
    configs, (train, validation) = member_configs(batch_norm="conv"), images()
    fused = FusedTraining(configs, train, validation)
    alone = Training(configs[1], train, validation)
    fused.run_epoch()
    alone.run_epoch()
    (removed,) = fused.remove([1])
    before = [state(member) for member in fused.members]
    assert_same_results([removed.run_epoch()], [alone.run_epoch()])
    assert_same_state(removed, alone)
    for member, kept in zip(fused.members, before, strict=True):
        torch.testing.assert_close(state(member), kept, rtol=0, atol=0)


def test_a_member_that_is_left_alone_trains_to_the_bit_as_it_would_have_alone(tmp_path: Path) -> None:
    configs, (train, validation) = member_configs(batch_norm="conv"), images()
    fused = FusedTraining(configs[:2], train, validation)
    fused.run_epoch()
    save_checkpoint(tmp_path, fused.members[1], fused.run_epoch()[1])
    alone = Training(configs[1], train, validation)
    restore_checkpoint(tmp_path, alone)
    fused.remove([0])
    assert [untimed(metrics) for metrics in fused.run_epoch()] == [untimed(alone.run_epoch())]
    (left,) = fused.members
    assert not [name for name, value in state(left).items() if not torch.equal(value, state(alone)[name])]
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in left.model.state_dict().values())


def test_a_member_that_trains_by_itself_in_between_is_where_that_took_it() -> None:
    configs, (train, validation) = member_configs(batch_norm="conv"), images()
    fused = FusedTraining(configs, train, validation)
    alone = [Training(config, train, validation) for config in configs]
    fused.run_epoch()
    fused.members[2].run_epoch()
    fused.run_epoch()
    for number, training in enumerate(alone):
        for _ in range(3 if number == 2 else 2):
            training.run_epoch()
        assert_same_state(fused.members[number], training)


@pytest.mark.parametrize("left", [3, 1])
def test_what_members_had_in_common_is_gone_when_one_of_them_is(left: int) -> None:
    """At once: a garbage collector does not know how full a GPU is."""
    fused = FusedTraining(member_configs(batch_norm="all")[: left + 1], *images())
    fused.run_epoch()
    step = fused._step
    assert step is not None
    rows, step = weakref.ref(step.network.rows), None
    gc.disable()
    try:
        fused.discard(fused.members[0])
        fused.run_epoch()
        assert rows() is None
    finally:
        gc.enable()
    assert len(fused.members) == left


def test_a_removed_member_holds_no_memory_of_the_others() -> None:
    fused = FusedTraining(member_configs(batch_norm="all"), *images())
    fused.run_epoch()
    (removed,) = fused.remove([0])
    kept = (*removed.model.state_dict().values(), *removed.optimizer.state().values())
    held = {storage.data_ptr(): storage.nbytes() for storage in (value.untyped_storage() for value in kept)}
    assert sum(held.values()) == sum(value.nbytes for value in kept)
    shared = fused.members[0].model.state_dict().values()
    assert all(value.untyped_storage().nbytes() > value.nbytes for value in shared)


def test_removing_nobody_who_is_there_is_refused_and_changes_nothing() -> None:
    fused = FusedTraining(member_configs()[:2], *images())
    for position in (-1, 2):
        with pytest.raises(IndexError, match=f"there is no member {position}, only 0 to 1"):
            fused.remove([0, position])
    assert len(fused.members) == 2


def test_without_members_there_is_nothing_to_train() -> None:
    fused = FusedTraining(member_configs()[:1], *images())
    fused.remove([0])
    assert fused.run_epoch() == []
    assert fused.add(member_configs()[1]).config == member_configs()[1]
    assert len(fused.run_epoch()) == 1


OTHER_SHAPES = {
    "d_size": 8, "latent_size": 4, "hidden_size": None, "conv_blocks": "d/2", "kernel_size": 4, "batch_norm": "conv",
    "negative_slope": 0.1, "upsampling": "trimmed", "likelihood": "bernoulli", "batch_size": 8,
    "precision": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize("field", SHARED_FIELDS)
def test_trials_of_other_shapes_are_refused_by_the_field_that_differs(field: str) -> None:
    first, other = small_config(), small_config(**{field: OTHER_SHAPES[field]})
    assert fusion_key(first) != fusion_key(other)
    fused = FusedTraining([first], *images())
    values = f"{getattr(first, field)!r} and {getattr(other, field)!r}"
    with pytest.raises(ValueError, match=f"trials that differ in {field} \\({values}\\) cannot be fused"):
        fused.add(other)
    assert [member.config for member in fused.members] == [first]
    fused.remove([0])
    assert fused.add(other).config == other, "it has nobody beside it"


def test_trials_that_differ_in_anything_else_have_the_same_key() -> None:
    assert len({fusion_key(config) for config in member_configs()}) == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("d_size", [3, 16])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_member_that_is_no_number_touches_no_other(
    network: str, memory_format: torch.memory_format, d_size: int, device: str
) -> None:
    """Also where its gradient is clipped, as that of the second member is. In single precision, as trials are: its
    kernels lay several groups side by side."""
    torch.set_default_dtype(torch.float32)
    configs, (train, validation) = member_configs(**NETWORKS[network], d_size=d_size), images(device)
    fused, with_nan = (FusedTraining(configs, train, validation, device, memory_format) for _ in range(2))
    with torch.no_grad():
        next(with_nan.members[1].model.parameters()).fill_(math.nan)
    expected, found = fused.run_epoch(), with_nan.run_epoch()
    assert math.isnan(found[1].train_loss)
    assert math.isnan(found[1].val_loss)
    for number in (0, 2, 3, 4):
        assert all(bool(value.isfinite().all()) for value in state(with_nan.members[number]).values())
        if device == "cpu":  # a GPU's sums may come in another order each time
            assert untimed(found[number]) == untimed(expected[number])
            one, other = state(with_nan.members[number]), state(fused.members[number])
            assert not [name for name in one if not torch.equal(one[name], other[name])]


def test_a_member_that_explodes_in_training_touches_no_other() -> None:
    configs, (train, validation) = member_configs(), images()
    configs[1] = configs[1].model_copy(update={"learning_rate": 1e300})
    fused = FusedTraining(configs, train, validation)
    alone = [Training(config, train, validation) for config in configs]
    for _ in range(2):
        found = fused.run_epoch()
        expected = [training.run_epoch() for training in alone]
        assert not math.isfinite(found[1].train_loss)
        assert_same_results([found[number] for number in (0, 2, 3, 4)], [expected[number] for number in (0, 2, 3, 4)])


@pytest.mark.parametrize("network", ["halving", "normalised everywhere", "dense, normalised"])
def test_a_members_checkpoint_is_that_of_a_separate_trial_and_either_goes_on_from_it(
    tmp_path: Path, network: str
) -> None:
    configs, (train, validation) = member_configs(**NETWORKS[network]), images()
    undisturbed = [Training(config, train, validation) for config in configs]
    expected = [[training.run_epoch() for training in undisturbed] for _ in range(3)]

    fused = FusedTraining(configs, train, validation)
    for member, metrics in zip(fused.members, fused.run_epoch(), strict=True):
        save_checkpoint(tmp_path / str(member.config.seed), member, metrics)
    alone = [Training(config, train, validation) for config in configs]
    for number, training in enumerate(alone):
        restored = restore_checkpoint(tmp_path / str(training.config.seed), training)
        assert restored is not None
        assert_same_results([restored], [expected[0][number]])
        torch.testing.assert_close(state(training), state(fused.members[number]), rtol=0, atol=0)
        metrics = training.run_epoch()
        assert_same_results([metrics], [expected[1][number]])
        save_checkpoint(tmp_path / str(training.config.seed), training, metrics)

    again = FusedTraining(configs, train, validation)
    again.run_epoch()  # a checkpoint replaces what a member has, wherever that is kept
    for member in again.members:
        restore_checkpoint(tmp_path / str(member.config.seed), member)
    assert_same_results(again.run_epoch(), expected[2])
    for member, training in zip(again.members, undisturbed, strict=True):
        assert_same_state(member, training)


def test_a_members_pictures_are_those_of_a_separate_trial_with_its_weights(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    configs, (train, validation) = member_configs(batch_norm="conv"), images()
    fused = FusedTraining(configs, train, validation)
    metrics = fused.run_epoch()
    for number, member in enumerate(fused.members):
        directories = [SweepDirectory(tmp_path / name) for name in ("fused", "alone")]
        alone = Training(configs[number], train, validation)
        for directory in directories:
            directory.trials.mkdir(parents=True, exist_ok=True)
            save_checkpoint(directory.trial(number), member, metrics[number])
        restore_checkpoint(directories[1].trial(number), alone)
        for training, directory in zip((member, alone), directories, strict=True):
            draw_strip(training, directory, number)
            draw_grids(training, directory, number)
        fused_pictures, alone_pictures = (
            {path.relative_to(directory.root): path.read_bytes() for path in directory.trial(number).rglob("*.png")}
            for directory in directories
        )
        assert len(fused_pictures) == 4
        assert fused_pictures == alone_pictures


def test_a_members_parameters_keep_the_layout_that_training_gives_them() -> None:
    """The fused Adam of a single trial walks a parameter and its moments in memory order."""
    config, (train, validation) = small_config(), images()
    alone, fused = Training(config, train, validation), FusedTraining([config, config], train, validation)
    fused.run_epoch()
    for member in (fused.members[1], *fused.remove([0])):
        for name, parameter in member.model.named_parameters():
            assert parameter.stride() == alone.model.get_parameter(name).stride(), name
            assert parameter.requires_grad
        moments = zip(member.optimizer.state().values(), alone.optimizer.state().values(), strict=True)
        assert all(one.stride() == other.stride() for one, other in moments)


def test_times_are_those_of_the_group() -> None:
    found = FusedTraining(member_configs(), *images()).run_epoch()
    assert found[0].images_per_s > 0
    assert found[0].epoch_s > 40 / found[0].images_per_s
    assert len({(metrics.images_per_s, metrics.epoch_s) for metrics in found}) == 1


def test_a_fused_network_leaves_its_models_as_they_were() -> None:
    config = small_config(batch_norm="all")
    models = [ConvVAE.from_config(config.model_copy(update={"seed": seed}), SHAPE) for seed in range(2)]
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    network = FusedNetwork(models, torch.channels_last)
    x, noise = torch.rand(5, 2, *SHAPE), torch.randn(2, 5, 3)
    with torch.no_grad():
        found = network.run(network.join(x), noise, training=False)
        for number, model in enumerate(models):
            torch.testing.assert_close(model.state_dict(), before[number], rtol=0, atol=0)
            expected = model.eval()(x[:, number], noise[number])
            torch.testing.assert_close((found[0][:, number], found[1][number], found[2][number]), expected)
