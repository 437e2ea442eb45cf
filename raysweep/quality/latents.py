"""Measures of the posteriors q(z|x) = N(mean, exp(logvar)) of images: activity, divergence, separation of classes.

The measures of classes use only the active units. The mean of a latent that the model does not use still varies by
thousandths with the image, and nearest neighbours or a standardised probe read classes from it. After a total collapse
they would score far above chance.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raysweep.metrics import ACTIVE_VARIANCE
from raysweep.quality.threads import as_many_threads_as_torch

PROBE_ITERATIONS = 100
"""Most iterations of the linear probe's solver; the probe is its result by then."""

_PROBE_TOLERANCE = 1e-3


@torch.no_grad()
def active_units(means: Tensor) -> Tensor:
    """Return which latents are active, bool [L] on the CPU, by posterior means [n, L].

    Without images no latent is active.
    """
    if not len(means):
        return torch.zeros(means.shape[1], dtype=torch.bool)
    return (means.double().var(dim=0, correction=0) > ACTIVE_VARIANCE).cpu()


@torch.no_grad()
def latent_kl_nats(means: Tensor, logvars: Tensor) -> Tensor | None:
    """Return the KL divergence of each latent's posterior to N(0, 1), averaged over images, in nats.

    It is [L] float64 on the CPU, from means and log variances [n, L]. Its sum is the rate. None if there are no images,
    or if a divergence is not finite.
    """
    mean, logvar = means.double(), logvars.double()
    kl = (0.5 * (mean.square() + logvar.exp() - 1 - logvar)).mean(dim=0).cpu()
    return kl if len(means) and bool(torch.isfinite(kl).all()) else None


@torch.no_grad()
def aggregate_kl_nats(means: Tensor, logvars: Tensor) -> float | None:
    """Return the KL divergence to N(0, I) of the Gaussian with the moments of the aggregate posterior, in nats.

    With m the mean of the means [n, L], and S their covariance plus the diagonal of the mean variances, it is
    (tr S + |m|^2 - L - log det S) / 2. It is a lower bound on the divergence of the aggregate posterior itself, and
    that is at most the rate (Hoffman and Johnson, "ELBO surgery", 2016). None if there are no images, or if a value is
    not finite.
    """
    count, latents = means.shape
    if not count or not latents:
        return None
    mean = means.double()
    variance = logvars.double().exp().mean(dim=0)
    centre = mean.mean(dim=0)
    spread = (mean - centre) / math.sqrt(count)
    trace = spread.square().sum() + variance.sum()
    if not bool(torch.isfinite(trace)) or not bool((variance > 0).all()):
        return None
    # log det (V + A'A) = log det V + log det (I + B B') with B = A V^-1/2. Form the smaller of B B' and B'B.
    scaled = spread * variance.rsqrt()
    gram = scaled @ scaled.T if count < latents else scaled.T @ scaled
    log_det = variance.log().sum() + torch.logdet(gram + torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    kl = float(0.5 * (trace + centre.square().sum() - latents - log_det))
    return max(kl, 0.0) if math.isfinite(kl) else None


def silhouette(means: Tensor, labels: Tensor | None, active: Tensor) -> float | None:
    """Return the mean silhouette of classes in the active latents, from -1 to 1.

    Labels are [n], means [n, L] (Rousseeuw, 1987; Euclidean). None if (a) there are no labels, no active unit, fewer
    than two classes, or no two images of one class, or (b) a mean is not finite.
    """
    from sklearn.metrics import silhouette_score

    x = _active(means, active)
    if labels is None or x is None:
        return None
    y = _numbers(labels)
    if not 2 <= len(np.unique(y)) < len(y):
        return None
    with as_many_threads_as_torch():
        return float(silhouette_score(x, y))


def knn_accuracy(
    train_means: Tensor,
    train_labels: Tensor | None,
    test_means: Tensor,
    test_labels: Tensor | None,
    active: Tensor,
    k: int = 5,
) -> float | None:
    """Return the share of test images with the class of most of their k nearest training images.

    Neighbours are found in the active latents. Means are [n, L], labels [n]; of classes that tie, the first wins. None
    if (a) there are no labels, no active unit, fewer than k training images or no test image, or (b) a mean is not
    finite.
    """
    from sklearn.neighbors import KNeighborsClassifier

    classes = _classes(train_means, train_labels, test_means, test_labels, active)
    if classes is None or len(classes.train) < k:
        return None
    model = KNeighborsClassifier(k, algorithm="brute").fit(classes.train, classes.train_labels)
    with as_many_threads_as_torch():
        return float((model.predict(classes.test) == classes.test_labels).mean())


def probe_accuracy(
    train_means: Tensor,
    train_labels: Tensor | None,
    test_means: Tensor,
    test_labels: Tensor | None,
    active: Tensor,
) -> float | None:
    """Return the share of test images that a linear classifier on the active latents gets right.

    It is multinomial logistic regression with an L2 penalty of 1/2 |w|^2, on means [n, L] that are standardised to mean
    0 and variance 1 by the training images, with at most 100 iterations of L-BFGS. None if (a) there are no labels, no
    active unit, fewer than two classes to train on or no test image, or (b) a mean is not finite.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classes = _classes(train_means, train_labels, test_means, test_labels, active)
    if classes is None or len(np.unique(classes.train_labels)) < 2:
        return None
    centre, scale = classes.train.mean(axis=0), classes.train.std(axis=0)
    scale[scale == 0] = 1
    model = LogisticRegression(max_iter=PROBE_ITERATIONS, tol=_PROBE_TOLERANCE)
    with warnings.catch_warnings(), as_many_threads_as_torch():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is bounded on purpose
        model.fit((classes.train - centre) / scale, classes.train_labels)
    return float((model.predict((classes.test - centre) / scale) == classes.test_labels).mean())


class _Classes:
    """The active latents and classes of two splits."""

    def __init__(self, train: Any, train_labels: Any, test: Any, test_labels: Any) -> None:
        self.train: NDArray[np.float64] = train
        self.train_labels: NDArray[np.int64] = train_labels
        self.test: NDArray[np.float64] = test
        self.test_labels: NDArray[np.int64] = test_labels


def _classes(
    train_means: Tensor, train_labels: Tensor | None, test_means: Tensor, test_labels: Tensor | None, active: Tensor
) -> _Classes | None:
    train, test = _active(train_means, active), _active(test_means, active)
    if train is None or test is None or train_labels is None or test_labels is None:
        return None
    return _Classes(train, _numbers(train_labels), test, _numbers(test_labels))


def _active(means: Tensor, active: Tensor) -> NDArray[np.float64] | None:
    """Return the active latents [n, active]; None if there are none, or if one is not finite."""
    x: NDArray[np.float64] = means.detach().double().cpu()[:, active.cpu()].numpy()
    return x if x.size and bool(np.isfinite(x).all()) else None


def _numbers(labels: Tensor) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = labels.detach().cpu().numpy()
    return numbers
