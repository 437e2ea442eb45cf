"""Training of several trials of one shape in one process, as one batched model, which pays for small models on a GPU.

Each member stays a trial of its own: a `Training` whose model and optimiser live in tensors common to all. It
(a) draws its batch order, noise and images from its own seed and epoch, (b) warms up its KLD weight, clips gradients
and lowers its learning rate by its own configuration, and (c) diverges alone. Its results are those of training alone,
except for the rounding of other kernels. Its checkpoints and pictures are those of a trial that trains alone, and
either kind of trial can continue from the other's.

Nothing in a step waits for the device or depends on a value there. docs/performance.md says when fusing pays. The only
member of a group trains exactly as it does alone, to the bit, unless steps are captured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from raysweep.metrics import EpochMetrics
from raysweep.profiles import SlotPart
from raysweep.spec.config import SHARED_FIELDS, TrialConfig, fusion_key
from raysweep.vae.adam import StackedAdam
from raysweep.vae.evaluation import Images, evaluate_members
from raysweep.vae.fusing.graphs import CapturedStep
from raysweep.vae.fusing.network import FusedNetwork, own
from raysweep.vae.inputs import InputGenerators, changes_images, seeded_generator, training_pair
from raysweep.vae.laps import Lap, Laps, no_lap
from raysweep.vae.likelihoods import data_terms
from raysweep.vae.objective import charged_rates, kl_per_latent, loss_divisors, warmed_weight
from raysweep.vae.precision import forward_in, products_in
from raysweep.vae.schedules import learning_rate
from raysweep.vae.training import Training


class FusedTraining:
    """Trials that train together, epoch by epoch. Members come and go between epochs, and each has its own epoch.

    Raises:
        ValueError: if configurations cannot be fused, or one of them cannot be trained.
    """

    def __init__(
        self,
        configs: Iterable[TrialConfig],
        train: Images,
        validation: Images,
        device: str | torch.device = "cpu",
        memory_format: torch.memory_format | None = None,
        capture: bool = False,
    ) -> None:
        """Add a member for each configuration.

        Args:
            configs: of the first members, all with the same `fusion_key`.
            train: images of all members.
            validation: likewise.
            device: where they train.
            memory_format: of images in training; chosen by the device if None.
            capture: whether steps become CUDA graphs, even if there is only one member. Epochs whose laps are timed do
                not use graphs. Sweeps leave it off as long as no GPU has been measured.
        """
        self.device = torch.device(device)
        self.train_images = train
        self.validation_images = validation
        if memory_format is None:
            # Grouped convolutions on a CPU take up to three times as long otherwise; on a GPU this was not measured.
            memory_format = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format
        self.memory_format = memory_format
        self._captures = capture
        self._members: list[Training] = []
        self._step: _Step | None = None
        """None if members have come or gone since the last epoch."""
        self._shares_memory = False
        """True if the members' parameters may lie in tensors that they share, or shared, with other members."""
        self._baseline_mse: float | None = None
        """Of the images, once the first member has measured it."""
        for config in configs:
            self.add(config)

    @property
    def members(self) -> tuple[Training, ...]:
        """The members, in the order in which they came."""
        return tuple(self._members)

    def add(self, config: TrialConfig) -> Training:
        """Add a trial at its beginning, after the other members. `restore_checkpoint` may then advance it.

        Raises:
            ValueError: if it cannot be fused with the other members, or cannot be trained.
        """
        if self._members and fusion_key(config) != fusion_key(self._members[0].config):
            raise ValueError(f"trials that differ in {_differences(self._members[0].config, config)} cannot be fused")
        member = Training(config, self.train_images, self.validation_images, self.device, self._baseline_mse)
        self._baseline_mse = member.baseline_mse
        self._members.append(member)
        self._step = None
        return member

    def remove(self, positions: Iterable[int]) -> list[Training]:
        """Remove the members at these positions, counted from 0; the others close up.

        Returns them in their order. Each is a trial that can go on alone, in memory of its own.

        Raises:
            IndexError: if there is no member at one of the positions; then none is removed.
        """
        leaving = sorted(set(positions))
        for position in leaving:
            if not 0 <= position < len(self._members):
                raise IndexError(f"there is no member {position}, only 0 to {len(self._members) - 1}")
        removed = [self._members[position] for position in leaving]
        for member in removed:
            self.discard(member)
            _separate(member)
        return removed

    def discard(self, member: Training) -> None:
        """Remove a member that will not be trained any more; the others close up.

        Raises:
            ValueError: if it is not a member.
        """
        self._members.remove(member)
        self._step = None

    def run_epoch(self, laps: Laps | None = None) -> list[EpochMetrics]:
        """Train every member for one epoch, evaluate it, and return the metrics of each, in the members' order.

        A member's times are those of the whole group, because its epoch took that long. `laps` measures the epoch's
        parts.
        """
        if not self._members:
            return []
        if len(self._members) == 1 and not self._captures:
            if self._shares_memory:
                _separate(self._members[0])
                self._shares_memory = False
            return [self._members[0].run_epoch(laps)]
        lap = no_lap if laps is None else laps.lap
        start = time.perf_counter()
        if laps is not None:
            laps.start()
        if self._step is None:
            self._step = _Step(self._members, self.memory_format)
            self._shares_memory = True
        with products_in(self._members[0].config.precision):
            train_losses: list[float] = self._train(self._step, lap, self._captures and laps is None).tolist()
        trained = time.perf_counter()
        evaluated = self._evaluate(self._step)
        lap(SlotPart.EVALUATION)
        ended = time.perf_counter()
        found = []
        for member, train_loss, metrics in zip(self._members, train_losses, evaluated, strict=True):
            member.epoch += 1
            member.val_losses.append(metrics["val_loss"])
            found.append(
                EpochMetrics(
                    epoch=member.epoch,
                    train_loss=train_loss,
                    **metrics,
                    images_per_s=len(self.train_images) / (trained - start),
                    epoch_s=ended - start,
                )
            )
        return found

    def _train(self, step: _Step, lap: Lap, capture: bool) -> Tensor:
        """Train every member on all images once, each in its own order, and return the mean losses, [members]."""
        members, device, count = self._members, self.device, len(self.train_images)
        sizes = members[0].batch_sizes()
        draws = [_Draws(member, device) for member in members]
        changes = any(changes_images(member.config) for member in members)
        # [images, members], so that one step's images, of all members, are consecutive rows.
        order = torch.stack([drawn.order(count) for drawn in draws], dim=1).to(device)
        weights = _kld_weights(members, len(sizes)).to(device)
        rates = [learning_rate(member.config, member.val_losses) for member in members]
        step.optimizer.learning_rates.copy_(torch.tensor(rates).unsqueeze(1))
        total = torch.zeros(len(members), device=device)
        for batch, weight in zip(order.split(sizes), weights, strict=True):  # type: ignore[no-untyped-call]
            x = self.train_images.gather(batch.flatten()).view(*batch.shape, *self.train_images.shape)
            seen: list[Tensor] = []
            if changes:
                pairs = [drawn.pair(images) for drawn, images in zip(draws, x.unbind(dim=1), strict=True)]
                *seen, x = (torch.stack(images, dim=1) for images in zip(*pairs, strict=True))
            noise = torch.stack([drawn.latent_noise(len(batch)) for drawn in draws])
            lap(SlotPart.DATA)
            inputs = (x, noise, weight, *seen)
            losses = step.captured(partial(step.run, no_lap), *inputs) if capture else step.run(lap, *inputs)
            total += losses * len(batch)
        return total / count

    def _evaluate(self, step: _Step) -> list[dict[str, Any]]:
        """Return the validation metrics of every member."""
        configs, baseline_mse = [member.config for member in self._members], self._members[0].baseline_mse

        def run(seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return step.network.run(step.network.join(seen), noise, training=False)

        return evaluate_members(run, self.validation_images, configs, baseline_mse, self.device)


class _Step:
    """A training step of all members at once: their networks and optimisers in common tensors, and its constants.

    Two steps differ only in the tensors given to `run`, and `run` does not wait for their values, so it can be
    captured.
    """

    def __init__(self, members: Sequence[Training], memory_format: torch.memory_format) -> None:
        configs, first = [member.config for member in members], members[0]
        self.network = FusedNetwork([member.model for member in members], memory_format)
        self.optimizer = StackedAdam(self.network.rows, [member.optimizer for member in members], self.network.views)
        self._likelihood, self._precision = first.config.likelihood, first.config.precision
        pixels, latents = math.prod(first.train_images.shape), first.config.latent_size
        divisors = [loss_divisors(config.reduction, pixels, latents) for config in configs]

        def of_each(values: Iterable[float]) -> Tensor:
            return torch.tensor(list(values), dtype=self.network.rows.dtype).to(first.device)

        self._data_divisors, self._rate_divisors = map(of_each, zip(*divisors, strict=True))
        self._sigmas = of_each(config.sigma for config in configs)
        # Free bits of 0 mean no floor, so that a KL that rounding made negative stays as it is.
        self._free_bits_nats = of_each(config.free_bits_nats or -math.inf for config in configs).unsqueeze(1)
        norms = [config.max_gradient_norm for config in configs]
        self._clips = any(norms)
        self._longest = of_each(norm or math.inf for norm in norms).unsqueeze(1)
        self.captured = CapturedStep()

    def run(self, lap: Lap, x: Tensor, noise: Tensor, weight: Tensor, seen: Tensor | None = None) -> Tensor:
        """Train each member for one step and return the losses, [members].

        Args:
            lap: called at the end of each part.
            x: the targets of the loss, [batch, members, channels, height, width].
            noise: [members, batch, latents], drawn from N(0, I).
            weight: of the KL divergence, [members].
            seen: the inputs, shaped like `x`, if they differ from it.
        """
        target = self.network.join(x)
        joined = target if seen is None else self.network.join(seen)
        with forward_in(self._precision, x.device):
            output, mean, logvar = self.network.run(joined, noise, training=True)
        output, mean, logvar = output.to(x.dtype), mean.to(x.dtype), logvar.to(x.dtype)
        data = data_terms(output, self.network.part(target), self._likelihood, self._sigmas)
        rate = charged_rates(kl_per_latent(mean, logvar), self._free_bits_nats)
        losses = data / self._data_divisors + weight * rate / self._rate_divisors
        lap(SlotPart.FORWARD)
        self.optimizer.zero_grad()
        losses.sum().backward()  # type: ignore[no-untyped-call]
        lap(SlotPart.BACKWARD)
        if self._clips:
            self.optimizer.clip(self._longest)
        self.optimizer.step()
        lap(SlotPart.OPTIMISER)
        return losses.detach()


class _Draws:
    """The draws of one member's next epoch, from its own seed and epoch, as when it trains alone."""

    def __init__(self, member: Training, device: torch.device) -> None:
        config, epoch = member.config, member.epoch
        self._config, self._device = config, device
        self._order = seeded_generator("cpu", config.seed, epoch, "order")
        self._noise = seeded_generator(device, config.seed, epoch, "noise")
        self._images = InputGenerators.of(config.seed, epoch, device) if changes_images(config) else None

    def order(self, count: int) -> Tensor:
        """Return the positions of `count` images, shuffled."""
        return torch.randperm(count, generator=self._order)

    def latent_noise(self, batch: int) -> Tensor:
        """Draw the noise of one batch's latents, [batch, latents]."""
        return torch.randn(batch, self._config.latent_size, generator=self._noise, device=self._device)

    def pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's input and the target of the loss for images x [batch, channels, height, width]."""
        return (x, x) if self._images is None else training_pair(x, self._config, self._images)


def _separate(member: Training) -> None:
    """Move a member's model and optimiser state back into memory of their own."""
    own(member.model)
    member.optimizer.own()


def _kld_weights(members: Sequence[Training], steps: int) -> Tensor:
    """Return the KLD weight of each step of an epoch and each member, [steps, members]."""
    return torch.tensor(
        [
            [warmed_weight(member.config, member.epoch * steps + step, steps) for member in members]
            for step in range(steps)
        ]
    )


def _differences(first: TrialConfig, other: TrialConfig) -> str:
    """Return the fields that two fused configurations must share but do not, with their values."""
    names = [name for name in SHARED_FIELDS if getattr(first, name) != getattr(other, name)]
    return ", ".join(f"{name} ({getattr(first, name)!r} and {getattr(other, name)!r})" for name in names)
