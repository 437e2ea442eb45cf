"""The space in which a data set's images are compared: made once, and kept beside the cache of the images."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock

from raysweep.data.tensors import ImageSplits, spread
from raysweep.layout import storage_errors
from raysweep.quality.features import (
    FeatureNetwork,
    load_features,
    measure_accuracy,
    random_features,
    save_features,
    train_classifier,
)

if TYPE_CHECKING:
    from raysweep.spec import DataSpec

SEED = 0
SEEN_BY_RANDOM_FEATURES = 512
"""Images that scale the features of a network without training."""

_log = logging.getLogger("raysweep")


def feature_space(cache: Path, spec: DataSpec, splits: ImageSplits, device: torch.device) -> FeatureNetwork:
    """The features for the images of a cache file under a split: a classifier's where there are labels, else random.

    The classifier learns from the training split alone. The first who asks makes the file, others wait for it.

    Raises:
        StorageError: if it cannot be written.
    """
    split = [spec.validation_fraction, spec.test_fraction, spec.split_seed]
    fingerprint = hashlib.sha256(json.dumps([splits.info.checksum, *split]).encode()).hexdigest()
    path = cache.with_name(f"{cache.stem}-{fingerprint[:8]}.features.safetensors")
    with storage_errors(path), FileLock(path.with_name(f".{path.name}.lock")):
        network = load_features(path, fingerprint)
        if network is None:
            network = _made(splits, device)
            save_features(path, network, fingerprint)
            accuracy = "" if network.accuracy is None else f" with {network.accuracy:.1%} accuracy on the test split"
            _log.warning("%s: made features (%s)%s", path, network.kind, accuracy)
    return network.to(device)


def _made(splits: ImageSplits, device: torch.device) -> FeatureNetwork:
    classes = len(splits.info.classes)
    if splits.train.labels is None or classes < 2:
        seen = splits.train.gather(spread(SEEN_BY_RANDOM_FEATURES, len(splits.train)))
        return random_features(splits.info.shape, SEED, seen)
    network = train_classifier(
        splits.train.gather, splits.train.labels, splits.info.shape, classes, seed=SEED, device=device
    )
    if splits.test.labels is not None:
        shown = spread(2000, len(splits.test))
        network.accuracy = measure_accuracy(network, splits.test.gather(shown), splits.test.labels[shown.to(device)])
    return network
