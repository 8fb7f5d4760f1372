"""Convolutions: padded so that they fit any size; batched and not."""

from hypothesis.strategies import DrawFn

from .kinds import ALL, FLOATS, Arguments, Maker, Shape, kind, maybe, size


def _space(n: int) -> Maker:
    """Arguments of a convolution over n dimensions of space."""

    def make(draw: DrawFn, shape: Shape) -> Arguments:
        arguments = {"in_channels": shape.sizes[-n - 1], "out_channels": size(draw)}
        return arguments | {"kernel_size": 3, "padding": 1, "bias": not maybe(draw)}

    return make


def _lazily(n: int) -> Maker:
    def make(draw: DrawFn, shape: Shape) -> Arguments:
        arguments = _space(n)(draw, shape)
        del arguments["in_channels"]
        return arguments | {"first": list(shape.sizes)}

    return make


for n, ranks in ((1, (2, 3)), (2, (3, 4)), (3, (4, 5))):
    kind(f"Conv{n}d", ranks=ranks, dtypes=ALL if n < 3 else FLOATS)(_space(n))
    kind(f"ConvTranspose{n}d", ranks=ranks)(_space(n))
    kind(f"LazyConv{n}d", f"LazyConvTranspose{n}d", ranks=ranks)(_lazily(n))
