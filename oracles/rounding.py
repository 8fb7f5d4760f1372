"""Rounding is told from meaning by measurement.

Two runs that should give the same values may sum in another order, and so differ. How much such
a difference may be depends on the module: a normalisation of nearly equal values multiplies it.
So it is measured, on the module itself:

1. Each parameter, buffer and input is moved up or down by `FACTOR` units in the last place, a few
   times. A difference of rounding is no larger than twice what one of these moves causes, as each
   of the two runs may be off by as much, or than `FACTOR` units in the last place of the largest
   value.
   Where nothing is moved, the two runs must give what they gave before: what is random differs
   from move to move for another reason.
2. The same is asked in another precision, of the same values. A difference of rounding shrinks
   with the unit in the last place. A difference of meaning does not.

What rounding tips, a comparison or an index, is decided in the same way: each element that
differs must be tipped by one of the moves too.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import torch
from torch import Tensor

from .law import Law, OutOfScope, Unsupported, Violation
from .relations import Place, Traits, counting_traits, reporting, ulps_between
from .subject import Subject, Variation, is_inexact

#: How many units in the last place the values are moved, and a difference may be. Of 1,494 natural
#: differences the largest needed 1.4; those of meaning need a million and more.
FACTOR: Final = 8.0
#: How often they are moved, at the most.
MOVES: Final = 12
#: The number of the variation that moves nothing: the same once more.
AGAIN: Final = -1
#: A difference so many times larger than what the first move causes is none of rounding.
BEYOND: Final = 1024.0
#: The other precision, in which a difference of rounding is of another size.
OTHER: Final = {
    torch.float64: torch.float32,
    torch.float32: torch.float64,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex64: torch.complex128,
}

Pair = tuple[Tensor, Tensor]


def rounded(
    law: Law, quantities: Mapping[str, Any], place: Place, violation: Violation
) -> float | None:
    """The size of a difference in units in the last place, if it is one of rounding; else None.

    law, quantities  what was judged: the law is judged again, on variations of its subject
    place            which of its comparisons differs
    """
    observed, expected = violation.observed.value, violation.expected.value
    if not _comparable(observed, expected):
        return None
    (subject,) = (s for s in quantities.values() if isinstance(s, Subject))
    measured = _Measured(law, quantities, place)
    own = _dtype(subject)
    if own not in OTHER or not measured.explains(None, own, (observed, expected)):
        return None
    if not measured.explains(OTHER[own], OTHER[own], measured.pair(Variation(OTHER[own]))):
        return None
    return ulps_between(observed, expected) or 0.0


def can_round(quantities: Mapping[str, Any]) -> bool:
    """Whether a difference between runs of what a law is judged on may be one of rounding."""
    found = [s for s in quantities.values() if isinstance(s, Subject)]
    return len(found) == 1 and found[0].has_values and found[0].variation is None


def _dtype(subject: Subject) -> torch.dtype:
    tensors = (*subject.model.parameters(), *subject.model.buffers(), *subject.inputs)
    inexact = (t.dtype for t in tensors if is_inexact(t.dtype))
    return next(inexact, torch.int64)


def _comparable(observed: Any, expected: Any) -> bool:
    if not isinstance(observed, Tensor) or not isinstance(expected, Tensor):
        return False
    return (observed.dtype, observed.shape) == (expected.dtype, expected.shape)


class _Reached(Exception):  # not an error: the rest of the law is not needed
    """The comparison that is asked about was reached."""


class _Measured:
    """One comparison of a law, as it comes out on variations of the subject."""

    def __init__(self, law: Law, quantities: Mapping[str, Any], place: Place) -> None:
        self.law = law
        self.quantities = quantities
        self.place = place

    def pair(self, variation: Variation) -> Pair | None:
        """What is compared there on this variation; None if it is not compared there."""
        found: list[Pair] = []

        def compare(place: Place, observed: Any, expected: Any) -> None:
            if place == self.place:
                if _comparable(observed, expected):
                    found.append((observed, expected))
                raise _Reached

        varied = {
            name: given.varied(variation) if isinstance(given, Subject) else given
            for name, given in self.quantities.items()
        }
        # Nothing is judged here: whatever differs is known.
        with (
            counting_traits(Traits()),
            reporting(lambda violation: True, None, compare),
            suppress(_Reached, OutOfScope, Unsupported, Violation),
        ):
            self.law.judge(**varied)
        return found[0] if found else None

    def explains(self, dtype: torch.dtype | None, unit: torch.dtype, base: Pair | None) -> bool:
        """Whether moving each value by FACTOR ulps moves the two sides as far as they differ."""
        if base is None:
            return False
        difference = _Difference(*base, unit)
        if difference.is_explained:
            return True
        again = self.pair(Variation(dtype, number=AGAIN))
        if again is None or not difference.is_repeated(*again):
            return False
        for number in range(MOVES):
            if difference.is_explained:
                return True
            if difference.is_beyond:
                return False
            moved = self.pair(Variation(dtype, FACTOR, number + 1))
            if moved is None:
                return False
            difference.take(*moved)
        return difference.is_explained


class _Difference:
    """How far two tensors are apart, and how far moves of the subject's values move them.

    unit  the dtype of the subject, in whose units in the last place it rounds
    """

    def __init__(self, observed: Tensor, expected: Tensor, unit: torch.dtype) -> None:
        self.sides = _wide(observed), _wide(expected)
        a, b = self.sides
        self.kinds = _kinds(observed), _kinds(expected)
        # Elements that do not differ by a size: truth values, indices, what is not finite.
        self.tipped = self.kinds[0] != self.kinds[1]
        sized = a.isfinite() & b.isfinite() & is_inexact(observed.dtype)
        self.size = _largest((a - b).abs()[sized])
        finite = torch.cat([t.abs()[t.isfinite()] for t in self.sides])
        eps = max(torch.finfo(t).eps for t in (unit, observed.dtype) if is_inexact(t))
        self.reach = FACTOR * eps * _largest(finite)
        self.moved = self.spread = 0.0

    @property
    def is_explained(self) -> bool:
        """Whether it is no larger than the moves so far allow, or FACTOR ulps of the largest."""
        return not bool(self.tipped.any()) and self.size <= max(2 * self.spread, self.reach)

    @property
    def is_beyond(self) -> bool:
        """Whether no further move will explain it: after the first one, it is far larger."""
        return 0.0 < BEYOND * max(self.spread, self.reach) < self.size and self.moved > 0

    def is_repeated(self, observed: Tensor, expected: Tensor) -> bool:
        """Whether both are there again where nothing is moved, up to FACTOR ulps of the largest.

        What is random differs from move to move: that would be taken for what the moves cause.
        """
        return all(
            before.shape == after.shape
            and torch.equal(kinds, _kinds(after))
            and _apart(before, _wide(after)) <= self.reach
            for before, kinds, after in zip(
                self.sides, self.kinds, (observed, expected), strict=True
            )
        )

    def take(self, observed: Tensor, expected: Tensor) -> None:
        """Take what is there after a move."""
        self.moved += 1
        for before, kinds, after in zip(self.sides, self.kinds, (observed, expected), strict=True):
            if before.shape == after.shape:
                self.spread = max(self.spread, _apart(before, _wide(after)))
                self.tipped &= kinds == _kinds(after)


def _kinds(tensor: Tensor) -> Tensor:
    """What rounding may tip of each element: of a rounded value, whether it is a number."""
    value = tensor.detach().cpu().to_dense()
    if not is_inexact(value.dtype):
        return value
    parts = torch.view_as_real(value) if value.dtype.is_complex else value
    return parts.isnan() + 2 * parts.isposinf() + 3 * parts.isneginf()


def _wide(tensor: Tensor) -> Tensor:
    wide = torch.complex128 if tensor.dtype.is_complex else torch.float64
    return tensor.detach().cpu().to_dense().to(wide)


def _apart(before: Tensor, after: Tensor) -> float:
    """The largest difference of finite values."""
    apart = (before - after).abs()
    return _largest(apart[apart.isfinite()])


def _largest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0
