"""Functions and tensor methods in forward, raw parameters and buffers."""

from hypothesis.strategies import DrawFn

from .kinds import ALL, FLOATS, WIDE, Arguments, Shape, kind


@kind("add", "mul", dtypes=ALL, second=True)
@kind("square", "branch_on_training", "detach", dtypes=ALL)
@kind("relu", "softmax", "dropout_in_training", "dropout_by_default")
@kind("gumbel_softmax", dtypes=WIDE)
@kind("attention", ranks=(3, 4), dtypes=WIDE)
@kind("mul_", "add_", dtypes=ALL, writes=True)
@kind("cat", dtypes=ALL, second=True, fits=lambda shape: shape.sizes[-1] < 8)
@kind("mean", "select", ranks=(3, 4), dtypes=ALL)
@kind("unsqueeze", ranks=(2, 3), dtypes=ALL)
@kind("transpose", ranks=(3, 4), dtypes=ALL)
@kind("chunk", dtypes=ALL, fits=lambda shape: shape.sizes[-1] % 2 == 0)
@kind("argmax", dtypes=FLOATS, bound=lambda shape: shape.sizes[-1])
@kind("positive", dtypes=FLOATS)
def function(draw: DrawFn, shape: Shape) -> Arguments:
    return {}


@kind("scale", "shift", dtypes=ALL)
def owned(draw: DrawFn, shape: Shape) -> Arguments:
    """A raw parameter or buffer as wide as the last dimension."""
    return {"sizes": [shape.sizes[-1]]}
