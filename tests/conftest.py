"""Fixtures of all tests: caches and settings of the person who runs them are never touched."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from raysweep.backend.connection import CLOSED


def pytest_configure() -> None:
    """What counts from the first import on.

    Ray reads how closed it is when it is imported, and any test may be the first to import it. Whatever a shell starts
    with `&` ignores Ctrl-C, whatever `nohup` starts a hangup, and so would, rightly, each driver that the tests start.
    """
    os.environ.update(CLOSED, RAY_AUTH_TOKEN=secrets.token_hex(32))
    settings.register_profile("raysweep", deadline=None)  # no test here has a time to meet
    settings.load_profile("raysweep")
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home directory, a cache directory and an environment of the tests' own."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("RAYSWEEP_CACHE", str(home / "cache"))
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("XDG_CACHE_HOME", raising=False)
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "of-the-tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-tests")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield home
