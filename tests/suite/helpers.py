"""What the tests of the suite share: how much is drawn, and subprocesses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis.strategies import SearchStrategy

from oracles.law import Unsupported
from oracles.recipe import Input, Node, Recipe
from oracles.setting import Setting, fold
from oracles.specimen import Specimen
from oracles.subject import Subject
from strategies import specimens

T = TypeVar("T")

ROOT: Final = Path(__file__).parents[2]

#: A module that has one of everything that is rendered in its own way.
RICH: Final = Specimen(
    Recipe(
        (Input((2, 4)), Input((2, 4), transposed=True)),
        (
            Node("Linear", (0,), {"in_features": 4, "out_features": 4}, parametrized="weight_norm"),
            Node("Linear", (2,), {"in_features": 4, "out_features": 4}, hooked="forward"),
            Node("Linear", (3,), {"in_features": 4, "out_features": 4}, tied=1),
            Node("Linear", (4,), {"in_features": 4, "out_features": 4}, shared=1),
            Node("scale", (5,), {"sizes": [4]}, within="no_grad"),
            Node("shift", (6,), {"sizes": [4]}),
            Node("BatchNorm1d", (7,), {"num_features": 4}, hooked="full_backward"),
            Node(
                "Block",
                (8,),
                body=Recipe((Input((2, 4)),), (Node("Dropout", (0,), {"p": 0.2}),), (1,)),
                checkpointed=True,
            ),
            Node(
                "Sequential",
                (9,),
                body=Recipe((Input((2, 4)),), (Node("Tanh", (0,)),), (1,), "Sequential"),
            ),
            Node("add", (10, 1)),
            Node("chunk", (11,)),
        ),
        (12, 13, 8),
        "ModuleDict",
    ),
    "float64",
    7,
    Setting(False, ("layers.n6",), ("torch.no_grad()", "torch.enable_grad()"), ("n4",), (1,)),
)


def examples(count: int, *phases: Phase) -> settings:
    """The settings of every property here: the same examples each time, and no clock.

    Without the explain phase: it is slow, and ``find`` hands out what it tried last.
    """
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=phases or (Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
    )


def drawn(strategy: SearchStrategy[T], count: int) -> list[T]:
    """This many values of a strategy, the same each time; repeated ones are among them."""
    values: list[T] = []

    @examples(count, Phase.generate)
    @given(strategy)
    def keep(value: T) -> None:
        values.append(value)

    keep()
    return values


@cache
def drawn_specimens(count: int) -> list[Specimen]:
    """Different specimens, drawn once for all tests of a process."""
    unlike = {repr(s): s for s in drawn(specimens(), count)}
    return list(unlike.values())


@cache
def running_specimens(count: int) -> list[Specimen]:
    """Different specimens of which this build of torch lacks nothing."""
    return [s for s in drawn_specimens(300) if _runs(s)][:count]


def _runs(specimen: Specimen) -> bool:
    subject = Subject(specimen)
    floating = tuple(i for i, given in enumerate(specimen.recipe.inputs) if not given.high)
    try:
        for training in (True, False):
            subject.backward(Setting(training, inputs=floating))
    except Unsupported:
        return False
    return True


def simplest(strategy: SearchStrategy[T], wanted: Callable[[T], bool], seed: int = 0) -> T:
    """What a value of which this is true shrinks to."""
    return find(strategy, wanted, settings=examples(3000), random=Random(seed))


def python(*arguments: str, given: str = "", cwd: Path = ROOT, **environment: str) -> str:
    """What another Python prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        input=given,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def outline(recipe: Recipe) -> list[Any]:
    """The kinds of its nodes, nested as they are: for messages."""
    return [n.op if n.body is None else [n.op, *outline(n.body)] for n in recipe.nodes]


def runnable(specimen: Specimen) -> list[Setting]:
    """The settings in which nothing refuses to run.

    A checkpoint refuses inference tensors while is_grad_enabled() says True: see the register.
    """
    states = [(setting, fold(setting.grad)) for setting in specimen.lattice]
    return [setting for setting, state in states if not (state.inference and state.grad)]
