"""Directories in containers of Azure: their addresses; and themselves where Azurite, Azure's emulator, is installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pyarrow.fs import AzureFileSystem

from raysweep.errors import StorageError, SweepDirectoryError
from raysweep.storage.remote import RemoteDirectory, is_final, is_remote
from tests.s3server import free_port

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The emulator's, which its documentation gives away."""


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("abfss://results/kld", "is no abfss://container@account.dfs.core.windows.net/path"),
        ("abfss://results@account.blob.core.windows.net/kld", "is no abfss://"),
        ("abfss://results:key@account.dfs.core.windows.net/kld", "is no abfss://"),
        ("abfss://results@account.dfs.core.windows.net", "names no directory"),
        ("abfss://results@account.dfs.core.windows.net/a/../b", "names no directory"),
        (
            "abfss://results@account.dfs.core.windows.net/kld?region=x",
            "unknown option region; allowed: endpoint",
        ),
        ("azure://results/kld", "or one of .* abfss://container@account.dfs.core.windows.net/path"),
    ],
)
def test_an_address_that_cannot_be_used_says_what_is_wanted(uri: str, message: str) -> None:
    assert is_remote(uri)
    with pytest.raises(SweepDirectoryError, match=message):
        RemoteDirectory.at(uri)


def test_an_address_of_a_container_is_taken_without_asking_anybody() -> None:
    assert RemoteDirectory.at("abfss://results@account.dfs.core.windows.net/my kld").uri.endswith("/my kld")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an emulator that has the container `results`."""
    command = shutil.which("azurite-blob")
    if command is None:
        pytest.skip("Azurite is not installed (npm install --global azurite)")
    port = free_port()
    process = subprocess.Popen(
        [command, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent", "--skipApiVersionCheck",
         "--disableTelemetry"],
        cwd=tmp_path_factory.mktemp("azurite"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline, "the emulator does not answer"
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        place = {"blob_storage_authority": f"127.0.0.1:{port}", "dfs_storage_authority": f"127.0.0.1:{port}"}
        schemes = {"blob_storage_scheme": "http", "dfs_storage_scheme": "http"}
        AzureFileSystem(ACCOUNT, account_key=KEY, **place, **schemes).create_dir("results")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def directory(server: str, path: str = "results", below: str = "my results/Größe") -> RemoteDirectory:
    return RemoteDirectory.at(f"abfss://{path}@{ACCOUNT}.dfs.core.windows.net/{below}?endpoint_override={server}")


@pytest.fixture
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)


@pytest.mark.usefixtures("_key")
def test_what_is_written_to_a_container_is_found_read_fetched_and_deleted(server: str, tmp_path: Path) -> None:
    there = directory(server)
    there.require_access()
    assert there.list() == {}
    there.write("trials/0000/a.png", b"first")
    there.write("trials/0000/a.png", b"picture")
    assert there.list().keys() == {"trials/0000/a.png"}
    assert there.read("trials/0000/a.png") == b"picture"
    found = there.find("trials/0000/a.png")
    assert found is not None
    assert found.size == 7
    assert there.fetch("trials/0000/a.png", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_mtime == pytest.approx(found.modified.timestamp())
    there.delete("trials/0000/a.png")
    there.delete("trials/0000/a.png")
    assert there.find("trials/0000/a.png") is None
    assert there.read("trials/0000/a.png") is None
    assert there.list() == {}


@pytest.mark.usefixtures("_key")
def test_a_container_that_is_not_there_is_named(server: str) -> None:
    with pytest.raises(SweepDirectoryError, match="there is no bucket nowhere; make it"):
        directory(server, "nowhere").require_access()
    with pytest.raises(StorageError, match="there is no bucket nowhere") as caught:
        directory(server, "nowhere").write("a", b"")
    assert is_final(caught.value)


def test_a_wrong_key_is_a_refusal(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY[:-6] + "AAAA==")
    with pytest.raises(SweepDirectoryError, match="access denied"):
        directory(server).require_access()
