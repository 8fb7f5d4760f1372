"""One law, on one class of torch.nn if it is a law of layers, on one device: judged."""

from __future__ import annotations

import time
import traceback
from typing import Any

from oracles.deviations import Register, plain_version
from oracles.law import LAWS, Law, Violation
from oracles.results import LawResult, Status
from oracles.trial import Trial, examples, smallest
from strategies import parts
from strategies.layers.kinds import torch_has

from .coverage import covered, unmet, wanted
from .evidence import violated
from .options import Options
from .shrinking import shrink
from .trying import TimedOut, Trying
from .witnesses import mended


def judge(name: str, layer: str, device: str, register: Register, options: Options) -> LawResult:
    """Judge the law on drawn cases, then on the witnesses of its deviations.

    A law of layers is judged on one class of torch.nn, all others on anything.
    """
    start = time.perf_counter()
    trial = Trial(LAWS[name], device, register, layer)
    found = _outcome(trial, options)
    return _result(trial, found, time.perf_counter() - start)


def _result(trial: Trial, found: dict[str, Any], seconds: float) -> LawResult:
    law, tally = trial.law, trial.tally
    return LawResult(
        name=law.name,
        theory=law.theory,
        sentence=law.sentence,
        norms=law.norms,
        device=trial.device,
        subjects=tally.subjects,
        cells=tally.cells,
        out_of_scope=tally.out_of_scope,
        unsupported=tally.unsupported,
        seconds=round(seconds, 3),
        deviations=dict(tally.deviating),
        layer=trial.layer,
        settings=dict(tally.settings),
        traits={trait: count for trait, count in tally.traits.shown.items() if count},
        ulps=tally.traits.ulps,
        reached=tally.reaches(),
        **found,
    )


def _outcome(trial: Trial, options: Options) -> dict[str, Any]:
    """The status of the law, with the violation or the reason that explains it."""
    too_new = _too_new(trial.law, trial.layer, trial.register.version)
    if too_new:
        return {"status": Status.NOT_APPLICABLE.value, "reason": too_new}
    try:
        _draw(trial, options)
    except Violation:
        assert trial.violation is not None
        case, violation = trial.violation
        if case.history is not None:
            case, violation = smallest(
                case, violation, lambda c, v: trial.register.explaining(c, v) is None
            )
        return violated(case, violation, options)
    except TimedOut as reason:
        return {"status": Status.TIMED_OUT.value, "reason": str(reason)}
    except Exception:
        return {"status": Status.CRASHED.value, "reason": traceback.format_exc(limit=-8)}
    healed = mended(trial)
    if healed:
        return {"status": Status.MENDED.value, "reason": healed}
    return covered(trial)


def _draw(trial: Trial, options: Options) -> None:
    """Judge the law on the cases of its scope, until enough of them have been judged.

    More are drawn while something is not met that some of them must meet: that chance missed it in
    so few says nothing of torch.
    """
    trying = Trying(trial, options)
    for example in examples(trial.law, trial.device, trial.layer):
        trying.judge(example)
    enough = wanted(trial)
    found = parts(trial.law, trial.layer, options.seed, trial.device, enough)
    for seed, cases in found:
        try:
            for drawn in cases:
                trying.judge(trying.case(drawn))
                # A case of which nothing was judged does not count.
                if trial.tally.subjects >= enough and not unmet(trial):
                    return
        except Violation:
            shrink(trying, seed, len(cases))
            raise
        if trial.tally.not_applicable:
            return


def _too_new(law: Law, layer: str, version: str) -> str:
    """What this torch does not have yet that the law speaks of; "" if it has all."""
    if not torch_has(layer):
        return f"torch {version} has no nn.{layer}"
    if law.since and _release(version) < _release(law.since):
        return f"speaks of torch {law.since} and later, this is {version}"
    return ""


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in plain_version(version).split(".")[:2])
