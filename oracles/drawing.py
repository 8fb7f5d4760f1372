"""What laws that build their own things draw them with: the same for the same case.

The script of a violation has these functions written out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch


def choices(*drawn: object) -> random.Random:
    """A source of random choices, which depend on what was drawn and on nothing else.

    A seed alone is a small number in most cases: give all that was drawn, so that cases differ.
    """
    return random.Random(repr(drawn))


def turns(*drawn: object, count: int = 4) -> Iterator[random.Random]:
    """Several such sources, for a law that is quickly judged and of which the choices are many."""
    return (choices(turn, *drawn) for turn in range(count))


def mode() -> tuple[bool, bool]:
    """Whether operations are recorded here, and whether this is inference mode."""
    inference = torch.is_inference_mode_enabled()
    return torch.is_grad_enabled() and not inference, inference
