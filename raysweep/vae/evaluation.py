"""The metrics of one pass over the validation images. docs/metrics.md defines each metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from raysweep.metrics import ACTIVE_VARIANCE, COLLAPSED_R2, COLLAPSED_RATE_NATS
from raysweep.spec.config import TrialConfig
from raysweep.vae.inputs import WHITE_FROM, binarise, seeded_generator
from raysweep.vae.likelihoods import (
    FIT_SQUARED_ERROR,
    binary_cross_entropy,
    data_terms,
    gaussian_data_term,
    mean_image,
)
from raysweep.vae.networks import ConvVAE, evaluating
from raysweep.vae.objective import bits_per_dim, calibrated_distortion, charged_rate, kl_per_latent, weighted_loss
from raysweep.vae.precision import products_in

EVALUATION_BATCH = 256
NO_VARIANCE = 1e-10
"""If the variance is below this, all images are the same: the rest is rounding of their mean."""

RunMembers = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""A function that runs several models on x [batch, members, channels, height, width] and noise [members, batch,
latents]. It returns the decoders' outputs [batch, members, ...], and the posteriors' means and log variances [members,
batch, latents]."""


class Images(Protocol):
    """The images of one split, as training sees them."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: Tensor) -> Tensor:
        """Return images at `indices` [batch] as float32 [batch, channels, height, width] in [0, 1].

        They are on the trial's device.
        """
        ...

    def mean_image(self) -> Tensor:
        """Return the mean over all images, float32 [channels, height, width]."""
        ...


def mean_image_error(images: Images, mean: Tensor, device: torch.device) -> float:
    """Return the mean squared error per pixel if `mean` predicts every image: the variance that `r2` refers to."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    mean = mean.to(device)
    for batch in torch.arange(len(images), device=device).split(EVALUATION_BATCH):  # type: ignore[no-untyped-call]
        total += (images.gather(batch) - mean).square().sum(dtype=torch.float64)
    return float(total) / (len(images) * math.prod(images.shape))


