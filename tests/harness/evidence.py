"""What is kept of a violation: its script, its case and what it says."""

from __future__ import annotations

from typing import Any

from oracles.case import Case, to_json
from oracles.law import LAWS, Violation
from oracles.results import Status
from oracles.script import message, reproduces, script

from .options import Options, label


def violated(case: Case, violation: Violation, options: Options) -> dict[str, Any]:
    """Write the script and the case of a violation, and say what was seen."""
    options.violations.mkdir(parents=True, exist_ok=True)
    layer = case.layer if LAWS[case.law].over_layers else ""
    path = (options.violations / f"{label(case.law, layer, case.device)}.py").resolve()
    path.write_text(script(case, violation), encoding="utf-8")
    path.with_suffix(".json").write_text(to_json(case), encoding="utf-8")
    shown = reproduces(path, options.through)
    verdict = (
        ""
        if shown
        else "\n    (it did not reproduce in a fresh process: a flake, or a global state)"
    )
    return {
        "status": Status.VIOLATED.value,
        "violation": {
            "message": message(case, violation, path) + verdict,
            "case": str(path.with_suffix(".json")),
            "script": str(path),
            "reproduces": shown,
        },
    }
