"""What processes on Ray import before they train or measure.

If a sweep starts its own Ray, they import it as they start, while the driver still makes its own imports.
"""

from __future__ import annotations

import gc

_failure: Exception | None = None

_was_enabled = gc.isenabled()
gc.disable()  # it would search objects that stay for garbage again and again: 0.3 s of 1.7 s
try:
    import torch  # noqa: F401

    import raysweep.data.tensors
    import raysweep.vae.fusing.training
    import raysweep.vae.laps
    import raysweep.worker.delivery  # noqa: F401
except Exception as error:  # noqa: BLE001 (a process that cannot start reports nothing: the trial does, by `require`)
    _failure = error
finally:
    gc.freeze()
    if _was_enabled:
        gc.enable()


def require() -> None:
    """Raise the exception that stopped an import, if there was one.

    A library whose import failed half-way fails in another way when it is imported again.
    """
    if _failure is not None:
        raise _failure
