"""Pooling, the random FractionalMaxPool among it."""

from hypothesis.strategies import DrawFn

from .kinds import WIDE, Made, Shape, kind, size


def _smaller(shape: Shape) -> tuple[int, ...]:
    return (*shape.sizes[:2], *(n - 1 for n in shape.sizes[2:]))


def _poolable(shape: Shape) -> bool:
    return min(shape.sizes[2:]) > 1


@kind("MaxPool1d", "AvgPool1d", ranks=(3,), fits=_poolable)
@kind("MaxPool2d", "AvgPool2d", ranks=(4,), fits=_poolable)
def pooling(draw: DrawFn, shape: Shape) -> Made:
    return {"kernel_size": 2, "stride": 1}, (Shape(_smaller(shape)),)


@kind("MaxPool2d_with_indices", ranks=(4,), fits=_poolable)
def pooling_with_indices(draw: DrawFn, shape: Shape) -> Made:
    smaller = _smaller(shape)
    indices = Shape(smaller, high=shape.sizes[2] * shape.sizes[3])
    return {"kernel_size": 2, "stride": 1}, (Shape(smaller), indices)


@kind("AdaptiveAvgPool1d", ranks=(3,))
def adaptive_pooling(draw: DrawFn, shape: Shape) -> Made:
    out = size(draw, most=shape.sizes[-1])
    return {"output_size": out}, (Shape((*shape.sizes[:-1], out)),)


@kind("FractionalMaxPool2d", ranks=(4,), dtypes=WIDE, fits=_poolable)
def fractional_pooling(draw: DrawFn, shape: Shape) -> Made:
    return {"kernel_size": 1, "output_size": [n - 1 for n in shape.sizes[2:]]}, (
        Shape(_smaller(shape)),
    )
