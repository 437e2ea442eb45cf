"""RAY_ADDRESS: which cluster it names, and whether a cluster answers there."""

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
"""Default port of the GCS of `ray start --head`."""
KNOCK_S = 10.0
"""How long an address may take to accept a connection."""
_TOKEN = "have the cluster's in ~/.ray/auth_token, RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"  # noqa: S105 (no password)
_UNSET = f"or unset {VARIABLE} to run on this machine alone"


@dataclass(frozen=True)
class Address:
    """The address of a cluster's GCS, or `auto` for the one that runs on this machine."""

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
    """Return the address that RAY_ADDRESS names; None if a Ray is to be started here.

    Raises:
        ResourcesError: if a sweep cannot join what it names; the message says what it should be.
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
    """Raise ConnectionError if RAY_AUTH_MODE asks for a token and there is none: Ray would end this process."""
    if os.environ.get("RAY_AUTH_MODE") == "token" and not _has_token():
        raise ConnectionError(f"RAY_AUTH_MODE is token, and there is none; {_TOKEN}")


def require_listener(address: Address) -> None:
    """Raise ConnectionError if nothing accepts connections there. Ray itself would wait for minutes."""
    try:
        socket.create_connection((address.host, address.port or 0), timeout=KNOCK_S).close()
    except TimeoutError as error:
        raise ConnectionError(f"nothing there has accepted a connection for {KNOCK_S:g} s") from error
    except UnicodeError as error:
        raise ConnectionError(f"{address.host!r} is no host's name") from error
    except OSError as error:
        raise ConnectionError(f"nothing listens there ({error.strerror or error})") from error


def require_gcs(address: Address) -> None:
    """Raise ConnectionError if there is no GCS that this process may ask. This may wait long inside C++."""
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
    """Raise ConnectionError if this machine is not in the cluster. Ray itself would search for a minute.

    A driver shares memory with the raylet of its machine, so it has to run on a machine of the cluster.
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
    """Return the addresses of all Rays on this machine, whoever started them; the last `ray start` first."""
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
