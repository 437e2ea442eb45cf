"""Directories in buckets: s3://, gs:// and abfss:// through pyarrow.fs, with one clear error for each failure.

An object appears whole or not at all, and raysweep requires no more of a file system. A URI is read as `aws s3` reads
it: the text after the bucket is the name itself, with blanks and umlauts, and is not percent-encoded. For an S3 store
other than Amazon's, set `AWS_ENDPOINT_URL` in the environment of every machine, or add
`?endpoint_override=http://host:9000` to the URI. A container of Azure is
`abfss://container@account.dfs.core.windows.net`; access needs (a) a login there, (b) an identity, or (c) the account's
key in `AZURE_STORAGE_KEY`.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qsl, unquote

from raysweep.clock import timed
from raysweep.errors import ArgumentError, StorageError, SweepDirectoryError
from raysweep.profiles import DriverPart
from raysweep.storage.conditional import ConditionalObject, conditional_object
from raysweep.storage.layout import replacing, typed

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("s3", "gs", "abfss")
CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 30.0
ATTEMPTS = 3
BLOCK_BYTES = 8 << 20
_OPTIONS = {"s3": ("endpoint_override", "region"), "gs": (), "abfss": ("endpoint_override",)}
_CONTAINER = re.compile(r"([a-z0-9-]+)@([a-z0-9]+)\.dfs\.core\.windows\.net")
_REFUSALS = (
    "ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "INVALID_CLIENT_TOKEN_ID", "SIGNATURE_DOES_NOT_MATCH",
    "UNRECOGNIZED_CLIENT", "INVALID_SIGNATURE", "MISSING_AUTHENTICATION_TOKEN", "HTTP status 403", "HTTP status 401",
    "PermissionDenied", "Permission denied", "Unauthenticated", "[AuthorizationFailure]", "[AuthenticationFailed]",
    "[AuthorizationPermissionMismatch]", "[InvalidAuthenticationInfo]",
)  # fmt: skip


def is_remote(location: str | os.PathLike[str]) -> bool:
    """Return whether a location is a URI, such as a bucket's, and not a path on this machine."""
    text = os.fspath(location)
    return "://" in text and not text.startswith("file://")


def local_path(location: str | os.PathLike[str], purpose: str, advice: str, given_as: str = "") -> Path:
    """Return a path on this machine, also from an address that begins with file://.

    Args:
        location: a path or an address.
        purpose: what it is for, in a clause: `a model is written to a folder of this machine`.
        advice: what to do instead, in a clause or a sentence.
        given_as: the option that gave the location, if there was one: `--data`.

    Raises:
        ArgumentError: if it is the address of a bucket, or of anything else outside this machine.
    """
    text = os.fspath(location)
    if is_remote(text):
        advice = advice[:1].upper() + advice[1:]
        raise ArgumentError(f"{given_as} {text}: is an address, but {purpose}. {advice}".lstrip())
    return Path(unquote(text.removeprefix("file://").removeprefix("localhost")) if "://" in text else text)


def to_copy(source: str, target: str) -> str:
    """Return a clause that says how to copy a folder from or to a bucket."""
    for scheme, tool in (("s3", "aws s3 cp"), ("gs", "gcloud storage cp")):
        if f"{scheme}://" in source + target:
            return f"type: {tool} --recursive {typed(source)} {typed(target)}"
    return f"copy {source} to {target}"


@dataclass(frozen=True)
class RemoteFile:
    """One object below a directory."""

    size: int
    """Bytes."""
    modified: datetime
    """By the store's clock."""


