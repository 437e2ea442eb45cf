"""How many threads the numerical libraries beside torch may take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def as_many_threads_as_torch() -> Iterator[None]:
    """Holds BLAS and OpenMP to the threads that torch was given.

    Left alone they take a thread for each core of the machine: beside four other busy processes on two cores that made
    a mixture ten times slower to fit.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(torch.get_num_threads()):
        yield
