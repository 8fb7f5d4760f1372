"""Linear layers, and those that only hand on or reshape."""

from hypothesis.strategies import DrawFn

from .kinds import ALL, WIDE, Arguments, Shape, kind, maybe, pick, size


@kind("Linear", dtypes=ALL)
def linear(draw: DrawFn, shape: Shape) -> Arguments:
    out = size(draw)
    return {"in_features": shape.sizes[-1], "out_features": out, "bias": not maybe(draw)}


@kind("Linear_spectral_norm", "Linear_weight_norm", dtypes=WIDE)
def normed_linear(draw: DrawFn, shape: Shape) -> Arguments:
    """With the norms that are hooks, in nn.utils."""
    return linear(draw, shape)


@kind("Bilinear", ranks=(2, 3), second=True)
def bilinear(draw: DrawFn, shape: Shape) -> Arguments:
    width = shape.sizes[-1]
    return {"in1_features": width, "in2_features": width, "out_features": size(draw)}


@kind("Identity", dtypes=ALL)
def identity(draw: DrawFn, shape: Shape) -> Arguments:
    return {}


@kind("Flatten", dtypes=ALL, dense=True)
def flatten(draw: DrawFn, shape: Shape) -> Arguments:
    return {"rank": len(shape.sizes)}


@kind("Unflatten", ranks=(2, 3), dtypes=ALL)
def unflatten(draw: DrawFn, shape: Shape) -> Arguments:
    return {"dim": 1, "unflattened_size": pick(draw, ([shape.sizes[1], 1], [1, shape.sizes[1]]))}


@kind("ParameterList", "ParameterDict", dtypes=ALL)
def parameters(draw: DrawFn, shape: Shape) -> Arguments:
    """Holders of parameters, which are no modules themselves."""
    return {"sizes": [shape.sizes[-1]]}


@kind("LazyLinear", dtypes=ALL)
def lazy_linear(draw: DrawFn, shape: Shape) -> Arguments:
    return {"out_features": size(draw), "bias": not maybe(draw), "first": list(shape.sizes)}
