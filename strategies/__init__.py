"""What can be: Hypothesis strategies for everything that laws quantify over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from oracles.law import Law
from oracles.play import Played
from oracles.sample import Nesting, Sample
from oracles.subject import Layer, Subject

from .aims import Aim, aimed
from .drawing import drawn
from .histories import histories
from .nestings import nestings
from .recipes import layers, modules_with, recipes, specimens
from .tensors import samples

__all__ = [
    "PART",
    "Aim",
    "aimed",
    "cases",
    "drawn",
    "drawn_for",
    "histories",
    "layers",
    "modules_with",
    "nestings",
    "parts",
    "recipes",
    "samples",
    "specimens",
]


def drawn_for(law: Law, layer: str = "") -> SearchStrategy[dict[str, Any]]:
    """What must be drawn to judge a law once, under the names of the fields of a case.

    Settings are not drawn, but for the mixture of a specimen: see `oracles.trial.cells`. A law
    that speaks of layers is judged on one class of torch.nn at a time; without its name, on any.
    """
    kinds = set(law.quantifiers.values())
    fields: dict[str, SearchStrategy[Any]] = {}
    if Subject in kinds:
        fields["specimen"] = specimens(having=law.having, without=law.without)
    if Layer in kinds:
        names = st.just(layer) if layer else st.sampled_from(law.layers)
        fields["specimen"] = names.flatmap(layers)
    if Sample in kinds:
        fields["sample"] = samples()
    if Nesting in kinds:
        fields["nesting"] = nestings()
    if Played in kinds:
        fields["history"] = histories()
    return st.fixed_dictionaries(fields)


#: How many parts of the cases are kept, for the next law of the scope.
KEPT: Final = 1000
_CASES: Final[dict[tuple[Any, ...], tuple[dict[str, Any], ...]]] = {}


def cases(law: Law, layer: str, seeded: str, count: int) -> tuple[dict[str, Any], ...]:
    """Cases to judge a law on: the same for all laws of its scope, and so drawn once.

    They are the first ones that a property with this seed and so many examples is tried on:
    to make one small, run such a property.
    """
    key = (law.scope, layer, seeded, count)
    if key not in _CASES:
        while len(_CASES) >= KEPT:
            del _CASES[next(iter(_CASES))]
        _CASES[key] = drawn(drawn_for(law, layer), seeded, count)
    return _CASES[key]


#: How many cases are drawn at a time. After its tenth case Hypothesis draws few anew: most are
#: made from the last one by repeating a piece of it, and many of those have the same module.
PART: Final = 10
#: How many of them are as simple as can be: the same, or nearly, in each part.
SIMPLE: Final = 2
#: How often as many cases are drawn as are to be judged, at the most.
TRIED: Final = 10


def parts(
    law: Law, layer: str, seeded: int, device: str, wanted: int
) -> Iterator[tuple[str, tuple[dict[str, Any], ...]]]:
    """Cases for a law of which so many are to be judged, a part at a time, with its seed.

    More than those are there, as a law may find cases out of its scope: stop when it is enough.
    Each part is of the first PART cases of a property with this seed; those that are simple are in
    the first part alone.
    """
    for part in range(TRIED * wanted // PART + 1):
        # Of its own for each class, or all classes would meet the same mixtures of modes.
        seed_of_part = " ".join(map(str, (seeded, part, device, layer))).rstrip()
        made = cases(law, layer, seed_of_part, PART)
        yield seed_of_part, made[SIMPLE:] if part else made
