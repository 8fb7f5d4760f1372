"""Activations, the random RReLU among them."""

from hypothesis.strategies import DrawFn

from .kinds import ALL, Arguments, Shape, each, kind, maybe, pick


@kind("Sigmoid", "LogSigmoid", alike=True)
@kind("Tanh", "Tanhshrink", "Softsign", dtypes=ALL, alike=True)
@kind("ReLU", "SiLU", "ReLU6", "SELU", "Mish", "Hardswish", inplace=True, alike=True)
@kind("Hardsigmoid", inplace=True, alike=True)
def activation(draw: DrawFn, shape: Shape) -> Arguments:
    return {}


@kind("GELU", alike=True)
def gelu(draw: DrawFn, shape: Shape) -> Arguments:
    return {"approximate": pick(draw, ("none", "tanh"))}


@kind("LeakyReLU", inplace=True, alike=True)
def leaky_relu(draw: DrawFn, shape: Shape) -> Arguments:
    """A negative slope must not be less than 0 where it is done in place."""
    return {"negative_slope": pick(draw, (0.01, 0.5, 0.0))}


@kind("ELU", "CELU", inplace=True, alike=True)
def elu(draw: DrawFn, shape: Shape) -> Arguments:
    return {"alpha": pick(draw, (1.0, 0.5))}


@kind("Hardtanh", inplace=True, alike=True)
def hardtanh(draw: DrawFn, shape: Shape) -> Arguments:
    return each(draw, min_val=(-1.0, -0.5), max_val=(1.0, 0.5))


@kind("Softplus", alike=True)
def softplus(draw: DrawFn, shape: Shape) -> Arguments:
    return each(draw, beta=(1.0, 2.0), threshold=(20.0, 1.0))


@kind("Softshrink", "Hardshrink", alike=True)
def shrink(draw: DrawFn, shape: Shape) -> Arguments:
    return {"lambd": pick(draw, (0.5, 0.1))}


@kind("Threshold", inplace=True, alike=True)
def threshold(draw: DrawFn, shape: Shape) -> Arguments:
    return {"threshold": pick(draw, (0.0, 0.5)), "value": pick(draw, (0.0, 1.0))}


@kind("GLU", fits=lambda shape: shape.sizes[-1] % 2 == 0)
def glu(draw: DrawFn, shape: Shape) -> Arguments:
    even = [d for d, n in enumerate(shape.sizes[:-1]) if n % 2 == 0]
    return {"dim": pick(draw, (-1, *even))}


@kind("Softmax", "Softmin", "LogSoftmax", alike=True)
def softmax(draw: DrawFn, shape: Shape) -> Arguments:
    return {"dim": pick(draw, (-1, 0))}


@kind("Softmax2d", ranks=(3, 4), alike=True)
def softmax_of_channels(draw: DrawFn, shape: Shape) -> Arguments:
    return {}


@kind("RReLU", dtypes=("float32", "float64", "bfloat16"), inplace=True, alike=True)
def rrelu(draw: DrawFn, shape: Shape) -> Arguments:
    lower, upper = pick(draw, ((0.125, 1 / 3), (0.0, 1.0), (0.5, 0.5)))
    return {"lower": lower, "upper": upper}


@kind("PReLU", alike=True)
def prelu(draw: DrawFn, shape: Shape) -> Arguments:
    count = shape.sizes[1] if maybe(draw) else 1
    return {"num_parameters": count, "init": pick(draw, (0.25, 0.0))}
