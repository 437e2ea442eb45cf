from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.util import tensor_util

from raysweep.metrics import METRICS, TrialState
from raysweep.report.figures.gallery import Figure
from raysweep.report.tensorboard import writer
from raysweep.report.tensorboard.hparams import EPOCHS_TAG, scalar_tag
from raysweep.report.tensorboard.writer import TensorBoardWriter, rebuild
from raysweep.spec.loading import parse_spec
from raysweep.storage.layout import SweepDirectory


def read(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run), size_guidance={"tensors": 0}).Reload()


def scalars(run: Path, tag: str) -> list[tuple[int, float]]:
    """(step, value) of each point, as TensorBoard's own reader has them."""
    return [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in read(run).Tensors(tag)]


def test_a_live_reader_sees_each_epoch_at_once(tmp_path, record, spec):
    live = TensorBoardWriter(SweepDirectory(tmp_path), spec)
    whole = record(3, (1.0, 2.0, math.nan))
    for done in (1, 2, 3):
        live.add_epoch(replace(whole, state=TrialState.RUNNING, epochs=whole.epochs[:done]))
        points = scalars(SweepDirectory(tmp_path).tensorboard / "0003", "Objective/elbo_nats")
        assert [step for step, _ in points] == list(range(1, done + 1))
    assert [value for _, value in points[:2]] == [1.0, 2.0]
    assert math.isnan(points[2][1])
    live.close()


def test_of_very_many_trials_the_best_keep_their_runs(tmp_path, record, spec, monkeypatch):
    monkeypatch.setattr(writer, "MOST_RUNS", 3)
    directory = SweepDirectory(tmp_path)
    records = [record(n, (value,)) for n, value in enumerate([5.0, 1.0, 9.0, 7.0, math.nan, 8.0])]
    given, stopped = record(6, (0.0,), enqueued=True), record(7, (99.0,), TrialState.PRUNED)
    running = record(8, (-5.0,), TrialState.RUNNING)
    with TensorBoardWriter(directory, spec) as live:
        live.add_epoch(running)
        for one in (given, stopped, *records):
            live.add_epoch(one)
            live.finish_trial(one)
    wanted = ["0002", "0003", "0005", "0006", "0008", "sweep"]
    assert sorted(run.name for run in directory.tensorboard.iterdir()) == wanted
    ended = [replace(running, state=TrialState.COMPLETED), *records, given, stopped]
    with TensorBoardWriter(directory, spec, ended) as again:
        again.finish_trial(record(9, (8.5,)))
    wanted = ["0002", "0005", "0006", "0009", "sweep"]
    assert sorted(run.name for run in directory.tensorboard.iterdir()) == wanted
    rebuild(directory, spec, ended)
    assert sorted(run.name for run in directory.tensorboard.iterdir()) == ["0002", "0003", "0005", "0006", "sweep"]


def test_a_trial_that_is_paused_has_each_epoch_once_when_it_goes_on_even_if_its_run_has_gone(
    tmp_path, record, spec, monkeypatch
):
    monkeypatch.setattr(writer, "MOST_RUNS", 2)
    directory = SweepDirectory(tmp_path)
    whole = record(0, (1.0, 2.0, 3.0))
    with TensorBoardWriter(directory, spec) as live:
        for done in (1, 2):
            live.add_epoch(replace(whole, state=TrialState.RUNNING, epochs=whole.epochs[:done]))
        live.pause_trial(replace(whole, state=TrialState.PAUSED, epochs=whole.epochs[:2], ended_at=None))
        assert list(live._files) == ["sweep"], "it holds no file open"
        assert [step for step, _ in scalars(directory.tensorboard / "0000", "Objective/elbo_nats")] == [1, 2]
        for better in (record(1, (8.0,)), record(2, (9.0,))):
            live.add_epoch(better)
            live.finish_trial(better)
        assert not (directory.tensorboard / "0000").exists()
        live.add_epoch(whole)
        live.finish_trial(whole)
    with TensorBoardWriter(directory, spec, [whole]):
        pass
    points = scalars(directory.tensorboard / "0000", "Objective/elbo_nats")
    assert points == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_every_metric_has_a_tag_of_its_own_and_real_times(tmp_path, record, spec):
    one = record(0, (1.0,))
    with TensorBoardWriter(SweepDirectory(tmp_path), spec) as writer:
        writer.add_epoch(one)
    tags = {scalar_tag(name) for name in METRICS}
    assert len(tags) == len(METRICS)
    events = read(SweepDirectory(tmp_path).tensorboard / "0000")
    assert {*tags, EPOCHS_TAG, "Objective/elbo_nats"} <= set(events.Tags()["tensors"])
    assert events.Tensors("training/train_loss")[0].wall_time == one.epochs[0].recorded_at.timestamp()


