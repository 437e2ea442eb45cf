"""Conditional writes through obstore: an object in a bucket is written only if unchanged since it was seen.

S3, Google Cloud Storage and Azure have them (If-None-Match and If-Match). pyarrow, which does everything else, does
not offer them. Some stores that call themselves S3 accept the conditions and ignore them.
"""

from __future__ import annotations

import configparser
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from raysweep.errors import StorageError
from raysweep.storage.home import expanded

if TYPE_CHECKING:
    from obstore.store import ObjectStore

TIMEOUT_S = 10.0
RETRY_S = 20.0
"""How long a request is retried. Together with the last try's time limit, this is well below the life of a lease."""


_NOT_OFFERED = ("501 ", "NotImplemented", "400 Bad Request", "169.254.169.254", "metadata", "redential", "az account")
"""Parts of error messages if (a) the store refuses conditions, or (b) no credentials were found."""


class Changed(Exception):
    """The object is not the expected version."""


class NoConditions(Exception):
    """The store has no conditional writes, or does not let this process make them; the message says why."""


@dataclass(frozen=True)
class Version:
    """One version of an object, as it was seen."""

    content: bytes
    modified: datetime
    """By the store's clock."""
    tag: Mapping[str, str]
    """How the store identifies this version."""


class ConditionalObject:
    """An object that several processes write, each only if the object is still as this process saw it.

    Every method raises StorageError if the store does not answer, and NoConditions if it cannot be asked this way.
    """

    def __init__(self, store: ObjectStore, path: str, uri: str) -> None:
        self._store = store
        self._path = path
        self._uri = uri

    def read(self) -> Version | None:
        """Return the object; None if it is not there."""
        import obstore

        with self._errors():
            try:
                found = obstore.get(self._store, self._path)
                return Version(bytes(found.bytes()), found.meta["last_modified"].astimezone(UTC), _tag(found.meta))
            except FileNotFoundError:
                return None

    def create(self, content: bytes) -> Version:
        """Make the object.

        Raises:
            Changed: if it is there already.
        """
        return self._put(content, None)

    def replace(self, before: Version, content: bytes) -> Version:
        """Replace the object.

        Raises:
            Changed: if it has changed, or is gone.
        """
        return self._put(content, before)

    def minds_conditions(self, current: Version) -> bool:
        """Return whether the store respects conditions: a write with a false condition must fail.

        Tries two conditions: that the object is absent, and that it is another version.
        """
        other = {"e_tag": '"00000000000000000000000000000000"'} | ({"version": "1"} if "version" in current.tag else {})
        for wrong in (None, Version(b"", current.modified, other)):
            try:
                self._put(b"", wrong)
            except Changed:
                continue
            return False
        return True

    def delete(self) -> None:
        """Remove the object, whatever its version."""
        import obstore

        with self._errors():
            try:
                obstore.delete(self._store, self._path)
            except FileNotFoundError:
                return

    def _put(self, content: bytes, before: Version | None) -> Version:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if before is None else dict(before.tag)
        try:
            with self._errors():
                try:
                    put = obstore.put(self._store, self._path, content, mode=mode, use_multipart=False)
                    return Version(content, datetime.now(UTC), _tag(put))
                except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
                    raise Changed(str(error).splitlines()[0]) from error
        except (Changed, StorageError):
            # If an answer is lost, the request is sent again and finds what the first one wrote.
            found = self.read()
            if found is not None and found.content == content:
                return found
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from obstore.exceptions import BaseError, GenericError

        try:
            yield
        except GenericError as error:
            text = _brief(error)
            if any(sign in text for sign in _NOT_OFFERED):
                raise NoConditions(text) from error
            raise StorageError(f"{self._uri}: does not answer: {text}") from error
        except (BaseError, ValueError) as error:
            raise NoConditions(_brief(error)) from error


def _tag(meta: Any) -> dict[str, str]:
    """Return what identifies a version; GCS has a number in addition to the tag."""
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


def conditional_object(
    uri: str, scheme: str, bucket: str, path: str, account: str, options: Mapping[str, str], region: str | None
) -> ConditionalObject:
    """Return an object for conditional writes, with the credentials that pyarrow would use; send no request.

    Raises:
        NoConditions: if these credentials cannot be obtained this way.
    """
    from obstore.exceptions import BaseError

    try:
        store = _STORES[scheme](bucket, account, options, region)
    except (BaseError, ValueError, OSError) as error:
        raise NoConditions(_brief(error)) from error
    return ConditionalObject(store, path, uri)


