"""A limit on the threads of the numerical libraries other than torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def as_many_threads_as_torch() -> Iterator[None]:
    """Limit BLAS and OpenMP to the number of threads that torch was given.

    By default they take a thread for each core of the machine. With four other busy processes on two cores, that made a
    mixture ten times slower to fit.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(torch.get_num_threads()):
        yield