class RemoteDirectory:
    """A directory in a bucket. `name` in its methods is a path below it, with slashes.

    Every method raises StorageError, which names the URI, if the store does not answer or refuses.
    """

    def __init__(self, uri: str, files: FileSystem, base: str) -> None:
        self.uri = uri
        self._files = files
        self._base = base

    @classmethod
    def at(cls, uri: str) -> RemoteDirectory:
        """Return the directory that a URI names, whether or not it exists; send no request.

        Raises:
            SweepDirectoryError: if the URI cannot be used.
        """
        scheme, _, rest = uri.partition("://")
        if scheme not in SCHEMES:
            allowed = "s3://bucket/path, gs://bucket/path, abfss://container@account.dfs.core.windows.net/path"
            raise SweepDirectoryError(
                f"{uri}: a sweep directory is a path on this machine, such as results/kld, or one of {allowed}"
            )
        address, _, query = rest.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        parts = PurePosixPath(address).parts
        bucket = parts[0] if parts else ""
        account = ""
        if scheme == "abfss":
            container = _CONTAINER.fullmatch(bucket)
            if container is None:
                raise SweepDirectoryError(f"{uri}: is no abfss://container@account.dfs.core.windows.net/path")
            bucket, account = container.groups()
            parts = (bucket, *parts[1:])
        if "@" in bucket or ":" in bucket:
            raise SweepDirectoryError(
                f"{scheme}://...: keys do not belong into an address, where everyone reads them; "
                "put them into the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or ~/.aws/credentials"
            )
        if len(parts) < 2 or ".." in parts or bucket == "/":
            raise SweepDirectoryError(f"{uri}: names no directory in a bucket, such as {scheme}://bucket/results/kld")
        unknown = [name for name in options if name not in _OPTIONS[scheme]]
        if unknown or bool(query) != bool(options):
            allowed = ", ".join(_OPTIONS[scheme]) or "none"
            raise SweepDirectoryError(f"{uri}: unknown option {', '.join(unknown) or query}; allowed: {allowed}")
        if scheme == "abfss":
            return cls(uri, _azure(uri, account, options), posixpath.join(*parts))
        return cls(uri, _s3(uri, options) if scheme == "s3" else _gcs(), posixpath.join(*parts))

    def require_access(self) -> None:
        """Check that the bucket exists and can be read.

        Raises:
            SweepDirectoryError: if it does not exist, or refuses.
            StorageError: if it does not answer.
        """
        from pyarrow.fs import FileSelector, FileType

        try:
            with self._errors():
                try:
                    self._files.get_file_info(FileSelector(self._base, recursive=False))
                except FileNotFoundError:  # no such directory yet; Azure says the same of a missing container
                    container = self._base.split("/")[0]
                    if (
                        self.uri.startswith("abfss://")
                        and self._files.get_file_info(container).type == FileType.NotFound
                    ):
                        raise OSError("[ContainerNotFound]") from None
        except _Refused as error:
            raise SweepDirectoryError(str(error)) from error

    def list(self, below: str = "") -> dict[str, RemoteFile]:
        """Return all objects of the directory, or of one below it, by name; also hidden ones."""
        from pyarrow.fs import FileSelector, FileType

        with self._errors():
            selector = FileSelector(self._path(below), recursive=True, allow_not_found=True)
            found = self._files.get_file_info(selector)
        return {
            info.path.removeprefix(f"{self._base}/"): RemoteFile(info.size, _utc(info.mtime))
            for info in found
            if info.type == FileType.File
        }

    def top_names(self) -> tuple[str, ...]:
        """Return the names of the objects and directories directly below the directory, but not deeper."""
        from pyarrow.fs import FileSelector

        with self._errors():
            found = self._files.get_file_info(FileSelector(self._base, recursive=False, allow_not_found=True))
        return tuple(sorted(name for info in found if (name := info.path.removeprefix(self._base).strip("/"))))

    def find(self, name: str) -> RemoteFile | None:
        """Return one object; None if it is not there."""
        from pyarrow.fs import FileType

        with self._errors(name):
            info = self._files.get_file_info(self._path(name))
        return RemoteFile(info.size, _utc(info.mtime)) if info.type == FileType.File else None

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if it is not there."""
        with self._errors(name):
            try:
                with self._files.open_input_stream(self._path(name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Make or replace an object; a reader sees the old one or the new one."""
        with self._errors(name), self._files.open_output_stream(self._path(name)) as stream:
            stream.write(content)

    def fetch(self, name: str, path: Path) -> bool:
        """Copy an object to a file; return False if the object is not there.

        The file appears whole, with the object's time of modification.

        Raises:
            StorageError: also if the file cannot be written.
        """
        found = self.find(name)
        if found is None:
            return False
        with replacing(path, durable=False) as temporary, open(temporary, "wb") as file:
            if not self._copy(name, file):
                return False
            file.flush()
            os.utime(temporary, (found.modified.timestamp(), found.modified.timestamp()))
        return True

    def upload(self, path: Path, name: str) -> None:
        """Make or replace an object from a file of any size."""
        with open(path, "rb") as file, self._errors(name), self._files.open_output_stream(self._path(name)) as stream:
            while block := file.read(BLOCK_BYTES):
                stream.write(block)

    def _copy(self, name: str, file: BinaryIO) -> bool:
        with self._errors(name):
            try:
                stream = self._files.open_input_stream(self._path(name))
            except FileNotFoundError:
                return False
        with stream:
            while True:
                with self._errors(name):
                    block = stream.read(BLOCK_BYTES)
                if not block:
                    return True
                file.write(block)

    def delete(self, name: str) -> None:
        """Remove an object; do nothing if it is not there."""
        with self._errors(name):
            try:
                self._files.delete_file(self._path(name))
            except FileNotFoundError:
                return

    def conditional(self, name: str) -> ConditionalObject:
        """Return an object for writes on condition that it has not changed since it was seen.

        Raises:
            NoConditions: if this process cannot make such writes there.
        """
        scheme, _, rest = self.uri.partition("://")
        address, _, query = rest.partition("?")
        container = _CONTAINER.match(address)
        bucket, _, path = self._path(name).partition("/")
        return conditional_object(
            f"{self.uri.rstrip('/')}/{name}", scheme, bucket, path, container[2] if container else "",
            dict(parse_qsl(query)), getattr(self._files, "region", None),
        )  # fmt: skip

    def _path(self, name: str) -> str:
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            raise ValueError(f"{name} is not below {self.uri}")
        return posixpath.join(self._base, name) if name else self._base

    @contextmanager
    def _errors(self, name: str = "") -> Iterator[None]:
        try:
            with timed(DriverPart.BUCKET):
                yield
        except OSError as error:
            raise _translated(self.uri if not name else f"{self.uri.rstrip('/')}/{name}", self._base, error) from error


