"""Padding, by each of its ways; batched and not."""

from hypothesis.strategies import DrawFn

from .kinds import ALL, Arguments, Shape, kind, pick


def padding(n: int) -> None:
    """Over n dimensions of space. Padding by reflection must be less than the size."""
    ranks = (n + 1, n + 2)

    @kind(f"ConstantPad{n}d", ranks=ranks, dtypes=ALL)
    def make_constant(draw: DrawFn, shape: Shape) -> Arguments:
        return {"padding": pick(draw, (1, 2)), "value": pick(draw, (0.0, 0.5))}

    @kind(f"ZeroPad{n}d", ranks=ranks, dtypes=ALL)
    @kind(f"ReplicationPad{n}d", f"CircularPad{n}d", ranks=ranks)
    @kind(f"ReflectionPad{n}d", ranks=ranks, fits=lambda shape: min(shape.sizes[-n:]) > 1)
    def make(draw: DrawFn, shape: Shape) -> Arguments:
        return {"padding": 1}


for n in (1, 2, 3):
    padding(n)
