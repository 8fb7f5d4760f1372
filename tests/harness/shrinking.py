"""The smallest case of a violation: Hypothesis draws the same cases again, in a property."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import seed as seeded
from hypothesis.strategies import SearchStrategy

from oracles.trial import Tally

from .trying import Trying


def shrink(trying: Trying, strategy: SearchStrategy[dict[str, Any]], seed: str, count: int) -> None:
    """Draw the same cases in a property, so that Hypothesis makes the violation small.

    In every setting: the plainest one that breaks the law is the one to show.
    """
    trial = trying.trial
    judged, trial.tally = trial.tally, Tally()
    trial.everywhere = True

    @seeded(seed)
    @settings(max_examples=count)
    @given(strategy)
    def judge(drawn: dict[str, Any]) -> None:
        trying.judge(trying.case(drawn))

    try:
        judge()
    finally:
        trial.tally = judged
