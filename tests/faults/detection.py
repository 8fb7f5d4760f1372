"""How surely a planted fault is found by chance, in a run of the profile ci with any seed.

From the root of the repository:

    python -m tests.faults.detection [--seeds N] [--fault PATTERN]

For each fault its first law is judged while the fault is planted, as the main job judges it: on
the cases that are drawn for the law, whatever kinds of layers they have, and on no stored example.
That is done with N seeds, 10 unless told otherwise, drawn from the randomness of the system. A
table says in how many of them the law was violated. A law that crashed has not found the fault.
The exit status is 1 if a fault was found with fewer than 9 of 10 seeds.
"""

from __future__ import annotations

import argparse
import random
import sys
import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

import torch

import oracles.laws  # noqa: F401  # defines the laws
from oracles.case import Case
from oracles.deviations import Register, load
from oracles.law import LAWS, Unsupported, Violation
from oracles.trial import Trial, forget
from tests.faults.faults import FAULTS, Fault
from tests.harness import profiles
from tests.harness.chance import by_chance
from tests.harness.process import prepare

#: The share of seeds with which a fault must be found.
SURE: Final = 0.9


def judge_with(fault: Fault, trial: Trial, case: Case) -> None:
    """Judge a case while the fault is planted; what the fault leaves behind is put back."""
    forget()  # a subject remembers what the torch of before showed
    try:
        with warnings.catch_warnings(), fault.planted():
            warnings.simplefilter("ignore")  # what torch warns of is no outcome
            trial.judge(case)
    except Unsupported:
        pass
    finally:
        forget()
        torch._C._set_grad_enabled(True)


def found(fault: Fault, seed: int, register: Register) -> str:
    """How a run with this seed ends for the first law of the fault: violated, held or crashed."""
    law = LAWS[fault.laws[0]]
    for layer in (fault.layer,) if fault.layer else law.layers or ("",):
        trial = Trial(law, fault.device, register, layer)
        try:
            for _, case in by_chance(trial, seed):
                judge_with(fault, trial, case)
        except Violation:
            return "violated"
        except Exception as error:  # a crash is an outcome of the main job as well
            return f"crashed: {type(error).__name__}: {error}".partition("\n")[0]
    return "held"


def detection(names: Sequence[str], seeds: Sequence[int]) -> dict[str, list[str]]:
    """How a run with each of these seeds ends, by the name of the fault.

    One seed after the other, and laws that are judged on the same cases together, so that those
    are drawn once.
    """
    register = load()
    together = sorted(names, key=lambda name: str(LAWS[FAULTS[name].laws[0]].scope))
    outcomes: dict[str, list[str]] = {name: [] for name in names}
    for seed in seeds:
        for name in together:
            outcomes[name].append(found(FAULTS[name], seed, register))
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a fault is not found as surely as it must be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--fault", default="*", help="a pattern of names of faults")
    told = parser.parse_args(arguments)
    names = sorted(name for name in FAULTS if fnmatchcase(name, told.fault))
    if not names:
        parser.error(f"no fault is named {told.fault!r}")
    seeds = [random.SystemRandom().randrange(2**32) for _ in range(told.seeds)]
    width = max(map(len, names))
    unsure = 0
    for name, outcomes in detection(names, seeds).items():
        count = outcomes.count("violated")
        sure = count >= SURE * len(seeds)
        unsure += not sure
        others = "" if sure else f"  ({'; '.join(sorted(set(outcomes) - {'violated'}))})"
        law = FAULTS[name].laws[0]
        print(f"{name:{width}}  {law}  found in {count} of {len(seeds)} seeds{others}")
    print(f"{len(names)} faults, {unsure} of them found with fewer than 9 of 10 seeds")
    return int(unsure > 0)


if __name__ == "__main__":
    prepare()
    profiles.load("ci")
    sys.exit(main())
