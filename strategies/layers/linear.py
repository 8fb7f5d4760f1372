"""Linear layers, and those that only hand on or reshape."""

from math import prod

from hypothesis.strategies import DrawFn

from .kinds import ALL, Made, Shape, keeping, kind, maybe, size


@kind("Linear", dtypes=ALL)
def linear(draw: DrawFn, shape: Shape) -> Made:
    out = size(draw)
    arguments = {"in_features": shape.sizes[-1], "out_features": out, "bias": not maybe(draw)}
    return arguments, (Shape((*shape.sizes[:-1], out)),)


@kind("Bilinear", ranks=(2, 3), second=True)
def bilinear(draw: DrawFn, shape: Shape) -> Made:
    width, out = shape.sizes[-1], size(draw)
    arguments = {"in1_features": width, "in2_features": width, "out_features": out}
    return arguments, (Shape((*shape.sizes[:-1], out)),)


@kind("Identity", dtypes=ALL)
def identity(draw: DrawFn, shape: Shape) -> Made:
    return {}, keeping(shape)


@kind("Flatten", dtypes=ALL, dense=True)
def flatten(draw: DrawFn, shape: Shape) -> Made:
    flat = (shape.sizes[0], prod(shape.sizes[1:]))
    return {"rank": len(shape.sizes)}, (Shape(flat),)
