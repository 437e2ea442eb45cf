"""The configuration of one trial: every hyperparameter of the model, its objective and its training.

A field's docstring is its only description: the tables of the report and TensorBoard show its first sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema

Count = Annotated[int, Strict(), Field(ge=1)]
Whole = Annotated[int, Strict(), Field(ge=0)]
MOST_EPOCHS = 100_000
NEVER = 2**31 - 1
"""Upper bound of numbers of epochs in a schedule, such as a warm-up."""
MOST_IMAGES = 10_000_000
"""Upper bound of the images in a batch or a test split: more than any data set here has."""
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Strict(), Field(ge=0, le=1)]
Share = Annotated[float, Strict(), Field(ge=0, lt=1)]

Likelihood = Literal["gaussian", "calibrated_gaussian", "learned_gaussian", "bernoulli", "continuous_bernoulli"]
Reduction = Literal["pixel_mean", "pixel_and_latent_mean", "sum"]
LearningRateSchedule = Literal["constant", "step", "plateau", "cosine"]
Precision = Literal["float32", "tf32", "bfloat16"]

UNIT_SQUARED_ERROR_SIGMA = math.sqrt(0.5)
"""The standard deviation at which -log N(x; x_hat, sigma^2), without its constants, is the squared error."""

DENSE = "none"
"""The `conv_blocks` of a network without convolutions."""

_BLOCK = re.compile(r"([1-9]\d{0,2})?d(/2)?")


class ConvBlock(NamedTuple):
    """One convolution of the encoder, and its mirror image in the decoder."""

    multiple: int
    """Its channels, in multiples of `d_size`."""
    halves: bool
    """Whether it halves height and width."""


def parse_conv_blocks(text: str) -> tuple[ConvBlock, ...]:
    """Return the blocks that a text such as `d/2 2d/2 4d/2` describes; an empty tuple for `none`.

    Raises:
        ValueError: if the text has another form.
    """
    if text == DENSE:
        return ()
    matches = [_BLOCK.fullmatch(part) for part in text.split()]
    if not matches or len(matches) > 12 or None in matches:
        raise ValueError(
            "must list the convolutions as multiples of d_size, /2 where one halves the image, such as "
            f"'d/2 2d/2 4d/2' or 'd 2d/2 2d/2 2d' (12 at most), or be '{DENSE}'"
        )
    return tuple(ConvBlock(int(match[1] or 1), match[2] is not None) for match in matches if match)


def parse_epochs(text: str) -> tuple[int, ...]:
    """Return the epochs, counted from 1, that a text such as `6` or `200 300` lists.

    Raises:
        ValueError: if the text has another form, or the epochs do not increase.
    """
    parts = text.split()
    if not all(part.isdecimal() for part in parts):
        raise ValueError("must list epochs, such as 6 or '200 300'")
    epochs = tuple(int(part) for part in parts)
    if any(after <= before for before, after in zip((0, *epochs), epochs, strict=False)):
        raise ValueError("must list epochs from 1 on that grow, such as 6 or '200 300'")
    return epochs


_EPOCHS = {
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^[\d\s]*$", "examples": ["200 300"]}]
}
_BLOCKS = {
    "type": "string",
    "pattern": rf"^({DENSE}|\s*{_BLOCK.pattern}(\s+{_BLOCK.pattern})*\s*)$",
    "examples": ["d/2 2d/2 4d/2", DENSE],
}
"""JSON Schemas, for editors, of two fields that are parsed from text."""


def _is_parsed_by(parse: Any) -> AfterValidator:
    def check(text: str) -> str:
        parse(text)
        return " ".join(text.split())

    return AfterValidator(check)


def _one_epoch_as_text(raw: Any) -> Any:
    return str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw


LOSS_FIELDS = (
    "kld_weight", "kld_warmup_epochs", "kld_cycle_epochs", "free_bits_nats", "likelihood", "sigma", "reduction",
    "binarise",
)  # fmt: skip
"""Fields that change what the training loss measures: losses under different values cannot be compared."""

UNITS = {
    "d_size": "channels", "latent_size": "latents", "hidden_size": "units", "kernel_size": "pixels",
    "rotation_degrees": "degrees", "kld_warmup_epochs": "epochs", "kld_cycle_epochs": "epochs",
    "free_bits_nats": "nats/latent", "learning_rate_epochs": "epochs", "learning_rate_patience_epochs": "epochs",
    "batch_size": "images", "epochs": "epochs",
}  # fmt: skip
"""Units of the fields that have one."""


class TrialConfig(BaseModel):
    """One configuration: what the `trial:` section of a search space file becomes once every distribution is sampled.

    docs/metrics.md has the formulas of the likelihoods and the mapping between the reductions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    d_size: Annotated[Count, Field(le=4096)] = 16
    """Channels that `conv_blocks` counts in."""
    latent_size: Annotated[Count, Field(le=65536)] = 16
    """Dimensions of the latent space."""
    hidden_size: Annotated[Count, Field(le=65536)] | None = 256
    """Width of the linear layer between the convolutions and the latents; null for no such layer."""
    conv_blocks: Annotated[str, Strict(), _is_parsed_by(parse_conv_blocks), WithJsonSchema(_BLOCKS)] = "d/2 2d/2 4d/2"
    """Convolutions of the encoder, from the image inwards, as multiples of d_size; /2 where one halves the image.

    The decoder mirrors them. `none` makes a network of linear layers alone.
    """
    kernel_size: Literal[3, 4] = 3
    """Side of the convolutions that halve the image; the others have 3."""
    batch_norm: Literal["none", "conv", "linear", "all"] = "none"
    """Which layers are followed by batch normalisation."""
    negative_slope: Share = 0.0
    """Slope of the activations below 0: 0 is ReLU, more is LeakyReLU."""
    upsampling: Literal["mirrored", "trimmed"] = "mirrored"
    """How the decoder reaches the image's size: layer by layer as the encoder left it, or beyond it and trimmed."""

    likelihood: Likelihood = "gaussian"
    """What the decoder's output is the parameter of."""
    sigma: Positive = UNIT_SQUARED_ERROR_SIGMA
    """Standard deviation of the `gaussian` likelihood, a pixel in [0, 1].

    The default makes its data term the squared error.
    """
    reduction: Reduction = "pixel_mean"
    """How the data term and the KL divergence are reduced before the weight applies: the convention of the weight."""
    kld_weight: NonNegative = 5e-4
    """Weight of the KL divergence in the training objective, under `reduction`."""
    kld_warmup_epochs: Annotated[Whole, Field(le=NEVER)] = 0
    """Epochs over which the weight grows linearly from 0, step by step."""
    kld_cycle_epochs: Annotated[Whole, Field(le=NEVER)] = 0
    """Epochs after which the warm-up starts again, each time; 0 warms up once."""
    free_bits_nats: NonNegative = 0.0
    """Nats of KL divergence that each latent has free of charge, averaged over the batch."""

    binarise: Literal["none", "threshold", "sampled"] = "none"
    """Whether pixels become 0 or 1 before training sees them: at 0.5, or drawn with the pixel as probability."""
    input_dropout: Share = 0.0
    """Probability with which a pixel of the input is set to 0; the loss is against the clean image."""
    input_noise: NonNegative = 0.0
    """Standard deviation of Gaussian noise added to the input; the loss is against the clean image."""
    rotation_degrees: Annotated[float, Strict(), Field(ge=0, le=180)] = 0.0
    """Largest angle by which each training image is rotated at random, either way."""
    autocontrast_probability: Probability = 0.0
    """Probability with which a training image is stretched to its full contrast."""
    brightness_jitter: Probability = 0.0
    """Each training image's brightness is multiplied by a random factor from 1 minus this to 1 plus this."""

    learning_rate: Positive = 1e-3
    """Step size of Adam, at first."""
    learning_rate_schedule: LearningRateSchedule = "constant"
    """How the step size falls: not, at `learning_rate_epochs`, when `val_loss` stays, or as a cosine to the end."""
    learning_rate_factor: Annotated[float, Strict(), Field(gt=0, lt=1)] = 0.1
    """What the step size is multiplied by under the schedules `step` and `plateau`."""
    learning_rate_epochs: Annotated[
        str, BeforeValidator(_one_epoch_as_text), Strict(), _is_parsed_by(parse_epochs), WithJsonSchema(_EPOCHS)
    ] = ""
    """Epochs, from 1, that the schedule `step` begins with a smaller step size."""
    learning_rate_patience_epochs: Annotated[Whole, Field(le=NEVER)] = 10
    """Epochs without a better `val_loss` after which the schedule `plateau` goes down."""
    batch_size: Annotated[Count, Field(le=MOST_IMAGES)] = 64
    """Images a step; the last batch of an epoch may be smaller."""
    precision: Precision = "float32"
    """Precision of the products of a training step: full, or less for the speed of GPUs that have it.

    Validation is in float32 always. On a CPU `tf32` is float32.
    """
    epochs: Annotated[Count, Field(le=MOST_EPOCHS)] = 10
    """Epochs to train for, if nothing stops the trial early."""
    max_gradient_norm: Positive | None = None
    """L2 norm, over all parameters, to which longer gradients are scaled down; null leaves them alone."""
    seed: Annotated[int, Strict(), Field(ge=0, lt=2**32)] = 0
    """Seed of initialisation, batch order, augmentation and the noise of the reparameterisation."""


def meaning(name: str) -> str:
    """Return the meaning of a field of `TrialConfig`: a sentence that starts in lower case, without a full stop."""
    sentence = " ".join((TrialConfig.model_fields[name].description or "").split("\n\n")[0].split()).rstrip(".")
    return sentence[0].lower() + sentence[1:] if sentence[1:2].islower() else sentence


SHARED_FIELDS = (
    "d_size", "latent_size", "hidden_size", "conv_blocks", "kernel_size", "batch_norm", "negative_slope", "upsampling",
    "likelihood", "batch_size", "precision",
)  # fmt: skip
"""Fields that must agree in all trials that are fused, because they determine the shape of a training step."""


def fusion_key(config: TrialConfig) -> Hashable:
    """Return a key: two configurations with equal keys, and only these, can be fused over the same images."""
    return tuple(getattr(config, name) for name in SHARED_FIELDS)
