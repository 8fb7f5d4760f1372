"""Pooling, unpooling, and the random FractionalMaxPool among them; batched and not."""

from hypothesis.strategies import DrawFn

from .kinds import FLOATS, WIDE, Arguments, Shape, kind, size


def pooling(n: int) -> None:
    """Over n dimensions of space."""
    ranks = (n + 1, n + 2)

    def poolable(shape: Shape) -> bool:
        return min(shape.sizes[-n:]) > 1

    @kind(f"MaxPool{n}d", ranks=ranks, fits=poolable)
    @kind(f"AvgPool{n}d", ranks=ranks, dtypes=FLOATS if n < 3 else WIDE, fits=poolable)
    def make(draw: DrawFn, shape: Shape) -> Arguments:
        return {"kernel_size": 2, "stride": 1}

    @kind(f"LPPool{n}d", ranks=ranks, dtypes=WIDE, fits=poolable)
    def make_lp(draw: DrawFn, shape: Shape) -> Arguments:
        return {"norm_type": 2, "kernel_size": 2, "stride": 1}

    @kind(f"AdaptiveAvgPool{n}d", f"AdaptiveMaxPool{n}d", ranks=ranks)
    def make_adaptive(draw: DrawFn, shape: Shape) -> Arguments:
        return {"output_size": size(draw, most=min(shape.sizes[-n:]))}

    # What MaxPool leaves out at the border of an odd size, MaxUnpool does not find again.
    @kind(
        f"MaxUnpool{n}d",
        ranks=ranks,
        dtypes=WIDE,
        fits=lambda shape: all(k % 2 == 0 for k in shape.sizes[-n:]),
    )
    def make_unpool(draw: DrawFn, shape: Shape) -> Arguments:
        return {"kernel_size": 2}

    if n > 1:

        @kind(f"FractionalMaxPool{n}d", ranks=ranks, dtypes=WIDE, fits=poolable)
        def make_fractional(draw: DrawFn, shape: Shape) -> Arguments:
            return {"kernel_size": 1, "output_size": [k - 1 for k in shape.sizes[-n:]]}


for n in (1, 2, 3):
    pooling(n)


@kind(
    "MaxPool2d_with_indices",
    ranks=(4,),
    fits=lambda shape: min(shape.sizes[2:]) > 1,
    bound=lambda shape: shape.sizes[2] * shape.sizes[3],
)
def pooling_with_indices(draw: DrawFn, shape: Shape) -> Arguments:
    return {"kernel_size": 2, "stride": 1}
