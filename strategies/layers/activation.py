"""Activations, the random RReLU among them."""

from hypothesis.strategies import DrawFn

from .kinds import ALL, Made, Shape, keeping, kind, maybe, pick


@kind("GELU", "Sigmoid", "Softplus")
@kind("Tanh", dtypes=ALL)
@kind("ReLU", "LeakyReLU", "ELU", "SiLU", "Hardtanh")
def activation(draw: DrawFn, shape: Shape) -> Made:
    return {}, keeping(shape)


@kind("Softmax")
def softmax(draw: DrawFn, shape: Shape) -> Made:
    return {"dim": -1}, keeping(shape)


@kind("RReLU", dtypes=("float32", "float64", "bfloat16"))
def rrelu(draw: DrawFn, shape: Shape) -> Made:
    lower, upper = pick(draw, ((0.125, 1 / 3), (0.0, 1.0), (0.5, 0.5)))
    return {"lower": lower, "upper": upper}, keeping(shape)


@kind("PReLU")
def prelu(draw: DrawFn, shape: Shape) -> Made:
    return {"num_parameters": shape.sizes[1] if maybe(draw) else 1}, keeping(shape)
