"""What is kept of a violation and of a crash: the case, the script, what they say."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from oracles.case import Case, read, to_json
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


def crashed(error: Exception, kept: Path | None) -> dict[str, Any]:
    """What crashed a law, in one line with the case that was running, then the traceback."""
    text = "".join(traceback.format_exception(error, limit=-8))
    reason = f"{line_of(error)}{mention(kept)}\n{text.rstrip()}"
    return {"status": Status.CRASHED.value, "reason": reason}


def line_of(error: Exception) -> str:
    """The type of an error and the first line of what it says."""
    return traceback.format_exception_only(error)[-1].splitlines()[0]


def kept_case(options: Options, *what: str) -> Path | None:
    """Keep the case that a law, layer and device was judged on when it crashed, if there is one."""
    running = options.running_case(*what)
    if not running.exists() or not running.stat().st_size:
        return None
    kept = options.violations.resolve() / f"{label(*what)}.crashed.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(to_json(read(running)), encoding="utf-8")
    return kept


def mention(kept: Path | None) -> str:
    """Where the case of a crash is, and how to run it again."""
    if kept is None:
        return ""
    return f"; the case that was running: {kept} (python -m oracles replay {kept})"
