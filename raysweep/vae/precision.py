"""The precision in which a training step computes its products; all else, and all validation, is in float32.

TF32 rounds the factors of a product to 10 bits of mantissa, bfloat16 to 7; both sum in float32, and keep the weights,
their gradients and Adam's state in it (https://docs.pytorch.org/docs/stable/notes/cuda.html,
https://docs.pytorch.org/docs/stable/amp.html). How fast each is, is in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from raysweep.spec.config import Precision


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """As long as this lasts, GPUs compute float32 products as `tf32` says, or to the last bit.

    PyTorch by itself lets convolutions, though not linear layers, compute in TF32 where the GPU can.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def forward_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """For one pass through a network, from whose end on the loss is computed in float32 again.

    It is of one step: weights that were rounded in it must not be taken for those of the next.
    """
    if precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
