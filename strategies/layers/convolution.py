"""Convolutions: of windows that fit the size of their input; batched and not."""

from __future__ import annotations

from functools import cache
from itertools import product

import torch
from hypothesis.strategies import DrawFn
from torch.nn import functional

from .kinds import ALL, FLOATS, Arguments, Maker, Shape, kind, maybe, pick, size


@cache
def _wraps_unbatched() -> bool:
    """Whether this torch pads what is not batched by wrapping it around."""
    try:
        functional.pad(torch.zeros(1, 2), (1, 1), mode="circular")
    except RuntimeError:
        return False
    return True


@cache
def _windows(least: int, channels: int, wraps: bool) -> tuple[Arguments, ...]:
    """Options of a convolution of which the smallest size of space is ``least``, simplest first.

    wraps  whether its input may be padded by wrapping it around
    """
    found: list[Arguments] = [{"kernel_size": 3, "padding": 1}, {"kernel_size": 1}]
    of_channels = (1, channels) if channels > 1 else (1,)
    ways = ("zeros", "zeros", "reflect", "replicate", *(("circular",) if wraps else ()))
    paddings: tuple[int | str, ...] = (1, 0, 2, "same")
    for kernel, padding, step, apart, groups, way in product(
        (3, 2, 1), paddings, (1, 2), (1, 2), of_channels, ways
    ):
        reach = (kernel - 1) * apart
        around = (reach + 1) // 2 if isinstance(padding, str) else padding
        fits = step == 1 if isinstance(padding, str) else least + 2 * around > reach
        # Reflected and wrapped around there must be enough to pad with.
        enough = {"reflect": around < least, "circular": around <= least}
        if fits and enough.get(way, True):
            options = {"stride": step, "dilation": apart, "groups": groups, "padding_mode": way}
            found.append({"kernel_size": kernel, "padding": padding, **options})
    return tuple(found)


@cache
def _transposed_windows(least: int, channels: int) -> tuple[Arguments, ...]:
    """Options of a transposed convolution, simplest first."""
    found: list[Arguments] = [{"kernel_size": 3, "padding": 1}, {"kernel_size": 1}]
    of_channels = (1, channels) if channels > 1 else (1,)
    for kernel, padding, step, apart, beyond, groups in product(
        (3, 2, 1), (1, 0), (1, 2), (1, 2), (0, 1), of_channels
    ):
        made = (least - 1) * step - 2 * padding + apart * (kernel - 1) + beyond + 1
        if made > 0 and beyond < max(step, apart):
            options = {"stride": step, "dilation": apart, "groups": groups}
            options |= {"output_padding": beyond}
            found.append({"kernel_size": kernel, "padding": padding, **options})
    return tuple(found)


def _made_of(sizes: tuple[int, ...], window: Arguments) -> list[int]:
    """The sizes that a transposed convolution makes of these, without output padding."""
    step, apart = window.get("stride", 1), window.get("dilation", 1)
    reach = apart * (window["kernel_size"] - 1) - 2 * window.get("padding", 0)
    return [(n - 1) * step + reach + 1 for n in sizes]


def _space(n: int, *, transposed: bool = False, lazy: bool = False) -> Maker:
    """Arguments of a convolution over n dimensions of space."""

    def make(draw: DrawFn, shape: Shape) -> Arguments:
        channels, sizes = shape.sizes[-n - 1], shape.sizes[-n:]
        if transposed:
            window = pick(draw, _transposed_windows(min(sizes), channels))
        else:
            wraps = len(shape.sizes) == n + 2 or _wraps_unbatched()
            window = pick(draw, _windows(min(sizes), channels, wraps))
        arguments: Arguments = {"first": list(shape.sizes)} if lazy else {"in_channels": channels}
        arguments |= {"out_channels": size(draw) * window.get("groups", 1), **window}
        if transposed and window.get("stride", 1) > 1 and maybe(draw):
            # Of the sizes that a stride leaves open the larger one.
            arguments["output_size"] = [made + 1 for made in _made_of(sizes, window)]
        return arguments | {"bias": not maybe(draw)}

    return make


for n, ranks in ((1, (2, 3)), (2, (3, 4)), (3, (4, 5))):
    kind(f"Conv{n}d", ranks=ranks, dtypes=ALL if n < 3 else FLOATS)(_space(n))
    kind(f"ConvTranspose{n}d", ranks=ranks)(_space(n, transposed=True))
    kind(f"LazyConv{n}d", ranks=ranks)(_space(n, lazy=True))
    kind(f"LazyConvTranspose{n}d", ranks=ranks)(_space(n, transposed=True, lazy=True))
