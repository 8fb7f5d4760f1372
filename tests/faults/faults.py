"""All planted faults."""

from __future__ import annotations

from . import (  # importing them plants nothing
    caveats,  # noqa: F401
    checkpoints,  # noqa: F401
    coverage,  # noqa: F401
    flags,  # noqa: F401
    freezing,  # noqa: F401
    grad_modes,  # noqa: F401
    histories,  # noqa: F401
    layers,  # noqa: F401
    modules,  # noqa: F401
    optimizers,  # noqa: F401
    persistence,  # noqa: F401
    reports,  # noqa: F401
    rounding,  # noqa: F401
    tensors,  # noqa: F401
    utilities,  # noqa: F401
)
from .fault import FAULTS, Fault

__all__ = ["FAULTS", "Fault"]
