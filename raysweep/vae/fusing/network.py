"""Several networks of one shape, run as one: horizontally fused (Wang et al., arXiv:2102.02344, MLSys 2021).

A small network leaves most of a GPU idle: its layers are launched one by one, and each is done before the next has been
launched. Run side by side, K networks take as many launches as one. Their convolutions are one convolution of K groups,
their linear layers one batched product, their batch normalisations one over K times the channels. No value of one
network enters those of another.

Vectors are laid out [members, features, batch]. Batch normalisation, which averages over all axes except the channels,
then sees one image of `batch` pixels, and the gradient of a weight comes out in the weight's own layout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysweep.vae.networks import LOGVAR_MAX, LOGVAR_MIN, ConvVAE

NormalisationStatistics = tuple[Tensor, Tensor]
"""Running mean and variance, [members, channels] each."""


class FusedNetwork:
    """Several models of one shape, run as one.

    It moves their parameters and buffers into common tensors. The models stay usable: their parameters are views of
    `rows`, so a change of either changes the other, and each model can be run, saved and loaded on its own.
    """

    def __init__(self, models: Sequence[ConvVAE], memory_format: torch.memory_format) -> None:
        """Move the parameters and buffers of `models` into common tensors.

        Args:
            models: one or more, whose parameters differ only in their values.
            memory_format: of the images [batch, members * channels, height, width] that are computed.
        """
        self.members = len(models)
        self._channels_last = memory_format is torch.channels_last
        self._model = models[0]
        parameters = list(self._model.parameters())
        self._shapes = [parameter.shape for parameter in parameters]
        self._sizes = [parameter.numel() for parameter in parameters]
        self._position = {id(parameter): index for index, parameter in enumerate(parameters)}
        with torch.no_grad():
            self.rows = torch.stack([torch.cat([_flat(value) for value in model.parameters()]) for model in models])
        self.rows.requires_grad_()
        """[members, parameters of one], all that is trained; its gradient has the same layout."""
        for model, views in zip(models, self.views(self.rows.detach()), strict=True):
            for parameter, view in zip(model.parameters(), views, strict=True):
                parameter.data = view
        self._statistics: dict[nn.Module, NormalisationStatistics] = {}
        self._counts: list[Tensor] = []
        for layers in zip(*(model.modules() for model in models), strict=True):
            if isinstance(layers[0], nn.modules.batchnorm._BatchNorm):
                mean, variance, count = (_stack(layers, name) for name in ("running_mean", "running_var", _COUNT))
                self._statistics[layers[0]] = mean, variance
                self._counts.append(count)

    def views(self, rows: Tensor) -> list[list[Tensor]]:
        """Return, for each member, views of `rows` in the shapes and layouts of its parameters.

        `rows` is [members, parameters of one]. What is written to the views is written to it.
        """
        return [
            [_shaped(part, shape) for part, shape in zip(row.split(self._sizes), self._shapes, strict=True)]
            for row in rows
        ]

    def join(self, x: Tensor) -> Tensor:
        """Return images [batch, members, channels, height, width] as `run` takes them, copied if necessary."""
        joined = x.flatten(1, 2)
        return joined.contiguous(memory_format=torch.channels_last) if self._channels_last else joined

    def part(self, joined: Tensor) -> Tensor:
        """Return joined images as a view [batch, members, channels, height, width]."""
        batch, channels, height, width = joined.shape
        return joined.view(batch, self.members, channels // self.members, height, width)

    def run(self, x: Tensor, noise: Tensor, *, training: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Run `ConvVAE.forward` of each member on its own images and noise.

        Args:
            x: [batch, members * channels, height, width] in [0, 1], from `join`.
            noise: [members, batch, latents], drawn from N(0, I).
            training: whether batch normalisation uses the batch's statistics and learns them.

        Returns the decoders' outputs [batch, members, channels, height, width], and the means and log variances of the
        posteriors, [members, batch, latents].
        """
        weights = self.rows.split(self._sizes, dim=1)  # type: ignore[no-untyped-call]
        if training and self._counts:
            torch._foreach_add_(self._counts, 1)
        encoded = self._run(self._model.encoder, x, weights, training)
        mean, logvar = self._linear(self._model.posterior, encoded, weights).chunk(2, dim=1)
        logvar = F.hardtanh(logvar, LOGVAR_MIN, LOGVAR_MAX)  # as in ConvVAE.encode
        z = torch.addcmul(mean, (0.5 * logvar).exp(), noise.mT)
        output = self._run(self._model.decoder, z, weights, training)
        return self.part(output), mean.mT, logvar.mT

    def _run(self, layers: nn.Sequential, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        """Run layers; images are [batch, members * channels, height, width], vectors [members, features, batch]."""
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                x = self._convolve(layer, x, weights)
            elif isinstance(layer, nn.Linear):
                x = self._linear(layer, x, weights)
            elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
                x = self._normalise(layer, x, weights, training)
            elif isinstance(layer, nn.Flatten):
                x = self.part(x).permute(1, 2, 3, 4, 0).flatten(1, 3)
            elif isinstance(layer, nn.Unflatten):
                x = self._unflatten(x.view(self.members, *layer.unflattened_size, -1))
            else:  # an activation or a Trim: no parameters, and independent of channels
                x = layer(x)
        return x

    def _convolve(self, layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        first, second, height, width = layer.weight.shape
        kernel = self._weight(layer.weight, weights).view(self.members, first, height, width, second)
        if self._channels_last:
            kernel = kernel.flatten(0, 1).permute(0, 3, 1, 2)
        else:
            kernel = kernel.permute(0, 1, 4, 2, 3).flatten(0, 1)
        bias = None if layer.bias is None else self._weight(layer.bias, weights).flatten()
        stride, padding = _pair(layer.stride), _pair(layer.padding)
        if isinstance(layer, nn.Conv2d):
            return F.conv2d(x, kernel, bias, stride, padding, groups=self.members)
        missing = _pair(layer.output_padding)
        return F.conv_transpose2d(x, kernel, bias, stride, padding, missing, groups=self.members)

    def _linear(self, layer: nn.Linear, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        weight = self._weight(layer.weight, weights).view(self.members, *layer.weight.shape)
        if layer.bias is None:
            return torch.bmm(weight, x)
        return torch.baddbmm(self._weight(layer.bias, weights).unsqueeze(2), weight, x)

    def _normalise(
        self, layer: nn.modules.batchnorm._BatchNorm, x: Tensor, weights: Sequence[Tensor], training: bool
    ) -> Tensor:
        mean, variance = self._statistics[layer]
        normalised = F.batch_norm(
            x if x.dim() == 4 else x.flatten(0, 1).unsqueeze(0),
            mean.view(-1),
            variance.view(-1),
            self._weight(layer.weight, weights).flatten(),
            self._weight(layer.bias, weights).flatten(),
            training,
            layer.momentum or 0.0,
            layer.eps,
        )
        return normalised.view_as(x)

    def _unflatten(self, x: Tensor) -> Tensor:
        """Return images [batch, members * channels, height, width] of x [members, channels, height, width, batch]."""
        if self._channels_last:
            return x.permute(4, 2, 3, 0, 1).flatten(3, 4).permute(0, 3, 1, 2)
        return x.permute(4, 0, 1, 2, 3).flatten(1, 2)

    def _weight(self, parameter: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Return all members' values, [members, values], of a parameter of the first model."""
        return weights[self._position[id(parameter)]]


_COUNT = "num_batches_tracked"


def _pair(sizes: str | tuple[int, ...]) -> list[int]:
    """Return a layer's stride or padding as integers; by torch's types the padding could be a word."""
    return [int(size) for size in sizes]


def own(model: nn.Module) -> None:
    """Move a model's parameters and buffers back into memory of their own."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.detach().clone()


def _stack(layers: Sequence[nn.Module], name: str) -> Tensor:
    """Stack the buffer `name` of all `layers` into [members, ...], and make the buffers views of it."""
    buffers = [layer.get_buffer(name) for layer in layers]
    stacked = torch.stack(buffers)
    for buffer, view in zip(buffers, stacked, strict=True):
        buffer.data = view
    return stacked


def _flat(parameter: Tensor) -> Tensor:
    """Return a parameter's values in memory order; kernels are channels last, as in `Training`."""
    return (parameter.permute(0, 2, 3, 1) if parameter.dim() == 4 else parameter).flatten()


def _shaped(values: Tensor, shape: torch.Size) -> Tensor:
    """Undo `_flat` and return a view."""
    if len(shape) < 4:
        return values.view(shape)
    first, second, height, width = shape
    return values.view(first, height, width, second).permute(0, 3, 1, 2)
