"""Where prepared images go, and where they are found, on machines on which not every directory can be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from raysweep.data.cache import cached_files, prepare
from raysweep.data.places import cache_directories, cache_directory, writable_cache_directory
from raysweep.errors import StorageError
from raysweep.spec.sections import DataSpec

SPEC = DataSpec(dataset="digits", image_size=8)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files, on a machine that says nothing of caches."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    for name in ("RAYSWEEP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return directory


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_a_home_in_which_nothing_can_be_made_costs_a_cache_among_temporary_files(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, str(tmp_path / "file/none"))
    first = prepare(SPEC)
    assert first.parent == temporary / f"raysweep-cache-{os.getuid()}"
    assert prepare(SPEC) == first
    assert [file.path for file in cached_files()] == [first]
    assert not first.parent.stat().st_mode & 0o077


def test_what_the_home_holds_is_read_where_it_cannot_be_written(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    first = prepare(SPEC)
    assert first.is_relative_to(tmp_path / "home")
    first.parent.chmod(0o555)
    assert prepare(SPEC) == first
    first.parent.chmod(0o755)
    assert cache_directories() == [cache_directory()]


def test_a_directory_of_somebody_else_is_not_trusted(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HOME", str(tmp_path / "file/none"))
    planted = temporary / f"raysweep-cache-{os.getuid()}"
    planted.mkdir(mode=0o777)
    planted.chmod(0o777)
    assert cache_directories() == [cache_directory()]
    assert writable_cache_directory() == cache_directory()
    with pytest.raises(StorageError, match="RAYSWEEP_CACHE"):
        prepare(SPEC)
