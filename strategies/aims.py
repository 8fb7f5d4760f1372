"""Cases drawn on purpose: they reach what chance has not reached of what can occur.

See `oracles.coverage`. What is aimed at is how a class of torch.nn is called; what the module
is beside that, and in which of the settings that reach the same it is judged, is left to chance.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from oracles.coverage import (
    ALONE,
    SIZES,
    WITHIN,
    Combination,
    Part,
    all_parts,
    occurring,
)
from oracles.coverage import met as combinations
from oracles.law import Law
from oracles.setting import core_grad, uniform
from oracles.specimen import Specimen
from oracles.traits import CLASSES, kinds_of

from .drawing import drawn
from .layers import KINDS
from .layers.kinds import torch_has
from .recipes import layers, modules_with

#: The law for which cases are aimed: it speaks of every setting, and compares every fact of a run.
LAW: Final = "torch_agrees_with_the_reference"
#: How many modules are drawn at a time, and how often, until nothing is missing of a class. The
#: first that is drawn is the simplest one each time.
PART: Final = 3
TRIED: Final = 30
TRIPLES: Final = SIZES["triples"]


def can_occur() -> dict[str, frozenset[Combination]]:
    """How a layer of each class that this torch has can be called."""
    return {
        name: occurring(name, all(KINDS[op].integer for op in kinds_of(name)))
        for name in CLASSES
        if torch_has(name)
    }


def is_asked_of(device: str) -> bool:
    """Whether a run on it must reach what can occur: what looks at values cannot run on meta."""
    return device != "meta"


@dataclass(frozen=True)
class Aim:
    """Cases of one strategy that reach something.

    strategy, seed, count   what was drawn from, and how: to make a case small
    cases                   each reaches something that those judged before it did not
    """

    strategy: SearchStrategy[dict[str, Any]]
    seed: str
    count: int
    cases: Iterator[dict[str, Any]]


def aimed(law: Law, seeded: int, device: str, met: Collection[Combination]) -> Iterator[Aim]:
    """Cases that reach what a law has not met, class by class; none for most laws.

    What is met grows while the cases are judged: one of which nothing is judged is made up for.
    """
    aiming = law.name == LAW and is_asked_of(device)
    for layer, possible in can_occur().items() if aiming else ():
        for place, modules in ((ALONE, layers(layer)), (WITHIN, modules_with(layer))):
            wanted = (c for c in possible if c.place == place)
            already = (c for c in met if c.layer == layer)
            missing = all_parts(wanted, TRIPLES) - all_parts(already, TRIPLES)
            strategy = st.fixed_dictionaries({"specimen": modules})
            for part in range(TRIED):
                if not missing:
                    break
                seed = f"{seeded} aimed {part} {device} {layer} {place}"
                made = [case["specimen"] for case in drawn(strategy, seed, PART)]
                yield Aim(strategy, seed, PART, _reaching(law, made, missing, met))


def _reaching(
    law: Law, specimens: list[Specimen], missing: set[Part], met: Collection[Combination]
) -> Iterator[dict[str, Any]]:
    """Of the settings of these modules again and again the one that reaches most of the missing."""
    for specimen in specimens:
        spoken_of = [s for s in specimen.lattice if law.when(s) and core_grad(s) and uniform(s)]
        calls = {setting: combinations(specimen, setting) for setting in spoken_of}
        parts = {setting: all_parts(calls[setting], TRIPLES) for setting in spoken_of}
        while parts:
            best = max(parts, key=lambda setting: len(missing & parts[setting]))
            if not missing & parts.pop(best):
                break
            yield {"specimen": specimen, "setting": best}
            missing -= all_parts((c for c in calls[best] if c in met), TRIPLES)
