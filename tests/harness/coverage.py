"""How many cases a law is judged on, and what they must meet."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

from oracles.deviations import astray
from oracles.history import BLOCKS, SIMPLE
from oracles.machine import Machine
from oracles.play import ASSIGNS, Played
from oracles.results import Status
from oracles.trial import REACHED, Trial, examples

KINDS, PAIRS, REFUSALS = REACHED
#: What so many histories reach at the least. Which pairs of kinds can occur is not known.
ENOUGH = 1000
#: The profile from which on a run must reach its floor, by the number of its cases.
CASES = 100
#: More classes of torch.nn than this are many.
MANY = 20
#: An old torch cannot assign a state dict.
FLOOR = {KINDS: len(SIMPLE) + len(BLOCKS) - (not ASSIGNS), PAIRS: 1500, REFUSALS: 30}


def is_large() -> bool:
    """Whether the profile in force draws as many cases as ci, or more."""
    profile = settings.default
    assert profile is not None
    return profile.max_examples >= CASES


def wanted(trial: Trial) -> int:
    """How many cases, of each class of torch.nn for a law of layers.

    The cases are shared among the classes: each has a quarter at the least, or a twentieth where
    a law names many. A law of which each case is costly has a quarter as well.
    """
    profile = settings.default
    assert profile is not None
    # A history is one cell, and quickly played.
    most = profile.max_examples * (10 if Played in trial.law.quantifiers.values() else 1)
    classes = max(len(trial.law.layers), 1)
    if classes > MANY and trial.law.having:
        share = 20
    else:
        share = 4 if trial.law.costly else min(classes, 4)
    return max(most // share, 5)


def unmet(trial: Trial) -> str:
    """What the cases of a law must meet, and those judged so far did not; "" if nothing."""
    traits = trial.tally.traits
    hidden = [t for t, n in traits.claimed.items() if n and not traits.shown[t]]
    if hidden:
        return f"{trial.layer} claims traits and never showed them: {', '.join(sorted(hidden))}"
    reached = trial.tally.reaches() if trial.tally.subjects >= ENOUGH else {}
    few = [what for what, count in reached.items() if count < FLOOR[what]]
    return "; ".join(f"too few {what}: {_lacking(trial, what, reached[what])}" for what in few)


def _lacking(trial: Trial, what: str, count: int) -> str:
    """How many were reached, and which ones never were, where that is known."""
    expected = {KINDS: {*SIMPLE, *BLOCKS}, PAIRS: set(), REFUSALS: set()}[what]
    if what == REFUSALS:
        expected = _refusals_of_examples(trial)
    size = 1 + REACHED.index(what)
    never = sorted(expected - {met[-1] for met in trial.tally.reached if len(met) == size})
    return f"{count:,} of {FLOOR[what]:,}" + (f", never {', '.join(never)}" if never else "")


def _refusals_of_examples(trial: Trial) -> set[str]:
    """The phrases of the refusals that the examples of the law are there for."""
    histories = [case.history for case in examples(trial.law, trial.device) if case.history]
    played = (Machine(astray()).play(history) for history in histories)
    moments = (moment for moments in played for moment in moments)
    return {moment.refusal.phrase for moment in moments if moment.refusal is not None}


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