def _client(endpoint: str | None) -> dict[str, Any]:
    return {
        "client_options": {
            "timeout": timedelta(seconds=TIMEOUT_S), "connect_timeout": timedelta(seconds=TIMEOUT_S / 2),
            "allow_http": endpoint is not None and endpoint.startswith("http://"),
        },
        "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=RETRY_S)},
    }  # fmt: skip


def _s3(bucket: str, account: str, options: Mapping[str, str], region: str | None) -> ObjectStore:
    from obstore.store import S3Store

    settings: dict[str, Any] = {}
    endpoint = (
        options.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    if endpoint:
        endpoint = endpoint if "://" in endpoint else f"https://{endpoint}"
        settings["endpoint"] = endpoint.rstrip("/")
    if region:
        settings["region"] = region
    return S3Store(bucket, **settings, **_aws_rights(), **_client(endpoint))


def _aws_rights() -> dict[str, Any]:
    """Return the keys of a profile, which obstore does not look for; none if obstore finds its own.

    Raises:
        NoConditions: if (a) the credential files cannot be read, (b) only Amazon's own library can get the keys, and it
            is not installed, or (c) there are no keys.
    """
    environment = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                   "AWS_CONTAINER_CREDENTIALS_FULL_URI")  # fmt: skip
    if any(os.environ.get(name) for name in environment):
        return {}
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    files = [
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials",
        os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config",
    ]
    parser = configparser.RawConfigParser()
    try:
        parser.read([expanded(file) for file in files], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise NoConditions(f"the credentials in {' or '.join(files)} cannot be read: {_brief(error)}") from error
    section = next((name for name in (profile, f"profile {profile}") if parser.has_section(name)), None)
    found = dict(parser.items(section)) if section is not None else {}
    if "aws_access_key_id" in found and "aws_secret_access_key" in found:
        keys = {"access_key_id": found["aws_access_key_id"], "secret_access_key": found["aws_secret_access_key"]}
        return keys | ({"session_token": found["aws_session_token"]} if "aws_session_token" in found else {})
    if found.keys() & {"role_arn", "sso_session", "sso_start_url", "credential_process", "web_identity_token_file"}:
        try:
            import boto3  # type: ignore[import-untyped]
            from obstore.auth.boto3 import Boto3CredentialProvider
        except ImportError:
            raise NoConditions(f"the AWS profile {profile} gets its keys in a way that needs boto3") from None
        return {"credential_provider": Boto3CredentialProvider(boto3.Session(profile_name=profile))}
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise NoConditions("there are no AWS credentials")
    return {}  # obstore uses those of the machine


def _gcs(bucket: str, account: str, options: Mapping[str, str], region: str | None) -> ObjectStore:
    from obstore.store import GCSStore

    emulator = os.environ.get("CLOUD_STORAGE_EMULATOR_ENDPOINT")  # pyarrow uses it as well
    settings: dict[str, Any] = {"base_url": emulator, "skip_signature": True} if emulator else {}
    return GCSStore(bucket, **settings, **_client(emulator))


_AZURE_IDENTITIES = ("AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT")


def _azure(bucket: str, account: str, options: Mapping[str, str], region: str | None) -> ObjectStore:
    from obstore.store import AzureStore

    settings: dict[str, Any] = {"account_name": account}
    endpoint = options.get("endpoint_override")
    if endpoint:
        settings["endpoint"] = f"{endpoint.rstrip('/')}/{account}"
    if key := os.environ.get("AZURE_STORAGE_KEY"):
        settings["account_key"] = key
    elif shutil.which("az") and not any(os.environ.get(name) for name in _AZURE_IDENTITIES):
        settings["use_azure_cli"] = True  # as the user who is logged in there
    return AzureStore(bucket, **settings, **_client(endpoint))


_STORES: dict[str, Callable[[str, str, Mapping[str, str], str | None], ObjectStore]] = {
    "s3": _s3, "gs": _gcs, "abfss": _azure,
}  # fmt: skip
