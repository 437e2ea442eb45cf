"""The readers that files from other people reach, each with sound files to begin from."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import optuna
import pyarrow.parquet as pq
import torch
from optuna.storages import JournalStorage
from PIL import Image

from raysweep.data.bundled import BundledSource
from raysweep.data.cachefile import open_cache, write_cache
from raysweep.data.cifar import read_batch
from raysweep.data.folder import BrokenImageError, _pillow_warnings, decode
from raysweep.data.idx import IdxFile
from raysweep.data.images import Fitting
from raysweep.data.tensors import load_splits
from raysweep.profiles import DriverPart, Profile, SlotPart, Spent
from raysweep.quality.features import load_features, random_features, save_features
from raysweep.report.images import enlarge, tile, untile
from raysweep.report.latents import read_latents, write_latents
from raysweep.report.parquet import read_table, write_parquet
from raysweep.report.profile.page import profile_markdown
from raysweep.report.profile.table import profile_table, read_profile
from raysweep.review.sweep import open_sweep
from raysweep.spec.config import TrialConfig
from raysweep.spec.loading import load_spec
from raysweep.spec.sections import DataSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.compaction import compact
from raysweep.study.journal import Journal
from raysweep.study.ledger import STUDY, Ledger
from raysweep.vae.checkpoint import read_checkpoint, save_checkpoint
from raysweep.vae.export import export_model, load_model
from raysweep.vae.training import Training
from tests.fuzz.mutation import (
    Mutator,
    mutate_bytes,
    mutate_gzip,
    mutate_png,
    mutate_tensors,
    mutate_text,
    spliced,
)
from tests.integration.conftest import TINY

ROOT = Path(__file__).parents[2]
FINGERPRINT = "0" * 64


@dataclass(frozen=True)
class Target:
    """One reader."""

    name: str
    file: Path
    """Where the reader looks; what else it reads lies beside it, sound."""
    seeds: tuple[bytes, ...]
    mutator: Mutator
    read: Callable[[Path], object]
    refusals: tuple[type[Exception], ...] = ()
    """What it may raise besides raysweep's own errors, as its docstring says."""
    weight: int = 1
    """Its share of the inputs."""

    def input(self, seed: int, number: int) -> bytes:
        """An input, the same for a seed and a number."""
        rng = random.Random(f"{seed}:{self.name}:{number}")
        if rng.random() < 0.1:
            return spliced(self.seeds, rng)
        return self.mutator(rng.choice(self.seeds), rng)


def all_targets(scratch: Path) -> list[Target]:
    """Every reader; the sound files are made below `scratch`."""
    makers = (
        _spec, _sweep_yaml, _journal, _checkpoint, _model_description, _model_weights, _features, _cache, _trials_table,
        _profile, _latents, _grid, _folder_image, _idx, _idx_gzip, _cifar_records, _cifar_pickle,
    )  # fmt: skip
    targets = []
    for maker in makers:
        place = scratch / maker.__name__
        place.mkdir()
        targets.append(maker(place))
    return targets


def _spec(place: Path) -> Target:
    seeds = tuple(path.read_bytes() for path in sorted((ROOT / "search_spaces").glob("*.yaml")))
    return Target("search space file", place / "spec.yaml", (TINY.encode(), *seeds), mutate_text, load_spec, weight=2)


def _made_sweep(place: Path) -> SweepDirectory:
    """A sweep with three trials, without Ray: as its ledger and its driver leave it."""
    from raysweep.study.description import yaml_text

    directory = SweepDirectory.at(place / "sweep")
    directory.root.mkdir()
    (place / "tiny.yaml").write_text(TINY)
    spec = load_spec(place / "tiny.yaml")
    description = {
        "format": "raysweep-sweep-1", "spec": spec.as_mapping(), "data": {"checksum": FINGERPRINT},
        "preflight": {"lowest_weight": 1e-5, "highest_weight": 0.1, "critical_weight": [0.01, 0.02],
                      "wasted_share": [0.2, 0.3], "active_at_low": [4, 4], "active_at_high": [0, 0]},
    }  # fmt: skip
    directory.spec.write_text(yaml_text(description))
    ledger = Ledger.create(directory, spec)
    _, metrics = _trained(place)
    from raysweep.metrics import TrialState

    for _ in range(3):
        record = ledger.ask()
        for epoch in range(1, 3):
            ledger.add_epoch(record.number, replace(metrics, epoch=epoch), "node", "cpu")
        if record.number < 2:
            ledger.finish(record.number, TrialState.COMPLETED, "all epochs done")
    write_parquet(directory, ledger.records(), spec)
    return directory


