"""raysweep: hyperparameter search for convolutional VAEs on Ray.

    import raysweep

    spec = raysweep.load_spec("search_spaces/kld.yaml")
    sweep = raysweep.run(spec)
    table = sweep.trials()                           # a pyarrow.Table, one row per trial
    table = raysweep.open_sweep("results/kld").trials()
    model = raysweep.load_model("exported/kld")      # a torch module
    x = raysweep.read_images("photo.png", model)     # prepared as its training images were

Names are imported at first use, so that `import raysweep` loads neither torch nor ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysweep.errors import RaysweepError, SpecError
    from raysweep.review.reading import read_images
    from raysweep.review.sweep import Sweep, open_sweep
    from raysweep.spec.loading import load_spec
    from raysweep.spec.sections import SweepSpec
    from raysweep.sweep import resume, run
    from raysweep.vae.export import load_model

__version__ = "0.1.0"

_HOMES = {
    "RaysweepError": "raysweep.errors",
    "SpecError": "raysweep.errors",
    "Sweep": "raysweep.review.sweep",
    "SweepSpec": "raysweep.spec.sections",
    "load_model": "raysweep.vae.export",
    "load_spec": "raysweep.spec.loading",
    "open_sweep": "raysweep.review.sweep",
    "read_images": "raysweep.review.reading",
    "resume": "raysweep.sweep",
    "run": "raysweep.sweep",
}

__all__ = [
    "RaysweepError",
    "SpecError",
    "Sweep",
    "SweepSpec",
    "load_model",
    "load_spec",
    "open_sweep",
    "read_images",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raysweep' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
