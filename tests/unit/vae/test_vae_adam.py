"""Our Adam is torch's, bit by bit, and brings no compiler with it; several stacked are each what they are alone."""

from __future__ import annotations

import math
import subprocess
import sys

import torch
from torch import Tensor, nn

from raysweep.vae.adam import Adam, StackedAdam


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


def views(rows: Tensor) -> list[list[Tensor]]:
    """Rows of 15 as a weight of 3x4 and a bias of 3."""
    return [[row[:12].view(3, 4), row[12:]] for row in rows]


def test_every_member_steps_as_adam_does_at_its_own_rate_and_its_own_count_of_steps() -> None:
    rates = [1e-1, 1e-3, 0.0]
    rows = torch.randn(3, 15, dtype=torch.float64)
    alone = [[nn.Parameter(value.clone()) for value in values] for values in views(rows)]
    adams = [Adam(parameters, rate) for parameters, rate in zip(alone, rates, strict=True)]
    members = [Adam(parameters, 0.5) for parameters in alone]
    for done in range(1, 3):  # the second member has made 1 step more than the first, the third 2
        for adam in (adams[done], members[done]):
            steps = {name: value + done for name, value in adam.state().items() if name.endswith("step")}
            adam.load(adam.state() | steps)
    stacked = StackedAdam(rows.requires_grad_(), members, views)
    stacked.learning_rates.copy_(torch.tensor(rates, dtype=rows.dtype).unsqueeze(1))
    for _ in range(5):
        rows.grad = torch.randn_like(rows)
        for parameters, adam, gradients in zip(alone, adams, views(rows.grad), strict=True):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            adam.step()
        stacked.step()
        torch.testing.assert_close(views(rows.detach()), [[p.detach() for p in parameters] for parameters in alone])
    for member, adam in zip(members, adams, strict=True):
        torch.testing.assert_close(member.state(), adam.state())


def test_gradients_are_clipped_member_by_member_as_torch_does() -> None:
    limits = [0.1, 100.0, math.inf, 0.1, math.inf, 0.1]
    gradients = torch.randn(6, 15, dtype=torch.float64)
    gradients[3, 0], gradients[4, 0], gradients[5, 0] = math.inf, math.inf, math.nan
    rows = torch.zeros_like(gradients, requires_grad=True)
    stacked = StackedAdam(rows, [Adam(map(nn.Parameter, values), 0.1) for values in views(rows.detach())], views)
    rows.grad = gradients.clone()
    stacked.clip(torch.tensor(limits, dtype=rows.dtype).unsqueeze(1))
    for found, gradient, limit in zip(rows.grad, gradients, limits, strict=True):
        expected = nn.Parameter(torch.zeros_like(gradient))
        expected.grad = gradient.clone()
        if math.isfinite(limit):
            nn.utils.clip_grad_norm_([expected], limit)
        torch.testing.assert_close(found, expected.grad, rtol=1e-12, atol=0, equal_nan=True)
