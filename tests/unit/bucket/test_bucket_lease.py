"""The lease of a sweep in a bucket: two drivers at every interleaving, and stores that have no conditional writes."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import obstore
import pytest
from obstore.store import MemoryStore

from raysweep.bucket import lease as leases
from raysweep.bucket.lease import Lease, holder
from raysweep.errors import StorageError, SweepDirectoryError
from raysweep.storage.conditional import Changed, ConditionalObject, NoConditions
from raysweep.storage.remote import RemoteDirectory
from tests.s3server import Wire, s3_server

STALE = json.dumps({"pid": 1, "host": "other", "machine": "other", "token": "x"}).encode()


class Gated(ConditionalObject):
    """An object in a store of memory; each request waits until it is its driver's turn."""

    def __init__(self, store: MemoryStore, turn: Callable[[], None]) -> None:
        super().__init__(store, leases.NAME, "memory")
        self._turn = turn

    def read(self):  # type: ignore[no-untyped-def]
        self._turn()
        return super().read()

    def _put(self, content, before):  # type: ignore[no-untyped-def]
        self._turn()
        return super()._put(content, before)

    def delete(self) -> None:
        self._turn()
        super().delete()


class InMemory(RemoteDirectory):
    """A bucket of which a lease sees only its own object."""

    def __init__(self, lease: ConditionalObject) -> None:
        self.uri = "memory"
        self.lease = lease

    def conditional(self, name: str) -> ConditionalObject:
        return self.lease

    def find(self, name: str):  # type: ignore[no-untyped-def]
        raise AssertionError("the lease looks past its conditions")

    read = write = find  # type: ignore[assignment]


class Course:
    """One course of two drivers: `schedule` says whose request comes next; after its end the first one that can."""

    def __init__(self, schedule: list[int], before: bytes | None, renewals: int) -> None:
        self.store = MemoryStore()
        if before is not None:
            obstore.put(self.store, leases.NAME, before)
        self.schedule = list(schedule)
        self.choices: list[list[int]] = []
        self.taken: list[int] = []
        self.holding: set[int] = set()
        self.ended: dict[int, str] = {}
        self._go = [threading.Semaphore(0), threading.Semaphore(0)]
        self._waits = threading.Semaphore(0)
        self._renewals = renewals
        self._threads = [threading.Thread(target=self._drive, args=(number,), daemon=True) for number in (0, 1)]

    def run(self) -> None:
        alive = {0, 1}
        for thread in self._threads:
            thread.start()
        for _ in alive:
            self._waits.acquire()
        while alive := {number for number in alive if number not in self.ended}:
            self.choices.append(sorted(alive))
            number = self.schedule.pop(0) if self.schedule else min(alive)
            self.taken.append(number)
            self._go[number].release()
            self._waits.acquire()
            assert len(self.holding) < 2, self.taken
        for thread in self._threads:
            thread.join()

    def _drive(self, number: int) -> None:
        def turn() -> None:
            self._waits.release()
            self._go[number].acquire()

        lease = Lease(InMemory(Gated(self.store, turn)))
        try:
            lease.take()
            self.holding.add(number)
            for _ in range(self._renewals):
                lease.renew()
            self.holding.discard(number)
            lease.release()
            self.ended[number] = "held"
        except SweepDirectoryError as error:
            self.holding.discard(number)
            self.ended[number] = "refused" if "another driver is at work" in str(error) else str(error)
        self._waits.release()


def every_course(before: bytes | None, renewals: int) -> Iterator[Course]:
    schedule: list[int] | None = []
    while schedule is not None:
        course = Course(schedule, before, renewals)
        course.run()
        yield course
        schedule = None
        for place in reversed(range(len(course.taken))):
            others = [number for number in course.choices[place] if number > course.taken[place]]
            if others:
                schedule = [*course.taken[:place], others[0]]
                break


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two machines: neither looks for the other's process."""
    monkeypatch.setattr(leases, "_machine", lambda: None)
    return monkeypatch


@pytest.mark.parametrize("before", [None, STALE])
def test_at_no_interleaving_two_drivers_hold_the_lease(before: bytes | None, elsewhere: pytest.MonkeyPatch) -> None:
    living = leases._living  # a lease from before this test is that of a dead driver
    elsewhere.setattr(leases, "_living", lambda content, at: None if content == STALE else living(content, at))
    ends = set()
    count = 0
    for course in every_course(before, renewals=1):
        count += 1
        ends.add(tuple(course.ended[number] for number in (0, 1)))
        assert "held" in course.ended.values(), course.taken
        with pytest.raises(FileNotFoundError):
            obstore.head(course.store, leases.NAME)
    assert ends == {("held", "refused"), ("refused", "held"), ("held", "held")}
    assert count > 100