def _trained(place: Path):  # type: ignore[no-untyped-def]
    """A small trial after an epoch, and its metrics; leaves a checkpoint."""
    config = TrialConfig(d_size=2, latent_size=2, hidden_size=4, conv_blocks="d/2", epochs=1, batch_size=8)
    training = Training(config, _Images(), _Images(), torch.device("cpu"))
    metrics = training.run_epoch()
    save_checkpoint(place / "trial", training, metrics)
    return training, metrics


class _Images:
    """Sixteen images of 8x8 pixels."""

    shape = (1, 8, 8)

    def __init__(self) -> None:
        self._images = torch.linspace(0, 1, 16 * 64).reshape(16, 1, 8, 8)

    def __len__(self) -> int:
        return 16

    def gather(self, indices: torch.Tensor) -> torch.Tensor:
        return self._images[indices]

    def mean_image(self) -> torch.Tensor:
        return self._images.mean(dim=0)


def _sweep_yaml(place: Path) -> Target:
    directory = _made_sweep(place)
    seeds = (directory.spec.read_bytes(),)
    return Target("sweep.yaml", directory.spec, seeds, mutate_text, lambda path: open_sweep(path.parent), weight=2)


def _journal(place: Path) -> Target:
    directory = _made_sweep(place)
    spec = load_spec(place / "tiny.yaml")

    def read(path: Path) -> None:
        before = path.read_bytes()
        Ledger.open(directory, spec, writable=False).records()
        assert path.read_bytes() == before, "a reader has changed the journal"
        ledger = Ledger.open(directory, spec, writable=True)
        same = len(os.path.commonprefix([before, path.read_bytes()]))  # noqa: RUF071 (of bytes)
        lost = before[before.rfind(b"\n", 0, same) + 1 :].split(b"\n")[:-1]
        # A crash of the machine leaves zeros where lines were to be written.
        assert all(b"\0" in line or not line.strip() for line in lost), "repairing has cut off a whole line"
        for number in ledger.unfinished():
            ledger.record(number)
        ledger.ask()

    def mutate(content: bytes, rng: random.Random) -> bytes:
        return (mutate_bytes if rng.random() < 0.3 else mutate_text)(content, rng)

    long = directory.journal.read_bytes()
    journal = Journal(directory.journal)
    compact(journal, optuna.load_study(study_name=STUDY, storage=JournalStorage(journal)))
    return Target("journal", directory.journal, (long, directory.journal.read_bytes()), mutate, read, weight=3)


def _checkpoint(place: Path) -> Target:
    _trained(place)
    path = place / "trial" / "epoch-000001.safetensors"
    return Target("checkpoint", path, (path.read_bytes(),), mutate_tensors, read_checkpoint, weight=2)


def _exported(place: Path) -> Path:
    _trained(place)
    return export_model(place / "trial", place / "model", {"sweep": "tiny", "trial": 0})


def _model_description(place: Path) -> Target:
    path = _exported(place) / "model.json"
    return Target("model.json", path, (path.read_bytes(),), mutate_text, lambda path: load_model(path.parent))


def _model_weights(place: Path) -> Target:
    path = _exported(place) / "model.safetensors"
    return Target("model.safetensors", path, (path.read_bytes(),), mutate_tensors, lambda path: load_model(path.parent))


def _features(place: Path) -> Target:
    path = place / "features.safetensors"
    save_features(path, random_features((1, 8, 8), 0), FINGERPRINT)

    def read(path: Path) -> None:
        if load_features(path, FINGERPRINT) is None:
            raise BrokenImageError

    return Target("features", path, (path.read_bytes(),), mutate_tensors, read, (BrokenImageError,))


def _cache(place: Path) -> Target:
    path = place / "digits.arrow"
    source = BundledSource("digits")
    small = replace_counts(source)
    write_cache(path, small, Fitting(8, 1, "resize"))
    spec = DataSpec(dataset="digits", image_size=8)

    def read(path: Path) -> None:
        open_cache(path, verify=True)
        load_splits(path, spec, "cpu").train.gather(torch.arange(3))

    return Target("cache", path, (path.read_bytes(),), mutate_bytes, read, weight=2)