def test_a_number_too_large_for_tensorboard_is_infinite_there(tmp_path, record, spec):
    with TensorBoardWriter(SweepDirectory(tmp_path), spec) as writer:
        writer.add_epoch(record(0, (-1e300,)))
    assert scalars(SweepDirectory(tmp_path).tensorboard / "0000", "Objective/elbo_nats") == [(1, -math.inf)]


def test_pictures_are_enlarged_and_a_missing_one_is_left_out(tmp_path, record, spec, draw_pictures):
    directory = SweepDirectory(tmp_path)
    one = record(0)
    draw_pictures(directory, spec, [one])
    directory.samples(0).unlink()
    with TensorBoardWriter(directory, spec) as writer:
        writer.add_epoch(one)
        writer.finish_trial(one)
    events = read(directory.tensorboard / "0000")
    assert "samples" not in events.Tags()["tensors"]
    (event,) = events.Tensors("reconstructions")
    width, height, png = tensor_util.make_ndarray(event.tensor_proto).tolist()
    with Image.open(directory.reconstructions(0)) as picture:
        small = picture.size
    assert Image.open(io.BytesIO(png)).size == (int(width), int(height)) == (small[0] * 4, small[1] * 4)
    assert event.step == 3


def test_the_text_of_a_trial_says_how_it_ended(tmp_path, sweep_records, spec):
    with TensorBoardWriter(SweepDirectory(tmp_path), spec) as writer:
        writer.finish_trial(sweep_records[3])
    text = (
        tensor_util.make_ndarray(read(SweepDirectory(tmp_path).tensorboard / "0003").Tensors("trial")[0].tensor_proto)
        .tolist()[0]
        .decode()
    )
    assert "**failed**: ValueError: no" in text
    assert "Traceback" in text
    assert f"| hidden_size | **{sweep_records[3].config.hidden_size}** |" in text


def test_a_writer_goes_on_where_a_rebuild_ended(tmp_path, record, spec):
    directory = SweepDirectory(tmp_path)
    running = record(0, (1.0, 2.0), TrialState.INTERRUPTED)
    rebuild(directory, spec, [running])
    whole = record(0, (1.0, 2.0, 3.0))
    with TensorBoardWriter(directory, spec, [running]) as writer:
        writer.add_epoch(whole)
        writer.finish_trial(whole)
    assert scalars(directory.tensorboard / "0000", "Objective/elbo_nats") == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_writer_shows_earlier_trials_that_have_no_run(tmp_path, sweep_records, spec):
    TensorBoardWriter(SweepDirectory(tmp_path), spec, sweep_records).close()
    assert sorted(path.name for path in SweepDirectory(tmp_path).tensorboard.iterdir()) == [
        *(f"{n:04d}" for n in range(12)),
        "sweep",
    ]
    assert scalars(SweepDirectory(tmp_path).tensorboard / "0000", "Objective/elbo_nats") == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
    ]


def test_a_rebuild_replaces_what_was_there_and_leaves_nothing_beside(tmp_path, record, spec):
    directory = SweepDirectory(tmp_path)
    rebuild(directory, spec, [record(0), record(1)])
    rebuild(directory, spec, [record(1)])
    assert sorted(path.name for path in directory.tensorboard.iterdir()) == ["0001", "sweep"]
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_rebuild_under_a_live_writer_loses_no_later_epoch(tmp_path, record, spec):
    directory = SweepDirectory(tmp_path)
    with TensorBoardWriter(directory, spec) as writer:
        writer.add_epoch(record(0, (1.0,)))
        rebuild(directory, spec, [record(0, (1.0,), TrialState.RUNNING)])
        writer.add_epoch(record(0, (1.0, 2.0)))
    assert scalars(directory.tensorboard / "0000", "Objective/elbo_nats") == [(1, 1.0), (2, 2.0)]


