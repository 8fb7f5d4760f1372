"""Cases on which a law once accused a correct torch, each of the kind that was mended."""

from __future__ import annotations

from typing import Any, Final

import pytest

from oracles.case import Case
from oracles.deviations import load
from oracles.law import LAWS, Law, OutOfScope
from oracles.recipe import Input, Node, Recipe
from oracles.setting import ENABLED, INFERENCE, NO_GRAD, Setting
from oracles.specimen import Specimen
from oracles.subject import Subject
from oracles.trial import Trial

BELOW_NO_GRAD: Final = ("torch.no_grad()", "torch.inference_mode(False)")


def conv(**more: Any) -> Node:
    arguments = {"in_channels": 2, "out_channels": 2, "kernel_size": 3, "padding": 1}
    return Node("Conv1d", (0,), arguments, **more)


def linear(op: str = "Linear", **more: Any) -> Node:
    return Node(op, (0,), {"in_features": 4, "out_features": 3, "bias": True}, **more)


def module(*nodes: Node, transposed: bool = False, shape: tuple[int, ...] = (2, 2, 4)) -> Recipe:
    return Recipe((Input(shape, transposed=transposed),), nodes, (len(nodes),))


def block(node: Node) -> Node:
    return Node("Block", (0,), body=module(node), checkpointed=True)


#: By what they are: a backward that computes forward again takes one more power iteration, a
#: layer that is given a transposed input takes another kernel, dropout returns its input.
MODULES: Final[dict[str, Recipe]] = {
    "checkpointed spectral norm": module(block(conv(parametrized="spectral_norm"))),
    "checkpointed spectral norm, a hook": module(block(linear("Linear_spectral_norm"))),
    "spectral norm": module(linear("Linear_spectral_norm")),
    "transposed input": module(linear(), transposed=True),
    "transposed input, normalised": module(
        linear(), Node("GroupNorm", (1,), {"num_groups": 1, "num_channels": 2}), transposed=True
    ),
    "dropout": module(Node("Dropout", (0,), {"p": 0.5})),
}
LAWS_OF_RUNS: Final = sorted(
    law.name
    for law in LAWS.values()
    if list(law.quantifiers.values()) == [Subject, Setting] and not law.having
)


def settings(specimen: Specimen) -> list[Setting]:
    """Each mode, under each way to record nothing, frozen and not."""
    names = tuple(specimen.recipe.parameters())
    return [
        Setting(training, (), grad, frozen, inputs)
        for training in (True, False)
        for grad in (ENABLED, NO_GRAD, INFERENCE, BELOW_NO_GRAD)
        for frozen in ((), names, names[:1])
        for inputs in ((), (0,))
    ]


def kept_out(law: Law, recipe: Recipe) -> bool:
    """Whether the law does not speak of such a module."""
    met = {word for n in recipe.walk() for word in (n.op, n.within, n.parametrized)}
    return not met.isdisjoint(law.without)


PAIRS: Final = [
    (law, name)
    for law in LAWS_OF_RUNS
    for name, recipe in MODULES.items()
    if not kept_out(LAWS[law], recipe)
]


@pytest.mark.parametrize(("law", "name"), PAIRS)
def test_no_law_accuses_torch_there(law: str, name: str) -> None:
    trial = Trial(LAWS[law], "cpu", load(), everywhere=True)
    for seed in range(2):
        specimen = Specimen(MODULES[name], seed=seed)
        for setting in dict.fromkeys(settings(specimen)):
            try:
                trial.judge(Case(law, specimen=specimen, setting=setting))
            except OutOfScope:
                continue
