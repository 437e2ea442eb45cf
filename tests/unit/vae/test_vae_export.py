"""Exported models: the same answers as the trained one, anywhere, and no damaged folder is worse than refused."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tensor_images import TensorImages, discs, small_config, small_training, untimed

from raysweep.errors import ArgumentError, CheckpointError, ModelInputError, StorageError
from raysweep.metrics import METRICS, EpochMetrics
from raysweep.vae.checkpoint import save_checkpoint
from raysweep.vae.export import export_model, load_model
from raysweep.vae.trained import TrainedVAE
from raysweep.vae.training import Training

ORIGIN = {"sweep": "kld", "trial": 7}


def trained(directory: Path, shape: tuple[int, int, int] = (3, 8, 16), epochs: int = 1, **changes: Any) -> Training:
    training = small_training(small_config(**changes), shape)
    for _ in range(epochs):
        save_checkpoint(directory, training, training.run_epoch())
    return training


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 16)])
def test_an_exported_model_answers_as_the_trained_one_did(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    model = trained(tmp_path / "trial", shape, epochs=2).model
    loaded = load_model(export_model(tmp_path / "trial", tmp_path / "out", ORIGIN))
    assert not loaded.training
    trained_weights, weights = model.state_dict(), loaded.state_dict()
    assert trained_weights.keys() == weights.keys()
    assert all(torch.equal(trained_weights[name], weights[name]) for name in weights)
    x = discs(5, shape)
    # The trial's weights lie channels last in memory, which changes the order of its sums.
    torch.testing.assert_close(loaded.reconstruct(x), model.reconstruct(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loaded.sample(4, seed=1), model.sample(4, seed=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_norm": "all", "negative_slope": 0.2},
        {"kernel_size": 4, "conv_blocks": "d/2 2d", "hidden_size": None},
        {"conv_blocks": "none", "likelihood": "learned_gaussian"},
        {"upsampling": "trimmed", "likelihood": "continuous_bernoulli"},
    ],
)
def test_every_kind_of_network_is_exported(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = trained(tmp_path / "trial", (1, 9, 11), **changes).model.eval()
    loaded = load_model(export_model(tmp_path / "trial", tmp_path / "out", ORIGIN))
    trained_weights, weights = model.state_dict(), loaded.state_dict()
    assert [(n, v.dtype) for n, v in weights.items()] == [(n, v.dtype) for n, v in trained_weights.items()]
    assert all(torch.equal(trained_weights[name], weights[name]) for name in weights)
    x = discs(5, (1, 9, 11))
    torch.testing.assert_close(loaded.reconstruct(x), model.reconstruct(x), rtol=1e-4, atol=1e-5)


def test_a_tensor_of_another_type_is_refused(tmp_path: Path) -> None:
    trained(tmp_path / "trial", batch_norm="all")
    out = export_model(tmp_path / "trial", tmp_path / "out", ORIGIN)
    tensors = load_file(out / "model.safetensors")
    tensors["encoder.1.num_batches_tracked"] = tensors["encoder.1.num_batches_tracked"].double()
    save_file(tensors, out / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.1\.num_batches_tracked is torch\.float64"):
        load_model(out)


def test_loading_twice_gives_identical_answers_and_needs_no_random_numbers(tmp_path: Path) -> None:
    trained(tmp_path / "trial")
    out = export_model(tmp_path / "trial", tmp_path / "out", ORIGIN)
    before = torch.get_rng_state()
    first, second = load_model(out), load_model(str(out))
    assert torch.equal(torch.get_rng_state(), before)
    x = discs(5, (3, 8, 16))
    assert torch.equal(first.reconstruct(x), second.reconstruct(x))
    assert torch.equal(first.sample(4, seed=1), second.sample(4, seed=1))


def test_a_loaded_model_can_be_trained_on(tmp_path: Path) -> None:
    trained(tmp_path / "trial")
    model = load_model(export_model(tmp_path / "trial", tmp_path / "out", ORIGIN))
    logits, mean, _ = model(discs(5, (3, 8, 16)), torch.zeros(5, 3))
    (logits.sum() + mean.sum()).backward()
    assert all(value.grad is not None for value in model.parameters())


def test_the_two_lines_of_the_readme_work_when_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever they are copied to, though the export named a relative folder with a quote in it."""
    trained(tmp_path / "trial")
    monkeypatch.chdir(tmp_path)
    export_model(Path("trial"), Path("it's 5\" wide"), ORIGIN)
    text = (tmp_path / "it's 5\" wide" / "README.md").read_text()
    monkeypatch.chdir(os.sep)
    lines = re.findall(r"^    ((?:import raysweep|model = ).*)$", text, re.MULTILINE)
    assert len(lines) == 2
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    assert names["model"].sample(1).shape == (1, 3, 8, 16)