def test_figures_go_into_the_run_of_the_sweep(tmp_path, spec):
    path = tmp_path / "figure.png"
    Image.new("RGB", (30, 20)).save(path)
    with TensorBoardWriter(SweepDirectory(tmp_path / "tb"), spec) as writer:
        writer.add_figures([Figure("curves", "A title", path, "How to read it.")])
    (event,) = read(SweepDirectory(tmp_path / "tb").tensorboard / "sweep").Tensors("figures/curves")
    assert tensor_util.make_ndarray(event.tensor_proto).tolist()[:2] == [b"30", b"20"]


def test_the_objective_is_the_first_of_all_tags_and_the_figures_begin_with_the_sweep_not_the_latents(
    tmp_path, record, spec, draw_pictures, draw_tested_pictures, final_metrics
):
    path = tmp_path / "figure.png"
    Image.new("RGB", (30, 20)).save(path)
    directory = SweepDirectory(tmp_path / "sweep")
    one = record(0, tested=final_metrics())
    draw_pictures(directory, spec, [one])
    draw_tested_pictures(directory, spec, [one])
    names = ("latent_kl", "latents", "learning_curves", "objective", "profile")
    rebuild(directory, spec, [one], [Figure(name, "A title", path, "How to read it.") for name in names])
    runs = [read(directory.tensorboard / run).Tags()["tensors"] for run in ("0000", "sweep")]
    # TensorBoard orders tags as Python orders their characters, but for numbers, `_` and `/`.
    tags = sorted(tag for tags in runs for tag in tags if not tag.startswith("_"))
    assert tags[:3] == ["Objective/elbo_nats", "figures/learning_curves", "figures/objective"]
    assert {"latents/latent_kl", "latents/latents"} <= set(tags)


def images(run: Path, tag: str) -> list[tuple[int, tuple[int, int]]]:
    """(step, size) of each picture under a tag."""
    found = []
    for event in read(run).Tensors(tag):
        width, height, png = tensor_util.make_ndarray(event.tensor_proto).tolist()
        assert Image.open(io.BytesIO(png)).size == (int(width), int(height))
        found.append((event.step, (int(width), int(height))))
    return found


def test_reconstructions_by_epoch_begin_with_the_inputs(tmp_path, record, spec, draw_tested_pictures):
    directory = SweepDirectory(tmp_path)
    whole = record(0, (1.0, 2.0, 3.0))
    draw_tested_pictures(directory, spec, [whole])
    directory.epoch_reconstructions(0, 2).unlink()
    with TensorBoardWriter(directory, spec) as writer:
        for done in (1, 2, 3):
            writer.add_epoch(replace(whole, state=TrialState.RUNNING, epochs=whole.epochs[:done]))
    live = images(directory.tensorboard / "0000", "reconstructions_by_epoch")
    assert [step for step, _ in live] == [0, 1, 3]
    rebuild(directory, spec, [whole])
    assert images(directory.tensorboard / "0000", "reconstructions_by_epoch") == live


TESTED_PICTURES = {
    "interpolations", "traversals", "samples_shifted", "samples_mixture", "reconstructions_sampled", "latents",
}  # fmt: skip


@pytest.mark.parametrize("live", [True, False])
def test_a_tested_trial_has_its_final_metrics_and_their_pictures(
    tmp_path, record, spec, final_metrics, draw_pictures, draw_tested_pictures, live
):
    directory = SweepDirectory(tmp_path)
    one = record(0, tested=final_metrics(silhouette=None))
    draw_pictures(directory, spec, [one])
    draw_tested_pictures(directory, spec, [one])
    if live:
        with TensorBoardWriter(directory, spec) as writer:
            writer.finish_trial(replace(one, tested=None))
            writer.add_tested(one)
    else:
        rebuild(directory, spec, [one])
    run = directory.tensorboard / "0000"
    tags = set(read(run).Tags()["tensors"])
    assert tags >= TESTED_PICTURES | {"reconstructions", "samples"}
    assert all(step == 3 for tag in TESTED_PICTURES for step, _ in images(run, tag))
    assert scalars(run, "test/kid") == [(3, 1.5)]
    assert scalars(run, "test/floor_kid") == [(3, pytest.approx(0.01))]
    assert not {"test/silhouette", "test/features", "test/latent_kl_nats"} & tags
    pages = [tensor_util.make_ndarray(e.tensor_proto).tolist()[0].decode() for e in read(run).Tensors("trial")]
    assert "| kid | 1.5 | 0.01 |" in pages[-1]
    assert "| mixture_kid | 0.5 | 0.01 |" in pages[-1]
    assert "| mse | 0.02 |  |" in pages[-1]
    assert "| sample_sharpness | 0.008 | 0.03 |" in pages[-1]
    assert ("| kid |" in pages[0]) is not live


