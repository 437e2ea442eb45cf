"""Directories in buckets, on a real S3 server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow.fs import S3FileSystem

from raysweep.bucket.workingcopy import foreign_objects, locate
from raysweep.errors import StorageError, SweepDirectoryError
from raysweep.spec.loading import load_spec
from raysweep.storage.remote import RemoteDirectory, below, is_final, is_remote
from raysweep.sweep import run
from tests.s3server import free_port, request, s3_server

NAMES = st.text("abcäß 漢+%#-_", min_size=1, max_size=12).filter(lambda name: name == name.strip())


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


def directory(server: str, path: str = "bucket/my results/Größe") -> RemoteDirectory:
    return RemoteDirectory.at(f"s3://{path}?endpoint_override={server}&region=us-east-1")


@given(name=NAMES, content=st.binary(max_size=100))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_found_and_read_under_its_very_name(server: str, name: str, content: bytes) -> None:
    there = directory(server, "bucket/round trips")
    there.write(f"a/{name}", content)
    assert there.read(f"a/{name}") == content
    assert there.list("a").keys() == {f"a/{name}"}
    found = there.find(f"a/{name}")
    assert found is not None
    assert found.size == len(content)
    there.delete(f"a/{name}")
    assert there.find(f"a/{name}") is None
    assert there.read(f"a/{name}") is None
    there.delete(f"a/{name}")


def test_a_blank_in_the_uri_is_a_blank_in_the_bucket(server: str) -> None:
    directory(server).write("sweep.yaml", b"x")
    files = S3FileSystem(endpoint_override=server, region="us-east-1")
    with files.open_input_stream("bucket/my results/Größe/sweep.yaml") as stream:
        assert stream.read() == b"x"


def test_a_fetched_file_is_whole_and_as_old_as_the_object(server: str, tmp_path: Path) -> None:
    there = directory(server)
    there.write("trials/0000/a.png", b"picture")
    assert there.fetch("trials/0000/a.png", tmp_path / "a/b.png")
    assert (tmp_path / "a/b.png").read_bytes() == b"picture"
    found = there.find("trials/0000/a.png")
    assert found is not None
    assert (tmp_path / "a/b.png").stat().st_mtime == pytest.approx(found.modified.timestamp())
    assert not there.fetch("none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_environment_names_the_server_too(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    there = RemoteDirectory.at("s3://bucket/by environment")
    there.write("a", b"1")
    assert directory(server, "bucket/by environment").read("a") == b"1"


def test_a_bucket_that_is_not_there_is_named(server: str) -> None:
    with pytest.raises(SweepDirectoryError, match=r"s3://nowhere/x.*: there is no bucket nowhere; make it"):
        directory(server, "nowhere/x").require_access()
    with pytest.raises(StorageError, match="there is no bucket nowhere") as caught:
        directory(server, "nowhere/x").write("a", b"")
    assert is_final(caught.value)
    directory(server, "bucket/empty").require_access()


def test_a_bucket_that_refuses_says_what_credentials_it_needs(server: str) -> None:
    request(f"{server}/moto-api/reset-auth", "POST", b"0")
    try:
        with pytest.raises(SweepDirectoryError, match=r"access denied; give this machine credentials"):
            directory(server).require_access()
        with pytest.raises(StorageError, match="access denied") as caught:
            directory(server).write("a", b"")
        assert is_final(caught.value)
    finally:
        request(f"{server}/moto-api/reset-auth", "POST", b"1000000000")


def test_a_machine_without_credentials_is_told_so_within_seconds(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directory(server).write("a", b"")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    start = time.monotonic()
    with pytest.raises(StorageError, match="access denied"):
        directory(server).read("a")
    assert time.monotonic() - start < 30


def test_a_server_that_is_gone_is_an_error_within_seconds() -> None:
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"does not answer: .*Could not connect") as caught:
        directory(f"http://127.0.0.1:{free_port()}").require_access()
    assert not is_final(caught.value)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://host/kld", "a path on this machine, such as results/kld, or one of s3://bucket/path, gs://bucket/path"),
        ("s3://", "names no directory in a bucket"),
        ("s3://bucket", "names no directory in a bucket, such as s3://bucket/results/kld"),
        ("s3://bucket/../other", "names no directory"),
        ("s3://key:secret@bucket/kld", "keys do not belong into an address"),
        ("s3://bucket/kld?colour=red", "unknown option colour; allowed: endpoint_override, region"),
        ("gs://bucket/kld?region=eu", "unknown option region; allowed: none"),
    ],
)
def test_an_address_that_cannot_be_used_says_why(uri: str, message: str) -> None:
    with pytest.raises(SweepDirectoryError) as caught:
        RemoteDirectory.at(uri)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_path_is_no_uri_and_neither_is_one_with_file() -> None:
    assert not is_remote("results/kld")
    assert not is_remote("file:///results/kld")
    assert is_remote("s3://bucket/kld")


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "a\0b"])
def test_an_object_cannot_become_a_file_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no file of a sweep"):
        below(tmp_path, name)


def test_a_new_sweep_goes_into_no_directory_of_a_bucket_that_holds_other_objects(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path))
    uri = f"s3://bucket/taken by others?endpoint_override={server}&region=us-east-1"
    there = RemoteDirectory.at(uri)
    assert foreign_objects(locate(uri)) == []
    there.write(".driver.json", b"{}")
    assert foreign_objects(locate(uri)) == []
    there.write("photos/deep/1.png", b"1")
    there.write("notes.txt", b"2")
    with pytest.raises(SweepDirectoryError, match=r"is not empty, it holds notes\.txt, photos; ") as caught:
        run(load_spec("quickstart"), uri, source="quickstart")
    assert there.read("notes.txt") == b"2"
    assert f"output='s3://bucket/taken by others/quickstart?endpoint_override={server}" in str(caught.value)
