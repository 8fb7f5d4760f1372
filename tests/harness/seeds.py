"""The seed of a run: the recorded one, unless another is given or asked for."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

#: The seed of a run that names none: the same command then gives the same answer twice.
RECORDED: Final = 41
#: What asks for a new seed.
RANDOM: Final = "random"


@dataclass(frozen=True)
class Seed:
    """A seed, and where it is from: recorded, given or drawn."""

    value: int
    origin: str

    def __str__(self) -> str:
        return f"{self.value} ({self.origin})"


def chosen(given: str) -> Seed:
    """The seed that was asked for, as text; the recorded one for "". ValueError for neither."""
    if given == RANDOM:
        return Seed(drawn(), "drawn")
    return Seed(int(given), "given") if given else Seed(RECORDED, "recorded")


def drawn() -> int:
    """A seed that nobody has used before, from the system's randomness."""
    return random.SystemRandom().randrange(2**32)
