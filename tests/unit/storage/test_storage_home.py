"""A user without a home directory: no HOME, and an id without an account."""

from __future__ import annotations

import ast
import os
import pwd
from pathlib import Path

import pytest

import raysweep
from raysweep.data.places import cache_directory
from raysweep.spec.sections import DataSpec
from raysweep.storage.home import expanded, give_a_home, home_directory

ROOT = Path(raysweep.__file__).parent


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process one of a user that no account is known of, as a container's `--user` does."""
    for name in ("HOME", "RAYSWEEP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    unknown = next(uid for uid in range(98765, 99999) if uid not in {entry.pw_uid for entry in pwd.getpwall()})
    monkeypatch.setattr(os, "getuid", lambda: unknown)


def test_a_tilde_stands_for_the_home_directory_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert expanded("~/images") == Path("/home/somebody/images")
    assert home_directory() == Path("/home/somebody")


@pytest.mark.usefixtures("homeless")
def test_without_a_home_directory_a_tilde_names_nothing_and_nothing_fails() -> None:
    assert expanded("~/images") == Path("~/images")
    assert expanded("images") == Path("images")
    assert home_directory() is None
    assert cache_directory().is_absolute()
    with pytest.raises(ValueError, match=r"~/images begins with a home directory, and there is none here"):
        DataSpec.model_validate({"dataset": "folder", "root": "~/images"})


@pytest.mark.usefixtures("homeless")
def test_who_has_no_home_is_given_one_that_nobody_else_can_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "")  # restored afterwards
    monkeypatch.delenv("HOME")
    give_a_home()
    made = home_directory()
    assert made is not None
    assert made.parent == tmp_path
    assert made.stat().st_mode & 0o077 == 0
    give_a_home()
    assert home_directory() == made


def test_home_directories_are_asked_for_in_one_place_alone() -> None:
    """`expanduser` and `Path.home` raise RuntimeError where there is none."""
    asking = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in ("expanduser", "home")
        and path != ROOT / "storage" / "home.py"
    }
    assert asking == set()
