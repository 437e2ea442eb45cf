"""GPUs are counted by CUDA's runtime: a small one of the tests' own, which reads CUDA_VISIBLE_DEVICES as CUDA does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from raysweep.backend import gpus

RUNTIME = r"""
#include <stdlib.h>
#include <string.h>
/* TEST_GPUS devices, and the slices MIG-1 and MIG-2, of which a process sees one. TEST_FAULT: what cudaGetDeviceCount
   answers. As in CUDA the first entry that names no device ends the list. */
int cudaGetDeviceCount(int* count) {
    const char* named = getenv("CUDA_VISIBLE_DEVICES");
    int devices = atoi(getenv("TEST_GPUS"));
    *count = 0;
    if (getenv("TEST_FAULT")) { *count = devices; return atoi(getenv("TEST_FAULT")); }
    if (!named) { *count = devices; return devices ? 0 : 100; }
    if (!strncmp(named, "MIG-", 4)) { *count = named[4] == '1' || named[4] == '2'; return *count ? 0 : 100; }
    for (const char* at = named; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : 0) {
        char* end; long device = strtol(at, &end, 10);
        if (!strncmp(at, "GPU-", 4)) { device = at[4] - 'a'; end = 0; }
        if (end == at || device < 0 || device >= devices) break;
        ++*count;
    }
    return *count ? 0 : 100;
}
"""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("cuda")
    source, library = folder / "runtime.c", folder / "libcudart.so.99"
    source.write_text(RUNTIME)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


@pytest.fixture
def two_gpus(runtime: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(gpus, "_runtimes", lambda: [runtime])
    monkeypatch.setattr(gpus, "DRIVER", runtime)
    monkeypatch.setenv("TEST_GPUS", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("named", "count"),
    [
        (None, 2),
        ("0", 1),
        ("1", 1),
        ("0,1", 2),
        (" 1, 0", 2),
        ("2", 0),
        ("0,2", 1),
        ("2,0", 0),
        ("0,0", 0),
        ("0,-1,1", 1),
        ("-1", 0),
        ("", 0),
        ("all", 0),
        ("none", 0),
        ("void", 0),
        ("NoDevFiles", 0),
        ("GPU-a", 1),
        ("GPU-a,GPU-b", 2),
        ("GPU-z", 0),
        ("GPU-a,1", 1),
        ("MIG-1", 1),
        ("MIG-1,MIG-2", 2),
        ("MIG-1,MIG-3,MIG-2", 1),
        ("MIG-3", 0),
    ],
)
def test_what_is_named_counts_if_cuda_has_it(two_gpus: pytest.MonkeyPatch, named: str | None, count: int) -> None:
    if named is not None:
        two_gpus.setenv("CUDA_VISIBLE_DEVICES", named)
    assert gpus.visible_gpus() == count


@pytest.mark.parametrize("code", ["35", "100", "802", "803"])
def test_a_driver_that_is_too_old_or_broken_has_none(two_gpus: pytest.MonkeyPatch, code: str) -> None:
    two_gpus.setenv("TEST_FAULT", code)
    assert gpus.visible_gpus() == 0


def test_without_a_driver_no_process_is_started(two_gpus: pytest.MonkeyPatch) -> None:
    two_gpus.setattr(gpus, "DRIVER", "libcuda-of-nobody.so.1")
    two_gpus.setattr(gpus, "_count", None)
    two_gpus.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpus.visible_gpus() == 0


def test_a_runtime_that_cannot_be_loaded_has_none(two_gpus: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "libcudart.so.99"
    broken.write_bytes(b"no library")
    two_gpus.setattr(gpus, "_runtimes", lambda: [str(broken)])
    assert gpus.visible_gpus() == 0


def test_a_driver_that_hangs_is_given_up(two_gpus: pytest.MonkeyPatch) -> None:
    two_gpus.setattr(gpus, "ANSWER_S", 0.3)
    two_gpus.setattr(gpus, "_ASK", "import time; time.sleep(60)")
    assert gpus.visible_gpus() == 0


def torch_of(folder: Path, version: str, beside: str | None) -> Path:
    (folder / "torch" / "lib").mkdir(parents=True)
    (folder / "torch" / "__init__.py").touch()
    (folder / "torch" / "version.py").write_text(version)
    if beside is not None:
        (folder / beside).parent.mkdir(parents=True, exist_ok=True)
        (folder / beside).touch()
    return folder


@pytest.mark.parametrize("beside", ["nvidia/cu13/lib/libcudart.so.13", "torch/lib/libcudart-a1b2.so.13", None])
def test_the_runtime_is_the_one_that_torch_loads(beside: str | None, tmp_path: Path) -> None:
    folder = torch_of(tmp_path, "cuda: Optional[str] = '13.2'\nhip: Optional[str] = None\n", beside)
    found = gpus.runtimes_beside([str(folder / "torch")])
    assert found == ([str(folder / beside)] if beside else []) + ["libcudart.so.13"]


@pytest.mark.parametrize("version", ["cuda: Optional[str] = None\nhip: Optional[str] = None\n", ""])
def test_a_torch_without_cuda_has_no_runtime(version: str, tmp_path: Path) -> None:
    assert gpus.runtimes_beside([str(torch_of(tmp_path, version, None) / "torch")]) == []
