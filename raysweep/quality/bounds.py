"""The importance-weighted bound on the log-likelihood of images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Mean and log variance of q(z|x), [batch, L] each, of x [batch, ...]."""
LogLikelihood = Callable[[Tensor, Tensor], Tensor]
"""log p(x|z) in nats, [batch], of x [batch, ...] and z [batch, L]."""


@torch.no_grad()
def importance_weighted_bound(
    encode: Encode, log_likelihood: LogLikelihood, images: Tensor, samples: int, seed: int, batch: int = 256
) -> float | None:
    """Return a lower bound on the mean log p(x) of images [n, ...], in nats per image.

    It is the log of the mean of p(x|z) p(z) / q(z|x) over `samples` draws z from q(z|x), averaged over images (Burda et
    al., arXiv:1509.00519). One sample gives the ELBO; more never loosen the bound in expectation. At most `batch` pairs
    of image and latent are decoded at once. The noise depends only on the seed and the number of images. None if there
    are no images, or if the bound is not finite.

    Raises:
        ValueError: if `samples` or `batch` is less than 1.
    """
    if samples < 1 or batch < 1:
        raise ValueError(f"the bound needs a sample and a batch of 1 or more, got {samples} and {batch}")
    if not len(images):
        return None
    blocks = [slice(start, start + batch) for start in range(0, len(images), batch)]
    posteriors = [encode(images[block]) for block in blocks]
    mean = torch.cat([mean for mean, _ in posteriors])
    logvar = torch.cat([logvar for _, logvar in posteriors])
    generator = torch.Generator().manual_seed(seed)
    total = torch.full((len(images),), -math.inf, dtype=torch.float64, device=mean.device)
    together = min(samples, max(1, batch // len(images)))
    for start in range(0, samples, together):
        count = min(together, samples - start)
        # Draw on the CPU, one sample at a time, so that neither the device nor `batch` changes the noise.
        draws = [torch.randn(mean.shape, generator=generator) for _ in range(count)]
        noise = torch.stack(draws).to(mean)
        for block in blocks:
            weights = _log_weights(log_likelihood, images[block], mean[block], logvar[block], noise[:, block])
            total[block] = torch.logaddexp(total[block], weights.logsumexp(dim=0))
    bound = float(total.mean()) - math.log(samples)
    return bound if math.isfinite(bound) else None


def _log_weights(log_likelihood: LogLikelihood, x: Tensor, mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Return log p(x|z) + log p(z) - log q(z|x), [samples, batch] float64, at z = mean + exp(logvar / 2) noise.

    `noise` is [samples, batch, L]. The constants of the two Gaussians cancel.
    """
    samples, rows, _ = noise.shape
    z = mean + (0.5 * logvar).exp() * noise
    repeated = x.expand(samples, *x.shape).flatten(0, 1) if samples > 1 else x
    likelihood = log_likelihood(repeated, z.flatten(0, 1)).double().view(samples, rows)
    return likelihood - 0.5 * (z.square() - noise.square() - logvar).sum(dim=2, dtype=torch.float64)
