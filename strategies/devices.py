"""Devices: which are known, which are there. Nothing here initialises CUDA."""

from __future__ import annotations

import platform
from typing import Final

import torch

#: Where laws can be tried. Tensors of the meta device have no values: laws about facts only.
KNOWN: Final = ("cpu", "cuda", "meta")


def missing(device: str) -> str:
    """Why laws cannot be tried on a device; empty where they can."""
    if device not in KNOWN:
        return f"unknown device {device!r}; known devices: {', '.join(KNOWN)}"
    if device == "cuda" and not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        return (
            f"no CUDA device was found (torch {torch.__version__}, built {built}): nothing was run"
        )
    return ""


def name(device: str) -> str:
    """What the device is, in words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return platform.processor() or platform.machine() if device == "cpu" else "no values"
