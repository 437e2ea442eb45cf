"""How a process that trains has the C library deal with its memory."""

from __future__ import annotations

import ctypes
import sys

_M_MXFAST, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = 1, -1, -3
_KEPT_BYTES = (1 << 30, 1 << 25)
"""Older glibcs take no more than the second for `_M_MMAP_THRESHOLD`."""


def keep_freed_memory() -> bool:
    """Has this process keep memory that it frees for what it allocates next. False where the C library is not glibc.

    A training step frees its activations and gradients, and the next one allocates the same again. By default glibc
    gives the end of its heap back to the kernel in between, which maps and clears it anew page by page: a thousand page
    faults in each step of kld.yaml's network at 32 channels, a sixth of its time (mallopt(3), benchmarks/choices.py).
    And it puts small pieces aside unmerged, which it then merges whenever a large one is freed, so in every layer.
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
