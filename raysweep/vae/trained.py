"""A trained model for users: it checks its inputs, and its results carry no gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from raysweep.errors import ModelInputError
from raysweep.spec.config import TrialConfig
from raysweep.vae import walks
from raysweep.vae.networks import ConvVAE, evaluating


class TrainedVAE(ConvVAE):
    """The model of a trial, as `raysweep.load_model` returns it.

    `encode`, `decode`, `reconstruct`, `interpolate` and `sample` check their inputs and return results without
    gradients; `encode` and `decode` keep gradients if `gradients=True`. Calling the model itself (`model(x, noise)`) is
    for training: with gradients, and without checks.
    """

    config: TrialConfig
    """The configuration it was trained with."""
    images: Mapping[str, Any] | None
    """How its images were prepared (keys of the `data:` section); None if the export does not say it."""
    origin: Mapping[str, Any]
    """The sweep and the trial it comes from."""

    def encode(self, x: Tensor, *, gradients: bool = False) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of q(z|x), [batch, latent_size], of x [batch, channels, height, width].

        Args:
            x: images, floating point in [0, 1], as `raysweep.read_images(path, model)` gives them.
            gradients: whether the result can be differentiated.

        Raises:
            ModelInputError: if x has another shape, type or range.
        """
        self._require_images(x, "x")
        with nullcontext() if gradients else torch.no_grad():
            return ConvVAE.encode(self, x)

    def decode(self, z: Tensor, *, gradients: bool = False) -> Tensor:
        """Return images in [0, 1], [batch, channels, height, width], of latents z [batch, latent_size].

        Raises:
            ModelInputError: if z has another shape or type, or holds NaN.
        """
        self._require_latents(z)
        with nullcontext() if gradients else torch.no_grad():
            return ConvVAE.decode(self, z)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a training step needs, with gradients; see `ConvVAE.forward`."""
        mean, logvar = ConvVAE.encode(self, x)
        return self.decode_output(torch.addcmul(mean, (0.5 * logvar).exp(), noise)), mean, logvar

    def interpolate(self, a: Tensor, b: Tensor, steps: int = 10) -> Tensor:
        """Return images on the line between the latents of image a and image b, both ends included.

        Args:
            a: an image [channels, height, width] in [0, 1], or several [pairs, channels, height, width].
            b: as many images as a.
            steps: images on the line, 2 or more.

        Returns [steps, channels, height, width], or [pairs, steps, channels, height, width] for several.

        Raises:
            ModelInputError: if a or b are not images of this model, their numbers differ, or steps is less than 2.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
            raise ModelInputError(f"steps: must be a whole number from 2 on, got {steps!r}")
        is_one = isinstance(a, Tensor) and a.ndim == 3
        for name, image in (("a", a), ("b", b)):
            self._require_images(image[None] if isinstance(image, Tensor) and image.ndim == 3 else image, name)
        if a.shape != b.shape:
            raise ModelInputError(f"a and b: must be as many images, got shapes {_by(a)} and {_by(b)}")
        found = walks.interpolate(self, a[None] if is_one else a, b[None] if is_one else b, steps)
        return found[0] if is_one else found

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Return images in [0, 1], [count, channels, height, width], decoded from draws of the prior N(0, I).

        Raises:
            ModelInputError: if count is not a whole number from 1 on.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ModelInputError(f"count: must be a whole number from 1 on, got {count!r}")
        return super().sample(count, seed)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return images in [0, 1] decoded from the posterior means of x [batch, channels, height, width] in [0, 1].

        Raises:
            ModelInputError: if x has another shape, type or range.
        """
        with evaluating(self):
            return self.decode(self.encode(x)[0])

    def __repr__(self) -> str:
        """Describe the model on one line; `print(model.encoder)` shows the layers."""
        channels, height, width = self.shape
        where = ", ".join(f"{name} {self.origin[name]}" for name in ("sweep", "trial") if name in self.origin)
        images = f"{height}x{width} {'grey' if channels == 1 else 'colour'} images"
        return f"<{type(self).__name__} of {images}, {self.latent_size} latents{', ' if where else ''}{where}>"

    def _require_images(self, x: Tensor, name: str) -> None:
        """Raise ModelInputError unless x is a batch of images like those the encoder was trained on."""
        channels, height, width = self.shape
        read = "raysweep.read_images(path, model) reads a file so that it fits"
        if not isinstance(x, Tensor):
            raise ModelInputError(f"{name}: must be a torch tensor, got {_kind(x)}; {read}")
        if x.ndim == 3 and tuple(x.shape) == self.shape:
            raise ModelInputError(f"{name}: is one image, {_by(x)}; a batch is wanted: {name}[None]")
        if x.ndim != 4:
            raise ModelInputError(
                f"{name}: has shape {_by(x)}; images are [batch, channels, height, width], here "
                f"[batch, {channels}, {height}, {width}]; {read}"
            )
        if tuple(x.shape[2:]) == (height, width) and x.shape[1] != channels:
            raise ModelInputError(f"{name}: has {_channels(x.shape[1])}, the model takes {_channels(channels)}; {read}")
        if tuple(x.shape[1:]) == (height, width, channels):
            raise ModelInputError(f"{name}: has its channels last; the model takes {name}.permute(0, 3, 1, 2)")
        if tuple(x.shape[1:]) != self.shape:
            got = f"{x.shape[2]}x{x.shape[3]} pixels in {_channels(x.shape[1])}"
            raise ModelInputError(
                f"{name}: {got}, the model takes {height}x{width} in {_channels(channels)}; "
                "raysweep.read_images(path, model) resizes as the training images were"
            )
        if not x.is_floating_point():
            byte = f"; {name}.float() / 255 makes them of bytes" if x.dtype == torch.uint8 else f"; {name}.float()"
            raise ModelInputError(f"{name}: has values of {x.dtype}, the model takes floating point in [0, 1]{byte}")
        self._require_device(x, name)
        if not x.numel():
            return
        low, high = (float(value) for value in x.detach().aminmax())
        if math.isnan(low) or math.isnan(high):
            raise ModelInputError(f"{name}: holds NaN")
        is_noisy = self.config.input_noise > 0  # such a model expects pixels outside [0, 1]
        if (low < 0 or high > 1) and not is_noisy:
            remedy = ""
            if low >= 0 and 1 < high <= 255:
                remedy = f"; {name} / 255 brings bytes there"
            elif -1 <= low < 0 and high <= 1:
                remedy = f"; ({name} + 1) / 2 brings -1 to 1 there, {name}.clamp(0, 1) cuts off"
            raise ModelInputError(f"{name}: has values from {low:.4g} to {high:.4g}, the model takes 0 to 1{remedy}")

    def _require_latents(self, z: Tensor) -> None:
        """Raise ModelInputError unless z is a batch of latents."""
        if not isinstance(z, Tensor):
            raise ModelInputError(f"z: must be a torch tensor [batch, {self.latent_size}], got {_kind(z)}")
        if z.ndim == 1 and len(z) == self.latent_size:
            raise ModelInputError(f"z: is the latents of one image, {_by(z)}; a batch is wanted: z[None]")
        if z.ndim != 2 or z.shape[1] != self.latent_size:
            raise ModelInputError(f"z: has shape {_by(z)}; the model takes [batch, {self.latent_size}]")
        if not z.is_floating_point():
            raise ModelInputError(f"z: has values of {z.dtype}, the model takes floating point; z.float()")
        self._require_device(z, "z")
        if not bool(z.detach().isfinite().all()):
            raise ModelInputError("z: holds NaN or infinities")

    def _require_device(self, x: Tensor, name: str) -> None:
        weight = self.posterior.weight
        if x.device != weight.device:
            raise ModelInputError(
                f"{name}: is on {x.device}, the model on {weight.device}; {name}.to({str(weight.device)!r})"
            )
        if x.dtype != weight.dtype:
            raise ModelInputError(f"{name}: has values of {x.dtype}, the model's are {weight.dtype}; "
                                  f"{name}.to({weight.dtype})")  # fmt: skip


def _kind(value: object) -> str:
    """Name the type of a value that should be a tensor, and its conversion if that is known."""
    name = f"{type(value).__module__.split('.')[0]}.{type(value).__name__}".removeprefix("builtins.")
    return f"{name} (torch.from_numpy makes it one)" if name == "numpy.ndarray" else name


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def _by(x: Tensor) -> str:
    return f"[{', '.join(map(str, x.shape))}]"
