"""Find witnesses for the register: the smallest case of a law that a deviation describes.

python -m tests.witness            for every deviation and law that lacks one
python -m tests.witness NAME       for one deviation, anew
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import tomllib
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings

import oracles.laws  # noqa: F401  # defines the laws
from oracles import deviations
from oracles.case import Case, to_json
from oracles.law import LAWS, Law, Unsupported, Violation
from oracles.trial import Trial, replay, smallest
from strategies import drawn_for

CORPUS = Path("corpus")


def find(deviation: deviations.Deviation, name: str) -> Case | None:
    """The smallest case that breaks the law as the deviation says and as no other does."""
    if not LAWS[name].over_layers:
        return _find(deviation, LAWS[name], "", 3000)
    found = (_find(deviation, LAWS[name], layer, 60) for layer in LAWS[name].layers)
    return next((case for case in found if case is not None), None)


def _find(deviation: deviations.Deviation, law: Law, layer: str, examples: int) -> Case | None:
    found: list[Case] = []
    empty = deviations.Register((), deviations.plain_version(torch.__version__))

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn_for(law, layer))
    def judge(drawn: dict[str, Any]) -> None:
        only = _Only(deviation, empty)
        trial = Trial(law, deviation.devices[0], only, everywhere=True)  # type: ignore[arg-type]
        try:
            trial.judge(Case(law.name, deviation.devices[0], **drawn))
        except Unsupported:
            assume(False)
        except Violation:
            found.extend([trial.violation[0]] if trial.violation else [])
            raise

    try:
        judge()
    except Violation:
        case = found[-1]
        violation = replay(case) if case.history is not None else None
        return case if violation is None else smallest(case, violation, deviation.explains)[0]
    return None


class _Only:
    """A register that explains every violation except those of one deviation."""

    def __init__(self, deviation: deviations.Deviation, empty: deviations.Register) -> None:
        self.deviation = deviation
        self.version = empty.version

    def explaining(self, case: Case, violation: Violation) -> deviations.Deviation | None:
        return None if self.deviation.explains(case, violation) else self.deviation


def main(names: list[str]) -> None:
    """Write the missing witnesses to corpus/ and say which were found."""
    data = tomllib.loads((deviations.HERE / "deviations.toml").read_text(encoding="utf-8"))
    for entry in data["deviation"]:
        for law in entry["laws"]:
            path = CORPUS / entry["name"] / f"{law}.json"
            if law == "*" or (path.exists() and entry["name"] not in names):
                continue
            case = find(deviations.unchecked(entry), law)
            if case is None:
                print(f"not found: {entry['name']} for {law}", flush=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(to_json(case), encoding="utf-8")
            print(f"{path}: {replay(case)}"[:200], flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    main(sys.argv[1:])
