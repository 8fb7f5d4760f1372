"""The process in which the laws of a run are judged, one after another.

It is told by a line of JSON on its standard input what to judge, says each thing that it has done
in a line on its standard output, and ends when the input ends: whoever started it is gone then.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from oracles.case import to_json
from oracles.codec import encode
from oracles.coverage import to_text
from oracles.deviations import load
from oracles.results import Status
from oracles.subject import collect_rarely
from tests.harness import profiles
from tests.harness.options import Options
from tests.harness.process import prepare
from tests.harness.runner import Judged, judge

from .records import Alarm, kind_here


def main() -> None:
    """Judge what is asked for."""
    # What torch or a law prints must not come between the lines of the answer.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**data: Any) -> None:
        answer.write(json.dumps(data) + "\n")
        answer.flush()

    # A forked process closes sys.stdin, and would wait for whoever reads from it here.
    given, sys.stdin = os.dup(0), open(os.devnull, encoding="utf-8")  # noqa: SIM115
    job = json.loads(_line(given))
    threading.Thread(target=_end_with_the_input, args=(given,), daemon=True).start()
    prepare()
    profiles.load(job["profile"])
    if job["fault"]:
        os.environ["TORCHLAWS_FAULT"] = job["fault"]  # for the scripts of violations as well
        importlib.import_module("tests.faults.plant")
    options = Options(
        seed=job["seed"],
        violations=Path(job["folder"]),
        running=Path(job["folder"]),
        timeout=job["timeout"],
        through=("-m", "tests.faults.plant") if job["fault"] else (),
    )
    register = load()
    collect_rarely()
    kind = kind_here(job["device"], job["profile"], tuple(job["patterns"]), job["fault"])
    say(ready=kind)
    for name, layer in job["laws"]:
        judged = judge(name, layer, job["device"], register, options)
        result = judged.result
        said = {"status": result.status, "subjects": result.subjects, "cells": result.cells}
        said |= {"met": to_text(judged.met)}
        fails = Status(result.status).fails
        say(**said, alarm=encode(alarm(judged, job["folder"])) if fails else None)


def alarm(judged: Judged, folder: str) -> Alarm:
    """What is kept of a law that failed: files by their names alone, as their folder will go."""
    result, shown = judged.result, judged.result.violation
    message = shown["message"] if shown else result.reason
    return Alarm(
        law=result.name,
        layer=result.layer,
        status=result.status,
        kind=judged.kind,
        message=message.replace(f"{folder}{os.sep}", ""),
        case=json.loads(to_json(judged.case)) if judged.case else None,
        script=Path(shown["script"]).read_text(encoding="utf-8") if shown else "",
        reproduces=shown["reproduces"] if shown else False,
    )


def _line(given: int) -> bytes:
    """The first line of the input."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(given, 1)
        if not byte:
            break
        line += byte
    return line


def _end_with_the_input(given: int) -> None:
    """End the process when its input ends: whoever started it is gone."""
    while os.read(given, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
