"""Adam (arXiv:1412.6980) with all parameters in one fused operation, for one trial or several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Adam:
    """Adam with the same results, bit by bit, as `torch.optim.Adam(fused=True)`.

    torch's own optimiser imports torch's compiler at its first step, which takes over a second of a short trial. This
    one does not import it.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        # Same memory format as their parameter, because the fused step walks both in memory order.
        self._means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        # One count per parameter, as in checkpoints. All parameters step at once, so the counts are equal.
        self._steps = torch.zeros(len(self.parameters), device=self.parameters[0].device)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move each parameter by its gradient, which autograd must have set for every parameter."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self._steps.add_(1)
        steps = [self._steps[0]] * len(gradients)
        _fused_adam(self.parameters, gradients, self._means, self._squares, steps, self.learning_rate)

    def state(self) -> dict[str, Tensor]:
        """Return each parameter's moments and step count by position: `0.exp_avg`, `0.exp_avg_sq`, `0.step`.

        The tensors are the optimiser's own, not copies.
        """
        moments = {"exp_avg": self._means, "exp_avg_sq": self._squares, "step": self._steps.unbind()}
        return {
            f"{index}.{key}": values[index] for index in range(len(self.parameters)) for key, values in moments.items()
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy in a state that `state` returned, in any memory format."""
        for key, value in self.state().items():
            value.copy_(state[key])

    @torch.no_grad()
    def move_state(self, means: Sequence[Tensor], squares: Sequence[Tensor], steps: Tensor) -> None:
        """Move the state into these tensors and keep it there.

        Args:
            means: one for each parameter, of its shape and memory format.
            squares: likewise.
            steps: [parameters].
        """
        for place, value in zip((*means, *squares, steps), (*self._means, *self._squares, self._steps), strict=True):
            place.copy_(value)
        self._means, self._squares, self._steps = list(means), list(squares), steps

    def own(self) -> None:
        """Move the state back into memory of its own."""
        self._means, self._squares = ([value.clone() for value in values] for values in (self._means, self._squares))
        self._steps = self._steps.clone()


class StackedAdam:
    """The `Adam` steps of several trials in one operation, each at its own learning rate.

    It moves the trials' states into common tensors and leaves views of these with the trials, so each state stays what
    it would be alone.
    """

    def __init__(
        self, rows: Tensor, optimizers: Sequence[Adam], views: Callable[[Tensor], Sequence[Sequence[Tensor]]]
    ) -> None:
        """Move the state of `optimizers` into common tensors.

        Args:
            rows: [members, parameters of one], a leaf with the gradients of all.
            optimizers: of the members.
            views: returns the members' parameters as views of a tensor like `rows`.
        """
        self.rows = rows
        self.learning_rates = torch.zeros(len(optimizers), 1, dtype=rows.dtype, device=rows.device)
        """[members, 1]; callers may write to it."""
        self._means, self._squares, self._moves = (torch.zeros_like(rows, requires_grad=False) for _ in range(3))
        self._steps = torch.zeros(len(optimizers), len(optimizers[0].parameters), device=rows.device)
        places = zip(optimizers, views(self._means), views(self._squares), self._steps, strict=True)
        for optimizer, means, squares, steps in places:
            optimizer.move_state(means, squares, steps)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.rows.grad = None

    @torch.no_grad()
    def clip(self, longest: Tensor) -> None:
        """Scale each member's gradient down to the L2 norm in `longest` [members, 1], as `clip_grad_norm_` does."""
        gradients = self.rows.grad
        assert gradients is not None
        norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
        scales = (longest / (norms + 1e-6)).clamp(max=1.0)
        # Leave a gradient without a limit as it is: if it were infinite, inf / inf would make all of it NaN.
        gradients.mul_(torch.where(longest.isinf(), 1.0, scales))

    @torch.no_grad()
    def step(self) -> None:
        """Move each member's parameters by its gradient."""
        gradients = self.rows.grad
        assert gradients is not None
        self._steps.add_(1)
        # The fused operation takes one learning rate: at 1 it turns zeros into moves, then each member's rate scales
        # its own move.
        self._moves.zero_()
        moves, means, squares = self._moves.unbind(), self._means.unbind(), self._squares.unbind()
        _fused_adam(moves, gradients.unbind(), means, squares, self._steps[:, 0].unbind(), learning_rate=1.0)
        self.rows.addcmul_(self._moves, self.learning_rates)


def _fused_adam(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    steps: Sequence[Tensor],
    learning_rate: float,
) -> None:
    parameters, gradients, means, squares = (
        [_in_memory_order(tensor) for tensor in group] for group in (parameters, gradients, means, squares)
    )
    torch._fused_adam_(
        parameters, gradients, means, squares, [], list(steps), amsgrad=False,
        lr=learning_rate, beta1=BETAS[0], beta2=BETAS[1], weight_decay=0.0, eps=EPSILON, maximize=False,
    )  # fmt: skip


def _in_memory_order(tensor: Tensor) -> Tensor:
    """View a tensor without gaps as one row if it is on a CPU and not contiguous.

    torch's fused step on a CPU walks tensors as they lie in memory, but first makes a contiguous copy of the gradient.
    Autograd gives a gradient the strides of its parameter, and the moments have them too, so all four rows come in the
    same order.
    """
    if tensor.is_contiguous() or tensor.device.type != "cpu":
        return tensor
    return tensor.as_strided((tensor.numel(),), (1,))
