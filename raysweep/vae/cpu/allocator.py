"""Settings of the C library's memory allocator for a process that trains."""

from __future__ import annotations

import ctypes
import sys

_M_MXFAST, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = 1, -1, -3
_KEPT_BYTES = (1 << 30, 1 << 25)
"""Older glibcs accept at most the second for `_M_MMAP_THRESHOLD`."""


def keep_freed_memory() -> bool:
    """Make this process keep freed memory for its next allocations; return False if the C library is not glibc.

    A training step frees its activations and gradients, and the next one allocates the same again. By default glibc
    gives the end of its heap back to the kernel in between, and the kernel maps and clears it anew page by page. In
    each step of kld.yaml's network at 32 channels that is a thousand page faults, a sixth of its time (mallopt(3),
    benchmarks/choices.py). glibc also leaves small pieces unmerged and merges them whenever a large one is freed, which
    happens in every layer.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl's and others'
        return False
    mallopt(_M_MXFAST, 0)
    kept = mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES[0])
    return bool(kept and any(mallopt(_M_MMAP_THRESHOLD, most) for most in _KEPT_BYTES))
