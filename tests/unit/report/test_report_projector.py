from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from werkzeug.test import Client
from werkzeug.wrappers import Response

from raysweep.report.latents import sprite_sheet, write_latents
from raysweep.report.tensorboard import projector
from raysweep.report.tensorboard.projector import choose_projected, write_projector
from raysweep.report.tensorboard.writer import TensorBoardWriter, rebuild
from raysweep.storage.layout import SweepDirectory


def plugin(logdir):
    """The Projector's own server."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(logdir))
    apps = ProjectorPlugin(TBContext(logdir=str(logdir), data_provider=provider)).get_plugin_apps()

    def get(route, **query):
        response = Client(apps[route], Response).get(route, query_string=query)
        assert response.status_code == 200, response.get_data()
        return response.get_data()

    return get


def test_the_projector_serves_the_best_trials_with_classes_and_images(
    tmp_path, sweep_records, spec, draw_pictures, draw_tested_pictures, latent_means
):
    directory = SweepDirectory(tmp_path)
    draw_pictures(directory, spec, sweep_records)
    with_latents = [one for one in sweep_records if one.number != 10]
    draw_tested_pictures(directory, spec, with_latents)
    rebuild(directory, spec, sweep_records)
    get = plugin(directory.tensorboard)
    assert json.loads(get("/runs")) == ["sweep"]
    embeddings = json.loads(get("/info", run="sweep"))["embeddings"]
    names = [embedding["tensorName"] for embedding in embeddings]
    assert names == sorted(names)  # as the Projector sorts them, which opens with the first
    assert names == [
        "1. trial 11, elbo_nats 33", "2. trial 9, elbo_nats 27", "3. trial 8, elbo_nats 24",
        "4. trial 7, elbo_nats 21", "5. trial 0, elbo_nats 3",
    ]  # fmt: skip
    assert embeddings[0]["tensorShape"] == [30, 3]  # the Projector shows no point of fewer dimensions
    assert embeddings[0]["sprite"]["singleImageDim"] == [16, 16]
    values = np.frombuffer(get("/tensor", run="sweep", name=names[0]), np.float32).reshape(30, 3)
    np.testing.assert_allclose(values[:, :2], latent_means[:, [2, 0]], rtol=1e-3)
    assert not values[:, 2].any()
    lines = get("/metadata", run="sweep", name=names[0]).decode().splitlines()
    assert lines[:3] == ["label\tsplit\timage", "class 0\ttrain\t0", "class 1\ttrain\t1"]
    assert len(lines) == 31
    assert get("/sprite_image", run="sweep", name=names[0]) == directory.sprites(11).read_bytes()


def test_a_trial_without_active_latents_is_left_out_of_the_projector(
    tmp_path, sweep_records, spec, draw_pictures, draw_tested_pictures, latent_means
):
    directory = SweepDirectory(tmp_path)
    draw_pictures(directory, spec, sweep_records)
    draw_tested_pictures(directory, spec, sweep_records)
    names = ["0"] * 30
    for number in (0, 11):  # the best one has collapsed, and the run of trial 0 is the first by name
        write_latents(directory.latents(number), latent_means * 0.05, np.zeros(3), names, ["test"] * 30, range(30))
    directory.latents(10).write_bytes(b"no table")
    rebuild(directory, spec, sweep_records)
    embeddings = json.loads(plugin(directory.tensorboard)("/info", run="sweep"))["embeddings"]
    shown = [embedding["tensorName"].split(",")[0] for embedding in embeddings]
    assert shown == ["1. trial 9", "2. trial 8", "3. trial 7", "4. trial 5", "5. trial 6"]


def test_a_sweep_in_which_every_trial_collapsed_has_no_projector(
    tmp_path, record, spec, draw_tested_pictures, latent_means
):
    directory = SweepDirectory(tmp_path)
    draw_tested_pictures(directory, spec, [record(0)])
    rebuild(directory, spec, [record(0)])
    get = plugin(directory.tensorboard)
    assert json.loads(get("/runs")) == ["sweep"]
    write_latents(directory.latents(0), latent_means * 0, np.zeros(3), None, ["test"] * 30, range(30))
    with TensorBoardWriter(directory, spec, [record(0)]) as writer:  # on top of what was shown before
        writer.add_projections([record(0)])
    assert json.loads(plugin(directory.tensorboard)("/runs")) == []
    assert not list((directory.tensorboard / "sweep" / projector.FOLDER).iterdir())


def write(tmp_path, means, kl_nats):
    """The Projector's files of one trial, in a run of their own; the run."""
    directory = SweepDirectory(tmp_path)
    write_latents(directory.latents(0), means, kl_nats, None, ["test"] * len(means), range(len(means)))
    return directory, tmp_path / "sweep"


def test_fewer_than_three_latents_are_filled_up_with_zeros(tmp_path, record):
    means = np.array([[2.0], [1.0], [-1.0], [0.5]], np.float32)
    directory, run = write(tmp_path, means, np.ones(1))
    write_projector(run, choose_projected(directory, [record(0)], "elbo_nats"))
    get = plugin(run)
    (config,) = json.loads(get("/info", run="."))["embeddings"]
    assert config["tensorShape"] == [4, 3]
    assert "sprite" not in config
    values = np.frombuffer(get("/tensor", run=".", name=config["tensorName"]), np.float32).reshape(4, 3)
    np.testing.assert_array_equal(values, np.pad(means, ((0, 0), (0, 2))))


def test_a_large_sheet_is_halved(tmp_path, monkeypatch, latent_means, record):
    monkeypatch.setattr(projector, "MAX_SPRITE_BYTES", 1000)
    directory, run = write(tmp_path, latent_means, np.ones(3))
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    directory.sprites(0).write_bytes(sprite_sheet(images))
    write_projector(run, choose_projected(directory, [record(0)], "elbo_nats"))
    with Image.open(run / "projector" / "0000" / "sprites.png") as sheet:
        assert sheet.size == (24, 24)
    assert "single_image_dim: [4, 4]" in (run / projector.CONFIG).read_text()


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_broken_sheet_leaves_points(tmp_path, latent_means, content, record):
    directory, run = write(tmp_path, latent_means, np.ones(3))
    directory.sprites(0).write_bytes(content)
    write_projector(run, choose_projected(directory, [record(0)], "elbo_nats"))
    config = (run / projector.CONFIG).read_text()
    assert "latents.tsv" in config
    assert "sprite" not in config
