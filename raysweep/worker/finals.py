"""The final metrics of one trial: its kept checkpoint on the test split, which no earlier choice has used."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raysweep.data.tensors import ImageSplits, load_splits, spread
from raysweep.errors import StorageError
from raysweep.messages import TestOrder
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
from raysweep.quality.mixture import LatentMixture, fit_mixture
from raysweep.quality.paths import largest_step, monotonicity
from raysweep.quality.sharpness import sharpness
from raysweep.spec.config import TrialConfig
from raysweep.storage.layout import SweepDirectory
from raysweep.vae.checkpoint import kept_checkpoint
from raysweep.vae.evaluation import evaluate, mean_image_error
from raysweep.vae.inputs import WHITE_FROM, corrupt
from raysweep.vae.likelihoods import binary_cross_entropy, pixel_variance, sample_pixels
from raysweep.vae.networks import ConvVAE
from raysweep.vae.objective import DEQUANTISATION_VARIANCE, bits_per_dim, gaussian_distortion
from raysweep.vae.precision import products_in
from raysweep.vae.walks import interpolate
from raysweep.worker.delivery import local_images
from raysweep.worker.features import feature_space
from raysweep.worker.latents import Posteriors, keep_latents, posteriors
from raysweep.worker.pictures import (
    INTERPOLATION_STEPS,
    Portrait,
    draw_portrait,
    seen_by_the_encoder,
)

BATCH = 256
PAIRS = 32
"""Number of pairs of test images to interpolate between."""
COMPONENTS = 10
"""Components of the mixture that is fitted to the latents."""
_log = logging.getLogger("raysweep")
_SHARES = ("kid", "precision", "recall", "density", "coverage")


@products_in("float32")
def measure_trial(order: TestOrder) -> FinalMetrics:
    """Measure a trial that has ended and draw its last pictures; write only below the trial's directory.

    Raises:
        CheckpointError: if the trial has no whole checkpoint.
        CacheError: if the images cannot be read.
        StorageError: if a picture cannot be written.
    """
    device = torch.device("cuda" if order.gpu and torch.cuda.is_available() else "cpu")
    cache = local_images(order.images)
    splits = load_splits(cache, order.data, device)
    features = feature_space(cache, order.data, splits, device, SweepDirectory(order.directory, order.origin))
    start = time.perf_counter()
    subject = Subject.of(order, splits, device)
    test, train = (posteriors(subject.model, subject.config, images) for images in (splits.test, splits.train))
    active = active_units(test.means)
    mixture = fit_mixture(train.means, train.logvars, active=active, components=COMPONENTS, seed=subject.config.seed)
    kl_nats = latent_kl_nats(test.means, test.logvars)
    known_kl = torch.zeros(subject.config.latent_size) if kl_nats is None else kl_nats
    paths = subject.paths()
    values = {
        **_likelihoods(subject, order.evaluation.importance_samples),
        **_pixels(subject),
        "active_units": int(active.sum()),
        "latent_kl_nats": tuple(float(f"{nats:.5g}") for nats in known_kl.tolist()),
        "aggregate_kl_nats": aggregate_kl_nats(test.means, test.logvars),
        **_classes(subject, test, train, active),
        **_images(subject, features, mixture),
        "interpolation_monotonicity": monotonicity(paths),
        "interpolation_largest_step": largest_step(paths),
    }
    directory, number = SweepDirectory(order.directory), order.number
    portrait = Portrait(
        subject.model, subject.config, subject.shown, subject.seen, paths, known_kl, mixture, subject.sigma2
    )
    if not directory.trial(number).is_dir():  # it was there: the checkpoint came from it
        raise StorageError(
            f"{directory.trial(number)}: is no longer there; was the sweep moved, or its disk taken away?"
        )
    draw_portrait(portrait, directory, number)
    named = [("test", test), ("train", train)]
    keep_latents(directory, number, named, known_kl, splits.info.class_names, order.projected)
    return FinalMetrics(
        images=len(subject.shown), features=features.kind, **values, measured_s=time.perf_counter() - start
    )


@dataclass(frozen=True)
class Subject:
    """A trained model and the images it is tested on."""

    model: ConvVAE
    config: TrialConfig
    splits: ImageSplits
    device: torch.device
    shown: Tensor
    """Test images that are compared, [n, channels, height, width] in [0, 1], spread evenly over the split."""
    seen: Tensor
    """The same images, as the trial gives them to its encoder."""
    sigma2: float
    """The decoder's variance of a pixel, calibrated on the validation images after the epoch that was kept."""

    @classmethod
    def of(cls, order: TestOrder, splits: ImageSplits, device: torch.device) -> Subject:
        checkpoint = kept_checkpoint(SweepDirectory(order.directory).trial(order.number), order.kept_by)
        model = ConvVAE.from_config(checkpoint.config, checkpoint.shape)
        model.load_state_dict(checkpoint.weights)
        shown = splits.test.gather(spread(order.evaluation.images, len(splits.test)))
        seen = seen_by_the_encoder(shown, checkpoint.config)
        sigma2 = checkpoint.metrics.mse + DEQUANTISATION_VARIANCE
        return cls(model.to(device).eval(), checkpoint.config, splits, device, shown, seen, sigma2)

    def generator(self) -> torch.Generator:
        """Return the generator of the trial's noise, on the CPU, so that every device gets the same noise."""
        return torch.Generator().manual_seed(self.config.seed)

    def normal(self, count: int) -> Tensor:
        """Draw from the prior, [count, latent]; the same for every trial of a seed and latent size."""
        return torch.randn(count, self.config.latent_size, generator=self.generator()).to(self.device)

    def paths(self) -> Tensor:
        """Return images on the paths between test images, [pairs, steps, channels, height, width]."""
        ends = self.seen[spread(2 * PAIRS, len(self.seen)).to(self.device)]
        half = len(ends) // 2
        return interpolate(self.model, ends[:half], ends[half : 2 * half], INTERPOLATION_STEPS)


