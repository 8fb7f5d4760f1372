"""The catalogue of node kinds: for each, which shapes it fits and how its arguments are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from inspect import signature
from itertools import product
from operator import attrgetter
from typing import Any, Final, NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from oracles.recipe import Input, Node, Recipe, render
from oracles.traits import class_of

FLOATS: Final = ("float32", "float64", "bfloat16", "float16")
ALL: Final = (*FLOATS, "complex64")
WIDE: Final = ("float32", "float64")


class Shape(NamedTuple):
    """The sizes of a value; ``high`` bounds integer values, 0 is floating point, -1 is bool."""

    sizes: tuple[int, ...]
    high: int = 0


Arguments = dict[str, Any]
Maker = Callable[[DrawFn, Shape], Arguments]
Returned = Callable[[Arguments, Shape], tuple[Shape, ...]]


@dataclass(frozen=True)
class Kind:
    """One kind of node.

    make    draws its arguments
    ranks   numbers of dimensions of the input it takes, the batch included
    dtypes  which it takes
    fits    what else must be so of its input
    second  whether it takes a second input of the same shape
    writes  whether it always writes into its input, which then must be free for it
    integer whether it takes integers
    dense   whether it is a view only of inputs that lie densely in memory
    bound   of an integer output: what its values are less than; without it nothing follows
    size    of how many plain layers it is made, about: so it counts in the budget of a module
    inplace whether it has an option inplace, which is drawn where its input is free for it
    alike   whether its one output has the shape of its input
    returns the shapes of what it returns, where that is known without asking torch
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
    bound: Callable[[Shape], int] | None
    size: int
    inplace: bool
    alike: bool
    returns: Returned | None

    def outputs(self, arguments: Arguments, shape: Shape) -> tuple[Shape, ...]:
        """The shapes of what it returns for an input of this shape."""
        if self.alike:
            return (shape,)
        if self.returns is not None:
            return self.returns(arguments, shape)
        bound = -1 if self.bound is None else self.bound(shape)
        found = _returned(self.op, repr(arguments), shape)
        return tuple(Shape(sizes, 0 if floating else bound) for sizes, floating in found)


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
    bound: Callable[[Shape], int] | None = None,
    size: int = 1,
    inplace: bool = False,
    alike: bool = False,
    returns: Returned | None = None,
) -> Callable[[Maker], Maker]:
    """Register a maker for each of these ops that this torch has."""

    def register(make: Maker) -> Maker:
        for op in ops:
            if torch_has(class_of(op)):
                KINDS[op] = Kind(
                    op,
                    make,
                    ranks,
                    dtypes,
                    fits,
                    second,
                    writes,
                    integer,
                    dense,
                    bound,
                    size,
                    inplace,
                    alike,
                    returns,
                )
        return make

    return register


def torch_has(name: str) -> bool:
    """Whether this torch has that name in torch.nn; "" it always has."""
    try:
        return not name or bool(attrgetter(name)(torch.nn))
    except AttributeError:
        return False


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


def each(draw: DrawFn, **options: tuple[Any, ...]) -> Arguments:
    """A value of each option, drawn at once; the first ones are the simplest. None is left out."""
    key = repr(options)  # lists are among the values
    if key not in _COMBINATIONS:
        every = product(*options.values())
        _COMBINATIONS[key] = [given(**dict(zip(options, v, strict=True))) for v in every]
    return dict(pick(draw, _COMBINATIONS[key]))


_COMBINATIONS: Final[dict[str, list[Arguments]]] = {}


@cache
def takes(name: str, option: str) -> bool:
    """Whether the constructor of this class has that option in this torch."""
    return torch_has(name) and option in signature(attrgetter(name)(torch.nn)).parameters


@cache
def forward_takes(name: str, option: str) -> bool:
    """Whether forward of this class has that option in this torch."""
    return torch_has(name) and option in signature(attrgetter(name)(torch.nn).forward).parameters


def given(**arguments: Any) -> Arguments:
    """Arguments, without those that are None."""
    return {name: value for name, value in arguments.items() if value is not None}


@cache
def _returned(op: str, arguments: str, shape: Shape) -> tuple[tuple[tuple[int, ...], bool], ...]:
    """Sizes of what the node returns, and whether it is floating point: torch is asked, once."""
    node = Node(op, (0, 0) if KINDS[op].second else (0,), eval(arguments))
    outputs = tuple(range(1, 1 + len(node.outputs)))
    recipe = Recipe((Input(shape.sizes, shape.high),), (node,), outputs)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        given = torch.zeros(shape.sizes, dtype=torch.long if shape.high else torch.float32)
        scope: dict[str, Any] = {}
        exec(render(recipe), scope)
        out = scope["Model"]()(given)
    out = out if isinstance(out, tuple) else (out,)
    return tuple((tuple(t.shape), t.is_floating_point()) for t in out)
