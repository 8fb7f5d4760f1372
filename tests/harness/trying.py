"""One case after the other, within bounds of time."""

from __future__ import annotations

import time
from typing import Any

from oracles.case import Case, to_line
from oracles.law import Unsupported, Violation
from oracles.trial import Trial

from .options import Options


class TimedOut(Exception):
    """A law took longer than it may: what it judged until then is kept."""


class Trying:
    """Judges one case after the other, within bounds of time.

    Making a violation small is bounded as well, as the user waits for it. When that time is up,
    only cases that are known to break the law still do: Hypothesis then ends with the smallest
    that it has found.
    """

    seconds = 20.0

    def __init__(self, trial: Trial, options: Options) -> None:
        self.trial = trial
        path = options.running_case(trial.law.name, trial.layer, trial.device)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.log = path.open("w", encoding="utf-8")
        self.allowed = options.timeout
        self.start = 0.0
        self.known: set[str] = set()
        self.first = 0.0

    def __enter__(self) -> Trying:
        return self

    def __exit__(self, *raised: object) -> None:
        self.log.close()

    def case(self, drawn: dict[str, Any]) -> Case:
        """What was drawn, as a case of the law on the device."""
        return Case(self.trial.law.name, self.trial.device, **drawn)

    def note(self, case: Case) -> None:
        """Write a case down before it runs: if the process dies, this is what killed it."""
        self.log.seek(0)
        self.log.write(to_line(case))
        self.log.truncate()
        self.log.flush()

    def judge(self, case: Case) -> None:
        """Judge a case; what torch cannot run is passed over."""
        now = time.perf_counter()
        self.start = self.start or now
        if self.first and now - self.first > self.seconds and to_line(case) not in self.known:
            return
        if not self.first and now - self.start > self.allowed:
            so_far = f"{self.trial.tally.subjects} subjects judged, all as the law says"
            raise TimedOut(f"not done in {self.allowed:g} s (--law-timeout): {so_far}")
        self.note(case)
        try:
            self.trial.judge(case)
        except Violation:
            self.first = self.first or now
            self.known.add(to_line(case))
            raise
        except Unsupported:
            pass