@pytest.mark.parametrize("how", ["none", "threshold"])
def test_the_readme_says_so_where_a_model_wants_binarised_images(tmp_path: Path, how: str) -> None:
    trained(tmp_path / "trial", binarise=how)
    text = (export_model(tmp_path / "trial", tmp_path / "out", ORIGIN) / "README.md").read_text()
    assert ("(x >= 0.5).float()" in text) == (how == "threshold")


def test_an_export_that_does_not_say_how_images_were_prepared_loads_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(tmp_path / "trial")
    export_model(tmp_path / "trial", tmp_path / "old", ORIGIN)
    export_model(tmp_path / "trial", tmp_path / "new", {**ORIGIN, "data": {"fit": "pad"}})
    assert load_model(tmp_path / "new").images == {"fit": "pad"}
    assert caplog.text == ""
    assert load_model(tmp_path / "old").images is None
    assert "old: does not say how its images were prepared" in caplog.text


def test_an_exported_folder_works_where_it_is_moved(tmp_path: Path) -> None:
    trained(tmp_path / "trial")
    export_model(tmp_path / "trial", tmp_path / "out", ORIGIN).rename(tmp_path / "moved")
    assert load_model(tmp_path / "moved").shape == (3, 8, 16)


def test_the_description_is_strict_json_of_configuration_metrics_and_origin(tmp_path: Path) -> None:
    training = small_training(small_config(), (1, 8, 8))
    undefined = {"r2": math.nan, "images_per_s": 1.0, "epoch_s": 1.0}
    save_checkpoint(tmp_path / "trial", training, EpochMetrics(**{**untimed(training.run_epoch()), **undefined}))
    out = export_model(tmp_path / "trial", tmp_path / "out", ORIGIN)

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    description = json.loads((out / "model.json").read_text(), parse_constant=refuse)
    assert description["config"] == small_config().model_dump(mode="json")
    assert description["origin"] == ORIGIN
    assert description["shape"] == [1, 8, 8]
    assert set(description["metrics"]) == {"epoch", *METRICS}
    assert description["metrics"]["r2"] is None
    assert description["metrics"]["epoch"] == 1


def test_the_newest_whole_checkpoint_is_exported(tmp_path: Path) -> None:
    trained(tmp_path / "trial", epochs=3)
    (tmp_path / "trial" / "epoch-000003.safetensors").write_bytes(b"torn")
    out = export_model(tmp_path / "trial", tmp_path / "out", ORIGIN)
    assert json.loads((out / "model.json").read_text())["metrics"]["epoch"] == 2


def test_torn_checkpoints_alone_are_refused_and_named(tmp_path: Path) -> None:
    trained(tmp_path / "trial", epochs=2)
    for path in (tmp_path / "trial").iterdir():
        path.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"epoch-000002.*epoch-000001"):
        export_model(tmp_path / "trial", tmp_path / "out", ORIGIN)
    assert not (tmp_path / "out").exists()


def test_a_trial_without_a_checkpoint_has_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        export_model(tmp_path / "trial", tmp_path / "out", ORIGIN)


