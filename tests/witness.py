"""Find witnesses for the register: the smallest case of a law that a deviation explains.

python -m tests.witness NAME LAW...    for this deviation, one for each of these laws
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, assume, given, settings

import oracles.laws  # noqa: F401  # defines the laws
from oracles.case import Case, to_json
from oracles.deviations import CORPUS, HERE, Deviation, unchecked
from oracles.law import LAWS, Law, OutOfScope, Unsupported, Violation
from oracles.trial import cells, forget, smallest, violations
from strategies import drawn_for
from strategies.layers.kinds import torch_has

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Shown(Exception):  # not an error: what Hypothesis makes small
    """A case shows the deviation."""


def find(deviation: Deviation, law: Law) -> Case | None:
    """The smallest case of the law that shows the deviation."""
    if not law.over_layers:
        return _find(deviation, law, "", 3000)
    here = (layer for layer in law.layers if torch_has(layer))
    found = (_find(deviation, law, layer, 60) for layer in here)
    return next((case for case in found if case is not None), None)


def _find(deviation: Deviation, law: Law, layer: str, examples: int) -> Case | None:
    found: list[tuple[Case, Violation]] = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn_for(law, layer))
    def judge(drawn: dict[str, Any]) -> None:
        whole = Case(law.name, deviation.devices[0], **drawn)
        for setting, _ in cells(law, whole, (), everywhere=True):
            case = replace(whole, setting=setting)
            try:
                seen = violations(case)
            except OutOfScope:
                continue
            except Unsupported:
                assume(False)
            explained = [v for v in seen if deviation.explains(case, v)]
            if explained:
                found.append((case, explained[0]))
                raise Shown

    try:
        judge()
    except Shown:
        case, violation = found[-1]
        if case.history is None:
            return case
        return smallest(case, violation, deviation.explains)[0]
    finally:
        forget()
    return None


def main(name: str, laws: list[str]) -> None:
    """Write the witnesses to the corpus, and say which were found."""
    data = tomllib.loads((HERE / "deviations.toml").read_text(encoding="utf-8"))
    entries = {entry["name"]: unchecked(entry) for entry in data["deviation"]}
    if name not in entries:
        sys.exit(f"no deviation is named {name!r}; known: {', '.join(sorted(entries))}")
    for law in laws:
        if law not in LAWS:
            sys.exit(f"no law is named {law!r}; `python -m oracles laws` lists them")
        case = find(entries[name], LAWS[law])
        if case is None:
            print(f"not found: {name} for {law}", flush=True)
            continue
        path = CORPUS / name / f"{law}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_json(case), encoding="utf-8")
        print(path.relative_to(Path.cwd()), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m tests.witness NAME LAW...")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2:])
