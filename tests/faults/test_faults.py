"""Each planted fault is noticed by the law that should notice it, and its script shows it."""

from __future__ import annotations

import asyncio
import io
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Final

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Flaky
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch._functorch import apis, eager_transforms
from torch.nn.utils import fusion, parametrize, prune
from torch.optim import optimizer, swa_utils
from torch.utils import _contextlib

from oracles.case import Case, to_json
from oracles.deviations import Register, load
from oracles.law import LAWS, Law, Violation
from oracles.play import Played
from oracles.script import script
from oracles.trial import Trial, examples, forget, smallest
from strategies import PART, cases, drawn_for
from tests.faults import histories, reports
from tests.faults.detection import judge_with
from tests.faults.faults import FAULTS, UNPLANTABLE, Fault
from tests.faults.plant import VARIABLE, plant
from tests.harness.chance import by_chance

ROOT: Final = Path(__file__).parents[2]
NAMES: Final = sorted(FAULTS)
#: How long a violation is made smaller.
SECONDS: Final = 0.5
#: On how many cases a law is judged, and the seed they are drawn from: the same in each run.
CASES: Final = 100
SEED: Final = 0

SHRINKING: Final = settings(
    max_examples=PART,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)


#: Runs a script, with a fault planted if one is named: "" or how it failed.
Run = Callable[[Path, str], str]


@cache
def register() -> Register:
    """What this torch is known to break."""
    return load()


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_is_noticed_and_its_script_shows_it(name: str, tmp_path: Path, run: Run) -> None:
    law = LAWS[FAULTS[name].laws[0]]
    case, violation = small(FAULTS[name], law)
    path = tmp_path / "violation.py"
    text = script(case, violation)
    path.write_text(text, encoding="utf-8")
    print(text)  # pytest -rP shows it
    assert "AssertionError: expected " in run(path, name), path
    assert run(path, "") == "", path


def test_the_readme_counts_them() -> None:
    assert f"{len(NAMES)} planted faults" in (ROOT / "README.md").read_text(encoding="utf-8")


def small(fault: Fault, law: Law) -> tuple[Case, Violation]:
    """A case that breaks the law while the fault is planted, as small as it is shown to a user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is drawn, as in a run: see `process.prepare`
        case, violation = noticed(fault, law)
        if case.history is None:
            return case, violation
        try:
            with fault.planted():
                return smallest(case, violation, lambda c, v: register().explaining(c, v) is None)
        finally:
            forget()
            torch._C._set_grad_enabled(True)


#: Noticed, by chance, in fewer than one of 300 histories: the main job plays a thousand.
RARE: Final = (
    "AppendingHandsOnTheFlag",
    "ConvertingForgetsGradients",
    "EvaluatingForgetsGradients",
    "OptimizersClearWhatIsTrainedAlone",
    "ReplacingTrains",
    "ZeroGradSkipsWhatIsFrozen",
)


@pytest.mark.parametrize("name", RARE)
def test_the_main_job_is_sure_to_notice_what_chance_seldom_shows(name: str) -> None:
    law = LAWS[histories.LAW]
    trial = Trial(law, "cpu", register())
    with pytest.raises(Violation):
        for case in examples(law, "cpu"):
            judge_with(FAULTS[name], trial, case)


def test_histories_shrink_to_the_steps_that_matter() -> None:
    over_time = [name for name in NAMES if FAULTS[name].laws[0] == histories.LAW]
    assert len(over_time) >= 25
    sizes = {}
    for name in over_time[::4]:
        history = small(FAULTS[name], LAWS[histories.LAW])[0].history
        assert history is not None
        sizes[name] = len(list(history.walk()))
    print(sizes)
    assert median(sizes.values()) <= 6, sizes


def noticed(fault: Fault, law: Law) -> tuple[Case, Violation]:
    """A small case that breaks the law while the fault is planted, of those that a run draws.

    How long it takes until a layer is drawn that shows the fault is not measured here.
    """
    if Played in law.quantifiers.values():
        return noticed_over_time(fault, law)
    trial = Trial(law, fault.device, register(), fault.layer)
    for seed, case in by_chance(trial, SEED, CASES):
        try:
            judge_with(fault, trial, case)
        except Violation:
            with suppress(Violation, Flaky):  # it is shown as it was met last
                make_small(fault, trial, seed)
            assert trial.violation is not None
            return trial.violation
    pytest.fail(f"{fault.name} was not noticed")


def make_small(fault: Fault, trial: Trial, seed: str) -> None:
    """Draw the same cases again, so that Hypothesis makes the violation small; raise it."""
    trial.everywhere = True  # as the main job does from then on
    known: set[str] = set()
    start: list[float] = []

    @seeded(seed)
    @SHRINKING
    @given(drawn_for(trial.law, trial.layer))
    def judge(drawn: dict[str, Any]) -> None:
        case = Case(trial.law.name, trial.device, **drawn)
        text = to_json(case)
        if start and time.perf_counter() - start[0] > SECONDS and text not in known:
            return
        try:
            judge_with(fault, trial, case)
        except Violation:
            start.append(time.perf_counter())
            known.add(text)
            raise

    judge()


def noticed_over_time(fault: Fault, law: Law) -> tuple[Case, Violation]:
    """A case with a history that breaks the law while the fault is planted, as it was drawn."""
    trial = Trial(law, "cpu", register())
    for part in range(10):
        for drawn in cases(law, "", f"faults {part}", 500):  # drawn once for all faults
            try:
                judge_with(fault, trial, Case(law.name, "cpu", **drawn))
            except Violation:
                assert trial.violation is not None
                return trial.violation
    pytest.fail(f"{fault.name} was not noticed")


# --- scripts ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run() -> Run:
    """Runs a script in a fresh process, which is forked from one that has imported this module.

    No process of multiprocessing.Pool: those may start none of their own, and some scripts do.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", __name__])

    def run(path: Path, fault: str) -> str:
        with ProcessPoolExecutor(1, mp_context=context) as executor:
            return executor.submit(run_script, str(path), fault).result()

    return run


