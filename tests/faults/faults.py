"""All planted faults."""

from __future__ import annotations

from typing import Final

from . import (  # noqa: F401  # importing them plants nothing
    grad_modes,
    histories,
    layers,
    modules,
    reports,
    tensors,
    utilities,
)
from .fault import FAULTS, Fault

__all__ = ["FAULTS", "UNPLANTABLE", "Fault"]

#: Laws that no fault can be seen to break, and why.
UNPLANTABLE: Final = {
    "a_decorated_coroutine_runs_in_the_mode": (
        "torch breaks it in every block, and the register excuses its one fact whatever is seen."
    ),
    "a_task_has_a_mode_of_its_own": (
        "torch breaks it in every block, and the register excuses its one fact whatever is seen."
    ),
}
