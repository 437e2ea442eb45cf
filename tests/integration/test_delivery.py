"""The prepared images on a cluster whose machines share no directory: once a machine, whole, before its first trial."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import raysweep
from raysweep.data.cache import open_cache
from raysweep.metrics import TrialState
from tests.integration.conftest import TINY, Machines, call_raysweep
from tests.s3server import BUCKET, s3_server

SPACE = TINY.replace("early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}", "sampler: random")
SPACE = SPACE.replace("d_size: 4", "d_size: 4\n  epochs: 6").replace("trials: 5", "trials: 6")


def fetches(log: str) -> list[str]:
    return re.findall(r"(\S+\.arrow): fetched from", log)


def test_each_machine_fetches_the_images_once_and_a_damaged_copy_again(machines: Machines, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPACE)
    here = call_raysweep("data", "prepare", "digits", "--image-size", "16", cwd=tmp_path, RAYSWEEP_CACHE="driver")
    assert here.returncode == 0, here.stderr
    (prepared,) = (tmp_path / "driver").glob("*.arrow")
    first, second = machines.add(), machines.add()
    second.mkdir()
    damaged = bytearray(prepared.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (second / prepared.name).write_bytes(damaged)

    ran = call_raysweep(
        "run", "tiny.yaml", "--output", "kld", cwd=tmp_path, RAYSWEEP_CACHE="driver", RAY_ADDRESS=machines.nodes.address
    )
    assert ran.returncode == 0, ran.stderr
    sweep = raysweep.open_sweep(tmp_path / "kld")
    assert [record.state for record in sweep.records] == [TrialState.COMPLETED] * 6
    log = sweep.directory.log.read_text()
    assert sorted(fetches(log)) == [str(first / prepared.name), str(second / prepared.name)]
    assert "its content does not match its checksum" in log
    for cache in (first, second):
        assert open_cache(cache / prepared.name, verify=True).info.checksum == open_cache(prepared).info.checksum

    late = machines.add()
    more = call_raysweep(
        "resume", "kld", "--trials", "12", cwd=tmp_path, RAYSWEEP_CACHE="driver", RAY_ADDRESS=machines.nodes.address
    )
    assert more.returncode == 0, more.stderr
    assert sorted(fetches(sweep.directory.log.read_text())) == sorted(
        str(cache / prepared.name) for cache in (first, second, late)
    )
    assert len(raysweep.open_sweep(tmp_path / "kld").records) == 12


def test_a_sweep_in_a_bucket_has_its_images_there_for_machines_and_for_a_new_driver(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The raw images are on the machine of the first driver alone."""
    from PIL import Image

    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(60):
        Image.new("L", (16, 16), color=4 * number).save(raw / f"{number:02d}.png")
    (tmp_path / "folder.yaml").write_text(
        SPACE.replace("dataset: digits", f"dataset: folder, root: {raw}, channels: 1")
    )
    with s3_server() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        uri = f"s3://{BUCKET}/folder"
        node = machines.add(AWS_ENDPOINT_URL=address, AWS_DEFAULT_REGION="us-east-1")
        ran = call_raysweep(
            "run", "folder.yaml", "--output", uri,
            cwd=tmp_path, RAYSWEEP_CACHE="driver", RAY_ADDRESS=machines.nodes.address,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        raw.rename(tmp_path / "elsewhere")
        more = call_raysweep(
            "resume", uri, "--trials", "8", cwd=tmp_path, RAYSWEEP_CACHE="other", RAY_ADDRESS=machines.nodes.address
        )
        assert more.returncode == 0, more.stderr
        monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "third"))
        sweep = raysweep.open_sweep(uri)
    assert [record.state for record in sweep.records] == [TrialState.COMPLETED] * 8
    (copy,) = (tmp_path / "other" / "sweeps").glob("folder-*")
    log = (copy / "raysweep.log").read_text()
    assert f"fetched from {uri}/data/folder-" in log
    assert all(name.startswith(str(node)) for name in fetches(log))
