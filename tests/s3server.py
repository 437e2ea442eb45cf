"""An S3 server of the tests' own on loopback, and a way to it that can be cut."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SERVER = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
BUCKET = "bucket"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def request(address: str, method: str, content: bytes | None = None) -> bytes:
    asked = urllib.request.Request(address, content, {"Content-Type": "text/plain"}, method=method)
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return bytes(answer.read())


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server that has the bucket `bucket`, for as long as the block lasts."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                request(f"{address}/{BUCKET}", "PUT")
                break
            except urllib.error.URLError:
                assert process.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


class Wire:
    """Passes bytes on from a port of its own to a server, until it is cut."""

    def __init__(self, address: str, change: Callable[[bytes], bytes] = bytes) -> None:
        """`change` is made to what is sent to the server, a read at a time."""
        self._change = change
        self._to = int(address.rsplit(":", 1)[1])
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._ends: list[socket.socket] = []
        self.mend()

    def mend(self) -> None:
        """Lets it pass, also again."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Ends every connection and takes no further one."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near = listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            self._ends += [near, far]
            for one, other, change in ((near, far, self._change), (far, near, bytes)):
                threading.Thread(target=self._pass, args=(one, other, change), daemon=True).start()

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket, change: Callable[[bytes], bytes]) -> None:
        try:
            while content := one.recv(1 << 16):
                other.sendall(change(content))
        except OSError:
            pass
        finally:
            with suppress(OSError):
                other.shutdown(socket.SHUT_RDWR)
            one.close()
