"""RAY_ADDRESS: what a person can mean by it, and what is said of what nobody can mean."""

from __future__ import annotations

import socket

import pytest

from raysweep.backend import address
from raysweep.backend.address import Address, require_listener, require_token, wanted_address
from raysweep.errors import ResourcesError


@pytest.mark.parametrize("text", ["", " ", "local"])
def test_no_address_and_local_mean_this_machine(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", text)
    assert wanted_address() is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("head:6379", Address("head", 6379)),
        (" 10.0.0.1:6380 ", Address("10.0.0.1", 6380)),
        ("[::1]:6379", Address("::1", 6379)),
        ("auto", Address("auto")),
    ],
)
def test_host_and_port_or_auto_name_a_cluster(text: str, meant: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", text)
    assert wanted_address() == meant
    assert str(meant) == text.strip()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://10.0.0.5:8265", "the dashboard, which takes jobs but no drivers"),
        ("https://ray.example.org", "ray job submit --address https://ray.example.org -- raysweep run FILE"),
        ("ray://head:10001", "export RAY_ADDRESS=head:6379"),
        ("anyscale://cluster", "anyscale:// is the address of nothing that raysweep knows"),
        ("head", "has no port, wanted HOST:PORT; for a cluster started by `ray start --head` type: "
                 "export RAY_ADDRESS=head:6379"),
        ("head:", "'' is no port"),
        (":6379", "has no port, wanted HOST:PORT"),
        ("::1", "export RAY_ADDRESS=[::1]:6379"),
        ("head:port", "'port' is no port"),
        ("head:0", "'0' is no port"),
        ("head:65536", "'65536' is no port"),
        ("head:٣", "is no port"),
        ("the head:6379", "'the head' is no host"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_named_with_what_to_type(
    text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", text)
    with pytest.raises(ResourcesError) as refused:
        wanted_address()
    assert said in str(refused.value)
    assert str(refused.value).startswith(f"RAY_ADDRESS={text}: ")
    assert "unset RAY_ADDRESS" in str(refused.value)
    assert refused.value.exit_code == 2


def test_a_token_that_is_asked_for_and_not_there_is_said_before_ray_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    require_token()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    with pytest.raises(ConnectionError, match="and there is none"):
        require_token()


def test_who_does_not_accept_is_told_from_who_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        require_listener(Address("127.0.0.1", port))
    with pytest.raises(ConnectionError, match="nothing listens there"):
        require_listener(Address("127.0.0.1", port))
    with pytest.raises(ConnectionError, match=r"is no host's name|nothing listens there"):
        require_listener(Address("." * 300, 1))
    monkeypatch.setattr(address, "KNOCK_S", 0.2)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # a full queue of a listener that accepts nobody
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        with pytest.raises(ConnectionError, match="accepted a connection"):
            require_listener(Address("127.0.0.1", port))
        for one in waiting:
            one.close()
