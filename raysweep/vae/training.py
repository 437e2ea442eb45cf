"""Training one trial: the loop, its state, and the generator of epoch metrics.

The images stay where they are, on the device or in a memory map; a batch is an index and a convert. Nothing in a step
waits for the device: sums are read once an epoch. Noise and batch order are drawn anew from (seed, epoch), so that a
trial resumed at any epoch goes on exactly as it would have.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from raysweep.config import TrialConfig
from raysweep.metrics import EpochMetrics
from raysweep.vae.evaluation import Images, evaluate, mean_image_error
from raysweep.vae.networks import ConvVAE
from raysweep.vae.objective import data_term, kl_per_latent, warmed_weight, weighted_loss


class Training:
    """A trial in training: the model, its optimiser and how many epochs are done."""

    def __init__(
        self, config: TrialConfig, train: Images, validation: Images, device: str | torch.device = "cpu"
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.train_images = train
        self.validation_images = validation
        self.epoch = 0
        model = ConvVAE.from_config(config, train.shape)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate, fused=True)
        self.baseline_mse = mean_image_error(validation, train.mean_image(), self.device)

    @property
    def steps_an_epoch(self) -> int:
        return -(-len(self.train_images) // self.config.batch_size)

    def run_epoch(self) -> EpochMetrics:
        """One epoch of training and one pass over the validation images."""
        start = time.perf_counter()
        train_loss = float(self._train())
        trained = time.perf_counter()
        metrics = evaluate(self.model, self.validation_images, self.config, self.baseline_mse, self.device)
        self.epoch += 1
        return EpochMetrics(
            epoch=self.epoch,
            train_loss=train_loss,
            **metrics,
            images_per_s=len(self.train_images) / (trained - start),
            epoch_s=time.perf_counter() - start,
        )

    def _train(self) -> Tensor:
        """One pass over the training images in random order; the mean loss over them, a scalar on the device."""
        config, model, count = self.config, self.model, len(self.train_images)
        pixels = self.train_images.shape[0] * self.train_images.shape[1] * self.train_images.shape[2]
        order_generator, noise_generator = self._generators()
        order = torch.randperm(count, generator=order_generator).to(self.device)
        total = torch.zeros((), device=self.device)
        step = self.epoch * self.steps_an_epoch
        for batch in order.split(config.batch_size):  # type: ignore[no-untyped-call]
            x = self.train_images.gather(batch)
            noise = torch.randn(len(batch), config.latent_size, generator=noise_generator, device=self.device)
            logits, mean, logvar = model(x, noise)
            data = data_term(logits, x, config.likelihood, config.sigma)
            rate = kl_per_latent(mean, logvar).sum() / len(batch)
            weight = warmed_weight(config, step, self.steps_an_epoch)
            loss = weighted_loss(data, rate, weight, config.reduction, pixels, config.latent_size)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if config.max_gradient_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient_norm)
            self.optimizer.step()
            total += loss.detach() * len(batch)
            step += 1
        return total / count

    def _generators(self) -> tuple[torch.Generator, torch.Generator]:
        """Generators of batch order and of noise for the coming epoch, functions of the seed and the epoch alone."""
        return (
            torch.Generator().manual_seed(_mixed_seed(self.config.seed, self.epoch, "order")),
            torch.Generator(self.device).manual_seed(_mixed_seed(self.config.seed, self.epoch, "noise")),
        )


def _mixed_seed(seed: int, epoch: int, purpose: str) -> int:
    """64 bits that depend on all three; a hash, since torch's CPU generator looks at the lower 32 bits alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {epoch} {purpose}".encode(), digest_size=8).digest())


def train(
    config: TrialConfig, train: Images, validation: Images, device: str | torch.device = "cpu"
) -> Iterator[EpochMetrics]:
    """Trains one configuration from its initialisation and yields the metrics of each epoch.

    Needs torch alone. Metrics may be NaN or infinite: a trial that diverges is the caller's to stop.
    """
    training = Training(config, train, validation, device)
    while training.epoch < config.epochs:
        yield training.run_epoch()
