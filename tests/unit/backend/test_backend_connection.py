"""A Ray that cannot be imported is one message."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SPACE = """
name: tiny
data: {dataset: digits, image_size: 16}
trial: {kld_weight: {low: 1e-5, high: 1e-1, log: true}, d_size: 4, latent_size: 4, hidden_size: 16, epochs: 1}
search: {trials: 1}
"""


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"PYTHONOPTIMIZE": "2"}, "type: unset PYTHONOPTIMIZE"),
        ({}, "Ray cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_a_ray_that_cannot_be_imported_is_one_message(tmp_path: Path, environment: dict[str, str], says: str) -> None:
    (tmp_path / "tiny.yaml").write_text(SPACE)
    (tmp_path / "ray.py").write_text("1 / 0")
    done = subprocess.run(
        [sys.executable, "-m", "raysweep", "run", "tiny.yaml"], cwd=tmp_path, capture_output=True, text=True,
        timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}", **environment},
    )  # fmt: skip
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists(), "nothing was begun"
