"""What the tests of the data room share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory, which raysweep uses for the length of the test."""
    directory = tmp_path / "cache"
    monkeypatch.setenv("RAYSWEEP_CACHE", str(directory))
    return directory
