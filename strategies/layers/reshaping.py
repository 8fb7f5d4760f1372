"""Shuffling, folding and upsampling."""

from hypothesis.strategies import DrawFn

from .kinds import ALL, FLOATS, WIDE, Arguments, Shape, kind, pick


@kind("PixelShuffle", ranks=(3, 4), dtypes=ALL)
def pixel_shuffle(draw: DrawFn, shape: Shape) -> Arguments:
    return {"upscale_factor": 2 if shape.sizes[-3] % 4 == 0 else 1}


@kind("PixelUnshuffle", ranks=(3, 4), dtypes=ALL)
def pixel_unshuffle(draw: DrawFn, shape: Shape) -> Arguments:
    return {"downscale_factor": 2 if all(n % 2 == 0 for n in shape.sizes[-2:]) else 1}


@kind("ChannelShuffle", ranks=(3, 4), dtypes=WIDE)
def channel_shuffle(draw: DrawFn, shape: Shape) -> Arguments:
    return {"groups": shape.sizes[1]}


@kind("Fold", ranks=(3,), dtypes=FLOATS)
def fold(draw: DrawFn, shape: Shape) -> Arguments:
    return {"output_size": [1, shape.sizes[-1]], "kernel_size": 1}


@kind("Unfold", ranks=(4,), dtypes=FLOATS)
def unfold(draw: DrawFn, shape: Shape) -> Arguments:
    return {"kernel_size": 2, "padding": 1}


def _small(shape: Shape) -> bool:
    return max(shape.sizes) <= 8


_MODES = {3: ("nearest", "linear"), 4: ("nearest", "bilinear", "bicubic")}


@kind("Upsample", ranks=(3, 4), fits=_small)
def upsample(draw: DrawFn, shape: Shape) -> Arguments:
    return {"scale_factor": 2, "mode": pick(draw, _MODES[len(shape.sizes)])}


@kind("UpsamplingNearest2d", "UpsamplingBilinear2d", ranks=(4,), fits=_small)
def upsampling(draw: DrawFn, shape: Shape) -> Arguments:
    return {"scale_factor": 2}
