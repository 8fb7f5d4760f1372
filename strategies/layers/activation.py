"""Activations, the random RReLU among them."""

from hypothesis.strategies import DrawFn

from .kinds import ALL, Arguments, Shape, kind, maybe, pick


@kind("GELU", "Sigmoid", "Softplus", "LogSigmoid", "Softshrink", "Hardshrink", "Hardsigmoid")
@kind("Tanh", "Tanhshrink", "Softsign", dtypes=ALL)
@kind("ReLU", "LeakyReLU", "ELU", "SiLU", "Hardtanh", "ReLU6", "CELU", "SELU", "Mish", "Hardswish")
def activation(draw: DrawFn, shape: Shape) -> Arguments:
    return {}


@kind("Threshold")
def threshold(draw: DrawFn, shape: Shape) -> Arguments:
    return {"threshold": pick(draw, (0.0, 0.5)), "value": pick(draw, (0.0, 1.0))}


@kind("GLU", fits=lambda shape: shape.sizes[-1] % 2 == 0)
def glu(draw: DrawFn, shape: Shape) -> Arguments:
    return {"dim": -1}


@kind("Softmax", "Softmin", "LogSoftmax")
def softmax(draw: DrawFn, shape: Shape) -> Arguments:
    return {"dim": pick(draw, (-1, 0))}


@kind("Softmax2d", ranks=(3, 4))
def softmax_of_channels(draw: DrawFn, shape: Shape) -> Arguments:
    return {}


@kind("RReLU", dtypes=("float32", "float64", "bfloat16"))
def rrelu(draw: DrawFn, shape: Shape) -> Arguments:
    lower, upper = pick(draw, ((0.125, 1 / 3), (0.0, 1.0), (0.5, 0.5)))
    return {"lower": lower, "upper": upper}


@kind("PReLU")
def prelu(draw: DrawFn, shape: Shape) -> Arguments:
    return {"num_parameters": shape.sizes[1] if maybe(draw) else 1}
