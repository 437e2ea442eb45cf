"""Training one trial: the loop, its state, and the generator of epoch metrics.

The images stay where they are, on the device or in a memory map; a batch takes an indexing and a conversion. Nothing in
a step waits for the device: sums are read once per epoch. Noise, batch order and changes of the images are drawn anew
from (seed, epoch), so that a trial resumed at any epoch continues exactly as it would have.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from raysweep.metrics import EpochMetrics
from raysweep.profiles import SlotPart
from raysweep.spec.config import TrialConfig
from raysweep.vae.adam import Adam
from raysweep.vae.evaluation import Images, evaluate, mean_image_error
from raysweep.vae.inputs import InputGenerators, changes_images, seeded_generator, training_pair
from raysweep.vae.laps import Lap, Laps, no_lap
from raysweep.vae.likelihoods import data_term
from raysweep.vae.networks import ConvVAE
from raysweep.vae.objective import charged_rate, kl_per_latent, warmed_weight, weighted_loss
from raysweep.vae.precision import forward_in, products_in
from raysweep.vae.schedules import learning_rate


class Training:
    """A trial in training: the model, its optimiser, the number of epochs done and their validation losses.

    Raises:
        ValueError: if (a) the images are too small for the network, or (b) steps have one image each, over which batch
            normalisation cannot normalise.
    """

    def __init__(
        self,
        config: TrialConfig,
        train: Images,
        validation: Images,
        device: str | torch.device = "cpu",
        baseline_mse: float | None = None,
    ) -> None:
        """Build the model and its optimiser.

        `baseline_mse` is that of another trial of the same images, if there is one, because measuring it takes a pass.
        """
        self.config = config
        self.device = torch.device(device)
        self.train_images = train
        self.validation_images = validation
        self.epoch = 0
        self.val_losses: list[float] = []
        """Of every epoch done; the learning rate of the next may depend on them."""
        if config.batch_norm != "none" and min(config.batch_size, len(train)) < 2:
            raise ValueError(
                f"batch_norm: {config.batch_norm} needs 2 images a step or more, "
                f"got batch_size {config.batch_size} and {len(train)} training images"
            )
        model = ConvVAE.from_config(config, train.shape)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = Adam(self.model.parameters(), config.learning_rate)
        if baseline_mse is None:
            baseline_mse = mean_image_error(validation, train.mean_image(), self.device)
        self.baseline_mse = baseline_mse

    @property
    def steps_an_epoch(self) -> int:
        return len(self.batch_sizes())

    def run_epoch(self, laps: Laps | None = None) -> EpochMetrics:
        """Train for one epoch and pass once over the validation images; `laps` measures the epoch's parts."""
        lap = no_lap if laps is None else laps.lap  # chosen here, so that a step pays for a call only
        start = time.perf_counter()
        if laps is not None:
            laps.start()
        with products_in(self.config.precision):
            train_loss = float(self._train(lap))
        trained = time.perf_counter()
        metrics = evaluate(self.model, self.validation_images, self.config, self.baseline_mse, self.device)
        lap(SlotPart.EVALUATION)
        self.epoch += 1
        self.val_losses.append(metrics["val_loss"])
        return EpochMetrics(
            epoch=self.epoch,
            train_loss=train_loss,
            **metrics,
            images_per_s=len(self.train_images) / (trained - start),
            epoch_s=time.perf_counter() - start,
        )

    def _train(self, lap: Lap) -> Tensor:
        """Train on all images once, in random order, and return the mean loss, a scalar on the device."""
        config, model, count = self.config, self.model, len(self.train_images)
        pixels = self.train_images.shape[0] * self.train_images.shape[1] * self.train_images.shape[2]
        order_generator = seeded_generator("cpu", config.seed, self.epoch, "order")
        noise_generator = seeded_generator(self.device, config.seed, self.epoch, "noise")
        drawn = InputGenerators.of(config.seed, self.epoch, self.device) if changes_images(config) else None
        self.optimizer.learning_rate = learning_rate(config, self.val_losses)
        order = torch.randperm(count, generator=order_generator).to(self.device)
        total = torch.zeros((), device=self.device)
        steps = self.steps_an_epoch
        step = self.epoch * steps
        for batch in order.split(self.batch_sizes()):  # type: ignore[no-untyped-call]
            x = seen = self.train_images.gather(batch)
            if drawn is not None:
                seen, x = training_pair(x, config, drawn)
            noise = torch.randn(len(batch), config.latent_size, generator=noise_generator, device=self.device)
            lap(SlotPart.DATA)
            with forward_in(config.precision, self.device):
                output, mean, logvar = model(seen, noise)
            output, mean, logvar = output.to(x.dtype), mean.to(x.dtype), logvar.to(x.dtype)
            data = data_term(output, x, config.likelihood, config.sigma)
            rate = charged_rate(kl_per_latent(mean, logvar), config.free_bits_nats)
            weight = warmed_weight(config, step, steps)
            loss = weighted_loss(data, rate, weight, config.reduction, pixels, config.latent_size)
            lap(SlotPart.FORWARD)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            lap(SlotPart.BACKWARD)
            if config.max_gradient_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient_norm)
            self.optimizer.step()
            total.add_(loss.detach(), alpha=len(batch))
            step += 1
            lap(SlotPart.OPTIMISER)
        return total / count

    def batch_sizes(self) -> list[int]:
        """Return the number of images of each step of an epoch.

        With batch normalisation, a last batch of one image joins the batch before, because one value has no variance.
        """
        whole, rest = divmod(len(self.train_images), self.config.batch_size)
        sizes = [self.config.batch_size] * whole
        if rest == 1 and whole and self.config.batch_norm != "none":
            sizes[-1] += 1
        elif rest:
            sizes.append(rest)
        return sizes


def train(
    config: TrialConfig, train: Images, validation: Images, device: str | torch.device = "cpu"
) -> Iterator[EpochMetrics]:
    """Train one configuration from its initialisation and yield the metrics of each epoch.

    Needs only torch. Metrics may be NaN or infinite: the caller must stop a trial that diverges.
    """
    training = Training(config, train, validation, device)
    while training.epoch < config.epochs:
        yield training.run_epoch()
