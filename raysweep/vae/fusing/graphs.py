"""A training step as one CUDA graph: the host describes the step to the GPU once, and then only starts it.

A small step takes a GPU less time than its launches take the host ("CUDA Graphs" in
https://docs.pytorch.org/docs/stable/notes/cuda.html). A graph needs memory of its own for all that the step computes.
The step must have static shapes and must not depend on a value on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP_STEPS = 3
"""Steps before the capture, in which libraries choose their kernels and allocate what they keep."""


class CapturedStep:
    """A step that runs as a graph from its fourth call on. A call with inputs of other shapes runs without the graph.

    Capturing needs no extra steps: those that warm it up are steps of the training, and the capture itself runs none.
    """

    def __init__(self) -> None:
        self._shapes: list[torch.Size] | None = None
        self._left = WARM_UP_STEPS
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._output: Tensor | None = None

    def __call__(self, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Run the step and return its result, which the next call overwrites.

        Args:
            run: the step, the same at each call. It takes tensors on one GPU and returns one; all else that it changes
                must keep its place in memory.
            inputs: of `run`.
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
        """Run the step on a stream of its own, as capturing requires of the steps before it."""
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
