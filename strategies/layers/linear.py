"""Linear layers, and those that only hand on or reshape."""

from hypothesis.strategies import DrawFn

from .kinds import ALL, WIDE, Arguments, Shape, each, kind, maybe, pick, size


@kind("Linear", dtypes=ALL)
def linear(draw: DrawFn, shape: Shape) -> Arguments:
    out = size(draw)
    return {"in_features": shape.sizes[-1], "out_features": out, "bias": not maybe(draw)}


@kind("Linear_spectral_norm", dtypes=WIDE)
def spectrally_normed(draw: DrawFn, shape: Shape) -> Arguments:
    """With the norms that are hooks, in nn.utils."""
    norm = each(draw, n_power_iterations=(1, 2), eps=(1e-12, 1e-3), dim=(None, 1))
    return linear(draw, shape) | {"norm": norm}


@kind("Linear_weight_norm", dtypes=WIDE)
def weight_normed(draw: DrawFn, shape: Shape) -> Arguments:
    return linear(draw, shape) | {"norm": {"dim": pick(draw, (0, 1, None))}}


@kind("Bilinear", ranks=(2, 3), second=True)
def bilinear(draw: DrawFn, shape: Shape) -> Arguments:
    width = shape.sizes[-1]
    sizes = {"in1_features": width, "in2_features": width, "out_features": size(draw)}
    return sizes | {"bias": not maybe(draw)}


@kind("Identity", dtypes=ALL, alike=True)
def identity(draw: DrawFn, shape: Shape) -> Arguments:
    return {}


@kind("Flatten", dtypes=ALL, dense=True)
def flatten(draw: DrawFn, shape: Shape) -> Arguments:
    rank = len(shape.sizes)
    return {"rank": rank} | each(draw, start_dim=(None, 0), end_dim=(None, 1))


@kind("Unflatten", ranks=(2, 3), dtypes=ALL)
def unflatten(draw: DrawFn, shape: Shape) -> Arguments:
    dim = pick(draw, (1, -1, 0))
    return {
        "dim": dim,
        "unflattened_size": pick(draw, ([shape.sizes[dim], 1], [1, shape.sizes[dim]])),
    }


@kind("ParameterList", "ParameterDict", dtypes=ALL, alike=True)
def parameters(draw: DrawFn, shape: Shape) -> Arguments:
    """Holders of parameters, which are no modules themselves."""
    return {"sizes": [shape.sizes[-1]]}


@kind("LazyLinear", dtypes=ALL)
def lazy_linear(draw: DrawFn, shape: Shape) -> Arguments:
    return {"out_features": size(draw), "bias": not maybe(draw), "first": list(shape.sizes)}