def test_a_damaged_table_of_latents_costs_no_more_than_its_picture(tmp_path, record, spec, draw_tested_pictures):
    directory = SweepDirectory(tmp_path)
    one = record(0)
    draw_tested_pictures(directory, spec, [one])
    directory.latents(0).write_bytes(b"no table")
    rebuild(directory, spec, [one])
    tags = set(read(directory.tensorboard / "0000").Tags()["tensors"])
    assert "latents" not in tags
    assert tags >= TESTED_PICTURES - {"latents"}


def test_text_about_the_sweep_goes_into_its_run(tmp_path, spec):
    directory = SweepDirectory(tmp_path)
    with TensorBoardWriter(directory, spec) as writer:
        writer.add_text("findings", "# What was found")
    (event,) = read(directory.tensorboard / "sweep").Tensors("findings")
    assert tensor_util.make_ndarray(event.tensor_proto).tolist() == [b"# What was found"]


def get(url: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


@pytest.fixture
def serve(tmp_path):
    """Starts TensorBoard on a directory and returns its address."""
    servers = []

    def start(logdir: Path) -> str:
        log = tmp_path / "tensorboard.log"
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir, "--host", "127.0.0.1", "--port", "0"]
        with log.open("w") as file:
            server = subprocess.Popen(list(map(str, command)), stdout=file, stderr=file)
        servers.append(server)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and server.poll() is None:
            found = re.search(r"at (http://127\.0\.0\.1:\d+)/", log.read_text())
            if found:
                return found[1]
            time.sleep(0.1)
        pytest.fail(f"TensorBoard did not start:\n{log.read_text()}")

    yield start
    for server in servers:
        server.terminate()
        server.wait(20)


STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


def session_groups(address: str, count: int) -> dict[str, dict]:
    """Every session group by name, once the server has loaded `count` of them with all they have."""
    body = {"startIndex": 0, "sliceSize": 1000, "allowedStatuses": STATUSES, "colParams": []}
    groups: dict[str, dict] = {}
    before = None
    for _ in range(300):
        reply = get(f"{address}/data/plugin/hparams/session_groups", body)
        groups = {group["name"]: group for group in reply.get("sessionGroups", [])}
        if len(groups) == count and groups == before:
            return groups
        before = groups
        time.sleep(0.2)
    return groups


def test_a_real_tensorboard_lists_every_trial(tmp_path, sweep_records, spec, draw_pictures, serve, final_metrics):
    directory = SweepDirectory(tmp_path / "sweep")
    # Of some trials alone, as in a sweep: the others must not be hidden.
    sweep_records = [replace(r, tested=final_metrics() if r.number in (0, 9) else None) for r in sweep_records]
    draw_pictures(directory, spec, sweep_records)
    rebuild(directory, spec, sweep_records)
    address = serve(directory.report)
    groups = session_groups(address, len(sweep_records))
    assert sorted(groups) == [f"tensorboard/{n:04d}" for n in range(12)]  # the paths of their runs
    groups = {Path(name).name: group for name, group in groups.items()}

    status = {name: group["sessions"][0].get("status", "STATUS_UNKNOWN") for name, group in groups.items()}
    assert [status[f"{n:04d}"] for n in range(7)] == [
        "STATUS_SUCCESS", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_FAILURE", "STATUS_FAILURE",
        "STATUS_UNKNOWN", "STATUS_UNKNOWN",
    ]  # fmt: skip
    for one in sweep_records:
        hparams = groups[f"{one.number:04d}"]["hparams"]
        assert hparams["kld_weight"] == one.config.kld_weight
        assert hparams["likelihood"] == one.config.likelihood
        assert hparams["max_gradient_norm"] == ("none" if one.number % 2 == 0 else "1.0")
        values = {v["name"]["tag"]: v["value"] for v in groups[f"{one.number:04d}"].get("metricValues", [])}
        if one.final is None:
            assert values == {}
        else:
            tested = {tag for tag in values if tag.startswith("test/")}
            assert set(values) - tested == {EPOCHS_TAG, *(scalar_tag(name) for name in METRICS)}
            assert ("test/kid" in tested) is (one.tested is not None)
            assert values[EPOCHS_TAG] == len(one.epochs)
            assert str(values["likelihood/elbo_nats"]).lower() == str(one.final.elbo_nats)

    experiment = get(f"{address}/data/plugin/hparams/experiment", {"experimentName": ""})
    infos = {info["name"]: info for info in experiment["hparamInfos"]}
    assert infos["kld_weight"]["domainInterval"] == {"minValue": 1e-5, "maxValue": 0.1}
    assert infos["likelihood"]["domainDiscrete"] == ["gaussian", "calibrated_gaussian"]
    assert infos["max_gradient_norm"]["domainDiscrete"] == ["none", "1.0"]
    assert experiment["metricInfos"][0]["displayName"] == "elbo_nats [nats/image]"

    tags = get(f"{address}/data/plugin/images/tags")
    assert set(tags["tensorboard/0000"]) == {"reconstructions", "samples"}