def evaluate(
    model: ConvVAE, images: Images, config: TrialConfig, baseline_mse: float, device: torch.device
) -> dict[str, Any]:
    """Return the validation metrics of `EpochMetrics`, from one pass with latents sampled from the posterior.

    The encoder gets binarised images if the trial binarises, but never augmented or corrupted ones. `val_loss` compares
    with these; every other metric compares with the original images, so that trials can be compared. The noise and the
    draws of binarising are the same in every epoch and for every trial of the same seed and latent size, so that
    differences come from the models. `baseline_mse` is the `mean_image_error` of the training mean. The device is read
    once, at the end.
    """

    def run(seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, mean, logvar = model(seen[:, 0], noise[0])
        return output.unsqueeze(1), mean.unsqueeze(0), logvar.unsqueeze(0)

    with evaluating(model):
        return evaluate_members(run, images, [config], baseline_mse, device)[0]


@torch.no_grad()
@products_in("float32")
def evaluate_members(
    run: RunMembers, images: Images, configs: Sequence[TrialConfig], baseline_mse: float, device: torch.device
) -> list[dict[str, Any]]:
    """Return the metrics of `evaluate` for several models of equal shapes and likelihood, which `run` runs as one."""
    generators = [torch.Generator().manual_seed(config.seed) for config in configs]  # on the CPU: the same everywhere
    binarisations = [seeded_generator(device, config.seed, 0, "validation") for config in configs]
    sums = _ValidationSums(configs, device)
    for batch in torch.arange(len(images), device=device).split(EVALUATION_BATCH):  # type: ignore[no-untyped-call]
        x = images.gather(batch)
        drawn = [torch.randn(len(x), configs[0].latent_size, generator=generator) for generator in generators]
        noise = torch.stack(drawn).to(device)
        shown = seen = x.unsqueeze(1)
        if sums.binarised:
            each = zip(configs, binarisations, strict=True)
            seen = torch.stack([binarise(x, config.binarise, generator) for config, generator in each], dim=1)
        seen = seen.expand(-1, len(configs), -1, -1, -1)
        sums.add(shown, seen, *run(seen, noise))
    return sums.metrics(len(images), math.prod(images.shape), baseline_mse)


class _ValidationSums:
    """Sums over images for each of several models, on the device; `metrics` reads them."""

    def __init__(self, configs: Sequence[TrialConfig], device: torch.device) -> None:
        self._configs = configs
        self._likelihood = configs[0].likelihood
        self.binarised = any(config.binarise != "none" for config in configs)
        """True if a model may see images other than the originals."""
        self._sigmas = torch.tensor([config.sigma for config in configs], device=device)
        members, latents = len(configs), configs[0].latent_size
        self._squared_error, self._cross_entropy, self._misfit = torch.zeros(
            3, members, dtype=torch.float64, device=device
        )
        self._kl, self._mean, self._mean_square = torch.zeros(3, members, latents, dtype=torch.float64, device=device)

    def add(self, x: Tensor, seen: Tensor, output: Tensor, mean: Tensor, logvar: Tensor) -> None:
        """Add one batch.

        Args:
            x: the original images, [batch, 1, channels, height, width].
            seen: the models' inputs, [batch, members, ...].
            output: [batch, members, ...].
            mean: [members, batch, latents].
            logvar: likewise.
        """
        images = (0, 2, 3, 4)
        reconstruction = mean_image(output, self._likelihood)
        error = (reconstruction - x).square().sum(dim=images, dtype=torch.float64)
        self._squared_error += error
        self._cross_entropy += binary_cross_entropy(output, x >= WHITE_FROM, self._likelihood).sum(dim=0)
        if self._likelihood not in FIT_SQUARED_ERROR:
            self._misfit += data_terms(output, seen, self._likelihood, self._sigmas).double() * len(x)
        elif self.binarised:
            self._misfit += (reconstruction - seen).square().sum(dim=images, dtype=torch.float64)
        else:
            self._misfit += error
        self._kl += kl_per_latent(mean, logvar).sum(dim=1, dtype=torch.float64)
        mean = mean.double()
        self._mean += mean.sum(dim=1)
        self._mean_square += mean.square().sum(dim=1)

    def metrics(self, count: int, pixels: int, baseline_mse: float) -> list[dict[str, Any]]:
        """Return the validation metrics of each model after `count` images."""
        per_model = torch.stack([self._squared_error, self._cross_entropy, self._misfit], dim=1)
        sums = torch.cat([per_model, self._kl, self._mean, self._mean_square], dim=1).cpu() / count
        found = []
        for config, row in zip(self._configs, sums, strict=True):
            squared_error, cross_entropy, data = row[:3]
            kl, mean, mean_square = row[3:].view(3, -1)
            if config.likelihood in FIT_SQUARED_ERROR:
                data = gaussian_data_term(data, pixels, config.likelihood, config.sigma)
            charged = charged_rate(kl.unsqueeze(0), config.free_bits_nats)
            loss = weighted_loss(data, charged, config.kld_weight, config.reduction, pixels, config.latent_size)
            active = int((mean_square - mean.square() > ACTIVE_VARIANCE).sum())
            mse, rate = float(squared_error) / pixels, float(kl.sum())
            found.append(summarise(float(loss), rate, mse, float(cross_entropy), active, pixels, baseline_mse))
        return found


def summarise(
    val_loss: float,
    rate_nats: float,
    mse: float,
    binary_nats: float,
    active_units: int,
    pixels: int,
    baseline_mse: float,
) -> dict[str, Any]:
    """Return the metrics that follow from a validation pass; `binary_nats` is the cross-entropy per image."""
    finite = math.isfinite(mse) and math.isfinite(rate_nats)
    distortion = calibrated_distortion(mse, pixels) if finite else math.nan
    elbo = -(distortion + rate_nats)
    r2 = 1 - mse / baseline_mse if baseline_mse > NO_VARIANCE else math.nan
    return {
        "val_loss": val_loss,
        "elbo_nats": elbo,
        "elbo_binary_nats": -(binary_nats + rate_nats) if finite and math.isfinite(binary_nats) else math.nan,
        "bits_per_dim": bits_per_dim(elbo, pixels),
        "rate_nats": rate_nats,
        "distortion_nats": distortion,
        "mse": mse,
        "psnr_db": _psnr_db(mse) if finite else math.nan,
        "r2": r2,
        "active_units": active_units,
        "collapsed": finite and (r2 < COLLAPSED_R2 or rate_nats < COLLAPSED_RATE_NATS),
    }


def _psnr_db(mse: float) -> float:
    return -10 * math.log10(mse) if mse > 0 else math.inf
