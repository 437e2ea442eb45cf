"""The usual ways to write a hyperparameter sweep in PyTorch, which raysweep is measured against.

A job is a mapping: `data` with the `root` of MNIST's files and the `image_size`, `png` with the folder of the same
images as PNG files, the indices of `train` and `validation` images, `points` and the `ranges` they are from, and
`trial` with the fields that are constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, Dataset

    from raysweep.spec.config import TrialConfig
    from raysweep.vae.networks import ConvVAE

    Loader = DataLoader[tuple[Tensor, Tensor]]
    Pictures = Dataset[tuple[Tensor, Tensor]]


def sweep_with_tune(job: dict[str, Any], place: Path, slots: int, from_png: bool) -> list[float]:
    """A sweep by Ray Tune with its defaults, `slots` trials at once; the validation loss of each trial."""
    import ray
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    ray.init(address="local", num_cpus=slots, include_dashboard=False)
    trainable = tune.with_parameters(train_in_tune, job=job, from_png=from_png)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={name: tune.loguniform(low, high) for name, (low, high) in job["ranges"].items()},
        tune_config=tune.TuneConfig(
            metric="val_loss", mode="min", num_samples=len(job["points"]),
            search_alg=BasicVariantGenerator(points_to_evaluate=job["points"]),
        ),
        run_config=tune.RunConfig(name="sweep", storage_path=str(place / "ray_results")),
    )  # fmt: skip
    results = tuner.fit()
    losses = [result.metrics["val_loss"] for result in results if result.error is None]
    ray.shutdown()
    return losses


def train_in_tune(config: dict[str, Any], job: dict[str, Any], from_png: bool) -> None:
    """A function trainable."""
    import torch
    from ray import tune

    torch.set_num_threads(1)
    train, validation = png_pictures(job) if from_png else mnist_pictures(job)
    for val_loss in plain_epochs(config, job, train, validation, num_workers=2):
        tune.report({"val_loss": val_loss})


def sweep_with_optuna(job: dict[str, Any], threads: int) -> list[float]:
    """A sweep by Optuna in this process, one trial at a time; the validation loss of each trial."""
    import optuna
    import torch

    torch.set_num_threads(threads)
    train, validation = mnist_pictures(job)

    def objective(trial: optuna.Trial) -> float:
        params = {name: trial.suggest_float(name, low, high, log=True) for name, (low, high) in job["ranges"].items()}
        *_, val_loss = plain_epochs(params, job, train, validation, num_workers=0)
        return val_loss

    study = optuna.create_study(direction="minimize")
    for point in job["points"]:
        study.enqueue_trial(point)
    study.optimize(objective, n_trials=len(job["points"]))
    return [trial.value for trial in study.trials if trial.value is not None]


def mnist_pictures(job: dict[str, Any]) -> tuple[Pictures, Pictures]:
    """The images raysweep trains and validates on, by torchvision's class for MNIST's files."""
    from torch.utils.data import Subset
    from torchvision import datasets, transforms

    pictures = datasets.MNIST(job["data"]["root"], train=True, transform=transforms.ToTensor())
    return Subset(pictures, job["train"]), Subset(pictures, job["validation"])


def png_pictures(job: dict[str, Any]) -> tuple[Pictures, Pictures]:
    """The same images from PNG files, those for training augmented as in experiment E1."""
    from torchvision import datasets, transforms

    augmented = transforms.Compose(
        [
            transforms.RandomRotation(45), transforms.RandomAutocontrast(0.5), transforms.ColorJitter(brightness=0.5),
            transforms.ToTensor(),
        ]
    )  # fmt: skip
    train, validation = Path(job["png"]) / "train", Path(job["png"]) / "validation"
    return (
        datasets.ImageFolder(str(train), augmented, loader=open_grey),
        datasets.ImageFolder(str(validation), transforms.ToTensor(), loader=open_grey),
    )


def open_grey(path: str) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("L")


def plain_epochs(
    params: dict[str, float], job: dict[str, Any], train: Pictures, validation: Pictures, num_workers: int
) -> Iterator[float]:
    """Trains one trial in a plain PyTorch loop; yields the validation loss after each epoch."""
    import torch
    from torch.utils.data import DataLoader

    from raysweep.spec.config import TrialConfig

    config = TrialConfig.model_validate({**job["trial"], **params})
    train_loader: Loader = DataLoader(train, config.batch_size, shuffle=True, num_workers=num_workers)
    validation_loader: Loader = DataLoader(validation, 256, num_workers=num_workers)
    size = job["data"]["image_size"]
    model = plain_network(config, (1, size, size))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    for _ in range(config.epochs):
        for x, _ in train_loader:
            optimizer.zero_grad()
            loss_of(model, x, config).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        total = 0.0
        with torch.no_grad():
            for x, _ in validation_loader:
                total += loss_of(model, x, config).item() * len(x)
        yield total / len(job["validation"])


def plain_network(config: TrialConfig, shape: tuple[int, int, int]) -> ConvVAE:
    """raysweep's network of PyTorch's own layers."""
    from raysweep.vae.cpu.convolutions import Conv2d, ConvTranspose2d
    from raysweep.vae.cpu.linear import Linear
    from raysweep.vae.cpu.narrow import NarrowTransposed
    from raysweep.vae.networks import ConvVAE

    model = ConvVAE.from_config(config, shape)
    use_plain_layers(model, Conv2d, ConvTranspose2d, NarrowTransposed, Linear)
    return model


def use_plain_layers(model: nn.Module, *kinds: type[nn.Module]) -> None:
    """Has raysweep's layers of these kinds be the PyTorch layers they derive from, with the weights that they have."""
    for layer in model.modules():
        if type(layer) in kinds:
            layer.__class__ = type(layer).__base__  # type: ignore[assignment]


def loss_of(model: ConvVAE, x: Tensor, config: TrialConfig) -> Tensor:
    """raysweep's training loss of a batch by default, a scalar, as it is usually written."""
    import torch
    import torch.nn.functional as F

    from raysweep.spec.config import TrialConfig

    fields = ("likelihood", "sigma", "reduction", "free_bits_nats", "kld_warmup_epochs")
    assert all(getattr(config, name) == TrialConfig.model_fields[name].default for name in fields)
    output, mean, logvar = model(x, torch.randn(len(x), config.latent_size, device=x.device))
    kl = -0.5 * torch.sum(1 + logvar - mean.pow(2) - logvar.exp()) / len(x)
    return F.mse_loss(output.sigmoid(), x) + config.kld_weight * kl