def _likelihoods(subject: Subject, samples: int) -> dict[str, Any]:
    """Return bounds and errors on the whole test split, but importance-weighted bounds on the shown images only."""
    splits, model, config = subject.splits, subject.model, subject.config
    pixels = math.prod(splits.info.shape)
    baseline = mean_image_error(splits.test, splits.train.mean_image(), subject.device)
    whole = evaluate(model, splits.test, config, baseline, subject.device)
    noise = pixels * DEQUANTISATION_VARIANCE

    # The bound takes one tensor of images: the grey ones, followed by what the encoder is given.
    both, channels = torch.cat([subject.shown, subject.seen], dim=1), splits.info.shape[0]

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        return model.encode(x[:, channels:])

    def of_grey(x: Tensor, z: Tensor) -> Tensor:
        error: Tensor = (model.decode(z) - x[:, :channels]).square().flatten(1).sum(dim=1) + noise
        return -0.5 * (error / subject.sigma2 + pixels * math.log(2 * math.pi * subject.sigma2))

    def of_binary(x: Tensor, z: Tensor) -> Tensor:
        output = model.decode_output(z)
        return -binary_cross_entropy(output, x[:, :channels] >= WHITE_FROM, config.likelihood)

    with torch.no_grad():
        iwae = importance_weighted_bound(encode, of_grey, both, samples, seed=config.seed, batch=BATCH)
        binary = None
        if config.binarise == "threshold":
            binary = importance_weighted_bound(encode, of_binary, both, samples, config.seed, BATCH)
    elbo = -gaussian_distortion(whole["mse"], subject.sigma2, pixels) - whole["rate_nats"]
    return {
        **{name: _finite(whole[name]) for name in ("elbo_binary_nats", "rate_nats", "mse", "psnr_db", "r2")},
        "elbo_nats": _finite(elbo),
        "iwae_nats": iwae,
        "iwae_binary_nats": binary,
        "iwae_samples": samples,
        "iwae_bits_per_dim": None if iwae is None else bits_per_dim(iwae, pixels),
    }


@torch.no_grad()
def _pixels(subject: Subject) -> dict[str, float | None]:
    """Return the decoder's spread of a pixel, the error of images sampled from it, and that of denoised ones."""
    model, config, generator = subject.model, subject.config, subject.generator()
    noisy = config.input_dropout > 0 or config.input_noise > 0
    variance = sampled = denoised = 0.0
    for shown, seen in zip(subject.shown.split(BATCH), subject.seen.split(BATCH), strict=True):  # type: ignore[no-untyped-call]
        mean, logvar = model.encode(seen)
        noise = torch.randn(mean.shape, generator=generator).to(subject.device)
        output = model.decode_output(torch.addcmul(mean, (0.5 * logvar).exp(), noise))
        of_pixels = pixel_variance(output, config.likelihood, config.sigma, calibrated=subject.sigma2)
        drawn = sample_pixels(output, config.likelihood, of_pixels, generator)
        variance += float(of_pixels.sum(dtype=torch.float64))
        sampled += float((drawn - shown).square().sum(dtype=torch.float64))
        if noisy:
            rebuilt = model.reconstruct(corrupt(seen.cpu(), config, generator).to(subject.device))
            denoised += float((rebuilt - shown).square().sum(dtype=torch.float64))
    count = subject.shown.numel()
    return {
        "sigma": _finite(math.sqrt(variance / count)),
        "sampled_mse": _finite(sampled / count),
        "denoised_mse": _finite(denoised / count) if noisy else None,
    }


