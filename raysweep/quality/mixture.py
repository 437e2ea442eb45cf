"""A Gaussian mixture over the latents of images: the prior on which a decoder has in fact been trained.

If the KLD weight is small, the aggregate posterior is far from N(0, I), and draws from the prior land where the decoder
was never trained. A density fitted to the latents afterwards tells a poor prior from a poor decoder (Ghosh et al.,
arXiv:1903.12436).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from raysweep.quality.threads import as_many_threads_as_torch

SAMPLES_FOR_FULL_COVARIANCE = 10
"""Fewest samples per component and latent for full covariances; with fewer, components have diagonal ones.

Log-likelihood of held-out latents of MNIST-5k, 4,000 samples and 10 components, 3 seeds: full covariances are 3 nats
better than diagonal ones at 16 latents, 1.5 worse at 64 and 75 worse at 256.
"""
MOST_ROTATED = 1024
"""Most active latents for which the axes are the principal components; finding these costs the cube of that number."""

_ITERATIONS = 50
_LEAST_SHARE_OF_VARIANCE = 1e-2
"""The share of the smallest principal variance that is added to the variances of a component."""


@dataclass(frozen=True, eq=False)
class LatentMixture:
    """A mixture of c Gaussians over a of the L latents, in coordinates of their own, and the prior over the rest."""

    active: Tensor
    """[L] bool: the latents that the mixture covers."""
    weights: Tensor
    """[c], with sum 1."""
    means: Tensor
    """[c, a]."""
    factors: Tensor
    """[c, a] standard deviations, or [c, a, a] lower triangular factors of the covariances."""
    centre: Tensor
    """[a]: the origin of the coordinates."""
    axes: Tensor | None
    """[a, a] orthogonal, with an axis of the coordinates in each column; None if they are the latents themselves."""

    def sample(self, count: int, seed: int) -> Tensor:
        """Draw latents [count, L], float32 on the CPU; the same for the same seed on every machine's CPU."""
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn(count, len(self.active), generator=generator, dtype=torch.float64)
        if not bool(self.active.any()) or not count:
            return latents.float()
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = latents[:, self.active]
        drawn = torch.empty_like(noise)
        for index, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            rows = component == index
            drawn[rows] = mean + (noise[rows] * factor if factor.ndim == 1 else noise[rows] @ factor.T)
        latents[:, self.active] = self.centre + (drawn if self.axes is None else drawn @ self.axes.T)
        return latents.float()


@torch.no_grad()
def fit_mixture(
    means: Tensor, logvars: Tensor | None, *, active: Tensor, components: int = 10, seed: int = 0
) -> LatentMixture | None:
    """Fit a mixture by EM to one draw of each image's posterior, in the active latents.

    It uses means and log variances [n, L], or takes `means` as latents if `logvars` is None. Inactive latents keep the
    prior, because their posterior is N(0, 1) up to thousandths. There are at most n / 2 components. Covariances are
    full if there are 10 samples per component and latent, otherwise diagonal along the principal components of all
    samples. None if there are fewer than two images, or if a latent is not finite.

    Raises:
        ValueError: if `components` is less than 1.
    """
    if components < 1:
        raise ValueError(f"a mixture needs a component or more, got {components}")
    active = active.cpu()
    latents = _drawn(means.detach().cpu().double(), None if logvars is None else logvars.detach().cpu().double(), seed)
    latents = latents[:, active]
    count, dimensions = latents.shape
    if count < 2 or not bool(torch.isfinite(latents).all()):
        return None
    if not dimensions:
        nothing = torch.empty(1, 0, dtype=torch.float64)
        return LatentMixture(active, torch.ones(1, dtype=torch.float64), nothing, nothing, nothing[0], None)
    components = min(components, count // 2)
    centre = latents.mean(dim=0)
    variances, axes = _principal_components(latents - centre)
    turned = latents - centre if axes is None else (latents - centre) @ axes
    floor = max(float(_LEAST_SHARE_OF_VARIANCE * variances.min()), float(1e-6 * variances.mean()), 1e-12)
    is_full = count >= SAMPLES_FOR_FULL_COVARIANCE * components * dimensions
    weights, centres, covariances = _expectation_maximisation(turned, components, is_full, floor, seed)
    factors = torch.linalg.cholesky(covariances) if is_full else covariances.sqrt()
    return LatentMixture(active, weights, centres, factors, centre, axes)


def _drawn(means: Tensor, logvars: Tensor | None, seed: int) -> Tensor:
    """Draw one latent from each posterior, or return the means if `logvars` is None."""
    if logvars is None:
        return means
    noise = torch.randn(means.shape, generator=torch.Generator().manual_seed(seed), dtype=means.dtype)
    return means + (0.5 * logvars).exp() * noise


def _principal_components(centred: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the principal variances [a] and their axes as columns [a, a].

    With more than `MOST_ROTATED` latents, return the variances of the latents themselves and None.
    """
    if centred.shape[1] > MOST_ROTATED:
        return centred.square().mean(dim=0), None
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    return variances.clamp(min=0), axes


def _expectation_maximisation(
    x: Tensor, components: int, is_full: bool, floor: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a mixture to x [n, a], from k-means on.

    Returns weights [c], means [c, a], and covariances [c, a, a] or variances [c, a].
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(
        components,
        covariance_type="full" if is_full else "diag",
        max_iter=_ITERATIONS,
        reg_covar=floor,
        random_state=seed,
    )
    with warnings.catch_warnings(), as_many_threads_as_torch():
        warnings.simplefilter("ignore", ConvergenceWarning)  # due to bounded iterations, and copies among few samples
        model.fit(x.numpy())
    weights, means, covariances = (
        torch.from_numpy(part).double() for part in (model.weights_, model.means_, model.covariances_)
    )
    return weights, means, covariances
