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

from raysweep.layout import SweepDirectory
from raysweep.report.latents import sprite_sheet, write_latents
from raysweep.report.tensorboard import projector
from raysweep.report.tensorboard.projector import write_projection
from raysweep.report.tensorboard.writer import rebuild


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
    assert sorted(json.loads(get("/runs"))) == ["0000", "0007", "0008", "0009", "0011"]
    config = json.loads(get("/info", run="0011"))["embeddings"][0]
    assert config["tensorName"] == "active latents"
    assert config["tensorShape"] == [30, 3]  # the Projector shows no point of fewer dimensions
    assert config["sprite"]["singleImageDim"] == [16, 16]
    values = np.frombuffer(get("/tensor", run="0011", name="active latents"), np.float32).reshape(30, 3)
    np.testing.assert_allclose(values[:, :2], latent_means[:, [2, 0]], rtol=1e-3)
    assert not values[:, 2].any()
    lines = get("/metadata", run="0011", name="active latents").decode().splitlines()
    assert lines[:3] == ["label\tsplit\timage", "class 0\ttrain\t0", "class 1\ttrain\t1"]
    assert len(lines) == 31
    assert get("/sprite_image", run="0011", name="active latents") == directory.sprites(11).read_bytes()


@pytest.mark.parametrize("means", [np.zeros((4, 3), np.float32), np.full((4, 1), 2.0, np.float32)])
def test_latents_that_are_all_one_do_not_stop_the_projector(tmp_path, means):
    write_latents(tmp_path / "latents.parquet", means, np.zeros(means.shape[1]), None, ["test"] * 4, range(4))
    run = tmp_path / "runs" / "0000"
    write_projection(run, tmp_path / "latents.parquet", tmp_path / "none.png")
    get = plugin(run)
    config = json.loads(get("/info", run="."))["embeddings"][0]
    assert config["tensorShape"] == [4, 3]
    assert "sprite" not in config
    values = np.frombuffer(get("/tensor", run=".", name="latents"), np.float32)
    np.testing.assert_array_equal(values.reshape(4, 3)[:, : means.shape[1]], means)


def test_a_large_sheet_is_halved(tmp_path, monkeypatch, latent_means):
    monkeypatch.setattr(projector, "MAX_SPRITE_BYTES", 1000)
    write_latents(tmp_path / "latents.parquet", latent_means, np.ones(3), None, ["test"] * 30, range(30))
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    (tmp_path / "sprites.png").write_bytes(sprite_sheet(images))
    write_projection(tmp_path / "0000", tmp_path / "latents.parquet", tmp_path / "sprites.png")
    with Image.open(tmp_path / "0000" / "sprites.png") as sheet:
        assert sheet.size == (24, 24)
    assert "single_image_dim: [4, 4]" in (tmp_path / "0000" / projector.CONFIG).read_text()


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_broken_sheet_leaves_points(tmp_path, latent_means, content):
    write_latents(tmp_path / "latents.parquet", latent_means, np.ones(3), None, ["test"] * 30, range(30))
    (tmp_path / "sprites.png").write_bytes(content)
    write_projection(tmp_path / "0000", tmp_path / "latents.parquet", tmp_path / "sprites.png")
    assert "sprite" not in (tmp_path / "0000" / projector.CONFIG).read_text()
