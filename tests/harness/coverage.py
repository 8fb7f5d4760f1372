"""How many cases a law is judged on, and what they must meet."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

from oracles.history import BLOCKS, SIMPLE
from oracles.laws.layers import KERNEL
from oracles.play import Played
from oracles.results import Status
from oracles.trial import Trial

#: What so many histories reach at the least.
ENOUGH = 1000
FLOOR = {"kinds of steps": len(SIMPLE) + len(BLOCKS), "pairs of kinds": 1500, "refusals": 29}


def wanted(trial: Trial) -> int:
    """How many cases: a quarter for each class of torch.nn, where a law speaks of all of them."""
    profile = settings.default
    assert profile is not None
    if Played in trial.law.quantifiers.values():
        return profile.max_examples * 10  # a history is one cell, and quickly played
    every = trial.law.over_layers and not trial.law.having
    return max(profile.max_examples // 4, 5) if every else profile.max_examples


def _enough(trait: str) -> int:
    """In how many comparisons a trait that is claimed must show: rounding rarely does."""
    return 20_000 if trait == KERNEL else 1


def unmet(trial: Trial) -> str:
    """What the cases of a law must meet, and those judged so far did not; "" if nothing."""
    traits = trial.tally.traits
    hidden = [t for t, n in traits.claimed.items() if n >= _enough(t) and not traits.shown[t]]
    if hidden:
        return f"{trial.layer} claims traits and never showed them: {', '.join(sorted(hidden))}"
    reached = trial.tally.reaches() if trial.tally.subjects >= ENOUGH else {}
    few = [what for what, count in reached.items() if count < FLOOR[what]]
    return f"too few {', '.join(few)}" if few else ""


def covered(trial: Trial) -> dict[str, Any]:
    """The status of a law that no case broke, with its reason."""
    tally, missing = trial.tally, unmet(trial)
    if missing:
        return {"status": Status.NOT_COVERED.value, "reason": missing}
    if tally.cells:
        status = Status.DEVIATES if tally.deviating else Status.HOLDS
        return {"status": status.value}
    if tally.not_applicable:
        return {"status": Status.NOT_APPLICABLE.value, "reason": tally.not_applicable}
    if tally.unsupported:
        return {"status": Status.UNSUPPORTED.value, "reason": "torch can run none of its cases"}
    return {"status": Status.NOT_COVERED.value, "reason": "no drawn case was in its scope"}
