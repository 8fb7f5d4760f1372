"""All planted faults."""

from __future__ import annotations

from . import coverage, histories, layers, modules, utilities  # noqa: F401  # importing them plants nothing
from .fault import FAULTS, Fault

__all__ = ["FAULTS", "Fault"]