class _Refused(StorageError):
    """The store answers and refuses, so waiting does not help."""


def is_final(error: StorageError) -> bool:
    """Return whether it is useless to try the same again."""
    return isinstance(error, _Refused)


def below(root: Path, name: str) -> Path:
    """Return the file of an object in a copy of the directory on this machine.

    Raises:
        StorageError: if the name leads out of the copy, as only someone else's object can.
    """
    if name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name:
        raise StorageError(f"{name}: the name of an object that is no file of a sweep; nothing was fetched")
    return root / name


def _translated(uri: str, base: str, error: OSError) -> StorageError:
    text = str(error)
    bucket = base.split("/")[0]
    if "NO_SUCH_BUCKET" in text or "bucket does not exist" in text or "[ContainerNotFound]" in text:
        return _Refused(f"{uri}: there is no bucket {bucket}; make it, or name another one")
    if any(refusal in text for refusal in _REFUSALS):
        return _Refused(
            f"{uri}: access denied; give this machine credentials that may list, read, write and delete there "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role of the machine)"
        )
    brief = text.split(" operation: ")[-1].split(" (Request ID")[0].splitlines()[0] if text else repr(error)
    where = " (AWS_ENDPOINT_URL and the network are to be checked)" if "NETWORK_CONNECTION" in text else ""
    return StorageError(f"{uri}: does not answer: {brief}{where}")


def _s3(uri: str, options: dict[str, str]) -> FileSystem:
    import pyarrow as pa
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    # Unlike from_uri, the constructor takes time limits, but it reads no environment variables.
    endpoint = (
        options.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    settings: dict[str, Any] = {}
    if endpoint:
        settings["endpoint_override"] = endpoint.rstrip("/")
    if "region" in options:
        settings["region"] = options["region"]
    try:
        return S3FileSystem(
            connect_timeout=CONNECT_TIMEOUT_S,
            request_timeout=REQUEST_TIMEOUT_S,
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
            allow_delayed_open=True,  # a small object is one request
            **settings,
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SweepDirectoryError(f"{uri}: cannot be used: {error}") from error


def _gcs() -> FileSystem:
    from pyarrow.fs import GcsFileSystem

    return GcsFileSystem(retry_time_limit=timedelta(seconds=REQUEST_TIMEOUT_S))


def _azure(uri: str, account: str, options: dict[str, str]) -> FileSystem:
    import pyarrow as pa
    from pyarrow.fs import AzureFileSystem

    settings: dict[str, Any] = {}
    if "endpoint_override" in options:
        scheme, _, place = options["endpoint_override"].rstrip("/").partition("://")
        settings = {f"{service}_storage_{part}": value for service in ("blob", "dfs")
                    for part, value in (("authority", place), ("scheme", scheme))}  # fmt: skip
    try:
        return AzureFileSystem(account, account_key=os.environ.get("AZURE_STORAGE_KEY") or None, **settings)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SweepDirectoryError(f"{uri}: cannot be used: {error}") from error


def _utc(moment: datetime | None) -> datetime:
    return datetime.fromtimestamp(0, UTC) if moment is None else moment.astimezone(UTC)
