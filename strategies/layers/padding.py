"""Padding, by each of its ways; batched and not."""

from functools import cache
from itertools import product

from hypothesis.strategies import DrawFn

from .kinds import ALL, Arguments, Shape, kind, pick


@cache
def _amounts(sizes: tuple[int, ...], most: int) -> tuple[int | list[int], ...]:
    """How much to pad: the same on each side, or in the last dimension alone.

    That is no more than the size of a dimension and ``most``.
    """
    rest = [0] * (2 * len(sizes) - 2)
    last = [[*pair, *rest] for pair in product(range(3), repeat=2) if max(pair) <= sizes[-1] + most]
    return (*(p for p in (1, 2) if p <= min(sizes) + most), *last)


def padding(n: int) -> None:
    """Over n dimensions of space.

    Padding by reflection must be less than the size, and what is wrapped around no more.
    """
    ranks = (n + 1, n + 2)

    def amount(draw: DrawFn, shape: Shape, most: int = 2) -> Arguments:
        return {"padding": pick(draw, _amounts(shape.sizes[-n:], most))}

    @kind(f"ConstantPad{n}d", ranks=ranks, dtypes=ALL)
    def make_constant(draw: DrawFn, shape: Shape) -> Arguments:
        return amount(draw, shape) | {"value": pick(draw, (0.0, 0.5))}

    @kind(f"ZeroPad{n}d", ranks=ranks, dtypes=ALL)
    @kind(f"ReplicationPad{n}d", ranks=ranks)
    def make(draw: DrawFn, shape: Shape) -> Arguments:
        return amount(draw, shape)

    @kind(f"CircularPad{n}d", ranks=ranks)
    def make_circular(draw: DrawFn, shape: Shape) -> Arguments:
        return amount(draw, shape, 0)

    @kind(f"ReflectionPad{n}d", ranks=ranks, fits=lambda shape: min(shape.sizes[-n:]) > 1)
    def make_reflected(draw: DrawFn, shape: Shape) -> Arguments:
        return amount(draw, shape, -1)


for n in (1, 2, 3):
    padding(n)
