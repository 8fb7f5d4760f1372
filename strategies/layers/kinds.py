"""The catalogue of node kinds: for each, which shapes it fits and how its arguments are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

FLOATS: Final = ("float32", "float64", "bfloat16", "float16")
ALL: Final = (*FLOATS, "complex64")
WIDE: Final = ("float32", "float64")


class Shape(NamedTuple):
    """The sizes of a value; ``high`` bounds integer values, 0 is floating point, -1 is bool."""

    sizes: tuple[int, ...]
    high: int = 0


Arguments = dict[str, Any]
Made = tuple[Arguments, tuple[Shape, ...]]
Maker = Callable[[DrawFn, Shape], Made]


@dataclass(frozen=True)
class Kind:
    """One kind of node.

    ranks   numbers of dimensions of the input it takes, the batch included
    least   the least size of each dimension after the first two; 1 if not given
    dtypes  which it takes
    make    draws its arguments and says the shapes of its outputs
    fits    what else must be so of its input
    second  whether it takes a second input of the same shape
    writes  whether it may write into its input, which then must be free for it
    dense   whether it is a view only of inputs that lie densely in memory
    """

    op: str
    make: Maker
    ranks: tuple[int, ...]
    dtypes: tuple[str, ...]
    fits: Callable[[Shape], bool]
    second: bool
    writes: bool
    integer: bool
    dense: bool


KINDS: Final[dict[str, Kind]] = {}


def kind(
    *ops: str,
    ranks: tuple[int, ...] = (2, 3, 4),
    dtypes: tuple[str, ...] = FLOATS,
    fits: Callable[[Shape], bool] = lambda shape: True,
    second: bool = False,
    writes: bool = False,
    integer: bool = False,
    dense: bool = False,
) -> Callable[[Maker], Maker]:
    """Register a maker for each of these ops."""

    def register(make: Maker) -> Maker:
        for op in ops:
            KINDS[op] = Kind(op, make, ranks, dtypes, fits, second, writes, integer, dense)
        return make

    return register


@cache
def upto(n: int) -> SearchStrategy[int]:
    """The integers 0 to n, smaller ones being simpler. Made once: making a strategy is slow."""
    return st.integers(0, n)


_BOOLEANS: Final = st.booleans()


def maybe(draw: DrawFn) -> bool:
    """True or False, False being simpler."""
    return draw(_BOOLEANS)


def pick(draw: DrawFn, options: tuple[Any, ...] | list[Any]) -> Any:
    """One of the options, the first being the simplest."""
    return options[draw(upto(len(options) - 1))] if len(options) > 1 else options[0]


def size(draw: DrawFn, least: int = 1, most: int = 4) -> int:
    """A small size."""
    return least + draw(upto(most - least))


def keeping(shape: Shape) -> tuple[Shape, ...]:
    """The output of a node that keeps the shape of its input."""
    return (shape,)


def given(**arguments: Any) -> Arguments:
    """Arguments, without those that are None."""
    return {name: value for name, value in arguments.items() if value is not None}
