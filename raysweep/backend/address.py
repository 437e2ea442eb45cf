"""RAY_ADDRESS: which cluster a person means by it, and whether one answers there."""

from __future__ import annotations

import logging
import os
import re
import socket
from dataclasses import dataclass
from typing import Any

from raysweep.errors import ResourcesError
from raysweep.storage.home import expanded

_log = logging.getLogger("raysweep")

VARIABLE = "RAY_ADDRESS"
PORT = 6379
"""Where `ray start --head` has its GCS unless it is told otherwise."""
KNOCK_S = 10.0
"""How long an address may take to accept a connection."""
_TOKEN = "have the cluster's in ~/.ray/auth_token, RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"  # noqa: S105 (no password)
_UNSET = f"or unset {VARIABLE} to run on this machine alone"


@dataclass(frozen=True)
class Address:
    """Where a cluster's GCS is to be joined, or `auto`: the one that runs on this machine."""

    host: str
    port: int | None = None

    @property
    def is_auto(self) -> bool:
        return self.port is None

    def __str__(self) -> str:
        if self.port is None:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def wanted_address() -> Address | None:
    """Return what RAY_ADDRESS names; None if a Ray is to be started here.

    Raises:
        ResourcesError: if it names nothing that a sweep can join; the message says what it would have to be.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if text in ("", "local"):
        return None
    if text == "auto":
        return Address(text)
    return _parsed(text)


def _parsed(text: str) -> Address:
    scheme, separator, rest = text.partition("://")
    if separator:
        host = re.split(r"[/:@]", rest)[0] or "HOST"
        what = {
            "ray": "Ray Client, through which Ray Tune and a sweep cannot be driven",
            "http": "the dashboard, which takes jobs but no drivers",
            "https": "the dashboard, which takes jobs but no drivers",
        }.get(scheme, "nothing that raysweep knows")
        job = f"\nOr hand it in as a job: ray job submit --address {text} -- raysweep run FILE"
        raise ResourcesError(
            f"{VARIABLE}={text}: {scheme}:// is the address of {what}\n"
            f"Give the cluster's own address, on a machine of the cluster: export {VARIABLE}={host}:{PORT}, {_UNSET}"
            + (job if scheme.startswith("http") else "")
        )
    host, colon, port = text.rpartition(":")
    bare = host.strip("[]")
    if not colon or not host or (":" in host and not host.startswith("[")):
        host = (text if ":" not in text else f"[{text}]" if text.count(":") > 1 else "") or "HOST"
        raise ResourcesError(
            f"{VARIABLE}={text}: has no port, wanted HOST:PORT; for a cluster started by `ray start --head` type: "
            f"export {VARIABLE}={host.rstrip(':')}:{PORT}, {_UNSET}"
        )
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ResourcesError(
            f"{VARIABLE}={text}: {port!r} is no port, wanted a number from 1 to 65535; for a cluster started by "
            f"`ray start --head` type: export {VARIABLE}={host}:{PORT}, {_UNSET}"
        )
    if re.search(r"[\s/\\@]", bare):
        raise ResourcesError(
            f"{VARIABLE}={text}: {bare!r} is no host, wanted HOST:PORT, such as 10.0.0.1:{PORT}; correct it, {_UNSET}"
        )
    return Address(bare, int(port))


def require_token() -> None:
    """Raises ConnectionError if RAY_AUTH_MODE asks for a token and this process has none: Ray would end it."""
    if os.environ.get("RAY_AUTH_MODE") == "token" and not _has_token():
        raise ConnectionError(f"RAY_AUTH_MODE is token, and there is none; {_TOKEN}")


def require_listener(address: Address) -> None:
    """Raises ConnectionError if nothing accepts connections there, on which Ray itself would wait for minutes."""
    try:
        socket.create_connection((address.host, address.port or 0), timeout=KNOCK_S).close()
    except TimeoutError as error:
        raise ConnectionError(f"nothing there has accepted a connection for {KNOCK_S:g} s") from error
    except UnicodeError as error:
        raise ConnectionError(f"{address.host!r} is no host's name") from error
    except OSError as error:
        raise ConnectionError(f"nothing listens there ({error.strerror or error})") from error


def require_gcs(address: Address) -> None:
    """Raises ConnectionError if what listens there is no GCS that this process may ask. May wait in C++ for long."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import RayError

    try:
        GcsClient(address=str(address))
    except RayError as error:
        if "InvalidAuthToken" in str(error):
            raise ConnectionError(
                f"it asks for a token that is not this process's; set RAY_AUTH_MODE=token, and {_TOKEN}"
            ) from error
        raise ConnectionError(str(error).splitlines()[0]) from error


def require_node_here(address: Address) -> None:
    """Raises ConnectionError if no machine of the cluster is this one, for which Ray would look for a minute.

    A driver shares memory with the raylet of its machine, so it has to run on one of the cluster's.
    """
    from ray._private import services
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    find: Any = getattr(services, "find_node_ids", None)
    if find is None:
        _log.info("this Ray has no find_node_ids: whether this machine is one of the cluster's, it finds out itself")
        return
    nodes = [node for node in GcsClient(address=str(address)).get_all_node_info().values() if node.state == 0]
    if not {node.node_id.hex() for node in nodes} & set(find()):
        names = ", ".join(sorted({node.node_manager_hostname or node.node_manager_address for node in nodes}))
        raise ConnectionError(
            f"this machine is not one of the cluster's ({names or 'it has none'}); run raysweep on one of them, or "
            f"make this one join: ray start --address={address}"
        )


def running_here() -> list[Address]:
    """Return the addresses of the Rays of this machine, whoever started them; the last one of `ray start` first."""
    from ray._private import services

    find_last: Any = getattr(services, "find_bootstrap_address", None)
    find_all: Any = getattr(services, "find_gcs_addresses", None)
    if find_last is None or find_all is None:
        raise ConnectionError("this Ray does not say which of it run on this machine; name one: HOST:PORT")
    last = find_last(None)
    found = [last] if last else []
    found += sorted(address for address in find_all() if address != last)
    addresses = []
    for text in found:
        host, _, port = text.rpartition(":")
        if port.isdigit():
            addresses.append(Address(host.strip("[]"), int(port)))
    return addresses


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path = expanded(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token")
    return path.is_file() and path.stat().st_size > 0
