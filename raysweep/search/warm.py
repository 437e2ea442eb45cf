"""What processes on Ray import as they start, before they are given a trial to train or to measure.

A Ray of a sweep's own starts them while the driver is still at its own imports.
"""

from __future__ import annotations

import gc

gc.disable()  # it would look for garbage again and again in what stays: 0.3 s of 1.7
try:
    import torch  # noqa: F401

    import raysweep.data.tensors
    import raysweep.search.delivery
    import raysweep.vae.fused
    import raysweep.vae.laps  # noqa: F401
except Exception:  # noqa: BLE001, S110 (who trains imports it again, and reports what that raises)
    pass
finally:
    gc.freeze()
    gc.enable()
