"""Stacks of grad-mode contexts."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from oracles.sample import Nesting
from oracles.setting import CONTEXTS, Stack

from .layers.kinds import pick, upto


def stack(draw: DrawFn) -> Stack:
    """Up to four contexts, one inside the other."""
    return tuple(pick(draw, CONTEXTS) for _ in range(draw(upto(4))))


@st.composite
def nestings(draw: DrawFn) -> Nesting:
    """Up to six contexts, one inside the other."""
    return Nesting(tuple(pick(draw, CONTEXTS) for _ in range(draw(upto(6)))))
