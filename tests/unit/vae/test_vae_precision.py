"""Precision: what a training step computes in less of it, and that nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tensor_images import small_config, small_training, untimed
from torch import Tensor

from raysweep.spec.config import Precision, TrialConfig
from raysweep.vae.evaluation import evaluate
from raysweep.vae.fusing.training import FusedTraining
from raysweep.vae.training import Training

TF32_FLAGS = {"float32": (False, False), "tf32": (True, True), "bfloat16": (False, False)}
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16")


def tf32_flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def fused_pair(config: TrialConfig) -> FusedTraining:
    alone = small_training(config)
    other = config.model_copy(update={"seed": config.seed + 1})
    return FusedTraining([config, other], alone.train_images, alone.validation_images)


class Seen:
    """Remembers the dtype that linear layers compute in, and the flags of TF32, of every pass through a network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[tuple[bool, torch.dtype, tuple[bool, bool]]] = []
        for name in ("linear", "baddbmm"):
            owner = torch.nn.functional if name == "linear" else torch
            monkeypatch.setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def watched(*arguments: Tensor, **named: Tensor) -> Tensor:
            found = compute(*arguments, **named)
            self.passes.append((torch.is_grad_enabled(), found.dtype, tf32_flags()))
            return found

        return watched


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_steps_alone_have_the_precision_that_is_asked_for(
    precision: Precision, fused: bool, seen: Seen
) -> None:
    before = tf32_flags()
    config = small_config(precision=precision)
    training = fused_pair(config) if fused else small_training(config)
    training.run_epoch()
    steps = {(dtype, flags) for is_step, dtype, flags in seen.passes if is_step}
    validation = {(dtype, flags) for is_step, dtype, flags in seen.passes if not is_step}
    assert steps == {(torch.bfloat16 if precision == "bfloat16" else torch.float32, TF32_FLAGS[precision])}
    assert validation == {(torch.float32, (False, False))}
    assert tf32_flags() == before


@pytest.mark.parametrize("fused", [False, True])
def test_in_bfloat16_a_model_comes_near_to_what_it_comes_to_in_float32(fused: bool) -> None:
    def trained(precision: Precision) -> Training:
        config = small_config(precision=precision)
        training: Training | FusedTraining = fused_pair(config) if fused else small_training(config)
        for _ in range(3):
            training.run_epoch()
        return training.members[0] if isinstance(training, FusedTraining) else training

    full, less = trained("float32"), trained("bfloat16")
    assert all(value.dtype == torch.float32 for value in less.model.state_dict().values())
    assert less.val_losses != full.val_losses
    assert less.val_losses == pytest.approx(full.val_losses, rel=0.02)


def test_metrics_are_those_of_the_weights_in_float32() -> None:
    training = small_training(small_config(precision="bfloat16"))
    metrics = untimed(training.run_epoch())
    found = evaluate(
        training.model, training.validation_images, training.config, training.baseline_mse, training.device
    )
    assert found.items() <= metrics.items()