def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path) -> None:
    trained(tmp_path / "trial")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("do not lose me")
    with pytest.raises(CheckpointError, match="is not empty"):
        export_model(tmp_path / "trial", tmp_path / "out", ORIGIN)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    trained(tmp_path / "trial")
    (tmp_path / "out").mkdir()
    assert load_model(export_model(tmp_path / "trial", tmp_path / "out", ORIGIN)).shape == (3, 8, 16)


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    trained(tmp_path / "trial")
    (tmp_path / "out").write_text("")
    with pytest.raises(CheckpointError, match="is not empty"):
        export_model(tmp_path / "trial", tmp_path / "out", ORIGIN)
    with pytest.raises(StorageError, match="cannot be written"):
        export_model(tmp_path / "trial", tmp_path / "out" / "model", ORIGIN)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small exported model."""
    directory = tmp_path_factory.mktemp("exported")
    trained(directory / "trial", (1, 8, 8), d_size=1, latent_size=1, hidden_size=1)
    out = export_model(directory / "trial", directory / "out", ORIGIN)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def load_from(files: dict[str, bytes], folder: Path) -> None:
    """Loads what may be damaged; anything but a model that works or a CheckpointError is a failure."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        model = load_model(folder)
    except CheckpointError:
        return
    assert model.reconstruct(discs(1, (1, 8, 8))).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_folder_without_one_of_its_files_is_refused(tmp_path: Path, exported: dict[str, bytes], name: str) -> None:
    for other, content in exported.items():
        if other != name:
            (tmp_path / other).write_bytes(content)
    with pytest.raises(CheckpointError, match="holds no model that can be read"):
        load_model(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no model that can be read"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "raysweep-model-9"},
        {"shape": [1, 24, 24]},
        {"shape": [1, 8]},
        {"shape": [1, 0, 0]},
        {"config": {"latent_size": 65536, "hidden_size": 65536, "d_size": 4096}},
        {"config": None},
    ],
)
def test_a_description_of_another_model_is_refused(
    tmp_path: Path, exported: dict[str, bytes], change: dict[str, Any]
) -> None:
    description = json.loads(exported["model.json"]) | change
    for name, content in (exported | {"model.json": json.dumps(description).encode()}).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError):
        load_model(tmp_path)


@given(data=st.data())
def test_no_damaged_byte_or_truncation_of_a_model_is_worse_than_a_checkpoint_error(
    data: st.DataObject, exported: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    name = data.draw(st.sampled_from(["model.json", "model.safetensors"]))
    content = bytearray(exported[name])
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    elif content:
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    load_from(exported | {name: bytes(content)}, tmp_path_factory.getbasetemp() / "damaged model")


def test_the_exported_model_measures_what_its_description_says(tmp_path: Path) -> None:
    """The metrics that stand in model.json are those of the weights beside it."""
    from raysweep.vae.evaluation import evaluate

    training = trained(tmp_path / "trial", (1, 8, 8), epochs=2)
    out = export_model(tmp_path / "trial", tmp_path / "out", ORIGIN)
    validation = TensorImages(discs(20, (1, 8, 8), seed=1))
    found = evaluate(load_model(out), validation, training.config, training.baseline_mse, torch.device("cpu"))
    stated = json.loads((out / "model.json").read_text())["metrics"]
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: float(stated[name]) for name in found}, rel=1e-4
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedVAE:
    """A loaded model of grey images of 16x16 pixels, 3 latents."""
    directory = tmp_path_factory.mktemp("model")
    trained(directory / "trial", (1, 16, 16))
    return load_model(export_model(directory / "trial", directory / "out", ORIGIN))


def test_answers_of_a_loaded_model_carry_no_gradients_unless_they_are_asked_for(model: TrainedVAE) -> None:
    x = discs(2, (1, 16, 16))
    mean, logvar = model.encode(x)
    answers = [mean, logvar, model.decode(mean), model.sample(2), model.reconstruct(x), model.interpolate(x[0], x[1])]
    assert not any(answer.requires_grad for answer in answers)
    z = mean.clone().requires_grad_()
    model.decode(z, gradients=True).sum().backward()
    assert z.grad is not None
    assert model.encode(x, gradients=True)[0].requires_grad


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(2, 1, 64, 64), "64x64 pixels in 1 channel, the model takes 16x16 in 1 channel; raysweep.read_im"),
        (torch.zeros(2, 3, 16, 16), "3 channels, the model takes 1 channel"),
        (torch.zeros(2, 16, 16, 1), "channels last; the model takes x.permute(0, 3, 1, 2)"),
        (torch.zeros(1, 16, 16), "is one image, [1, 16, 16]; a batch is wanted: x[None]"),
        (torch.zeros(16, 16), "has shape [16, 16]; images are [batch, channels, height, width]"),
        (torch.zeros(2, 1, 16, 16, dtype=torch.uint8), "x.float() / 255"),
        (torch.zeros(2, 1, 16, 16, dtype=torch.float64), "x.to(torch.float32)"),
        (torch.full((2, 1, 16, 16), 200.0), "from 200 to 200, the model takes 0 to 1; x / 255"),
        (torch.linspace(-1, 1, 256).view(1, 1, 16, 16), "from -1 to 1, the model takes 0 to 1; (x + 1) / 2"),
        (torch.full((2, 1, 16, 16), math.nan), "holds NaN"),
        (np.zeros((2, 1, 16, 16), np.float32), "numpy.ndarray (torch.from_numpy makes it one)"),
        ("photo.png", "got str"),
    ],
)
def test_images_that_a_model_does_not_take_are_refused_with_what_to_do(model: TrainedVAE, x: Any, says: str) -> None:
    for call in (model.encode, model.reconstruct):
        with pytest.raises(ModelInputError, match=re.escape(says)):
            call(x)