def run_script(path: str, fault: str) -> str:
    """Run a script, with a fault planted if one is named: "" or how it failed."""
    undo = plant(fault) if fault else lambda: None
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            runpy.run_path(path, run_name="__main__")
    except Exception:
        return traceback.format_exc(limit=-3)
    finally:
        undo()
    return ""


def python(*arguments: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python at the root of the repository."""
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT,
        env=environment | ({VARIABLE: fault} if fault else {}),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_a_script_is_run_with_the_fault_that_the_environment_names(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    source = "from torch import nn\nassert nn.Dropout().eval() is not None\n"
    path.write_text(source, encoding="utf-8")
    done = python("-m", "tests.faults.plant", str(path), fault="EvalReturnsNone")
    assert done.returncode == 1
    assert "AssertionError" in done.stderr
    assert python(str(path)).returncode == 0


def test_a_name_that_is_no_fault_is_refused_in_one_line(tmp_path: Path) -> None:
    done = python("-m", "tests.faults.plant", str(tmp_path), fault="DropoutIgnoredEval")
    assert done.returncode == 1
    line = f"{VARIABLE}: no fault is named 'DropoutIgnoredEval'; faults: DropoutIgnoresEval, "
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1
    assert all(name in done.stderr for name in NAMES)


# --- the real harness ---------------------------------------------------------------------------


#: One about modules, and one about grad modes alone that leaves the mode changed behind it.
@pytest.mark.parametrize("name", ["EvalReturnsNone", "NoGradOutlivesExceptions"])
def test_the_harness_says_violated(name: str, tmp_path: Path) -> None:
    law, results = FAULTS[name].laws[0], tmp_path / "results.json"
    suite = ("-m", "pytest", "-p", "tests.faults.plant", "-p", "no:cacheprovider", "tests/laws")
    options = ("--law", law, "--results", str(results), "--violations", str(tmp_path))
    done = python(*suite, *options, fault=name)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"VIOLATED {law}" in done.stdout
    (found,) = json.loads(results.read_text(encoding="utf-8"))["laws"]
    assert (found["name"], found["status"]) == (law, "VIOLATED")


# --- the faults themselves ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_is_well_formed(name: str) -> None:
    fault = FAULTS[name]
    assert fault.says.endswith(".")
    assert "\n" not in fault.says
    assert fault.laws
    assert [law for law in fault.laws if law not in LAWS] == []
    assert not fault.layer or fault.layer in LAWS[fault.laws[0]].layers


def test_every_law_has_a_planted_fault() -> None:
    without = sorted(LAWS.keys() - UNPLANTABLE.keys() - broken_first())
    assert without == [], f"{len(without)} laws have no fault: {', '.join(without)}"


def test_no_law_with_a_fault_is_called_unplantable() -> None:
    assert sorted(UNPLANTABLE.keys() & broken_first()) == []
    assert sorted(UNPLANTABLE.keys() - LAWS.keys()) == []


def broken_first() -> set[str]:
    """Laws that a fault names before all others: it is noticed by them."""
    return {fault.laws[0] for fault in FAULTS.values()}


def test_every_fault_is_taken_back() -> None:
    before = patched()
    for fault in FAULTS.values():
        with fault.planted():
            assert patched() != before, f"{fault.name} patches nothing that is looked at here"
        assert patched() == before, f"{fault.name} is still planted"


def patched() -> dict[str, Any]:
    """Everything that faults patch."""
    owners: tuple[Any, ...] = (
        *(nn.Module, nn.Parameter, nn.Linear, nn.Dropout, nn.RReLU, nn.Embedding),
        *(nn.LSTM, nn.GRU, nn.RNN, nn.modules.batchnorm._BatchNorm, nn.init, nn.functional),
        *(nn.utils.parametrizations._SpectralNorm, torch.Tensor, torch.autograd),
        *(torch.utils.checkpoint, torch.func, torch, parametrize, asyncio),
        *(OptimizedModule, swa_utils, swa_utils.AveragedModel, fusion, torch.jit, nn.utils),
        *(prune, nn.LazyLinear),
        *(torch.no_grad, torch.enable_grad, torch.set_grad_enabled, torch.inference_mode),
        *(torch._C, torch.autograd.Function, torch.autograd.forward_ad),
        *(apis, eager_transforms, _contextlib._DecoratorContextManager),
        *(_contextlib._NoParamDecoratorContextManager, torch.autograd.graph.saved_tensors_hooks),
        *(_contextlib, torch.utils.checkpoint, torch.optim.SGD, torch.optim.Optimizer),
        *(nn.SyncBatchNorm, nn.Sequential, nn.TransformerEncoder, nn.LazyLinear, nn.EmbeddingBag),
        *(nn.FractionalMaxPool2d, nn.AlphaDropout),
        *(nn.ParameterList, nn.ParameterDict, nn.utils.parametrize.ParametrizationList),
        *(optimizer, torch.utils, nn.utils.parametrize, sys.modules["asyncio"]),
        *reports.OWNERS,
        sys.modules["threading"].Thread,
        *(torch, sys.modules["copy"], sys.modules["concurrent.futures.thread"].ThreadPoolExecutor),
    )
    return {f"{owner}.{k}": id(v) for owner in owners for k, v in vars(owner).items()}
