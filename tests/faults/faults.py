"""All planted faults."""

from __future__ import annotations

from . import histories, layers, modules, reports, utilities  # noqa: F401  # importing them plants nothing
from .fault import FAULTS, Fault

__all__ = ["FAULTS", "Fault"]
