"""The convolutional VAE: three strided convolutions to a diagonal Gaussian over latents, and their mirror image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raysweep.config import TrialConfig

LOGVAR_MIN, LOGVAR_MAX = -15.0, 10.0
"""Bounds of the posterior's log variance: beyond them exp() leaves float32's range long before the KL matters."""


class ConvVAE(nn.Module):
    """A VAE over images of `shape` [channels, height, width], both sides a multiple of 8.

    Encoder: 3 x [conv 3x3, stride 2, ReLU] with d, 2d and 4d channels, linear to `hidden_size`, ReLU, then the mean and
    the log variance of q(z|x). The decoder mirrors it and ends in logits: `decode` is their sigmoid.
    """

    def __init__(self, shape: tuple[int, int, int], d_size: int, latent_size: int, hidden_size: int) -> None:
        super().__init__()
        channels, height, width = shape
        if min(shape) < 1 or height % 8 or width % 8:
            raise ValueError(
                f"height and width must be multiples of 8, got {height} and {width} of {channels} channels"
            )
        self.shape = shape
        self.latent_size = latent_size
        d = d_size
        folded = (4 * d, height // 8, width // 8)
        flat = folded[0] * folded[1] * folded[2]
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, d, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(d, 2 * d, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * d, 4 * d, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(flat, hidden_size),
            nn.ReLU(inplace=True),
        )
        self.posterior = nn.Linear(hidden_size, 2 * latent_size)
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, hidden_size),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_size, flat),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, folded),
            nn.ConvTranspose2d(4 * d, 2 * d, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(2 * d, d, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(d, channels, 3, stride=2, padding=1, output_padding=1),
        )

    @classmethod
    def from_config(cls, config: TrialConfig, shape: tuple[int, int, int]) -> ConvVAE:
        """The network that a trial trains, initialised from the trial's seed whatever was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return cls(shape, config.d_size, config.latent_size, config.hidden_size or 256)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), [batch, latent_size], of x [batch, channels, height, width] in [0, 1]."""
        mean, logvar = self.posterior(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(LOGVAR_MIN, LOGVAR_MAX)

    def decode_logits(self, z: Tensor) -> Tensor:
        """Logits of the pixels, [batch, channels, height, width], of latents z [batch, latent_size]."""
        logits: Tensor = self.decoder(z)
        return logits

    def decode(self, z: Tensor) -> Tensor:
        """The decoder's mean image in [0, 1], [batch, channels, height, width], of latents z [batch, latent_size]."""
        return self.decode_logits(z).sigmoid()

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the reconstruction, and mean and log variance of q(z|x).

        `noise` [batch, latent_size] is drawn from N(0, I) by the caller: z = mean + exp(logvar / 2) * noise.
        """
        mean, logvar = self.encode(x)
        return self.decode_logits(torch.addcmul(mean, (0.5 * logvar).exp(), noise)), mean, logvar

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Images in [0, 1] decoded from the posterior means of x [batch, channels, height, width] in [0, 1]."""
        return self.decode(self.encode(x)[0])

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Images in [0, 1], [count, channels, height, width], decoded from draws of the prior N(0, I)."""
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn(count, self.latent_size, generator=generator)
        return self.decode(latents.to(self.posterior.weight.device))
