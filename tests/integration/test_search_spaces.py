"""Every shipped search space file, run through with few epochs, on images made for the test where it needs others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import raysweep
from raysweep.metrics import TrialState
from raysweep.spec.loading import load_spec, parse_spec
from tests.unit.data.written_data import write_cifar, write_idx, write_image

SEARCH_SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))


def make_images(data: dict[str, Any], root: Path) -> None:
    """Writes images in the format of the data set, where it is not bundled, and names their directory."""
    if data["dataset"] == "mnist":
        write_idx(root, train=500, test=100)
    elif data["dataset"] == "cifar10":
        write_cifar(root / "cifar-10-batches-bin", "binary", rows=100)
    elif data["dataset"] == "folder":
        for number in range(500):
            write_image(root / f"{number:04d}.png", (150, 140), seed=number)
    else:
        return
    data["root"] = str(root)


@pytest.mark.parametrize("path", SEARCH_SPACES, ids=lambda path: path.name)
def test_every_shipped_search_space_runs_with_few_epochs(path: Path, tmp_path: Path) -> None:
    mapping = load_spec(path).as_mapping()
    make_images(mapping["data"], tmp_path / "images")
    mapping["data"].update(validation_fraction=0.1, test_fraction=0.8)
    mapping["search"].update(trials=2, early_stopping=None)
    mapping["trial"]["epochs"] = 1
    mapping["resources"]["backend"] = "inline"  # which is sooner done than with Ray
    mapping["evaluation"].update(images=50, importance_samples=2)
    if isinstance(mapping["trial"]["d_size"], dict) and max(mapping["trial"]["d_size"]["choices"]) > 64:
        mapping["trial"]["d_size"] = {"choices": [4, 8]}
    sweep = raysweep.run(parse_spec(yaml.safe_dump(mapping), path.name), tmp_path / "out")
    assert [record.state for record in sweep.records] == [TrialState.COMPLETED] * 2
    assert all(record.tested is not None for record in sweep.records)