def hparams_rows(logdir: Path) -> dict[str, tuple[dict[str, object], dict[str, float]]]:
    """The rows of the HParams table by name, (parameters, metrics by tag) each, as TensorBoard's own code has them."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(logdir))
    context = backend_context.Context(TBContext(logdir=str(logdir), data_provider=provider))
    request = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=1000)
    request.allowed_statuses.extend(getattr(api_pb2, status) for status in STATUSES)
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    return {
        group.name: (
            {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()},
            {value.name.tag: value.value for value in group.metric_values},
        )
        for group in groups
    }


def test_over_several_sweeps_of_one_name_each_trial_is_a_row_with_its_own_values(tmp_path, record, spec):
    short, long = SweepDirectory(tmp_path / "monday" / "kld"), SweepDirectory(tmp_path / "tuesday" / "kld")
    rebuild(short, spec, [record(n, [1.0] * 2) for n in range(3)])
    # Written live, then by a session that goes on with it.
    with TensorBoardWriter(long, spec) as live:
        for n in range(2):
            live.add_epoch(record(n, [2.0], TrialState.RUNNING))
    rebuild(long, spec, [record(n, [2.0] * 8) for n in range(2)])
    with TensorBoardWriter(long, spec, [record(n, [2.0] * 8) for n in range(2)]) as again:
        again.add_epoch(record(2, [2.0] * 8))
    shutil.copytree(short.root, tmp_path / "copy")
    rows = hparams_rows(tmp_path)
    epochs = {name: metrics[EPOCHS_TAG] for name, (_, metrics) in rows.items()}
    wanted = [("monday/kld", 2), ("tuesday/kld", 8), ("copy", 2)]
    assert epochs == {f"{at}/report/tensorboard/{n:04d}": done for at, done in wanted for n in range(3)}


def test_sweeps_of_other_objectives_and_searched_parameters_fill_the_same_columns(tmp_path, record, spec):
    other = parse_spec(
        "name: other\ndata: {dataset: digits, image_size: 16}\n"
        "trial: {latent_size: {choices: [2, 8]}, kld_weight: 0.02}\n"
        "search: {objective: {metric: psnr_db, mode: max}}"
    )
    rebuild(SweepDirectory(tmp_path / "a"), spec, [record(0)])
    rebuild(SweepDirectory(tmp_path / "b"), other, [record(0, params={"latent_size": 8}, of=other)])
    params, metrics = hparams_rows(tmp_path)["b/report/tensorboard/0000"]
    assert (params["kld_weight"], params["latent_size"], params["likelihood"]) == (0.02, 8, "gaussian")
    assert metrics["likelihood/elbo_nats"] == 20.0
    assert metrics["reconstruction/psnr_db"] == 17.0


def test_the_domain_of_whole_numbers_is_numeric(tmp_path, serve):
    spec = parse_spec("name: a\ndata: {dataset: digits}\ntrial: {latent_size: {choices: [2, 8]}}")
    TensorBoardWriter(SweepDirectory(tmp_path / "tb"), spec).close()
    address = serve(SweepDirectory(tmp_path / "tb").tensorboard)
    for _ in range(100):
        experiment = get(f"{address}/data/plugin/hparams/experiment", {"experimentName": ""})
        if experiment.get("hparamInfos"):
            break
        time.sleep(0.2)
    (info,) = experiment["hparamInfos"]
    assert (info["type"], info["domainDiscrete"]) == ("DATA_TYPE_FLOAT64", [2.0, 8.0])
