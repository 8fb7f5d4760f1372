"""The main job: every law on drawn cases, each law on each device a test of its own."""

from __future__ import annotations

import json
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import seed as seeded

from oracles.case import Case, to_json
from oracles.codec import encode
from oracles.deviations import Deviation, Register, load, plain_version
from oracles.history import BLOCKS, SIMPLE
from oracles.law import LAWS, Law, OutOfScope, Unsupported, Violation
from oracles.laws.layers import KERNEL
from oracles.play import Played
from oracles.results import LawResult, Status
from oracles.script import message, reproduces, script
from oracles.trial import Tally, Trial, examples, replay, smallest, witnesses
from strategies import drawn_for, parts
from strategies.layers.kinds import torch_has
from tests import report


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    tried = report.tried(metafunc.config)
    metafunc.parametrize(("name", "layer", "device"), tried, ids=[report.label(*t) for t in tried])


@pytest.fixture(scope="session")
def register() -> Register:
    """What this torch is known to break."""
    return load()


def test_law(
    name: str, layer: str, device: str, register: Register, request: pytest.FixtureRequest
) -> None:
    """Judge the law on drawn cases, then on the witnesses of its deviations.

    A law of layers is judged on one class of torch.nn, all others on anything.
    """
    start = time.perf_counter()
    trial = Trial(LAWS[name], device, register, layer)
    found = _outcome(trial, request.config)
    result = _result(trial, found, time.perf_counter() - start)
    request.node.user_properties.append((report.PROPERTY, json.dumps(encode(result))))
    if result.status in (Status.NOT_APPLICABLE.value, Status.UNSUPPORTED.value):
        pytest.skip(result.reason)
    if Status(result.status).fails:
        text = (result.violation or {}).get("message") or result.reason
        pytest.fail(f"{result.status}\n{text}", pytrace=False)


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


def _outcome(trial: Trial, config: pytest.Config) -> dict[str, Any]:
    """The status of the law, with the violation or the reason that explains it."""
    too_new = _too_new(trial.law, trial.layer, trial.register.version)
    if too_new:
        return {"status": Status.NOT_APPLICABLE.value, "reason": too_new}
    try:
        _draw(trial, config)
    except Violation:
        assert trial.violation is not None
        case, violation = trial.violation
        if case.history is not None:
            case, violation = smallest(
                case, violation, lambda c, v: trial.register.explaining(c, v) is None
            )
        # Where a fault is planted, its script shows it with the fault alone.
        planted = config.pluginmanager.has_plugin("tests.faults.plant")
        through = ("-m", "tests.faults.plant") if planted else ()
        return _violated(case, violation, Path(config.getoption("--violations")), through)
    except TimedOut as reason:
        return {"status": Status.TIMED_OUT.value, "reason": str(reason)}
    except Exception:
        return {"status": Status.CRASHED.value, "reason": traceback.format_exc(limit=-8)}
    healed = mended(trial)
    if healed:
        return {"status": Status.MENDED.value, "reason": healed}
    return _covered(trial)


def _draw(trial: Trial, config: pytest.Config) -> None:
    """Judge the law on the cases of its scope, until enough of them have been judged.

    More are drawn while something is not met that some of them must meet: that chance missed it in
    so few says nothing of torch.
    """
    trying = Trying(trial, config)
    for example in examples(trial.law, trial.device, trial.layer):
        trying.judge(example)
    wanted = _wanted(trial)
    found = parts(trial.law, trial.layer, report.seed(config), trial.device, wanted)
    for seed, cases in found:
        try:
            for drawn in cases:
                trying.judge(trying.case(drawn))
                # A case of which nothing was judged does not count.
                if trial.tally.subjects >= wanted and not _unmet(trial):
                    return
        except Violation:
            _shrink(trying, seed, len(cases))
            raise
        if trial.tally.not_applicable:
            return


def _shrink(trying: Trying, seed: str, count: int) -> None:
    """Draw the same cases in a property, so that Hypothesis makes the violation small.

    In every setting: the plainest one that breaks the law is the one to show.
    """
    trial = trying.trial
    judged, trial.tally = trial.tally, Tally()
    trial.everywhere = True

    @seeded(seed)
    @settings(max_examples=count)
    @given(drawn_for(trial.law, trial.layer))
    def judge(drawn: dict[str, Any]) -> None:
        trying.judge(trying.case(drawn))

    try:
        judge()
    finally:
        trial.tally = judged


