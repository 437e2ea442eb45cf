"""A training step as one CUDA graph: the host tells the GPU once what a step is, and then only that there is another.

A small step takes a GPU less time than its launches take the host (https://docs.pytorch.org/docs/stable/notes/cuda.html,
"CUDA Graphs"). What it costs: memory of its own for all that the step computes, and steps of static shapes that depend
on no value on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP_STEPS = 3
"""Steps before the capture, in which libraries choose their kernels and allocate what they keep."""


class CapturedStep:
    """Runs a step, from its fourth call on as a graph. A call with inputs of other shapes runs it as it is.

    No step is run for the capture's sake: those that warm it up are steps of the training, and capturing runs none.
    """

    def __init__(self) -> None:
        self._shapes: list[torch.Size] | None = None
        self._left = WARM_UP_STEPS
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._output: Tensor | None = None

    def __call__(self, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """The step's result, which the next call overwrites.

        Args:
            run: the step, the same at each call. It takes tensors on one GPU and returns one; whatever else it changes
                stays where it is in memory.
            inputs: what it is given.
        """
        shapes = [tensor.shape for tensor in inputs]
        self._shapes = self._shapes or shapes
        if shapes != self._shapes:
            return run(*inputs)
        if self._left:
            self._left -= 1
            return self._beside(run, inputs)
        if self._graph is None:
            self._capture(run, inputs)
        assert self._graph is not None
        assert self._output is not None
        for place, value in zip(self._inputs, inputs, strict=True):
            place.copy_(value)
        self._graph.replay()
        return self._output

    def _beside(self, run: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        """Runs the step on a stream of its own, as what is to be captured must be."""
        stream = torch.cuda.Stream(inputs[0].device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(inputs[0].device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            found = run(*inputs)
        current.wait_stream(stream)
        return found

    def _capture(self, run: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = run(*self._inputs)
