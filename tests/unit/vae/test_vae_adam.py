"""Our Adam is torch's, bit by bit, and brings no compiler with it."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import Tensor, nn

from raysweep.vae.adam import Adam


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(32, 3))
    return layers.to(memory_format=torch.channels_last)


def loss(model: nn.Module, step: int) -> Tensor:
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(step))
    return torch.as_tensor(model(images).square().sum())


def test_every_step_is_that_of_torch_also_after_a_change_of_the_rate_and_a_restart() -> None:
    ours, theirs = network(0), network(0)
    adam, reference = Adam(ours.parameters(), 1e-2), torch.optim.Adam(theirs.parameters(), lr=1e-2, fused=True)
    for step in range(12):
        if step == 5:
            adam.learning_rate = reference.param_groups[0]["lr"] = 3e-3
        if step == 8:
            kept = {name: value.clone().contiguous() for name, value in adam.state().items()}
            adam = Adam(ours.parameters(), 3e-3)
            adam.load(kept)
        for model, optimizer in ((ours, adam), (theirs, reference)):
            optimizer.zero_grad()
            loss(model, step).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    for index, moments in reference.state_dict()["state"].items():
        assert all(torch.equal(adam.state()[f"{index}.{key}"], value) for key, value in moments.items())


def test_training_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; from torch import nn; from raysweep.vae.adam import Adam; m = nn.Linear(2, 2)\n"
        "adam = Adam(m.parameters(), 0.1); m(torch.ones(1, 2)).sum().backward(); adam.step()\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