class Trying:
    """Judges one case after the other, within bounds of time.

    Making a violation small is bounded as well, as the user waits for it. When that time is up,
    only cases that are known to break the law still do: Hypothesis then ends with the smallest
    that it has found.
    """

    seconds = 20.0

    def __init__(self, trial: Trial, config: pytest.Config) -> None:
        self.trial = trial
        self.log = report.running_case(config, trial.law.name, trial.layer, trial.device)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.allowed = float(config.getoption("--law-timeout"))
        self.start = 0.0
        self.known: set[str] = set()
        self.first = 0.0

    def case(self, drawn: dict[str, Any]) -> Case:
        """What was drawn, as a case of the law on the device."""
        return Case(self.trial.law.name, self.trial.device, **drawn)

    def judge(self, case: Case) -> None:
        """Judge a case; what torch cannot run is passed over."""
        text = to_json(case)
        now = time.perf_counter()
        self.start = self.start or now
        if self.first and now - self.first > self.seconds and text not in self.known:
            return
        if not self.first and now - self.start > self.allowed:
            so_far = f"{self.trial.tally.subjects} subjects judged, all as the law says"
            raise TimedOut(f"not done in {self.allowed:g} s (--law-timeout): {so_far}")
        # Written down before it runs: if the process dies, this is what killed it.
        self.log.write_text(text, encoding="utf-8")
        try:
            self.trial.judge(case)
        except Violation:
            self.first = self.first or now
            self.known.add(text)
            raise
        except Unsupported:
            pass


def _wanted(trial: Trial) -> int:
    """How many cases: a quarter for each class of torch.nn, where a law speaks of all of them.

    A quarter as well for a law of which each case is costly.
    """
    profile = settings.default
    assert profile is not None
    if Played in trial.law.quantifiers.values():
        return profile.max_examples * 10  # a history is one cell, and quickly played
    every = (trial.law.over_layers and not trial.law.having) or trial.law.costly
    return max(profile.max_examples // 4, 5) if every else profile.max_examples


class TimedOut(Exception):
    """A law took longer than it may: what it judged until then is kept."""


def _enough(trait: str) -> int:
    """In how many comparisons a trait that is claimed must show: rounding rarely does."""
    return 20_000 if trait == KERNEL else 1


def _too_new(law: Law, layer: str, version: str) -> str:
    """What this torch does not have yet that the law speaks of; "" if it has all."""
    if not torch_has(layer):
        return f"torch {version} has no nn.{layer}"
    if law.since and _release(version) < _release(law.since):
        return f"speaks of torch {law.since} and later, this is {version}"
    return ""


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in plain_version(version).split(".")[:2])


def _violated(
    case: Case, violation: Violation, folder: Path, through: tuple[str, ...]
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    layer = case.layer if LAWS[case.law].over_layers else ""
    path = (folder / f"{report.label(case.law, layer, case.device)}.py").resolve()
    path.write_text(script(case, violation), encoding="utf-8")
    path.with_suffix(".json").write_text(to_json(case), encoding="utf-8")
    shown = reproduces(path, through)
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


def mended(trial: Trial) -> str:
    """The deviations whose witnesses hold now: an error until the register says so."""
    healed = []
    for deviation, case in witnesses(trial.law, trial.device, trial.register, trial.layer):
        try:
            violation = replay(case)
        except (OutOfScope, Unsupported) as reason:
            healed.append(f"{deviation.name}: its witness could not be judged: {reason}")
            continue
        if violation is None and deviation.basis == "rounding":
            continue  # how torch rounds depends on the processor as well: it need not be mended
        shown = _shown(deviation, case, violation, trial.register)
        if shown is None:
            healed.append(f"{deviation.name}: its witness no longer shows it")
        else:
            trial.tally.deviating[shown.name] += 1
    return "; ".join(healed)


def _shown(
    deviation: Deviation, case: Case, violation: Violation | None, register: Register
) -> Deviation | None:
    """The deviation that its witness shows: it, or one of some versions alone that hides it."""
    if violation is None or deviation.explains(case, violation):
        return deviation if violation else None
    other = register.explaining(case, violation)
    return other if other and other.torch else None


#: What so many histories reach at the least.
ENOUGH = 1000
FLOOR = {"kinds of steps": len(SIMPLE) + len(BLOCKS), "pairs of kinds": 1500, "refusals": 29}


def _unmet(trial: Trial) -> str:
    """What the cases of a law must meet, and those judged so far did not; "" if nothing."""
    traits = trial.tally.traits
    hidden = [t for t, n in traits.claimed.items() if n >= _enough(t) and not traits.shown[t]]
    if hidden:
        return f"{trial.layer} claims traits and never showed them: {', '.join(sorted(hidden))}"
    reached = trial.tally.reaches() if trial.tally.subjects >= ENOUGH else {}
    few = [what for what, count in reached.items() if count < FLOOR[what]]
    return f"too few {', '.join(few)}" if few else ""


def _covered(trial: Trial) -> dict[str, Any]:
    tally, unmet = trial.tally, _unmet(trial)
    if unmet:
        return {"status": Status.NOT_COVERED.value, "reason": unmet}
    if tally.cells:
        status = Status.DEVIATES if tally.deviating else Status.HOLDS
        return {"status": status.value}
    if tally.not_applicable:
        return {"status": Status.NOT_APPLICABLE.value, "reason": tally.not_applicable}
    if tally.unsupported:
        return {"status": Status.UNSUPPORTED.value, "reason": "torch can run none of its cases"}
    return {"status": Status.NOT_COVERED.value, "reason": "no drawn case was in its scope"}
