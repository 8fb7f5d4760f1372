"""What the laws of a run met together, and whether it is enough: see `oracles.coverage`."""

from __future__ import annotations

from typing import Final

import pytest

from oracles.coverage import Combination, Coverage, covered, from_text, to_text
from strategies.aims import can_occur, is_asked_of

PROPERTY: Final = "torchlaws-met"


class Floor:
    """What was met so far. Each test hands it over as a property of its report."""

    def __init__(self) -> None:
        self.met: set[Combination] = set()

    @staticmethod
    def hand_over(item: pytest.Item, met: frozenset[Combination]) -> None:
        """Hand over what the law of a test met."""
        if met:
            item.user_properties.append((PROPERTY, to_text(met)))

    def take(self, report: pytest.TestReport) -> None:
        """Take what a test handed over."""
        given = dict(report.user_properties).get(PROPERTY)
        if given is not None:
            self.met |= from_text(str(given))

    def coverage(self) -> Coverage | None:
        """What was reached of what can occur; None where no law met a layer."""
        if not self.met:
            return None
        return covered(self.met, (c for possible in can_occur().values() for c in possible))

    def short(self, devices: list[str]) -> list[str]:
        """Why a run of all laws on these devices is not enough; nothing where it is."""
        coverage = self.coverage() if any(map(is_asked_of, devices)) else None
        return coverage.short if coverage is not None else []
