"""Pooling, unpooling, and the random FractionalMaxPool among them; batched and not."""

from __future__ import annotations

from functools import cache
from itertools import product
from math import prod

from hypothesis.strategies import DrawFn

from .kinds import FLOATS, WIDE, Arguments, Shape, given, kind, maybe, pick, size


@cache
def _windows(
    least: int, *, dilated: bool = False, padded: bool = True, largest: int = 3
) -> tuple[Arguments, ...]:
    """Windows over sizes of which this is the smallest; the first one is the simplest."""
    found = []
    for kernel, step, around, apart, ceil in product(
        (2, 1, 3), (1, 2, None), (0, 1), (1, 2), (False, True)
    ):
        fits = least + 2 * around > apart * (kernel - 1) and 2 * around <= kernel <= largest
        if fits and (dilated or apart == 1) and (padded or around == 0):
            options = {"padding": around or None, "dilation": apart if apart > 1 else None}
            options["ceil_mode"] = ceil or None
            found.append(given(kernel_size=kernel, stride=step, **options))
    return tuple(found)


def pooling(n: int) -> None:
    """Over n dimensions of space."""
    ranks = (n + 1, n + 2)

    def poolable(shape: Shape) -> bool:
        return min(shape.sizes[-n:]) > 1

    def least(shape: Shape) -> int:
        return min(shape.sizes[-n:])

    def positions(shape: Shape) -> int:
        """More than any index of what was pooled."""
        return prod(shape.sizes[-n:])

    @kind(f"MaxPool{n}d", ranks=ranks, fits=poolable)
    @kind(f"MaxPool{n}d_with_indices", ranks=ranks, fits=poolable, bound=positions)
    def make_max(draw: DrawFn, shape: Shape) -> Arguments:
        return dict(pick(draw, _windows(least(shape), dilated=True)))

    @kind(f"AvgPool{n}d", ranks=ranks, dtypes=FLOATS if n < 3 else WIDE, fits=poolable)
    def make_average(draw: DrawFn, shape: Shape) -> Arguments:
        # In three dimensions no window may be larger than what it lies on, padded or not.
        largest = min(3, least(shape)) if n == 3 else 3
        arguments = dict(pick(draw, _windows(least(shape), largest=largest)))
        divisor = pick(draw, (None, 3)) if n > 1 else None
        uncounted = False if "padding" in arguments and maybe(draw) else None
        return arguments | given(count_include_pad=uncounted, divisor_override=divisor)

    @kind(f"LPPool{n}d", ranks=ranks, dtypes=WIDE, fits=poolable)
    def make_lp(draw: DrawFn, shape: Shape) -> Arguments:
        window = pick(draw, _windows(least(shape), padded=False))
        return {"norm_type": pick(draw, (2, 1)), **window}

    @kind(f"AdaptiveAvgPool{n}d", f"AdaptiveMaxPool{n}d", ranks=ranks)
    @kind(f"AdaptiveMaxPool{n}d_with_indices", ranks=ranks, bound=positions)
    def make_adaptive(draw: DrawFn, shape: Shape) -> Arguments:
        wanted = size(draw, most=min(shape.sizes[-n:]))
        # None keeps a size as it is.
        return {"output_size": [wanted, *[None] * (n - 1)] if n > 1 and maybe(draw) else wanted}

    @kind(f"MaxUnpool{n}d", ranks=ranks, dtypes=WIDE)
    def make_unpool(draw: DrawFn, shape: Shape) -> Arguments:
        window, sizes = pick(draw, _unpoolings(shape.sizes[-n:]))
        return {**window, **({"output_size": list(sizes)} if sizes else {})}

    if n > 1:

        @kind(f"FractionalMaxPool{n}d", ranks=ranks, dtypes=WIDE, fits=poolable)
        @kind(
            f"FractionalMaxPool{n}d_with_indices",
            ranks=ranks,
            dtypes=WIDE,
            fits=poolable,
            bound=positions,
        )
        def make_fractional(draw: DrawFn, shape: Shape) -> Arguments:
            sizes = {"kernel_size": 1, "output_size": [k - 1 for k in shape.sizes[-n:]]}
            halves = {"kernel_size": 2, "output_ratio": 0.5}
            # In three dimensions windows must leave something over.
            return dict(pick(draw, (sizes, halves) if n < 3 or least(shape) > 2 else (sizes,)))


@cache
def _unpoolings(sizes: tuple[int, ...]) -> tuple[tuple[Arguments, tuple[int, ...]], ...]:
    """Windows by which these sizes may be pooled and unpooled, and the sizes to be asked for.

    What MaxPool leaves out at the border, MaxUnpool finds again only if it is told the size.
    Windows do not overlap: where indices are repeated, the page of nn.MaxUnpool2d says that the
    result is not determined.
    """
    found: list[tuple[Arguments, tuple[int, ...]]] = []
    for kernel, step, around in ((2, None, 0), (2, 2, 0), (2, 3, 1), (3, 3, 1), (1, None, 0)):
        taken = kernel if step is None else step
        if min(sizes) + 2 * around < kernel:
            continue
        pooled = [(n + 2 * around - kernel) // taken + 1 for n in sizes]
        made = [(n - 1) * taken - 2 * around + kernel for n in pooled]
        window = given(kernel_size=kernel, stride=step, padding=around or None)
        if list(sizes) == made:
            found.append((window, ()))
        if all(abs(n - m) < taken for n, m in zip(sizes, made, strict=True)):
            found.append((window, sizes))
    return tuple(found)


for n in (1, 2, 3):
    pooling(n)
