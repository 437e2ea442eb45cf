"""What the C library does with the memory of a process that trains."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
import torch
from raysweep.vae.cpu.allocator import keep_freed_memory

if sys.argv[1] == "keeps":
    assert keep_freed_memory()
else:  # glibc's own threshold for memory that it maps by itself and gives back, from which it drifts as it goes
    assert ctypes.CDLL(None).mallopt(-3, 128 << 10)
for turn in range(30):
    if turn == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(1 << 19) for _ in range(4)]  # 2 MB each
    del kept
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library is not glibc")
def test_what_a_process_frees_is_not_mapped_anew() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("keeps", "gives back")
    }
    assert faults["keeps"] < 100
    assert faults["gives back"] > 10 * faults["keeps"]
