"""Adam (arXiv:1412.6980), all parameters in one fused operation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Adam:
    """The same numbers, bit by bit, as `torch.optim.Adam(fused=True)`.

    It does not import torch's compiler, which torch's own optimiser does at its first step: over a second of a short
    trial's life.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        # In the memory format of their parameter: the fused step walks both in memory order.
        self._means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._steps = [torch.zeros((), device=parameter.device) for parameter in self.parameters]

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Moves each parameter by its gradient, which every one must have."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        torch._foreach_add_(self._steps, 1)
        torch._fused_adam_(
            list[Tensor](self.parameters), gradients, self._means, self._squares, [], self._steps, amsgrad=False,
            lr=self.learning_rate, beta1=BETAS[0], beta2=BETAS[1], weight_decay=0.0, eps=EPSILON, maximize=False,
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """The moments and the count of steps of each parameter, by its position: `0.exp_avg`, `0.exp_avg_sq`, `0.step`.

        The tensors are the optimiser's own.
        """
        moments = {"exp_avg": self._means, "exp_avg_sq": self._squares, "step": self._steps}
        return {
            f"{index}.{key}": values[index] for index in range(len(self.parameters)) for key, values in moments.items()
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state` gave, in whatever memory format."""
        for key, value in self.state().items():
            value.copy_(state[key])
