"""How fast laws are judged, and how much of the time is torch's.

    python benchmarks/throughput.py [--json FILE] [--subjects N]

A cell is one law judged on one subject in one setting. The bare loop runs the same modules
on the same inputs in the same settings, and does nothing else: it neither draws, builds,
puts back nor judges. Everything is measured in fresh processes
with one thread each.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import pickle
import resource
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from statistics import median
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  # the project is found first

import oracles.laws  # noqa: E402, F401  # defines the laws
from oracles.case import Case  # noqa: E402
from oracles.deviations import Register, astray, load  # noqa: E402
from oracles.law import LAWS, Law, Unsupported, Violation, by_scope  # noqa: E402
from oracles.play import Played, goes_as_the_machine_says  # noqa: E402
from oracles.recipe import execute  # noqa: E402
from oracles.run import Run  # noqa: E402
from oracles.setting import Setting  # noqa: E402
from oracles.specimen import Plan, Specimen, source_of, statements  # noqa: E402
from oracles.subject import Subject, collect_rarely, forget, quiet  # noqa: E402
from oracles.trial import Tally, Trial  # noqa: E402
from strategies import drawn, histories, parts  # noqa: E402

TARGETS = {
    "cells_per_second": 1500.0,
    "torch_share": 0.5,
    "peak_gib": 1.5,
    "speedup_of_2": 1.8,
    "steps_per_second": 300.0,
}


def main() -> None:
    """Measure one worker and two, and print the table."""
    arguments = _arguments()
    if arguments.worker is not None:
        print(json.dumps(measure(arguments.worker, arguments.subjects, arguments.beside)))
        return
    measured = summary(arguments.subjects, arguments.repeats)
    width = max(map(len, measured))
    for name, value in measured.items():
        target = TARGETS.get(name)
        goal = (
            "" if target is None else f"   (to reach: {'<' if 'gib' in name else '>='} {target:g})"
        )
        print(f"{name:{width}}  {value:12,.3f}{goal}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", help="write the figures to this file as well")
    parser.add_argument("--subjects", type=int, default=12, help="subjects a law")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the median counts")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--beside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def summary(subjects: int, repeats: int) -> dict[str, float]:
    """Medians over repeated runs of one worker, each followed by two that do the same."""
    alone, speedups, peaks = [], [], []
    for k in range(repeats):
        (single,), pair = _workers([k], subjects), _workers([k, k], subjects)
        alone.append(single)
        speedups.append(sum(map(_rate, pair)) / _rate(single))
        peaks += [worker["peak_gib"] for worker in (single, *pair)]

    def of(key: str) -> float:
        return median(run[key] for run in alone)

    per_second = median(map(_rate, alone))
    share = median(run["bare_seconds"] / run["seconds"] for run in alone)
    return {
        "laws": of("laws"),
        "cells": of("cells"),
        "cells_per_second": per_second,
        "cells_per_second_of_torch_alone": per_second / share,
        "subjects_per_second": median(run["subjects"] / run["seconds"] for run in alone),
        "torch_share": share,
        "speedup_of_2": median(speedups),
        "steps_per_second": of("steps_per_second"),
        "peak_gib": max(peaks),
    }


def _rate(worker: dict[str, float]) -> float:
    return worker["cells"] / worker["seconds"]


def _workers(seeds: list[int], subjects: int) -> list[dict[str, float]]:
    beside = ["--beside"] if len(seeds) > 1 else []
    command = [sys.executable, __file__, "--subjects", str(subjects), *beside, "--worker"]
    started = [
        subprocess.Popen([*command, str(k)], stdout=subprocess.PIPE, text=True) for k in seeds
    ]
    return [json.loads(process.communicate()[0]) for process in started]


def measure(number: int, subjects: int, beside: bool = False) -> dict[str, float]:
    """Judge the laws over modules on drawn specimens, and run the same bare; histories after.

    beside: another worker does the same, and only the judging is measured.
    """
    warnings.filterwarnings("ignore")
    quiet()
    torch.set_num_threads(1)
    over_modules = [x for x in LAWS.values() if {Subject, Setting} <= set(x.quantifiers.values())]
    # Those of devices need two. In the order in which the main job judges them.
    laws = [law for law, _ in by_scope(law for law in over_modules if law.theory != "devices")]
    register = load()
    for law in laws:  # torch loads parts of itself when they are first used
        _judge(law, register, 0, 1, [])
    forget()
    collect_rarely()
    bare, tally = 0.0, {"cells": 0, "subjects": 0, "seconds": 0.0}
    for law in laws:
        followed: list[tuple[Specimen, Plan]] = []
        start = time.perf_counter()
        judged = _judge(law, register, number, subjects, followed)
        tally["seconds"] += time.perf_counter() - start
        tally["cells"] += judged.cells
        tally["subjects"] += judged.subjects
        bare += 0 if beside else _bare(followed)
    measured = {
        **tally,
        "laws": len(laws),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    if not beside:
        measured |= {"bare_seconds": bare, "steps_per_second": steps_per_second(number)}
    return measured


def steps_per_second(number: int, count: int = 300) -> float:
    """Steps of histories that are drawn, played on torch and compared with the machine."""
    steps, known, start = 0, astray(), time.perf_counter()
    for history in drawn(histories(), number, count):
        steps += sum(1 for _ in history.walk())
        with suppress(Violation):  # what breaks a law is for the main job to say, not for a clock
            goes_as_the_machine_says(Played(history), known)
    return steps / (time.perf_counter() - start)


def _judge(
    law: Law, register: Register, number: int, subjects: int, followed: list[tuple[Specimen, Plan]]
) -> Tally:
    """Judge a law on drawn subjects, noting each plan that was executed to its end."""
    trial = Trial(law, "cpu", register)
    unnoted = Subject._execute

    def noted(self: Subject, plan: Plan) -> Run | Exception:
        run = unnoted(self, plan)
        if isinstance(run, Run):
            followed.append((self.specimen, plan))
        return run

    with mock.patch.object(Subject, "_execute", noted):
        for _, found in parts(law, "", number, "cpu", subjects):  # as the main job does
            for fields in found:
                with suppress(Unsupported, Violation):  # for the main job to say, not for a clock
                    trial.judge(Case(law.name, "cpu", **fields))
                if trial.tally.subjects >= subjects:
                    return trial.tally
    return trial.tally


def _bare(followed: list[tuple[Specimen, Plan]]) -> float:
    """Seconds that torch takes for the statements of these plans, on modules that are there.

    A plan with steps has a module of its own, as it may leave it in any state; all others of
    a specimen share one.
    """
    seconds = 0.0
    for specimen, plans in groupby(followed, key=lambda pair: pair[0]):
        namespace = execute(source_of(specimen)).__dict__
        built = namespace["build"]()
        for _, plan in plans:
            model, x = namespace["build"]() if plan.has_steps else built
            _, *lines = statements(specimen, plan)
            code = compile("\n".join(lines), "<bare>", "exec")
            model.requires_grad_(True)
            x = [t.detach() for t in x]
            scope = namespace | {"model": model, "x": x, "copy": copy, "pickle": pickle, "io": io}
            start = time.perf_counter()
            exec(code, scope)
            seconds += time.perf_counter() - start
    return seconds


if __name__ == "__main__":
    main()
