"""Where Ray's sockets are: a folder that cannot hold them is told of and replaced."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from raysweep.backend import socketdir
from raysweep.backend.socketdir import BELOW, SOCKET_PATH_BYTES, fault_of, memory_folder, socket_folder
from raysweep.errors import RayStartError


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in socketdir.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def unheard(_: str) -> None:
    raise AssertionError("nothing to tell")


def test_a_folder_that_serves_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket_folder(unheard) as folder:
        assert folder is None
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.setenv("TMPDIR", "/nowhere")  # which Ray does not look at then
    with socket_folder(unheard) as folder:
        assert folder is None


def test_the_longest_folder_that_serves_is_the_longest_whose_sockets_can_be_made() -> None:
    most = SOCKET_PATH_BYTES - len(BELOW) - 1
    fits = Path("/tmp/" + "x" * (most - 5))
    assert fault_of(fits) is None
    assert "too long for a socket" in str(fault_of(fits.with_name(fits.name + "x")))


@pytest.mark.parametrize("name", socketdir.VARIABLES)
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("/tmp/" + "long" * 20, "too long for a socket"),
        ("{file}", "is not a directory"),
        ("/proc", "cannot be written"),
        ("relative", "not an absolute path"),
        ("", "not an absolute path"),
    ],
)
def test_a_folder_that_does_not_serve_is_named_and_one_of_ours_taken_for_a_while(
    name: str, value: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    value = value.format(file=tmp_path / "file")
    if value == str(tmp_path / "file"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(socketdir, "SOCKET_PATH_BYTES", 300)
    monkeypatch.setenv(name, value)
    told: list[str] = []
    with socket_folder(told.append) as folder:
        assert folder is not None
        assert fault_of(folder) is None
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "session").mkdir()
    assert not folder.exists()
    (line,) = told
    assert line.startswith(f"{name}={value} cannot hold Ray's sockets and logs (")
    assert said in line
    assert line.endswith(f"they are in {folder} instead")


def test_a_folder_of_ours_outlives_an_error_which_may_name_a_log_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "relative")
    kept: list[Path] = []

    def start() -> None:
        with socket_folder(lambda _: None) as folder:
            kept.append(folder or Path())
            raise RayStartError

    with pytest.raises(RayStartError):
        start()
    kept[0].rmdir()


def test_a_full_disk_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socketdir, "NEEDED_BYTES", 1 << 60)
    assert "MB free, Ray needs" in str(fault_of(Path("/tmp/ray")))


def test_no_folder_at_all_is_one_message_with_each_that_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    monkeypatch.setattr(socketdir, "PLACES", ("/sys", "/proc"))
    with pytest.raises(RayStartError) as refused, socket_folder(unheard):
        raise AssertionError
    said = str(refused.value)
    assert "RAY_TMPDIR=/proc: " in said
    assert "\n  /sys: " in said
    assert "export RAY_TMPDIR=" in said
    assert refused.value.exit_code == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Ray keeps it on a disk anyway")
def test_shared_memory_is_on_a_disk_where_there_is_none_or_none_that_can_be_written(tmp_path):
    assert memory_folder(tmp_path, shared=tmp_path) is None
    for shared in (tmp_path / "missing", Path("/proc")):
        assert memory_folder(tmp_path, shared=shared) == str(tmp_path)
        place = memory_folder(None, shared=shared)
        assert place is not None
        assert Path(place).is_dir()
