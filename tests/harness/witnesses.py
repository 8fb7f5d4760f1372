"""The stored cases that must still break a law as the register says."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from oracles.case import Case, to_json
from oracles.deviations import Deviation, Register
from oracles.law import OutOfScope, Unsupported, Violation
from oracles.trial import Trial, violations, witnesses

ROOT: Final = Path(__file__).resolve().parents[2]


def mended(trial: Trial, note: Callable[[Case], None] = lambda case: None) -> str:
    """The deviations whose witnesses hold now: an error until the register says so.

    note  is called with each witness before it is judged
    """
    healed = []
    for deviation, case in witnesses(trial.law, trial.device, trial.register, trial.layer):
        note(case)
        if deviation.fatal:
            if _ends(case):
                trial.tally.deviating[deviation.name] += 1
            elif not deviation.chance:
                healed.append(f"{deviation.name}: its witness no longer ends the process")
            continue
        try:
            found = violations(case)
        except (OutOfScope, Unsupported) as reason:
            healed.append(f"{deviation.name}: its witness could not be judged: {reason}")
            continue
        shown = _shown(deviation, case, found, trial.register)
        if shown is None and deviation.chance:
            continue
        if shown is None:
            healed.append(f"{deviation.name}: its witness no longer shows it")
        else:
            trial.tally.deviating[shown.name] += 1
    return "; ".join(healed)


def _ends(case: Case) -> bool:
    """Whether replaying a case ends the process, by a signal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.json"
        path.write_text(to_json(case), encoding="utf-8")
        command = [sys.executable, "-m", "oracles", "replay", str(path)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    return ended.returncode < 0


def _shown(
    deviation: Deviation, case: Case, found: list[Violation], register: Register
) -> Deviation | None:
    """The deviation that its witness shows: it, or one of some versions alone that hides it."""
    if any(deviation.explains(case, violation) for violation in found):
        return deviation
    others = (register.explaining(case, violation) for violation in found)
    return next((other for other in others if other and other.torch), None)
