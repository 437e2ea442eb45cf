"""The space in which images are compared: the second-to-last layer of a small classifier, trained or not."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from raysweep.storage.tensorfile import TensorFileError, read_tensors, write_tensors

FEATURES = 64
"""Dimensions of the feature space."""
FORMAT = "raysweep-features-1"
STEPS = 1000
"""Steps of training. On MNIST-5k at 32x32, 1,000 steps of 64 images are 16 epochs."""

_BATCH = 64
_PEAK_LEARNING_RATE = 4e-3
_FOLDED_SIDE = 4
_WIDEST, _NARROWEST = 64, 16
_EMBEDDED_AT_ONCE = 256
_log = logging.getLogger("raysweep")

Kind = Literal["classifier", "random"]


class FeatureNetwork(nn.Module):
    """A convolutional classifier of images of `shape` [channels, height, width], with sides of 8 pixels or more.

    [conv 3x3, stride 2, BatchNorm, ReLU] repeats until the longer side is 4 or less. The last has 64 channels, each one
    before it half as many as the next, but at least 16. Then follow a linear layer to 64 features, BatchNorm, ReLU, and
    a linear layer to the classes.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, kind: Kind = "classifier") -> None:
        """Build the untrained layers.

        Raises:
            ValueError: if a side is less than 8 pixels, or there is no channel or no class.
        """
        super().__init__()
        channels, height, width = shape
        if channels < 1 or min(height, width) < 8 or classes < 1:
            raise ValueError(
                "features need a channel, sides of 8 pixels or more and a class, "
                f"got {channels} channels, {height}x{width} pixels and {classes} classes"
            )
        self.shape = shape
        self.classes = classes
        self.kind: Kind = kind
        self.accuracy: float | None = None
        """Of the classes, on images it was not trained on; None until a caller that has such images sets it."""
        halvings = math.ceil(math.log2(max(height, width) / _FOLDED_SIDE))
        layers: list[nn.Module] = []
        before = channels
        for left in reversed(range(halvings)):
            after = max(_NARROWEST, _WIDEST >> left)
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before, height, width = after, math.ceil(height / 2), math.ceil(width / 2)
        flat = before * height * width
        layers += [nn.Flatten(), nn.Linear(flat, FEATURES, bias=False), nn.BatchNorm1d(FEATURES), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of the classes, [batch, classes], for x [batch, channels, height, width] in [0, 1]."""
        logits: Tensor = self.head(self._features(x))
        return logits

    def embed(self, images: Tensor) -> Tensor:
        """Return features [n, 64], float32, of images [n, channels, height, width] in [0, 1].

        They are on the network's device.
        """
        return self._in_batches(self._features, images, FEATURES)

    def classify(self, images: Tensor) -> Tensor:
        """Return classes [n], int64, of images [n, channels, height, width] in [0, 1].

        They are on the network's device.
        """
        return self._in_batches(self, images, self.classes).argmax(dim=1)

    @torch.no_grad()
    def embed_and_classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the results of `embed` and `classify` in one pass."""
        embeddings = self.embed(images)
        return embeddings, self.head(embeddings).argmax(dim=1)

    def _features(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(2 * x - 1)
        return features

    @torch.no_grad()
    def _in_batches(self, compute: Callable[[Tensor], Tensor], images: Tensor, columns: int) -> Tensor:
        was_training = self.training
        self.eval()
        device = self.head.weight.device
        parts = [compute(batch.to(device)) for batch in images.split(_EMBEDDED_AT_ONCE) if len(batch)]  # type: ignore[no-untyped-call]
        self.train(was_training)
        return torch.cat(parts) if parts else torch.empty(0, columns, device=device)


def train_classifier(
    images: Callable[[Tensor], Tensor],
    labels: Tensor,
    shape: tuple[int, int, int],
    classes: int,
    *,
    seed: int,
    device: torch.device | str,
    steps: int = STEPS,
) -> FeatureNetwork:
    """Train a network to tell the classes of images, and return it in evaluation mode.

    The budget is in steps, so that the same seed gives the same network on machines of any speed. A batch is shifted by
    up to a sixteenth of the side; the learning rate follows one cycle (Smith and Topin, arXiv:1708.07120).

    Args:
        images: returns a batch in [0, 1], [batch, channels, height, width], for positions [batch], int64, on `device`.
        labels: [n], int64, classes from 0, of the positions from 0.

    Raises:
        ValueError: if there are fewer than two images, or a label is not a class.
    """
    if len(labels) < 2 or int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"a classifier needs two images or more and labels from 0 to {classes - 1}")
    network = _initialised(shape, classes, "classifier", seed).to(device)
    labels = labels.to(device)
    generator = torch.Generator().manual_seed(seed)
    batch = min(_BATCH, len(labels))
    reach = max(1, min(shape[1:]) // 16)
    optimizer = torch.optim.Adam(network.parameters(), lr=_PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_LEARNING_RATE, total_steps=max(steps, 2))
    order = torch.empty(0, dtype=torch.int64)
    network.train()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for _ in range(steps):
            if len(order) < batch:
                order = torch.randperm(len(labels), generator=generator)
            rows, order = order[:batch].to(device), order[batch:]
            down, right = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
            loss = functional.cross_entropy(network(_shifted(images(rows), down, right)), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


def random_features(shape: tuple[int, int, int], seed: int, images: Tensor | None = None) -> FeatureNetwork:
    """Return the network untrained, in evaluation mode, as features for data without labels.

    Distances between its features order models much like those of trained ones (Naeem et al., arXiv:2002.09797). With
    `images` [n, channels, height, width] in [0, 1], about a thousand, the BatchNorm layers take their statistics in one
    pass, so that every feature has the same weight. Without them, the initialisation scales the features, and some are
    the same for all images.

    Raises:
        ValueError: if there are fewer than two `images`.
    """
    if images is not None and len(images) < 2:
        raise ValueError(f"the statistics of features need two images or more, got {len(images)}")
    network = _initialised(shape, 1, "random", seed)
    if images is not None:
        network = network.to(images.device)
        norms = [layer for layer in network.body if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            network.train()(images)
        for norm in norms:
            norm.momentum = 0.1
    return network.eval()


def measure_accuracy(network: FeatureNetwork, images: Tensor, labels: Tensor) -> float | None:
    """Return the share of images [n, channels, height, width] to which the network gives their labels [n].

    None if there are no images.
    """
    if not len(labels):
        return None
    classes = network.classify(images)
    return float((classes == labels.to(classes.device)).double().mean())


def save_features(path: Path, network: FeatureNetwork, fingerprint: str) -> None:
    """Write the network to one safetensors file, whole or not at all; `fingerprint` identifies its data.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    header = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "kind": network.kind,
        "shape": network.shape,
        "classes": network.classes,
        "accuracy": network.accuracy,
    }
    tensors = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    write_tensors(path, tensors, header)


def load_features(path: Path, fingerprint: str) -> FeatureNetwork | None:
    """Load a network on the CPU, in evaluation mode; return None if its file is unusable.

    A file is unusable if it is missing, damaged or for other data. The log names it if it exists; the caller must train
    anew.
    """
    if not path.exists():
        return None
    try:
        tensors, header = read_tensors(path)
        if header.get("format") != FORMAT:
            raise ValueError(f"is not of this version of raysweep ({FORMAT})")
        if header["fingerprint"] != fingerprint:
            raise ValueError(f"is for other data: {header['fingerprint']}, wanted {fingerprint}")
        if header["kind"] not in ("classifier", "random"):
            raise ValueError(f"is of an unknown kind: {header['kind']}")
        if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
            raise ValueError("has weights that are not finite")
        channels, height, width = header["shape"]
        with torch.device("meta"):  # take no memory before the file's tensors are known to fit
            network = FeatureNetwork((channels, height, width), header["classes"], header["kind"])
        for name, value in network.state_dict().items():
            if name in tensors and tensors[name].dtype != value.dtype:  # assign=True would adopt it
                raise ValueError(f"{name} is {tensors[name].dtype}, not {value.dtype}")
        network.load_state_dict(tensors, assign=True)
        network.accuracy = None if header["accuracy"] is None else float(header["accuracy"])
        return network.eval()
    except (TensorFileError, RuntimeError, ValueError, KeyError, TypeError, OverflowError) as error:
        _log.warning("%s: cannot be used as features: %s", path, str(error).partition("\n")[0])
        return None


def _initialised(shape: tuple[int, int, int], classes: int, kind: Kind, seed: int) -> FeatureNetwork:
    """Return a network with weights drawn from `seed` alone, which keep the scale of activations.

    The initialisation is that of He et al., arXiv:1502.01852.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FeatureNetwork(shape, classes, kind)
        for layer in network.body:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return network


def _shifted(x: Tensor, down: int, right: int) -> Tensor:
    """Move images by whole pixels; pixels that come in repeat the edge."""
    reach = max(abs(down), abs(right))
    if not reach:
        return x
    height, width = x.shape[-2:]
    padded = functional.pad(x, (reach, reach, reach, reach), mode="replicate")
    return padded[..., reach - down : reach - down + height, reach - right : reach - right + width]
