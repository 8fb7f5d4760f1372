"""The cases that chance draws for a law, until enough of them have been judged."""

from __future__ import annotations

from collections.abc import Iterator

from oracles.case import Case
from oracles.trial import Trial
from strategies import parts

from .coverage import unmet, wanted


def by_chance(trial: Trial, seed: int, at_least: int = 0) -> Iterator[tuple[str, Case]]:
    """Cases to judge, each with the seed of the part that it was drawn with.

    More are drawn than are wanted while something is not met that some of them must meet: that
    chance missed it in so few says nothing of torch.

    at_least  how many are to be judged; 0 for as many as the profile says
    """
    enough = at_least or wanted(trial)
    for part, drawn in parts(trial.law, trial.layer, seed, trial.device, enough):
        for fields in drawn:
            yield part, Case(trial.law.name, trial.device, **fields)
            # A case of which nothing was judged does not count.
            if trial.tally.subjects >= enough and not unmet(trial):
                return
        if trial.tally.not_applicable:
            return
