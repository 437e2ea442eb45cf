"""The configuration of one trial: every hyperparameter of the model, its objective and its training."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

Count = Annotated[int, Strict(), Field(ge=1)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]

Likelihood = Literal["gaussian", "calibrated_gaussian", "bernoulli"]
Reduction = Literal["pixel_mean", "pixel_and_latent_mean", "sum"]

UNIT_SQUARED_ERROR_SIGMA = math.sqrt(0.5)
"""The standard deviation at which -log N(x; x_hat, sigma^2), constants left out, is the squared error itself."""

LOSS_FIELDS = ("kld_weight", "kld_warmup_epochs", "likelihood", "sigma", "reduction")
"""Fields that change what the training loss measures, so that losses under two values of one do not compare."""


class TrialConfig(BaseModel):
    """One configuration: what the `trial:` section of a search space file becomes once every distribution is sampled.

    docs/metrics.md has the formulas of the likelihoods and the mapping between the reductions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_size: Annotated[Count, Field(le=4096)] = 16
    """Channels of the first convolution; the second and third have 2 and 4 times as many."""
    latent_size: Annotated[Count, Field(le=65536)] = 16
    """Dimensions of the latent space."""
    hidden_size: Annotated[Count, Field(le=65536)] = 256
    """Width of the linear layer between the convolutions and the latents."""

    likelihood: Likelihood = "gaussian"
    """What the decoder's output is the parameter of."""
    sigma: Positive = UNIT_SQUARED_ERROR_SIGMA
    """Standard deviation of the `gaussian` likelihood. The default makes its data term the squared error."""
    reduction: Reduction = "pixel_mean"
    """How the data term and the KL divergence are reduced before the weight applies: the convention of the weight."""
    kld_weight: NonNegative = 5e-4
    """Weight of the KL divergence in the training objective, under `reduction`."""
    kld_warmup_epochs: Annotated[int, Strict(), Field(ge=0)] = 0
    """Epochs over which the weight grows linearly from 0, step by step."""

    learning_rate: Positive = 1e-3
    """Adam's step size."""
    batch_size: Count = 64
    """Images a step; the last batch of an epoch may be smaller."""
    epochs: Annotated[Count, Field(le=100_000)] = 10
    """Epochs to train for, if nothing stops the trial early."""
    max_gradient_norm: Positive | None = None
    """Gradients longer than this (L2, over all parameters) are scaled down to it; null leaves them alone."""
    seed: Annotated[int, Strict(), Field(ge=0, lt=2**32)] = 0
    """Seeds initialisation, batch order and the noise of the reparameterisation."""