def _classes(subject: Subject, test: Posteriors, train: Posteriors, active: Tensor) -> dict[str, float | None]:
    """Return measures of what the latents say about the classes."""
    some = spread(len(subject.shown), len(test.means)).to(subject.device)
    labels = None if test.labels is None else test.labels[some]
    return {
        "silhouette": silhouette(test.means[some], labels, active),
        "knn_accuracy": knn_accuracy(train.means, train.labels, test.means, test.labels, active),
        "probe_accuracy": probe_accuracy(train.means, train.labels, test.means, test.labels, active),
    }


@dataclass(frozen=True)
class Seen:
    """Some images as the feature space describes them."""

    embeddings: Tensor
    classes: Tensor
    sharpness: float | None


@torch.no_grad()
def _look(features: FeatureNetwork, batches: Iterator[Tensor]) -> Seen:
    embeddings, classes, sharp = [], [], []
    for images in batches:
        embedded, named = features.embed_and_classify(images)
        embeddings.append(embedded)
        classes.append(named)
        sharp.append((sharpness(images), len(images)))
    known = [value * count for value, count in sharp if value is not None]
    mean = sum(known) / sum(count for _, count in sharp) if len(known) == len(sharp) else None
    return Seen(torch.cat(embeddings), torch.cat(classes), mean)


def _images(subject: Subject, features: FeatureNetwork, mixture: LatentMixture | None) -> dict[str, Any]:
    """Return how close samples are to test images, and reconstructions to their originals, each with its floor."""
    splits, model, count = subject.splits, subject.model, len(subject.shown)
    some = spread(count, len(splits.test)).to(subject.device)
    labels = None if splits.test.labels is None else splits.test.labels[some]
    others = spread(count, len(splits.train)).to(subject.device)
    real = _look(features, iter(subject.shown.split(BATCH)))  # type: ignore[no-untyped-call]
    rebuilt = _look(features, (model.reconstruct(x) for x in subject.seen.split(BATCH)))  # type: ignore[no-untyped-call]
    floor = _look(features, (splits.train.gather(rows) for rows in others.split(BATCH)))  # type: ignore[no-untyped-call]
    prior = _look(features, (model.decode(z) for z in subject.normal(count).split(BATCH)))  # type: ignore[no-untyped-call]
    if bool((subject.shown == subject.shown[:1]).all()):
        # Features are scaled by how much images differ. If they do not differ, a distance is rounding error, or 1e20.
        _log.warning("all test images that are measured are the same: how far samples are from them is left out")
        found: dict[str, Any] = {f"{prefix}{name}": None for prefix in ("", "floor_", "mixture_") for name in _SHARES}
    else:
        found = {**_distances("", real, prior), **_distances("floor_", real, floor)}
        if mixture is None:
            found |= dict.fromkeys(f"mixture_{name}" for name in _SHARES)
        else:
            drawn = mixture.sample(count, subject.config.seed).to(subject.device)
            found |= _distances("mixture_", real, _look(features, (model.decode(z) for z in drawn.split(BATCH))))  # type: ignore[no-untyped-call]
    judge = None if labels is None or features.kind != "classifier" else labels
    return found | {
        "reconstruction_accuracy": None if judge is None else _share(rebuilt.classes == judge),
        "floor_reconstruction_accuracy": None if judge is None else _share(real.classes == judge),
        "reconstruction_sharpness": rebuilt.sharpness,
        "sample_sharpness": prior.sharpness,
        "floor_sharpness": real.sharpness,
    }


def _distances(prefix: str, real: Seen, other: Seen) -> dict[str, float | None]:
    precision, recall = precision_recall(real.embeddings, other.embeddings)
    density, coverage = density_coverage(real.embeddings, other.embeddings)
    values = (kid(real.embeddings, other.embeddings), precision, recall, density, coverage)
    return {f"{prefix}{name}": value for name, value in zip(_SHARES, values, strict=True)}


def _share(truths: Tensor) -> float:
    return float(truths.double().mean())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
