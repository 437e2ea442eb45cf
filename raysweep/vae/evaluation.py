"""The metrics of one pass over the validation images. docs/metrics.md defines each of them."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from raysweep.config import TrialConfig
from raysweep.metrics import ACTIVE_VARIANCE
from raysweep.vae.inputs import WHITE_FROM, binarise, seeded_generator
from raysweep.vae.likelihoods import binary_cross_entropy, data_term, gaussian_data_term, mean_image
from raysweep.vae.networks import ConvVAE, evaluating
from raysweep.vae.objective import bits_per_dim, calibrated_distortion, charged_rate, kl_per_latent, weighted_loss

EVALUATION_BATCH = 256
COLLAPSED_R2 = 0.02
NO_VARIANCE = 1e-10
"""Below this images are all the same: what is left is rounding of their mean."""
COLLAPSED_RATE_NATS = 0.1


class Images(Protocol):
    """The images of one split, as training sees them."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: Tensor) -> Tensor:
        """Images at `indices` [batch] as float32 [batch, channels, height, width] in [0, 1] on the trial's device."""
        ...

    def mean_image(self) -> Tensor:
        """The mean over all images, float32 [channels, height, width]."""
        ...


def mean_image_error(images: Images, mean: Tensor, device: torch.device) -> float:
    """Mean squared error, a pixel, of predicting `mean` for every image: the variance that `r2` is a share of."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    mean = mean.to(device)
    for batch in torch.arange(len(images), device=device).split(EVALUATION_BATCH):  # type: ignore[no-untyped-call]
        total += (images.gather(batch) - mean).square().sum(dtype=torch.float64)
    return float(total) / (len(images) * math.prod(images.shape))


@torch.no_grad()
def evaluate(
    model: ConvVAE, images: Images, config: TrialConfig, baseline_mse: float, device: torch.device
) -> dict[str, Any]:
    """The validation metrics of `EpochMetrics`, from one pass with latents sampled from the posterior.

    The encoder is given what the trial gives it: binarised images if so, never augmented or corrupted ones. `val_loss`
    is against these; everything else is against the images as they are, so that it compares between trials. The noise,
    and what binarising draws, is the same in every epoch and for every trial of the same seed and latent size, so that
    differences are the models'. `baseline_mse` is what `mean_image_error` gives for the training mean. Reads the device
    once, at the end.
    """
    pixels, latents, count = math.prod(images.shape), config.latent_size, len(images)
    likelihood = config.likelihood
    fits_squared_error = likelihood in ("gaussian", "calibrated_gaussian")
    generator = torch.Generator().manual_seed(config.seed)  # the CPU's, so that it is the same on every device
    binarisation = seeded_generator(device, config.seed, 0, "validation")
    squared_error = torch.zeros((), dtype=torch.float64, device=device)
    cross_entropy = torch.zeros((), dtype=torch.float64, device=device)
    misfit = torch.zeros((), dtype=torch.float64, device=device)
    kl = torch.zeros(latents, dtype=torch.float64, device=device)
    mean_sum = torch.zeros(latents, dtype=torch.float64, device=device)
    mean_square_sum = torch.zeros(latents, dtype=torch.float64, device=device)
    with evaluating(model):
        for batch in torch.arange(count, device=device).split(EVALUATION_BATCH):  # type: ignore[no-untyped-call]
            x = images.gather(batch)
            seen = binarise(x, config.binarise, binarisation)
            noise = torch.randn(len(x), latents, generator=generator).to(device)
            output, mean, logvar = model(seen, noise)
            reconstruction = mean_image(output, likelihood)
            error = (reconstruction - x).square().sum(dtype=torch.float64)
            squared_error += error
            cross_entropy += binary_cross_entropy(output, x >= WHITE_FROM, likelihood).sum()
            if not fits_squared_error:
                misfit += data_term(output, seen, likelihood, config.sigma).double() * len(x)
            elif config.binarise == "none":
                misfit += error
            else:
                misfit += (reconstruction - seen).square().sum(dtype=torch.float64)
            kl += kl_per_latent(mean, logvar).sum(dim=0, dtype=torch.float64)
            mean = mean.double()
            mean_sum += mean.sum(dim=0)
            mean_square_sum += mean.square().sum(dim=0)

    data = misfit / count
    if fits_squared_error:
        data = gaussian_data_term(data, pixels, likelihood, config.sigma)
    kl /= count
    charged = charged_rate(kl.unsqueeze(0), config.free_bits_nats)
    loss = weighted_loss(data, charged, config.kld_weight, config.reduction, pixels, latents)
    variance = mean_square_sum / count - (mean_sum / count).square()
    val_loss, rate_nats, mse, binary_nats, active = torch.stack(
        [
            loss,
            kl.sum(),
            squared_error / (count * pixels),
            cross_entropy / count,
            (variance > ACTIVE_VARIANCE).sum().double(),
        ]
    ).tolist()
    return summarise(val_loss, rate_nats, mse, binary_nats, int(active), pixels, baseline_mse)


def summarise(
    val_loss: float,
    rate_nats: float,
    mse: float,
    binary_nats: float,
    active_units: int,
    pixels: int,
    baseline_mse: float,
) -> dict[str, Any]:
    """The metrics that follow from the sums of a validation pass; `binary_nats` is the cross-entropy of an image."""
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
