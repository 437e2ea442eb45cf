"""The GPUs of this machine that trials can train on, counted as torch would, without importing torch or Ray.

A device file or a name in CUDA_VISIBLE_DEVICES does not prove that a GPU works: the driver may be missing, broken, or
too old for torch. So we ask the CUDA runtime that torch loads. Ray gives each process one entry of
CUDA_VISIBLE_DEVICES, in order. If a GPU is divided into slices (MIG), CUDA shows a process only the first one, so we
ask for each slice by itself.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER = "libcuda.so.1"
ANSWER_S = 60.0
"""A driver that has not answered after this time never will: 8 GPUs without a persistence daemon take about 20 s."""

# A separate process asks, because CUDA reads its environment only once, does not survive a fork, and can hang for ever.
# It looks the function up in all loaded libraries, as the linker does for torch.
_ASK = """
import ctypes, sys
for name in sys.argv[1:]:
    try:
        ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
    except OSError:
        continue
    count = ctypes.c_int()
    failed = ctypes.CDLL(None).cudaGetDeviceCount(ctypes.byref(count))
    print(0 if failed else count.value)
    break
"""


def visible_gpus() -> int:
    """Return how many GPUs of this machine trials can train on, each in a process of its own."""
    runtimes = _runtimes()
    if not runtimes or not _has_driver():
        return 0
    named = os.environ.get(VISIBLE)
    if named is None:
        return _count(runtimes, None)
    entries = _entries(named)
    if not entries or not entries[0].startswith("MIG-"):
        return min(len(entries), _count(runtimes, named)) if entries else 0
    usable = 0
    while usable < len(entries) and _count(runtimes, entries[usable]):
        usable += 1
    return usable


def _entries(named: str) -> list[str]:
    """Return the entries of CUDA_VISIBLE_DEVICES before the first that cannot name a device.

    If an entry is repeated, return none: CUDA treats that as a mistake and shows no device at all.
    """
    kind = next((prefix for prefix in ("GPU-", "MIG-") if named.strip().startswith(prefix)), None)
    entries: list[str] = []
    for entry in (part.strip() for part in named.split(",")):
        if not (entry.startswith(kind) if kind else re.match(r"\+?\d", entry)):
            break
        entries.append(entry)
    return entries if len(set(entries)) == len(entries) else []


def _has_driver() -> bool:
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


def _runtimes() -> list[str]:
    found = find_spec("torch")
    return runtimes_beside((found and found.submodule_search_locations) or ())


def runtimes_beside(packages: Iterable[str]) -> list[str]:
    """Return where the CUDA runtime of a torch in these folders may be.

    Return an empty list if that torch is built without CUDA.
    """
    for folder in map(Path, packages):
        try:
            text = (folder / "version.py").read_text()
        except OSError:
            continue
        version = re.search(r"^cuda\b[^=\n]*=\s*['\"](\d+)", text, re.MULTILINE)
        if version is not None:
            beside = sorted(
                str(path)
                for place in ("torch/lib", "nvidia/*/lib")
                for path in folder.parent.glob(f"{place}/libcudart*.so.{version[1]}*")
            )
            return [*beside, f"libcudart.so.{version[1]}"]  # the last: where the linker finds it, as in NVIDIA's images
    return []


def _count(runtimes: Sequence[str], named: str | None) -> int:
    """Return how many devices CUDA has in a process with this CUDA_VISIBLE_DEVICES; 0 if it does not answer."""
    environment = {name: value for name, value in os.environ.items() if name != VISIBLE}
    if named is not None:
        environment[VISIBLE] = named
    try:
        asked = subprocess.run(  # noqa: S603 (this interpreter, with the text above)
            [sys.executable, "-I", "-S", "-c", _ASK, *runtimes],
            env=environment, capture_output=True, text=True, timeout=ANSWER_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return 0
    answer = asked.stdout.strip()
    return int(answer) if answer.isdigit() else 0
