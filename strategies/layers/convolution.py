"""Convolutions: padded so that they fit any size."""

from hypothesis.strategies import DrawFn

from .kinds import ALL, FLOATS, Made, Shape, kind, maybe, size


def _convolution(draw: DrawFn, shape: Shape) -> Made:
    batch, channels, *space = shape.sizes
    out = size(draw)
    arguments = {"in_channels": channels, "out_channels": out, "kernel_size": 3, "padding": 1}
    return arguments | {"bias": not maybe(draw)}, (Shape((batch, out, *space)),)


kind("Conv1d", ranks=(3,), dtypes=ALL)(_convolution)
kind("Conv2d", ranks=(4,), dtypes=ALL)(_convolution)
kind("ConvTranspose1d", ranks=(3,), dtypes=FLOATS)(_convolution)
