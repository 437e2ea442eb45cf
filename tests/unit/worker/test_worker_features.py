"""The features of a sweep where the images' cache may only be read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from raysweep.data.cache import prepare
from raysweep.spec.sections import DataSpec

MAKES_FEATURES = """
import sys
from pathlib import Path
import torch
from raysweep.data.cache import prepare
from raysweep.data.tensors import load_splits
from raysweep.storage.layout import SweepDirectory
from raysweep.worker.features import feature_space
from raysweep.spec.sections import DataSpec

torch.set_num_threads(1)
spec = DataSpec(dataset="folder", root=sys.argv[2], image_size=8)
cache = prepare(spec)
try:
    (cache.parent / "mine").touch()
except PermissionError:
    pass
else:
    sys.exit("the cache can be written")
splits = load_splits(cache, spec, "cpu")
network = feature_space(cache, spec, splits, torch.device("cpu"), SweepDirectory(Path(sys.argv[1])))
assert SweepDirectory(Path(sys.argv[1])).features.is_file()
assert not list(cache.parent.glob("*.safetensors"))
"""
NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_a_cache_that_may_only_be_read_is_enough_for_testing_finalists(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features are kept with the sweep, where they could not be kept beside the images."""
    monkeypatch.setenv("RAYSWEEP_CACHE", str(place / "cache"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    for name in ("sweep", "images"):
        (place / name).mkdir()
    for number in range(20):  # without labels, so that no classifier is trained
        Image.new("L", (8, 8), number).save(place / f"images/{number}.png")
    cache = prepare(DataSpec(dataset="folder", root=str(place / "images"), image_size=8))
    command = [sys.executable, "-c", MAKES_FEATURES, str(place / "sweep"), str(place / "images")]
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("root may write anywhere, and setpriv (util-linux) is not there to become somebody else")
        become = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        if subprocess.run(
            [*become, sys.executable, "-c", "import torch"], capture_output=True, timeout=100, check=False
        ).returncode:
            pytest.skip(f"root may write anywhere, and nobody else may read the environment of {sys.executable}")
        command = [*become, *command]
        os.chown(place / "sweep", NOBODY, NOBODY)
    cache.parent.chmod(0o555)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    finally:
        cache.parent.chmod(0o755)
    assert done.returncode == 0, done.stderr
