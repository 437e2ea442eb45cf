"""The commands as a person types them: signals, exit codes, what stands on the screen."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import raysweep
from raysweep.backend.connection import CLOSED
from raysweep.metrics import TrialState
from tests.chaos.processes import marked
from tests.integration.conftest import TINY, call_raysweep, start_raysweep, wait_for


def test_a_sweep_is_stopped_by_ctrl_c_and_resumed_to_the_end_it_would_have_had(tmp_path: Path) -> None:
    """Points of a random sampler depend on the trial's number alone, so the undisturbed sweep is the same one."""
    text = (
        TINY.replace("tiny", "long")
        .replace("d_size: 4", "d_size: 4\n  epochs: 40")
        .replace("early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}", "sampler: random")
    )
    (tmp_path / "long.yaml").write_text(text)
    mark = ("RAYSWEEP_CACHE", str(tmp_path / "cache"))
    process = start_raysweep("run", "long.yaml", cwd=tmp_path, **dict([mark]))
    wait_for(tmp_path / "results/long/trials/0000/epoch-000003.safetensors")
    titles = marked(*mark).values()
    assert not [title for title in titles if re.search(r"/(dashboard|monitor|log_monitor)\.py", title)]
    workers = [title for title in titles if title.startswith("ray::") and "Agent" not in title]
    assert len(workers) == len(os.sched_getaffinity(0)), "trials have the processes that Ray starts beforehand"

    second = call_raysweep("resume", "results/long", cwd=tmp_path)
    assert second.returncode == 2
    assert f"another driver is at work here, process {process.pid}" in second.stderr
    status = call_raysweep("status", "results/long", cwd=tmp_path)
    assert status.stdout.startswith("long  running, ")

    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole process group
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 30
    assert process.returncode == 130, err
    assert "Stopped by Ctrl-C with " in out
    assert " trials to go. To go on, type:\n    raysweep resume results/long" in out
    assert "Traceback" not in out + err
    sweep = raysweep.open_sweep(tmp_path / "results/long")
    states = [record.state for record in sweep.records]
    assert TrialState.INTERRUPTED in states
    assert set(states) <= {TrialState.INTERRUPTED, TrialState.COMPLETED}
    assert pq.read_table(sweep.directory.trials_parquet).column("state").to_pylist() == [s.value for s in states]

    # the newest checkpoint of an unfinished trial is torn as well: it falls back to the one before
    unfinished = states.index(TrialState.INTERRUPTED)
    newest = max(sweep.directory.trial(unfinished).glob("epoch-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:1000])
    (tmp_path / "results").rename(tmp_path / "moved")
    resumed = call_raysweep("resume", "moved/long", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    sweep = raysweep.open_sweep(tmp_path / "moved/long")
    assert [record.state for record in sweep.records] == [TrialState.COMPLETED] * 5
    assert f"{newest.name}: is not a whole checkpoint" in sweep.directory.log.read_text()

    undisturbed = call_raysweep("run", "long.yaml", cwd=tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    timed = ["images_per_s", "epoch_s", "time_s", "recorded_at"]
    expected = raysweep.open_sweep(tmp_path / "results/long").epochs().drop_columns(timed)
    assert sweep.epochs().drop_columns(timed).equals(expected)

    again = call_raysweep("resume", "moved/long", cwd=tmp_path)
    assert (again.returncode, "nothing is left to do" in again.stdout) == (0, True)


def test_a_total_that_cannot_be_is_refused_and_the_sweep_stays_as_it_is(tmp_path: Path) -> None:
    grid = TINY.replace("{low: 1e-5, high: 1e-1, log: true}", "{choices: [1e-4, 1e-3]}").replace(
        "{low: 1e-3, high: 1e-2, log: true}", "3e-3"
    )
    grid = grid.replace("trials: 5", "sampler: grid").replace("enqueue: [{kld_weight: 1e-4, learning_rate: 3e-3}]", "")
    (tmp_path / "tiny.yaml").write_text(grid)
    assert call_raysweep("run", "tiny.yaml", cwd=tmp_path).returncode == 0
    for trials, expected in (("100", "the grid and enqueue have 2 points"), ("1", "a total can only grow")):
        refused = call_raysweep("resume", "results/tiny", "--trials", trials, cwd=tmp_path)
        assert refused.returncode == 2
        assert expected in refused.stderr
        assert "Traceback" not in refused.stderr
    assert "finished, 2 of 2 trials ended" in call_raysweep("status", "results/tiny", cwd=tmp_path).stdout


def test_a_sweep_without_any_result_says_why_and_fails(tmp_path: Path, tiny_file: Path) -> None:
    tiny_file.write_text(
        TINY.replace("learning_rate: {low: 1e-3, high: 1e-2, log: true}", "learning_rate: 1e+30").replace(
            ", learning_rate: 3e-3", ""
        )
    )
    ran = call_raysweep("run", tiny_file.name, "--trials", "2", cwd=tmp_path)
    assert ran.returncode == 1
    assert "diverged: trials 0, 1: train_loss was" in ran.stdout
    assert "No trial came to a result" in ran.stdout
    assert "diverged: trial" in call_raysweep("status", "results/tiny", cwd=tmp_path).stdout


def test_a_whole_session_of_commands(tmp_path: Path, tiny_file: Path) -> None:
    checked = call_raysweep("check", tiny_file.name, cwd=tmp_path)
    assert checked.returncode == 0
    for expected in (
        "1,797 images of 8x8 brought to 16x16, from digits.csv.gz",
        "kld_weight  1e-05 to 0.1, log scale",
        "a trial takes 1 CPU",
        "collapse   predicted from kld_weight 0.01",
    ):
        assert expected in checked.stdout

    ran = call_raysweep("run", tiny_file.name, "--trials", "2", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "[2/2]" in ran.stdout
    assert "\ncollapse predicted from kld_weight 0.01" in ran.stdout
    prediction = raysweep.open_sweep(tmp_path / "results/tiny").prediction
    assert prediction is not None
    assert prediction.critical_weight[0] == pytest.approx(0.015, rel=0.2)
    assert (prediction.active_at_low, prediction.active_at_high) == ((4, 4), (0, 0))
    assert "tensorboard --logdir results/tiny/report/tensorboard\n" in ran.stdout
    assert "http://localhost:6006/?smoothing=0" in ran.stdout
    assert '"Ignore outliers in chart scaling"' in ran.stdout

    refused = call_raysweep("run", tiny_file.name, cwd=tmp_path)
    assert refused.returncode == 2
    assert "raysweep resume results/tiny" in refused.stderr

    more = call_raysweep("resume", "results/tiny", "--trials", "3", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert pq.read_table(tmp_path / "results/tiny/report/trials.parquet").num_rows == 3

    best = json.loads(call_raysweep("best", "results/tiny", "--format", "json", cwd=tmp_path).stdout)
    assert best["metrics"]["elbo_nats"] == raysweep.open_sweep(tmp_path / "results/tiny").best()[0].final.elbo_nats
    assert "trial" in call_raysweep("best", "results/tiny", cwd=tmp_path).stdout
    assert call_raysweep("report", "results/tiny", cwd=tmp_path).returncode == 0
    assert call_raysweep("export", "results/tiny", "model", "--trial", "1", cwd=tmp_path).returncode == 0
    assert raysweep.load_model(tmp_path / "model").latent_size == 4
    listed = call_raysweep("data", "list", cwd=tmp_path)
    assert "1,797 images of 1x16x16 from digits.csv.gz" in listed.stdout


@pytest.mark.usefixtures("ray_here")
@pytest.mark.filterwarnings("default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning")
def test_ray_address_names_the_cluster_to_run_on(tmp_path: Path, tiny_file: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    there = {name: os.environ[name] for name in (*CLOSED, "RAY_AUTH_TOKEN")} | {"RAY_ADDRESS": address}
    checked = call_raysweep("check", tiny_file.name, cwd=tmp_path, **there)
    assert f"on the cluster at {address} (1 machine)" in checked.stdout, checked.stderr
    ran = call_raysweep("run", tiny_file.name, "--trials", "2", cwd=tmp_path, **there)
    assert ran.returncode == 0, ran.stderr
    assert len(ray.nodes()) == 1
    assert ray.cluster_resources()["CPU"] == len(os.sched_getaffinity(0)), "the cluster goes on without the sweep"


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "it asks for a token that is not this process's; set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, "it asks for a token that is not this process's"),
        (
            {"RAY_AUTH_MODE": "token"},
            "RAY_AUTH_MODE is token, and there is none; have the cluster's in ~/.ray/auth_token",
        ),
    ],
)
def test_a_cluster_whose_token_is_not_given_is_one_message(
    tmp_path: Path, tiny_file: Path, given: dict[str, str], said: str
) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    refused = call_raysweep("run", tiny_file.name, cwd=tmp_path, RAY_ADDRESS=address, **given)
    assert refused.returncode == 2
    assert f"Ray does not answer at RAY_ADDRESS={address}: {said}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_address_at_which_no_ray_answers_is_one_message(tmp_path: Path, tiny_file: Path) -> None:
    refused = call_raysweep("run", tiny_file.name, cwd=tmp_path, RAY_ADDRESS="127.0.0.1:1")
    assert refused.returncode == 2
    assert "Ray does not answer at RAY_ADDRESS=127.0.0.1:1" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "results").exists()


def test_what_can_never_be_scheduled_starts_nothing(tmp_path: Path, tiny_file: Path) -> None:
    tiny_file.write_text(TINY + "resources: {cpu: 512}\n")
    refused = call_raysweep("run", tiny_file.name, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("resources.cpu: a trial asks for 512")
    assert not (tmp_path / "results").exists()


def test_a_time_budget_ends_the_run_with_success(tmp_path: Path, tiny_file: Path) -> None:
    tiny_file.write_text(TINY.replace("max_epochs: 4", "max_epochs: 4000"))
    ended = call_raysweep("run", tiny_file.name, "--time-budget", "12s", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Stopped by the time budget" in ended.stdout