def test_a_driver_that_was_thought_dead_writes_no_more_once_another_has_the_lease(
    elsewhere: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    first, second = (Lease(InMemory(ConditionalObject(store, leases.NAME, "memory"))) for _ in range(2))
    first.take()
    elsewhere.setattr(leases, "DEAD_AFTER_S", 0.0)
    second.take()
    with pytest.raises(SweepDirectoryError, match="has taken the sweep over"):
        first.renew()
    first.release()
    second.renew()
    second.release()


def test_a_lease_that_somebody_removed_is_made_again_unless_another_driver_was_first(
    elsewhere: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    first, second = (Lease(InMemory(ConditionalObject(store, leases.NAME, "memory"))) for _ in range(2))
    first.take()
    obstore.delete(store, leases.NAME)
    first.renew()
    obstore.delete(store, leases.NAME)
    second.take()
    with pytest.raises(SweepDirectoryError, match="has taken the sweep over"):
        first.renew()


def test_a_write_whose_answer_was_lost_has_been_made() -> None:
    lease = ConditionalObject(MemoryStore(), "name", "memory")
    lease.create(b"mine")
    assert lease.create(b"mine").content == b"mine"
    with pytest.raises(Changed):
        lease.create(b"yours")


def test_a_lease_that_is_being_given_back_is_taken_by_nobody(elsewhere: pytest.MonkeyPatch) -> None:
    """The process that gives it back is gone for its own machine already; what it removes must still be its own."""
    here = json.dumps({"pid": 1, "machine": None, leases.RELEASING: True}).encode()
    now = datetime.now(UTC)
    assert leases._living(here, now) is not None
    assert leases._living(here, now - timedelta(seconds=leases.DEAD_AFTER_S + 1)) is None


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@contextmanager
def refusing(answer: int) -> Iterator[str]:
    """A store that is empty and refuses every write."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(404)

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(answer)

        def _answer(self, code: int) -> None:
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def remote_at(address: str, name: str) -> RemoteDirectory:
    return RemoteDirectory.at(f"s3://bucket/{name}?endpoint_override={address}&region=us-east-1")


def take_twice(remote: RemoteDirectory, caplog: pytest.LogCaptureFixture) -> str:
    """Let a driver take, renew and release the lease, and another try; return what was logged of the first."""
    with caplog.at_level(logging.INFO, "raysweep"):
        first = Lease(remote)
        first.take()
    (line,) = [record.getMessage() for record in caplog.records]
    with pytest.raises(SweepDirectoryError, match="another driver is at work"):
        Lease(remote).take()
    first.renew()
    first.release()
    assert holder(remote) is None
    return line


def test_a_store_that_ignores_conditions_is_looked_at_twice_which_the_log_says(
    server: str, elsewhere: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere.setattr(leases, "SETTLE_S", 0.01)
    wire = Wire(server, lambda sent: re.sub(rb"(?i)\r\nif-(none-)?match:", b"\r\nx-\\1match:", sent))
    line = take_twice(remote_at(wire.address, "ignored"), caplog)
    assert "without conditional writes the lease is looked at twice: the store takes conditions and ignores" in line
    wire.cut()


@pytest.mark.parametrize("answer", [501, 400, 403])
def test_a_store_that_refuses_conditions_is_looked_at_twice_which_the_log_says(
    answer: int, server: str, elsewhere: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere.setattr(leases, "SETTLE_S", 0.01)
    remote = remote_at(server, f"refused {answer}")
    with refusing(answer) as address:
        elsewhere.setattr(remote, "conditional", remote_at(address, "refused").conditional)
        assert str(answer) in take_twice(remote, caplog)


def test_a_store_with_conditional_writes_is_not_waited_for(
    server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leases.time, "sleep", None)
    with caplog.at_level(logging.INFO, "raysweep"):
        lease = Lease(remote_at(server, "my ä sweep"))
        lease.take()
    assert not caplog.records
    assert holder(remote_at(server, "my ä sweep")) is not None, "pyarrow sees it under the same name"
    lease.renew()
    lease.release()
    assert remote_at(server, "my ä sweep").find(leases.NAME) is None


def test_a_bucket_that_stops_to_answer_is_a_storage_error_and_the_lease_goes_on_after_it(server: str) -> None:
    wire = Wire(server)
    lease = Lease(remote_at(wire.address, "cut"))
    lease.take()
    wire.cut()
    with pytest.raises(StorageError, match="does not answer"):
        lease.renew()
    wire.mend()
    lease.renew()
    lease.release()
    with suppress(OSError):
        wire.cut()


PROFILE = "[work]\naws_access_key_id = a\naws_secret_access_key = b\n[sso]\nsso_session = x\n"


def test_the_keys_of_a_profile_are_found(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    from raysweep.storage import conditional

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(PROFILE)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(NoConditions, match="no AWS credentials"):
        conditional._aws_rights()
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert conditional._aws_rights() == {"access_key_id": "a", "secret_access_key": "b"}
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    monkeypatch.setenv("AWS_PROFILE", "sso")
    with pytest.raises(NoConditions, match="needs boto3"):
        conditional._aws_rights()
