"""Functions and tensor methods in forward, raw parameters and buffers."""

from hypothesis.strategies import DrawFn

from .kinds import ALL, FLOATS, Made, Shape, keeping, kind


@kind("add", "mul", dtypes=ALL, second=True)
@kind("square", "branch_on_training", "detach", dtypes=ALL)
@kind("relu", "softmax", "dropout_in_training", "dropout_by_default")
@kind("mul_", "add_", dtypes=ALL, writes=True)
def elementwise(draw: DrawFn, shape: Shape) -> Made:
    return {}, keeping(shape)


@kind("cat", dtypes=ALL, second=True, fits=lambda shape: shape.sizes[-1] < 8)
def cat(draw: DrawFn, shape: Shape) -> Made:
    return {}, (Shape((*shape.sizes[:-1], 2 * shape.sizes[-1])),)


@kind("mean", ranks=(3, 4), dtypes=ALL)
def mean(draw: DrawFn, shape: Shape) -> Made:
    return {}, (Shape(shape.sizes[:-1]),)


@kind("unsqueeze", ranks=(2, 3), dtypes=ALL)
def unsqueeze(draw: DrawFn, shape: Shape) -> Made:
    return {}, (Shape((shape.sizes[0], 1, *shape.sizes[1:])),)


@kind("transpose", ranks=(3, 4), dtypes=ALL)
def transpose(draw: DrawFn, shape: Shape) -> Made:
    batch, first, second, *rest = shape.sizes
    return {}, (Shape((batch, second, first, *rest)),)


@kind("select", ranks=(3, 4), dtypes=ALL)
def select(draw: DrawFn, shape: Shape) -> Made:
    return {}, (Shape((shape.sizes[0], *shape.sizes[2:])),)


@kind("chunk", dtypes=ALL, fits=lambda shape: shape.sizes[-1] % 2 == 0)
def chunk(draw: DrawFn, shape: Shape) -> Made:
    half = Shape((*shape.sizes[:-1], shape.sizes[-1] // 2))
    return {}, (half, half)


@kind("argmax", dtypes=FLOATS)
def argmax(draw: DrawFn, shape: Shape) -> Made:
    return {}, (Shape(shape.sizes[:-1], high=shape.sizes[-1]),)


@kind("positive", dtypes=FLOATS)
def positive(draw: DrawFn, shape: Shape) -> Made:
    return {}, (Shape(shape.sizes, high=-1),)


@kind("scale", "shift", dtypes=ALL)
def owned(draw: DrawFn, shape: Shape) -> Made:
    """A raw parameter or buffer as wide as the last dimension."""
    return {"sizes": [shape.sizes[-1]]}, keeping(shape)
