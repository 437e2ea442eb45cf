"""What processes on Ray import before they train or measure.

A Ray of a sweep's own has them do so as they start, while the driver is still at its own imports.
"""

from __future__ import annotations

import gc

_failure: Exception | None = None

_was_enabled = gc.isenabled()
gc.disable()  # it would look for garbage again and again in what stays: 0.3 s of 1.7
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
    """Raises what kept something from being imported, if anything did.

    A library that failed half-way fails otherwise when it is imported again.
    """
    if _failure is not None:
        raise _failure
