"""Shuffling, folding and upsampling."""

from __future__ import annotations

from functools import cache
from itertools import product
from math import prod

from hypothesis.strategies import DrawFn

from .kinds import ALL, FLOATS, WIDE, Arguments, Shape, given, kind, maybe, pick


@kind("PixelShuffle", ranks=(3, 4), dtypes=ALL)
def pixel_shuffle(draw: DrawFn, shape: Shape) -> Arguments:
    return {"upscale_factor": 2 if shape.sizes[-3] % 4 == 0 else 1}


@kind("PixelUnshuffle", ranks=(3, 4), dtypes=ALL)
def pixel_unshuffle(draw: DrawFn, shape: Shape) -> Arguments:
    return {"downscale_factor": 2 if all(n % 2 == 0 for n in shape.sizes[-2:]) else 1}


@kind("ChannelShuffle", ranks=(3, 4), dtypes=WIDE)
def channel_shuffle(draw: DrawFn, shape: Shape) -> Arguments:
    return {"groups": shape.sizes[1]}


@cache
def _foldings(channels: int, length: int) -> tuple[Arguments, ...]:
    """Ways to put this many columns together again, each a block of an image of one row or two."""
    found: list[Arguments] = [{"output_size": [1, length], "kernel_size": 1}]
    for step in (1, 2):
        found.append({"output_size": [1, step * (length - 1) + 1], "kernel_size": 1})
        found[-1]["stride"] = [1, step]
    if length > 2:
        found.append({"output_size": [1, length - 2], "kernel_size": 1, "padding": [0, 1]})
    if channels % 2 == 0:
        for apart in (1, 2):
            kernel = {"kernel_size": [2, 1], "dilation": [apart, 1]}
            found.append({"output_size": [apart + 1, length], **kernel})
    return tuple(found)


@kind("Fold", ranks=(3,), dtypes=FLOATS)
def fold(draw: DrawFn, shape: Shape) -> Arguments:
    return dict(pick(draw, _foldings(*shape.sizes[1:])))


@cache
def _unfoldings(least: int) -> tuple[Arguments, ...]:
    found = []
    for kernel, around, step, apart in product((2, 1, [1, 2]), (1, 0), (1, 2), (1, 2)):
        if least + 2 * around > apart:
            options = {"padding": around, "stride": step, "dilation": apart}
            found.append({"kernel_size": kernel, **options})
    return tuple(found)


@kind("Unfold", ranks=(4,), dtypes=FLOATS)
def unfold(draw: DrawFn, shape: Shape) -> Arguments:
    return dict(pick(draw, _unfoldings(min(shape.sizes[2:]))))


def _small(shape: Shape) -> bool:
    return max(shape.sizes) <= 8 and prod(shape.sizes) <= 2048


_MODES = {
    3: ("nearest", "linear", "area", "nearest-exact"),
    4: ("nearest", "bilinear", "bicubic", "area"),
    5: ("nearest", "trilinear", "area", "nearest-exact"),
}


def _larger(draw: DrawFn, shape: Shape) -> Arguments:
    """The size that is wanted, or by how much larger it is."""
    sizes = [n + 1 for n in shape.sizes[2:]]
    return dict(pick(draw, ({"scale_factor": 2}, {"scale_factor": 1.5}, {"size": sizes})))


@kind("Upsample", ranks=(3, 4, 5), fits=_small)
def upsample(draw: DrawFn, shape: Shape) -> Arguments:
    mode, wanted = pick(draw, _MODES[len(shape.sizes)]), _larger(draw, shape)
    aligned = pick(draw, (None, True, False)) if mode.endswith(("linear", "cubic")) else None
    again = True if "scale_factor" in wanted and aligned is None and maybe(draw) else None
    return {**wanted, "mode": mode, **given(align_corners=aligned, recompute_scale_factor=again)}


@kind("UpsamplingNearest2d", "UpsamplingBilinear2d", ranks=(4,), fits=_small)
def upsampling(draw: DrawFn, shape: Shape) -> Arguments:
    return _larger(draw, shape)