@pytest.mark.parametrize(
    ("z", "says"),
    [
        (torch.zeros(2, 5), "has shape [2, 5]; the model takes [batch, 3]"),
        (torch.zeros(3), "is the latents of one image, [3]; a batch is wanted: z[None]"),
        (torch.zeros(2, 3, dtype=torch.int64), "z.float()"),
        (torch.full((1, 3), math.inf), "holds NaN or infinities"),
        ([0.0, 0.0, 0.0], "must be a torch tensor [batch, 3], got list"),
    ],
)
def test_latents_that_a_model_does_not_take_are_refused_with_what_to_do(model: TrainedVAE, z: Any, says: str) -> None:
    with pytest.raises(ModelInputError, match=re.escape(says)):
        model.decode(z)


def test_a_model_that_was_trained_on_noisy_images_takes_pixels_beyond_black_and_white(tmp_path: Path) -> None:
    trained(tmp_path / "trial", (1, 16, 16), input_noise=0.3)
    model = load_model(export_model(tmp_path / "trial", tmp_path / "out", ORIGIN))
    assert model.encode(torch.full((1, 1, 16, 16), -0.5))[0].shape == (1, 3)


def test_a_line_between_two_images_begins_and_ends_at_their_reconstructions(model: TrainedVAE) -> None:
    x = discs(4, (1, 16, 16))
    line = model.interpolate(x[0], x[1], steps=5)
    assert line.shape == (5, 1, 16, 16)
    ends = model.reconstruct(x[:2])
    torch.testing.assert_close(line[[0, 4]], ends, rtol=1e-5, atol=1e-6)
    middle = model.decode(model.encode(x[:2])[0].mean(0, keepdim=True))
    torch.testing.assert_close(line[2:3], middle, rtol=1e-5, atol=1e-6)
    several = model.interpolate(x[:2], x[2:], 3)
    assert several.shape == (2, 3, 1, 16, 16)
    torch.testing.assert_close(several[1], model.interpolate(x[1], x[3], 3), rtol=1e-5, atol=1e-6)
    for a, b, steps, says in [
        (x[0], x[1], 1, "steps: must be a whole number from 2 on, got 1"),
        (x[:2], x[:1], 3, "must be as many images"),
        (x[0], x[1, :, :8, :8], 3, "b: 8x8 pixels in 1 channel, the model takes 16x16"),
    ]:
        with pytest.raises(ModelInputError, match=re.escape(says)):
            model.interpolate(a, b, steps)


@pytest.mark.parametrize("count", [0, -1, 2.5, True])
def test_a_number_of_samples_that_there_cannot_be_is_refused(model: TrainedVAE, count: Any) -> None:
    with pytest.raises(ModelInputError, match="count: must be a whole number from 1 on"):
        model.sample(count)


def test_a_model_says_what_it_is_on_one_line(model: TrainedVAE) -> None:
    assert repr(model) == "<TrainedVAE of 16x16 grey images, 3 latents, sweep kld, trial 7>"


def test_a_model_in_a_bucket_is_refused_with_how_to_copy_it() -> None:
    with pytest.raises(ArgumentError, match=r"s3://b/m: is an address.* Type: aws s3 cp --recursive s3://b/m model$"):
        load_model("s3://b/m")


def test_a_model_is_loaded_from_an_address_of_this_machine(tmp_path: Path) -> None:
    trained(tmp_path / "trial")
    export_model(tmp_path / "trial", tmp_path / "a b", ORIGIN)
    load_model((tmp_path / "a b").as_uri())
