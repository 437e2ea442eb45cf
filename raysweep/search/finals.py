"""The final metrics of one trial: its last checkpoint on the test split, which no choice has looked at before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysweep.config import TrialConfig
from raysweep.data.tensors import ImageSplits, ImageTensors, load_splits
from raysweep.errors import CheckpointError
from raysweep.layout import SweepDirectory, write_atomically
from raysweep.metrics import FinalMetrics
from raysweep.quality.bounds import importance_weighted_bound
from raysweep.quality.distances import density_coverage, kid, precision_recall
from raysweep.quality.features import FeatureNetwork
from raysweep.quality.latents import (
    active_units,
    aggregate_kl_nats,
    knn_accuracy,
    latent_kl_nats,
    probe_accuracy,
    silhouette,
)
from raysweep.quality.mixture import fit_mixture
from raysweep.quality.paths import monotonicity
from raysweep.quality.sharpness import sharpness
from raysweep.report.images import Pixels
from raysweep.report.latents import MAX_ROWS, sprite_sheet, write_latents
from raysweep.search import pictures
from raysweep.search.exchange import TestOrder
from raysweep.search.features import feature_space
from raysweep.search.pictures import seen_by_the_encoder, spread
from raysweep.vae.checkpoint import list_checkpoints, read_checkpoint
from raysweep.vae.evaluation import evaluate, mean_image_error
from raysweep.vae.inputs import corrupt
from raysweep.vae.likelihoods import sample_pixels
from raysweep.vae.networks import ConvVAE
from raysweep.vae.objective import DEQUANTISATION_VARIANCE, bits_per_dim
from raysweep.vae.walks import interpolate

BATCH = 256
PAIRS = 32
"""Pairs of test images that are interpolated between."""
COMPONENTS = 10
"""Of the mixture that is fitted to the latents."""
SHIFTED_MEAN, SHIFTED_SIGMA = 1.0, 2.0
"""The Gaussian, other than the prior, whose draws are shown."""
SPRITE_SIDE = 48
"""Pixels to which the pictures of latents are shrunk where the images are larger."""
UNPROJECTED_ROWS = 1000
"""Latents that are kept of a trial that is not among the few best."""


def measure_trial(order: TestOrder) -> FinalMetrics:
    """Measures a trial that has ended and draws its last pictures; writes below the trial's directory alone.

    Raises:
        CheckpointError: if the trial has no whole checkpoint.
        CacheError: if the images cannot be read.
        StorageError: if a picture cannot be written.
    """
    device = torch.device("cuda" if order.gpu else "cpu")
    splits = load_splits(order.cache, order.data, device)
    features = feature_space(order.cache, order.data, splits, device)
    start = time.perf_counter()
    subject = Subject.of(order, splits, features, device)
    with torch.no_grad():
        bounds = subject.bounds()
        latents = subject.latents()
        images = subject.images()
    return FinalMetrics(
        images=subject.count,
        features=features.kind,
        **bounds,
        **latents,
        **images,
        measured_s=time.perf_counter() - start,
    )


@dataclass
class Posteriors:
    """Of the images of one split, at some positions."""

    positions: Tensor
    means: Tensor
    logvars: Tensor
    labels: Tensor | None


@dataclass
class Seen:
    """What the feature space makes of some images."""

    embeddings: Tensor
    classes: Tensor
    sharpness: float | None


@dataclass
class Subject:
    """A trained model, the images it is tested on, and where what is seen of it goes."""

    order: TestOrder
    directory: SweepDirectory
    model: ConvVAE
    config: TrialConfig
    splits: ImageSplits
    features: FeatureNetwork
    device: torch.device
    count: int
    """Test images that costly measures look at, and samples."""
    sigma2: float = math.nan
    """The variance with which the decoder is calibrated on the test split, once `bounds` knows it."""

    @classmethod
    def of(cls, order: TestOrder, splits: ImageSplits, features: FeatureNetwork, device: torch.device) -> Subject:
        directory = SweepDirectory(order.directory)
        faults = []
        for path in list_checkpoints(directory.trial(order.number)):
            try:
                checkpoint = read_checkpoint(path)
                break
            except CheckpointError as error:
                faults.append(str(error))
        else:
            raise CheckpointError("; ".join(faults) or f"trial {order.number} has left no checkpoint")
        model = ConvVAE.from_config(checkpoint.config, checkpoint.shape)
        model.load_state_dict(checkpoint.weights)
        count = min(order.evaluation.images, len(splits.test))
        model = model.to(device).eval()
        return cls(order, directory, model, checkpoint.config, splits, features, device, count)

    def bounds(self) -> dict[str, Any]:
        """Likelihoods and errors, of the whole test split but for the importance-weighted bound."""
        splits, model, config = self.splits, self.model, self.config
        pixels = math.prod(splits.info.shape)
        baseline = mean_image_error(splits.test, splits.train.mean_image(), self.device)
        whole = evaluate(model, splits.test, config, baseline, self.device)
        self.sigma2 = whole["mse"] + DEQUANTISATION_VARIANCE
        iwae = importance_weighted_bound(
            self._encode, self._log_likelihood, self._test_images(), self.order.evaluation.importance_samples,
            seed=config.seed, batch=BATCH,
        )  # fmt: skip
        names = ("elbo_nats", "elbo_binary_nats", "rate_nats", "mse", "psnr_db", "r2")
        return {
            **{name: _finite(whole[name]) for name in names},
            "iwae_nats": iwae,
            "iwae_samples": self.order.evaluation.importance_samples,
            "iwae_bits_per_dim": None if iwae is None else bits_per_dim(iwae, pixels),
            **self._sampled_pixels(),
            "denoised_mse": self._denoised_mse(),
        }

    def latents(self) -> dict[str, Any]:
        """What the latents are worth, and the latents themselves as a file."""
        rows = MAX_ROWS if self.order.projected else UNPROJECTED_ROWS
        test = self._posteriors(self.splits.test, MAX_ROWS)
        train = self._posteriors(self.splits.train, MAX_ROWS)
        active = active_units(test.means)
        kl_nats = latent_kl_nats(test.means, test.logvars)
        some = spread(self.count, len(test.means))
        self.kl_nats = torch.zeros(self.config.latent_size) if kl_nats is None else kl_nats
        self.mixture = fit_mixture(
            train.means, train.logvars, active=active, components=COMPONENTS, seed=self.config.seed
        )
        self._write_latents(test, train, rows)
        return {
            "active_units": int(active.sum()),
            "latent_kl_nats": tuple(float(f"{nats:.5g}") for nats in self.kl_nats.tolist()),
            "aggregate_kl_nats": aggregate_kl_nats(test.means, test.logvars),
            "silhouette": silhouette(test.means[some], None if test.labels is None else test.labels[some], active),
            "knn_accuracy": knn_accuracy(train.means, train.labels, test.means, test.labels, active),
            "probe_accuracy": probe_accuracy(train.means, train.labels, test.means, test.labels, active),
        }

    def images(self) -> dict[str, Any]:
        """How near samples come to test images, and reconstructions to what they are of; draws the pictures."""
        splits, model, seed = self.splits, self.model, self.config.seed
        places = spread(self.count, len(splits.test)).to(self.device)
        labels = None if splits.test.labels is None else splits.test.labels[places]
        real = self._seen(lambda rows: splits.test.gather(places[rows]))
        others = spread(self.count, len(splits.train)).to(self.device)
        floor = self._seen(lambda rows: splits.train.gather(others[rows]))
        rebuilt = self._seen(lambda rows: model.reconstruct(self._input(splits.test.gather(places[rows]))))
        prior = self._normal(self.count, seed).to(self.device)
        samples = self._seen(lambda rows: model.decode(prior[rows]))
        found: dict[str, Any] = {
            **self._distances("", real, samples),
            **self._distances("mixture_", real, None),
            **self._distances("floor_", real, floor),
            "reconstruction_accuracy": self._accuracy(rebuilt, labels),
            "floor_reconstruction_accuracy": self._accuracy(real, labels),
            "reconstruction_sharpness": rebuilt.sharpness,
            "sample_sharpness": samples.sharpness,
            "floor_sharpness": real.sharpness,
        }
        if self.mixture is not None:
            drawn = self.mixture.sample(self.count, seed).to(self.device)
            found |= self._distances("mixture_", real, self._seen(lambda rows: model.decode(drawn[rows])))
            pictures.draw_samples(self.directory.mixture_samples(self.order.number), model.decode(drawn[:64]))
        shifted = SHIFTED_MEAN + SHIFTED_SIGMA * self._normal(pictures.SAMPLED, seed).to(self.device)
        pictures.draw_samples(self.directory.shifted_samples(self.order.number), model.decode(shifted))
        found["interpolation_monotonicity"] = self._interpolated()
        first = self._input(splits.test.gather(places[:1]))[0]
        pictures.draw_traversals(self.directory, self.order.number, model, first, self.kl_nats)
        return found

    def _input(self, x: Tensor) -> Tensor:
        """What the encoder is given of images in [0, 1]."""
        return seen_by_the_encoder(x, self.config)

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode(self._input(x))

    def _test_images(self) -> Tensor:
        return self.splits.test.gather(spread(self.count, len(self.splits.test)).to(self.device))

    def _log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log N(x; x_hat, sigma^2 I), [batch], with the sigma that `elbo_nats` is calibrated with."""
        error: Tensor = (self.model.decode(z) - x).square().flatten(1).sum(dim=1)
        return -0.5 * (error / self.sigma2 + x[0].numel() * math.log(2 * math.pi * self.sigma2))

    def _normal(self, count: int, seed: int) -> Tensor:
        return torch.randn(count, self.config.latent_size, generator=torch.Generator().manual_seed(seed))

    def _posteriors(self, images: ImageTensors, most: int) -> Posteriors:
        positions = spread(most, len(images)).to(self.device)
        parts = [self._encode(images.gather(rows)) for rows in positions.split(BATCH)]  # type: ignore[no-untyped-call]
        means, logvars = (torch.cat(column) for column in zip(*parts, strict=True))
        return Posteriors(positions, means, logvars, None if images.labels is None else images.labels[positions])

    def _seen(self, of: Callable[[Tensor], Tensor]) -> Seen:
        """Looks at `count` images, of which `of` gives those at some rows."""
        embeddings, classes, sharp = [], [], []
        for rows in torch.arange(self.count, device=self.device).split(BATCH):  # type: ignore[no-untyped-call]
            batch = of(rows)
            embeddings.append(self.features.embed(batch))
            classes.append(self.features.classify(batch))
            sharp.append((sharpness(batch), len(batch)))
        known = [value * rows for value, rows in sharp if value is not None]
        mean = sum(known) / self.count if len(known) == len(sharp) else None
        return Seen(torch.cat(embeddings), torch.cat(classes), mean)

    def _distances(self, prefix: str, real: Seen, other: Seen | None) -> dict[str, float | None]:
        if other is None:
            return {f"{prefix}{name}": None for name in ("kid", "precision", "recall", "density", "coverage")}
        precision, recall = precision_recall(real.embeddings, other.embeddings)
        density, coverage = density_coverage(real.embeddings, other.embeddings)
        return {
            f"{prefix}kid": kid(real.embeddings, other.embeddings),
            f"{prefix}precision": precision,
            f"{prefix}recall": recall,
            f"{prefix}density": density,
            f"{prefix}coverage": coverage,
        }

    def _accuracy(self, seen: Seen, labels: Tensor | None) -> float | None:
        if labels is None or self.features.kind != "classifier":
            return None
        return float((seen.classes == labels).double().mean())

    def _sampled_pixels(self) -> dict[str, float | None]:
        """The decoder's own spread of a pixel, and the error of images sampled from it pixel by pixel."""
        generator = torch.Generator(self.device).manual_seed(self.config.seed)
        x = self._test_images()
        variance = error = 0.0
        first: list[Tensor] = []
        for batch in x.split(BATCH):  # type: ignore[no-untyped-call]
            mean, logvar = self._encode(batch)
            noise = torch.randn(mean.shape, generator=generator, device=self.device)
            z = torch.addcmul(mean, (0.5 * logvar).exp(), noise)
            output = self.model.decode_output(z)
            of_pixels = self.model.decode_variance(z)
            of_pixels = torch.full_like(batch, self.sigma2) if of_pixels is None else of_pixels
            sampled = sample_pixels(output, self.config.likelihood, of_pixels, generator)
            variance += float(of_pixels.mean(dtype=torch.float64)) * len(batch)
            error += float((sampled - batch).square().mean(dtype=torch.float64)) * len(batch)
            if not first:
                some = spread(pictures.RECONSTRUCTED, len(batch)).to(self.device)
                first = [batch[some], self.model.decode(z[some]), sampled[some]]
        pictures.draw_sampled_reconstructions(self.directory, self.order.number, *first)
        return {"sigma": _finite(math.sqrt(variance / len(x))), "sampled_mse": _finite(error / len(x))}

    def _denoised_mse(self) -> float | None:
        """Error against the clean images of what is made of inputs as noisy as in training; None without noise."""
        if not (self.config.input_dropout or self.config.input_noise):
            return None
        generator = torch.Generator(self.device).manual_seed(self.config.seed)
        x, error = self._test_images(), 0.0
        for batch in x.split(BATCH):  # type: ignore[no-untyped-call]
            rebuilt = self.model.reconstruct(corrupt(self._input(batch), self.config, generator))
            error += float((rebuilt - batch).square().mean(dtype=torch.float64)) * len(batch)
        return _finite(error / len(x))

    def _interpolated(self) -> float | None:
        """Whether the way from one test image to another goes ahead; draws some of the ways."""
        x = self._input(self.splits.test.gather(spread(2 * PAIRS, len(self.splits.test)).to(self.device)))
        half = len(x) // 2
        paths = interpolate(self.model, x[:half], x[half : 2 * half], pictures.INTERPOLATION_STEPS)
        pictures.draw_interpolations(self.directory, self.order.number, paths)
        return monotonicity(paths)

    def _write_latents(self, test: Posteriors, train: Posteriors, most: int) -> None:
        """Writes the latents of test images and then of training images, `most` in all, and what they are of."""
        taken = min(most, len(test.means))
        parts = [(self.splits.test, test, taken, "test")]
        parts += [(self.splits.train, train, min(most - taken, len(train.means)), "train")]
        means, labels, splits, positions, sprites = [], [], [], [], []
        classes = self.splits.info.classes
        for images, posteriors, count, name in parts:
            if count:
                chosen = spread(count, len(posteriors.means)).to(self.device)
                rows = posteriors.positions[chosen]
                means.append(posteriors.means[chosen].float().cpu().numpy())
                positions.append(images.indices[rows.cpu().numpy()])
                splits += [name] * len(rows)
                if posteriors.labels is not None:
                    labels += [classes[label] for label in posteriors.labels[chosen].tolist()]
                if self.order.projected:
                    sprites += [_small(images.gather(part)) for part in rows.split(BATCH)]  # type: ignore[no-untyped-call]
        table = np.concatenate(means)
        if not np.isfinite(table).all():
            return
        path = self.directory.latents(self.order.number)
        write_latents(path, table, self.kl_nats.numpy(), labels or None, splits, np.concatenate(positions))
        if sprites:
            write_atomically(self.directory.sprites(self.order.number), sprite_sheet(np.concatenate(sprites)))


def _small(images: Tensor) -> Pixels:
    side = max(images.shape[-2:])
    if side > SPRITE_SIDE:
        images = torch.nn.functional.interpolate(
            images, scale_factor=SPRITE_SIDE / side, mode="bilinear", antialias=True
        )
    return pictures.to_pixels(images)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
