"""Images of one's own for a trained model: prepared as the training images were, byte for byte."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

import raysweep
from raysweep.data.cache import open_cache, prepare
from raysweep.errors import DataError, ModelInputError
from raysweep.review.reading import read_images
from raysweep.spec.config import TrialConfig
from raysweep.spec.sections import DataSpec
from raysweep.vae.trained import TrainedVAE

FITS = get_args(DataSpec.model_fields["fit"].annotation)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of each kind that needs preparing, none of which is square."""
    top = tmp_path_factory.mktemp("images") / "my images"
    root = top / "a class"
    root.mkdir(parents=True)
    (top / "below").mkdir()
    draw = np.random.default_rng(0)
    colour = Image.fromarray(draw.integers(0, 256, (30, 20, 3), np.uint8))
    upright = Image.Exif()
    upright[0x0112] = 6  # lies on its side
    colour.save(root / "a photo.JPG", exif=upright)
    colour.save(root / "colour.png")
    colour.convert("L").save(root / "grey.png")
    colour.quantize(16).save(root / "palette.gif")
    Image.fromarray(draw.integers(0, 256, (25, 18, 4), np.uint8), "RGBA").save(root / "see through.png")
    Image.fromarray(draw.integers(0, 65536, (22, 31), np.uint16)).save(root / "sixteen bits.png")
    colour.crop((0, 0, 9, 30)).save(top / "below" / "narrow.webp", lossless=True)
    (root / ".hidden.png").write_bytes(b"")
    (root / "notes.txt").write_text("no image")
    return top


def model_of(data: dict[str, Any] | None, channels: int, size: int, **config: Any) -> TrainedVAE:
    """An untrained model that says its images were prepared so."""
    settings = TrialConfig(d_size=1, latent_size=2, hidden_size=2, conv_blocks="d/2", **config)
    model = TrainedVAE.from_config(settings, (channels, size, size))
    model.config, model.images, model.origin = settings, data, {}
    return model.eval()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", FITS)
def test_files_are_read_exactly_as_the_sweep_that_trains_on_them_prepares_them(
    folder: Path, fit: str, channels: int
) -> None:
    section = {"dataset": "folder", "root": str(folder), "image_size": 40, "channels": channels, "fit": fit}
    cache = open_cache(prepare(DataSpec.model_validate(section)))
    assert cache.info.count == 7
    trained_on = torch.from_numpy(np.concatenate(cache.chunks)).to(torch.float32).mul_(1 / 255)
    model = model_of(section, channels, 40)
    images = read_images(folder, model)
    assert images.dtype == torch.float32
    assert torch.equal(images, trained_on)
    one = read_images(str(folder / "a class" / "a photo.JPG"), model)
    assert torch.equal(one, trained_on[:1])
    two = [folder / "a class" / "grey.png", str(folder / "a class" / "colour.png")]
    assert torch.equal(read_images(two, model), trained_on[[2, 1]])
    assert model.encode(images)[0].shape == (7, 2)


def test_images_of_more_than_8_bits_are_scaled_as_those_of_the_folder_were(tmp_path: Path) -> None:
    """The folder's brightest pixel has 12 bits; alone, its darker image would be taken for one of 16."""
    (tmp_path / "images").mkdir()
    for name, brightest in (("dark", 900), ("bright", 4095)):
        values = np.linspace(0, brightest, 256).astype(np.uint16).reshape(16, 16)
        Image.fromarray(values).save(tmp_path / "images" / f"{name}.png")
    Image.fromarray(np.full((16, 16), 60_000, np.uint16)).save(tmp_path / "beyond.png")
    section = {"dataset": "folder", "root": str(tmp_path / "images"), "image_size": 16, "channels": 1}
    cache = open_cache(prepare(DataSpec.model_validate(section)), verify=True)
    trained_on = torch.from_numpy(np.concatenate(cache.chunks)).to(torch.float32).mul_(1 / 255)
    assert cache.info.spans == ((0, 4095), None)
    carried = json.loads(json.dumps({"fit": "resize", "spans": cache.info.spans}))
    model = model_of(carried, 1, 16)
    assert torch.equal(read_images(tmp_path / "images", model), trained_on)
    assert float(read_images(tmp_path / "beyond.png", model).min()) == 1.0, "brighter than all is white"
    with pytest.raises(ModelInputError, match=r"origin\.data\.spans"):
        read_images(tmp_path / "images", model_of({"fit": "resize", "spans": [1, 2, 3]}, 1, 16))


def test_a_model_of_binarised_images_is_given_black_and_white_pixels(folder: Path) -> None:
    grey = read_images(folder, model_of({"fit": "resize"}, 1, 16))
    assert torch.equal(
        read_images(folder, model_of({"fit": "resize"}, 1, 16, binarise="threshold")), (grey >= 0.5).float()
    )
    drawn = [read_images(folder, model_of({"fit": "resize"}, 1, 16, binarise="sampled")) for _ in range(2)]
    assert set(drawn[0].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(*drawn)


@pytest.mark.parametrize("data", [None, {}, {"dataset": "folder"}])
def test_an_export_that_does_not_say_how_its_images_were_prepared_says_what_it_lacks(
    folder: Path, data: dict[str, Any] | None
) -> None:
    model = model_of(data, 1, 16)
    with pytest.raises(ModelInputError, match=re.escape('say it yourself: read_images(path, model, fit="resize")')):
        read_images(folder, model)
    assert torch.equal(
        read_images(folder, model, fit="resize"), read_images(folder, model_of({"fit": "resize"}, 1, 16))
    )
    with pytest.raises(ModelInputError, match=r"fit: .*'resize'.*, got 'squash'"):
        read_images(folder, model, fit="squash")


def test_files_that_are_no_images_are_named(folder: Path, tmp_path: Path) -> None:
    model = model_of({"fit": "resize"}, 1, 16)
    (tmp_path / "torn.png").write_bytes((folder / "a class" / "colour.png").read_bytes()[:60])
    (tmp_path / "empty").mkdir()
    for path, says in [
        (tmp_path / "none.png", "none.png: there is no such file"),
        (tmp_path / "torn.png", "torn.png: cannot be decoded"),
        (folder / "a class" / "notes.txt", "notes.txt: cannot be decoded"),
        (tmp_path / "empty", "empty: holds no image; looked for .png"),
        ([tmp_path / "none.png"], "none.png: there is no such file"),
        ([], "path: is an empty list"),
    ]:
        with pytest.raises(DataError, match=re.escape(says)):
            read_images(path, model)  # type: ignore[arg-type]
    with pytest.raises(ModelInputError, match=r"model: must be what raysweep\.load_model returned, got str"):
        read_images(folder, "exported/kld")  # type: ignore[arg-type]


def test_reading_is_a_public_name() -> None:
    assert raysweep.read_images is read_images
