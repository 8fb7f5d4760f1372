"""Coverage: in which combinations of the switches each class of torch.nn was judged.

A cell judges every layer of its module in one combination each. Two values of a combination
that were judged together are a pair, three of them a triple. Which of these can occur follows
from the traits of the classes, and how many of them a run must reach is its floor.

No torch here: how a layer is called in a setting is what the reference model predicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from .reference import Call, predict
from .setting import Setting
from .specimen import Specimen
from .traits import CLASSES, TRAITS, class_of, kinds_of

if TYPE_CHECKING:
    from .subject import Subject


class Combination(NamedTuple):
    """How a layer was called, by the value on each axis.

    layer   its class
    frozen  which of its own parameters are frozen
    mode    whether the layer itself is in train or eval
    grad    the grad mode in force where it is called, blocks inside forward included
    given   whether something that it is called with requires grad
    place   whether it is all of the module
    """

    layer: str
    frozen: str
    mode: str
    grad: str
    given: str
    place: str


NONE, SOME, ALL = FROZEN = (
    "no parameter frozen",
    "some parameters frozen",
    "all parameters frozen",
)
MODES: Final = ("train", "eval")
GRADS: Final = ("recording", "no grad", "inference mode")
WITH, WITHOUT = GIVEN = ("an input that requires grad", "no input that requires grad")
ALONE, WITHIN = PLACES = ("alone", "within a module")

_AXES: Final = (CLASSES, FROZEN, MODES, GRADS, GIVEN, PLACES)

#: Some of the values of a combination, each with the number of its axis.
Part = tuple[tuple[int, str], ...]

#: How many values a part has, by what it is called; and the share of those that can occur that a
#: run must reach.
SIZES: Final = {"pairs": 2, "triples": 3}
FLOORS: Final = {"pairs": 1.0, "triples": 0.95}
#: How many of the parts that are missing are named.
NAMED: Final = 5


# --- what is met ---------------------------------------------------------------------------


def met(specimen: Specimen, setting: Setting) -> frozenset[Combination]:
    """The combinations in which the layers of a module are called in this setting."""
    recipe = specimen.recipe
    place = ALONE if len(recipe.nodes) == 1 and recipe.nodes[0].body is None else WITHIN
    calls = predict(recipe, setting, specimen.dtype).layers
    return frozenset(_combination(call, place) for call in calls)


@cache
def _combination(call: Call, place: str) -> Combination:
    frozen = NONE if not call.frozen else ALL if call.frozen == call.parameters else SOME
    return Combination(
        class_of(call.op),
        frozen,
        MODES[not call.training],
        GRADS[0 if call.grad.recording else 2 if call.grad.inference else 1],
        GIVEN[not call.given],
        place,
    )


def met_by(subject: Subject, setting: Setting) -> frozenset[Combination]:
    """The same of a subject. It is remembered, as the runs of a subject are."""
    remembered = _REMEMBERED.setdefault(subject, {})
    if setting not in remembered:
        remembered[setting] = met(subject.specimen, setting)
    return remembered[setting]


_REMEMBERED: Final[WeakKeyDictionary[Subject, dict[Setting, frozenset[Combination]]]] = (
    WeakKeyDictionary()
)


def to_text(found: Iterable[Combination]) -> str:
    """Combinations as one hexadecimal number, with a bit for each that there is."""
    numbers = _numbers()
    return hex(sum(1 << numbers[combination] for combination in set(found)))


def from_text(text: str) -> frozenset[Combination]:
    """The combinations of such a number."""
    bits = int(text, 16)
    return frozenset(c for c, number in _numbers().items() if bits >> number & 1)


@cache
def _numbers() -> dict[Combination, int]:
    return {Combination(*values): number for number, values in enumerate(product(*_AXES))}


# --- what can occur ------------------------------------------------------------------------


class _Most(dict[str, Any]):
    """Arguments with which a layer has as many parameters as flags can give it."""

    def __missing__(self, name: str) -> int:
        return 1  # a number of layers


_MOST: Final = _Most(bias=True, affine=True, elementwise_affine=True)


@cache
def most_parameters(layer: str) -> int:
    """How many parameters a layer of this class can have; where it can have many, at least two."""
    return max(len(TRAITS[op].parameters(_MOST)) for op in kinds_of(layer))


def occurring(layer: str, takes_integers: bool) -> frozenset[Combination]:
    """The combinations in which a layer of this class can be called.

    Without parameters none is frozen, with one never some. Integers do not require grad. All
    the rest goes with everything: what a class refuses, a law judges as well.
    """
    frozen = (NONE, ALL, SOME)[: 1 + min(most_parameters(layer), 2)]
    given = (WITHOUT,) if takes_integers else GIVEN
    values = product((layer,), frozen, MODES, GRADS, given, PLACES)
    return frozenset(Combination(*v) for v in values)


# --- counting ------------------------------------------------------------------------------


def parts(combination: Combination, size: int) -> Iterator[Part]:
    """So many of its values at a time."""
    return combinations(enumerate(combination), size)


def all_parts(found: Iterable[Combination], size: int) -> set[Part]:
    """The parts of this size of all these combinations."""
    return {part for combination in found for part in parts(combination, size)}


@dataclass(frozen=True)
class Count:
    """How many parts of one size were reached.

    what      pairs or triples
    reached   of those that can occur
    of        how many can occur
    missing   those that were not reached, in order
    """

    what: str
    reached: int
    of: int
    missing: tuple[Part, ...]

    def __str__(self) -> str:
        share = "" if not self.missing else f" ({100 * self.reached / self.of:.1f} %)"
        return f"{self.reached:,} of {self.of:,} {self.what}{share}"

    @property
    def short(self) -> str:
        """What is missing, if that is more than the floor allows; else nothing."""
        floor = FLOORS[self.what]
        if self.reached >= floor * self.of:
            return ""
        first = "; ".join(spoken(part) for part in self.missing[:NAMED])
        more = f"; and {len(self.missing) - NAMED:,} more" if len(self.missing) > NAMED else ""
        return f"{floor:.0%} of the {self.what} must be reached; missing: {first}{more}"


@dataclass(frozen=True)
class Coverage:
    """What a run reached, of what can occur.

    counts      of pairs and of triples
    impossible  combinations that were met, though they cannot occur
    """

    counts: tuple[Count, ...]
    impossible: tuple[Combination, ...]

    def __str__(self) -> str:
        return f"coverage: {', '.join(map(str, self.counts))}"

    @property
    def short(self) -> list[str]:
        """Why the run does not reach its floor, a line for each reason."""
        lines = [count.short for count in self.counts if count.short]
        if self.impossible:
            first = "; ".join(", ".join(c) for c in self.impossible[:NAMED])
            lines.append(f"met, though said not to occur: {first}")
        return lines

    def as_data(self) -> dict[str, int]:
        """The counts, for a results file."""
        reached = {count.what: count.reached for count in self.counts}
        return reached | {f"{count.what} that can occur": count.of for count in self.counts}


def covered(found: Iterable[Combination], can_occur: Iterable[Combination]) -> Coverage:
    """Count what was reached, of what can occur."""
    found, can_occur = frozenset(found), frozenset(can_occur)
    counts = []
    for what, size in SIZES.items():
        wanted, reached = all_parts(can_occur, size), all_parts(found, size)
        missing = tuple(sorted(wanted - reached, key=lambda part: part[::-1]))
        counts.append(Count(what, len(wanted & reached), len(wanted), missing))
    return Coverage(tuple(counts), tuple(sorted(found - can_occur)))


def spoken(part: Part) -> str:
    """A pair or triple in words."""
    return ", ".join(value for _, value in part)
