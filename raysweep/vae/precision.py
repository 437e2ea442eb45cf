"""The precision of a training step's products; everything else, and all validation, is in float32.

TF32 rounds the factors of a product to 10 bits of mantissa, bfloat16 to 7. Both sum in float32, and keep the weights,
their gradients and Adam's state in float32 (https://docs.pytorch.org/docs/stable/notes/cuda.html,
https://docs.pytorch.org/docs/stable/amp.html). docs/performance.md has their speeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from raysweep.spec.config import Precision


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Make GPUs compute float32 products in TF32 if `precision` is `tf32`, otherwise to the last bit.

    By default PyTorch uses TF32 for convolutions, but not for linear layers, if the GPU can. The settings from before
    return at the end.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def forward_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return a context for one pass through a network; after it the loss is computed in float32 again.

    Use a new one for each step, otherwise weights rounded in one step would be used in the next.
    """
    if precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
