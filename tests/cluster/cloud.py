"""A fake AWS: moto's EC2, IAM and S3 on a fake host, whose instances are fake hosts.

    with Network(environment=SETTINGS) as network, Cloud(network) as cloud:
        laptop = network.start("laptop")
        laptop.run("aws", "ec2", "run-instances", ...)   # the command line of tests/cluster/scripts/aws
        cloud.interrupt(cloud.running()[0])              # as the spot market does: no warning, no good-bye

As a program it is the server: it answers to requests, and prints a line for each instance that starts or ends.
"""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlencode

from tests.cluster.hosts import REPOSITORY, Network

ADDRESS, PORT = "10.99.200.1", 5000
ENDPOINT = f"http://{ADDRESS}:{PORT}"
REGION = "us-east-1"
SETTINGS = {
    "AWS_ENDPOINT_URL": ENDPOINT,
    "AWS_ACCESS_KEY_ID": "of-the-tests",
    "AWS_SECRET_ACCESS_KEY": "of-the-tests",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What a host needs in its environment to find this cloud, and no other."""
LOOK_S = 0.2


@dataclass(frozen=True)
class Instance:
    """An instance that runs."""

    id: str
    kind: str
    """Its instance type."""
    private_address: str
    public_address: str
    public_key: str
    is_spot: bool

    @property
    def host_name(self) -> str:
        return "ip-" + self.private_address.replace(".", "-")


@dataclass(frozen=True)
class Call:
    """What was asked of the cloud, and by which address."""

    address: str
    service: str
    action: str


@dataclass
class _Seen:
    """What the server has said so far."""

    instances: dict[str, Instance] = field(default_factory=dict)
    ended: list[Instance] = field(default_factory=list)
    calls: set[Call] = field(default_factory=set)
    launches: list[dict[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Cloud:
    """The fake AWS at `ADDRESS` of a network, and the hosts that its instances are."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._seen = _Seen()

    def __enter__(self) -> Cloud:
        host = self._network.start("cloud", [ADDRESS])
        self._server = host.popen(
            "env", "-C", str(REPOSITORY), sys.executable, "-m", "tests.cluster.cloud", AWS_ENDPOINT_URL=ENDPOINT
        )
        assert self._server.stdout is not None
        if self._server.stdout.readline() != "ready\n":
            raise RuntimeError(f"the cloud does not start: {self._server.communicate()[1]}")
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._network.hosts["cloud"].power_off()
        self._server.wait()
        self._reader.join()
        for stream in (self._server.stdin, self._server.stdout, self._server.stderr):
            if stream is not None:
                stream.close()

    def running(self, kind: str | None = None) -> list[Instance]:
        """The instances that run, of one type if it is given, in the order of their start."""
        if self._seen.faults:
            raise AssertionError("\n".join(self._seen.faults))
        return [instance for instance in list(self._seen.instances.values()) if kind in (None, instance.kind)]

    @property
    def ended(self) -> list[Instance]:
        """The instances that ran once."""
        return list(self._seen.ended)

    @property
    def calls(self) -> set[Call]:
        """All that was asked for so far, each once."""
        return set(self._seen.calls)

    @property
    def launches(self) -> list[dict[str, str]]:
        """The parameters of each RunInstances, of which moto forgets some."""
        return list(self._seen.launches)

    def interrupt(self, instance: Instance) -> None:
        """Takes an instance away, as the spot market does."""
        assert self._server.stdin is not None
        self._server.stdin.write(f"{instance.id}\n")
        self._server.stdin.flush()
        deadline = time.monotonic() + 30
        while instance.id in self._seen.instances:
            assert time.monotonic() < deadline, "the instance does not end"
            time.sleep(0.05)

    def _follow(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            message = json.loads(line)
            try:
                self._take(message)
            except Exception as error:  # noqa: BLE001 (a thread's failure is to be seen by the test)
                self._seen.faults.append(f"{message}: {error!r}")
        if self._server.stderr is not None and (said := self._server.stderr.read()):
            self._seen.faults.append(f"the cloud has ended: {said}")

    def _take(self, message: dict[str, Any]) -> None:
        if "call" in message:
            self._seen.calls.add(Call(**message["call"]))
        elif "launch" in message:
            self._seen.launches.append(message["launch"])
        elif "started" in message:
            instance = Instance(**message["started"])
            addresses = [instance.private_address, instance.public_address]
            self._network.start(instance.host_name, addresses, keys=[instance.public_key])
            self._seen.instances[instance.id] = instance
        else:
            instance = self._seen.instances[message["ended"]]
            self._network.hosts[instance.host_name].power_off()
            self._seen.ended.append(self._seen.instances.pop(instance.id))


def _say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


class _Recording:
    """Passes requests on to the server, and says which there are."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._said: set[Call] = set()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        size = int(environ.get("CONTENT_LENGTH") or 0)
        is_form = environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded")
        action = environ["REQUEST_METHOD"]
        if is_form and size:
            form = dict(parse_qsl(environ["wsgi.input"].read(size).decode(), keep_blank_values=True))
            action = form["Action"]
            if action == "RunInstances":  # AWS starts as many as it has, moto as few as it may
                form["MinCount"] = form["MaxCount"]
                _say(launch=form)
            body = urlencode(form).encode()
            environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))
        # `Credential=key/date/region/service/aws4_request` in every signed request
        parts = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].split("/")
        call = Call(environ["REMOTE_ADDR"], parts[3] if len(parts) > 3 else "", action)
        if call not in self._said:
            self._said.add(call)
            _say(call=asdict(call))
        return self._application(environ, start_response)


def _instances(backend: Any) -> Iterator[Instance]:
    for reservation in list(backend.reservations.values()):
        for found in list(reservation.instances):
            # One that is being made has no network interface yet.
            if found._state.name in ("pending", "running") and getattr(found, "nics", None) and found.public_ip:
                key = backend.key_pairs[found.key_name].public_key
                addresses = found.private_ip, found.public_ip
                yield Instance(found.id, found.instance_type, *addresses, key, found.lifecycle == "spot")


def serve() -> None:
    """Serves until the host ends; reads ids of instances to take away."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.ec2.models import ec2_backends
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = _Recording(DomainDispatcherApplication(create_backend_app))
    server = make_server(ADDRESS, PORT, application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    backend = ec2_backends[DEFAULT_ACCOUNT_ID][REGION]

    def interrupt() -> None:
        for line in sys.stdin:
            backend.terminate_instances([line.strip()])

    threading.Thread(target=interrupt, daemon=True).start()
    print("ready", flush=True)
    known: dict[str, Instance] = {}
    while True:
        found = {instance.id: instance for instance in _instances(backend)}
        for name, instance in found.items():
            if name not in known:
                _say(started=asdict(instance))
        for name in known.keys() - found.keys():
            _say(ended=name)
        known = found
        time.sleep(LOOK_S)


if __name__ == "__main__":
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    serve()
