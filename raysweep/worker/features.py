"""The feature space for comparing a sweep's images: made once, kept with the sweep and beside the prepared images."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock

from raysweep.bucket.workingcopy import remote_of
from raysweep.data.tensors import ImageSplits, spread
from raysweep.errors import StorageError
from raysweep.quality.features import (
    FeatureNetwork,
    load_features,
    measure_accuracy,
    random_features,
    save_features,
    train_classifier,
)
from raysweep.storage.layout import SweepDirectory, storage_errors

if TYPE_CHECKING:
    from raysweep.spec.sections import DataSpec

SEED = 0
SEEN_BY_RANDOM_FEATURES = 512
"""Number of images by which the features of an untrained network are scaled."""

_log = logging.getLogger("raysweep")


def feature_space(
    cache: Path, spec: DataSpec, splits: ImageSplits, device: torch.device, directory: SweepDirectory
) -> FeatureNetwork:
    """Return the features for the images of a cache file under a split.

    If there are labels, they come from a classifier that learns from the training split alone; otherwise they are
    random. A sweep keeps its features, so that every machine measures with the same ones. The first process that needs
    them makes them, and others wait. Features of another sweep on the same images are reused.

    Raises:
        StorageError: if they cannot be written, or the sweep's bucket does not answer.
    """
    split = [spec.validation_fraction, spec.test_fraction, spec.split_seed]
    fingerprint = hashlib.sha256(json.dumps([splits.info.checksum, *split]).encode()).hexdigest()
    path, remote = directory.features, remote_of(directory)
    with storage_errors(path), FileLock(path.with_name(f".{path.name}.lock")):
        network = load_features(path, fingerprint)
        if network is None and remote is not None and remote.fetch(path.name, path):
            network = load_features(path, fingerprint)
        if network is None:
            network = _of_these_images(cache, splits, device, fingerprint)
            save_features(path, network, fingerprint)
            if remote is not None:
                if remote.find(path.name) is None:
                    remote.upload(path, path.name)
                elif remote.fetch(path.name, path):  # another machine was faster
                    network = load_features(path, fingerprint) or network
    return network.to(device)


def _of_these_images(cache: Path, splits: ImageSplits, device: torch.device, fingerprint: str) -> FeatureNetwork:
    """Return the features that are kept beside the images' cache; make and write them there if they are missing.

    If the cache is read-only or the disk is full, other sweeps on these images must make their own features. This sweep
    loses nothing, because it keeps a copy.
    """
    path = cache.with_name(f"{cache.stem}-{fingerprint[:8]}.features.safetensors")
    network = load_features(path, fingerprint)
    if network is not None:
        return network
    try:
        with storage_errors(path), FileLock(path.with_name(f".{path.name}.lock")):
            network = load_features(path, fingerprint)
            if network is None:
                network = _made(splits, device)
                save_features(path, network, fingerprint)
    except StorageError as error:
        _log.warning("%s; the features are kept with the sweep alone", error)
        return _made(splits, device) if network is None else network
    return network


def _made(splits: ImageSplits, device: torch.device) -> FeatureNetwork:
    """Make new features; they are trained if there are labels of two classes or more."""
    classes = len(splits.info.classes)
    if splits.train.labels is None or classes < 2:
        seen = splits.train.gather(spread(SEEN_BY_RANDOM_FEATURES, len(splits.train)))
        network = random_features(splits.info.shape, SEED, seen)
        _log.warning("made features (%s) of %s", network.kind, splits.info.origin)
        return network
    network = train_classifier(
        splits.train.gather, splits.train.labels, splits.info.shape, classes, seed=SEED, device=device
    )
    if splits.test.labels is not None:
        shown = spread(2000, len(splits.test))
        network.accuracy = measure_accuracy(network, splits.test.gather(shown), splits.test.labels[shown.to(device)])
    accuracy = "" if network.accuracy is None else f" with {network.accuracy:.1%} accuracy on the test split"
    _log.warning("made features (%s) of %s%s", network.kind, splits.info.origin, accuracy)
    return network
