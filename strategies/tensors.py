"""Random tensors."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from oracles.sample import Sample

from .layers.kinds import ALL, pick, upto


@st.composite
def samples(draw: DrawFn) -> Sample:
    """Small tensors of every dtype that can require grad."""
    sizes = tuple(1 + draw(upto(2)) for _ in range(1 + draw(upto(2))))
    return Sample(sizes, pick(draw, ALL), draw(upto(2**16)))