def replace_counts(source: BundledSource) -> BundledSource:
    """The first 60 digits alone, so that the header is a good part of the file."""
    from raysweep.data.images import Counts, Source

    chunks = [
        replace(chunk, images=chunk.images, labels=chunk.labels) for chunk in source.chunks(Fitting(8, 1, "resize"))
    ]

    class Few(Source):
        name, origin, fingerprint, classes, channels = "digits", "60 digits", FINGERPRINT, source.classes, 1
        counts, size = Counts(60, 0), "8x8"

        def chunks(self, transform):  # type: ignore[no-untyped-def]
            yield replace(chunks[0], images=chunks[0].images[:60], labels=chunks[0].labels[:60])

    return Few()


def _trials_table(place: Path) -> Target:
    directory = _made_sweep(place)
    seeds = (directory.trials_parquet.read_bytes(), directory.epochs_parquet.read_bytes())
    return Target("report table", directory.trials_parquet, seeds, mutate_bytes, read_table, weight=2)


def _profile(place: Path) -> Target:
    path = SweepDirectory(place).profile_parquet
    spent = [Spent(part, 0.5, trial, epoch) for part in SlotPart for trial in (0, 1) for epoch in (None, 1, 2)]
    driver = [Spent(part, 3.0) for part in DriverPart]
    path.parent.mkdir()
    pq.write_table(profile_table(Profile("run", datetime(2026, 11, 21, tzinfo=UTC), 2, [*spent, *driver])), path)

    def read(path: Path) -> None:
        profile = read_profile(path)
        profile_markdown(profile)

    return Target("profile", path, (path.read_bytes(),), mutate_bytes, read, (ValueError,))


def _latents(place: Path) -> Target:
    path = place / "latents.parquet"
    means = np.linspace(-1, 1, 60, dtype=np.float32).reshape(20, 3)
    write_latents(path, means, np.array([1.0, 0.5, 0.0]), ["a", None] * 10, ["test"] * 20, np.arange(20))
    return Target("latents", path, (path.read_bytes(),), mutate_bytes, read_latents, (ValueError,), weight=2)


def _grid(place: Path) -> Target:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    seeds = (tile(pixels, 3), tile(pixels[..., :1], 2))

    def read(path: Path) -> None:
        enlarge(path, 1100)
        untile(path, 8)

    return Target("picture of a trial", place / "samples.png", seeds, mutate_png, read, (ValueError,))


def _folder_image(place: Path) -> Target:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    seeds = []
    for mode, form in (
        ("RGB", "PNG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("RGB", "JPEG"), ("RGB", "BMP"), ("P", "GIF"),
        ("RGB", "WEBP"), ("RGB", "TIFF"), ("L", "TIFF"), ("CMYK", "JPEG"),
    ):  # fmt: skip
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(buffer, form)
        seeds.append(buffer.getvalue())

    def mutate(content: bytes, rng: random.Random) -> bytes:
        return mutate_png(content, rng) if content.startswith(b"\x89PNG") else mutate_bytes(content, rng)

    def read(path: Path) -> None:
        with _pillow_warnings():
            decode(path, 3)

    return Target("image of a folder", place / "image.png", tuple(seeds), mutate, read, (BrokenImageError,), weight=2)


def _idx_content() -> bytes:
    return struct.pack(">HBBIII", 0, 8, 3, 10, 8, 8) + bytes(range(64)) * 10


def _read_idx(path: Path) -> None:
    for _ in IdxFile.open(path, 3).rows(4):
        pass


def _idx(place: Path) -> Target:
    return Target("idx", place / "images-idx3-ubyte", (_idx_content(),), mutate_bytes, _read_idx)


def _idx_gzip(place: Path) -> Target:
    seeds = (gzip.compress(_idx_content(), mtime=0),)
    return Target("idx, gzipped", place / "images-idx3-ubyte.gz", seeds, mutate_gzip, _read_idx)


def _cifar_records(place: Path) -> Target:
    record = b"\x03" + bytes(range(256)) * 12
    return Target("cifar records", place / "data_batch_1.bin", (record * 2,), mutate_bytes, read_batch)


def _cifar_pickle(place: Path) -> Target:
    batch = {
        b"data": np.zeros((2, 3072), np.uint8),
        b"labels": [1, 9],
        b"batch_label": b"x",
        b"filenames": [b"a", b"b"],
    }
    seeds = tuple(pickle.dumps(batch, protocol) for protocol in range(2, 6))
    return Target("cifar, the Python version", place / "data_batch_1", seeds, mutate_bytes, read_batch)


def describe(content: bytes) -> str:
    """An input, short enough for a message."""
    return json.dumps(content[:200].decode("latin1"))
