"""One law, on one class of torch.nn if it is a law of layers, on one device: judged."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hypothesis.errors import Flaky

import oracles.laws  # noqa: F401  # defines the laws
from oracles.case import Case, read
from oracles.coverage import Combination
from oracles.deviations import Register, plain_version
from oracles.law import LAWS, Law, Violation
from oracles.results import LawResult, Status
from oracles.trial import Trial, examples, kind_of, smallest
from strategies import PART, aimed, drawn_for
from strategies.layers.kinds import torch_has

from .chance import by_chance
from .coverage import covered, is_large
from .evidence import crashed, kept_case, line_of, violated
from .options import Options
from .shrinking import shrink
from .trying import TimedOut, Trying
from .witnesses import mended


@dataclass(frozen=True)
class Judged:
    """What became of a law.

    result  for the results file
    case    what broke the law, or crashed it; None where no case did
    kind    the kind of fact that was seen, without the names of things
    met     how layers were called in the cells that were judged
    """

    result: LawResult
    case: Case | None = None
    kind: str = ""
    met: frozenset[Combination] = frozenset()


@dataclass(frozen=True)
class _Found:
    """A status with what explains it, as fields of a result; the case and kind as in Judged."""

    fields: dict[str, Any]
    case: Case | None = None
    kind: str = ""


def judge(name: str, layer: str, device: str, register: Register, options: Options) -> Judged:
    """Judge the law on drawn cases, then on the witnesses of its deviations.

    A law of layers is judged on one class of torch.nn, all others on anything.
    """
    start = time.perf_counter()
    trial = Trial(LAWS[name], device, register, layer)
    found = _outcome(trial, options)
    result = _result(trial, found.fields, time.perf_counter() - start)
    kind = kind_of(found.kind or result.reason)
    return Judged(result, found.case, kind, frozenset(trial.tally.met))


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
        excused=tally.excused,
        rounded=tally.rounded,
        ulps=tally.ulps,
        sampled=tally.sampled,
        excusable=tally.excusable,
        reached=tally.reaches(),
        **found,
    )


def _outcome(trial: Trial, options: Options) -> _Found:
    try:
        return _found(trial, options)
    except TimedOut as reason:
        return _Found({"status": Status.TIMED_OUT.value, "reason": str(reason)})
    except Exception as error:  # whatever is raised that is no verdict is an outcome as well
        kept = kept_case(options, trial.law.name, trial.layer, trial.device)
        return _Found(crashed(error, kept), read(kept) if kept else None, line_of(error))


def _found(trial: Trial, options: Options) -> _Found:
    too_new = _too_new(trial.law, trial.layer, trial.register.version)
    if too_new:
        return _Found({"status": Status.NOT_APPLICABLE.value, "reason": too_new})
    with Trying(trial, options) as trying:
        try:
            _draw(trying, options)
        except Violation:
            assert trial.violation is not None
            case, violation = trial.violation
            if case.history is not None:
                case, violation = smallest(
                    case, violation, lambda c, v: trial.register.explaining(c, v) is None
                )
            return _Found(violated(case, violation, options), case, violation.observed.expression)
        healed = mended(trial, trying.note)
    if healed:
        return _Found({"status": Status.MENDED.value, "reason": healed})
    return _Found(covered(trial))


def _draw(trying: Trying, options: Options) -> None:
    """Judge the law on examples, on cases drawn by chance, and on those drawn on purpose."""
    trial = trying.trial
    for example in examples(trial.law, trial.device, trial.layer):
        trying.judge(example)
    _as_drawn(trying, options)
    if is_large() and not trial.tally.not_applicable:
        _on_purpose(trying, options)


def _as_drawn(trying: Trying, options: Options) -> None:
    """Judge the law on the cases of its scope, until enough of them have been judged."""
    trial = trying.trial
    for seed, case in by_chance(trial, options.seed):
        try:
            trying.judge(case)
        except Violation:
            with suppress(Flaky):  # it does not show each time: then it is shown as it was met
                shrink(trying, drawn_for(trial.law, trial.layer), seed, PART)
            raise


def _on_purpose(trying: Trying, options: Options) -> None:
    """Judge the law on cases that reach what it has not met: see `strategies.aims`."""
    trial = trying.trial
    for aim in aimed(trial.law, options.seed, trial.device, trial.tally.met):
        try:
            for drawn in aim.cases:
                trying.judge(trying.case(drawn))
        except Violation:
            with suppress(Flaky):
                shrink(trying, aim.strategy, aim.seed, aim.count)
            raise


def _too_new(law: Law, layer: str, version: str) -> str:
    """What this torch does not have yet that the law speaks of; "" if it has all."""
    if not torch_has(layer):
        return f"torch {version} has no nn.{layer}"
    if law.since and _release(version) < _release(law.since):
        return f"speaks of torch {law.since} and later, this is {version}"
    return ""


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in plain_version(version).split(".")[:2])
