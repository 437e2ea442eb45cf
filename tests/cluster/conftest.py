"""Skips what needs fake hosts where there can be none, and says why."""

from __future__ import annotations

import pytest

from tests.cluster.hosts import obstacle


@pytest.fixture(scope="session")
def fake_hosts() -> None:
    """Asks for fake hosts to be possible here."""
    reason = obstacle()
    if reason is not None:
        pytest.skip(reason)
