"""Looking at a sweep without disturbing its driver."""

from __future__ import annotations

import json
import math
import threading
import time

import pytest

from raysweep.errors import SweepDirectoryError
from raysweep.review.sweep import strict_json
from raysweep.storage.layout import SweepDirectory
from raysweep.storage.lock import has_driver, locked


def test_readers_are_no_drivers_to_each_other_nor_in_the_driver_s_way(directory: SweepDirectory) -> None:
    with locked(directory):
        assert has_driver(directory)
    seen: list[bool] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(has_driver(directory))
            time.sleep(0.001)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    while len(seen) < 200:
        time.sleep(0.01)
    assert not any(seen), "nobody drives"
    for _ in range(50):
        with locked(directory):
            pass
    done.set()
    for reader in readers:
        reader.join()


def test_a_second_driver_is_refused_by_the_name_of_the_first(directory: SweepDirectory) -> None:
    with (
        locked(directory),
        pytest.raises(SweepDirectoryError, match="another driver is at work here, process"),
        locked(directory),
    ):
        pass


def test_json_has_no_nan() -> None:
    value = {"a": [math.nan, 1.0, (math.inf, "x")], "b": None}
    assert json.loads(json.dumps(strict_json(value), allow_nan=False)) == {"a": [None, 1.0, [None, "x"]], "b": None}
