"""The catalogue leaves out no class of torch.nn, and a broken trait of a layer is noticed."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch import nn

import oracles.laws
from oracles.case import Case
from oracles.deviations import load
from oracles.law import LAWS, Unsupported, Violation
from oracles.script import message
from oracles.traits import CLASSES, TRAITS
from oracles.trial import Trial
from strategies import drawn_for
from strategies.layers import EXCLUDED

assert oracles.laws.THEORIES
LAW = LAWS["a_layer_does_what_its_traits_claim"]


def of_torch() -> set[str]:
    """The public classes of the torch.nn that is installed."""
    classes = ((name, getattr(nn, name)) for name in dir(nn))
    return {n for n, c in classes if isinstance(c, type) and issubclass(c, nn.Module)}


def test_every_class_of_torch_nn_is_in_the_catalogue_or_excluded_with_a_reason() -> None:
    missing = of_torch() - set(CLASSES) - set(EXCLUDED)
    assert not missing, f"torch.nn has classes that nothing is said of: {sorted(missing)}"
    assert not set(CLASSES) & set(EXCLUDED), "excluded, and in the catalogue"
    assert all(EXCLUDED.values())
    assert set(EXCLUDED) <= of_torch()


# --- broken traits ---------------------------------------------------------------------------

Forward = Callable[..., Any]


def drawing(forward: Forward) -> Forward:
    """It draws a number that it does not use."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        torch.rand(1)
        return forward(self, *x, **options)

    return broken


def flipping(forward: Forward) -> Forward:
    """Its output in training is another."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        out = forward(self, *x, **options)
        return _changed(out, 2.0) if self.training else out

    return broken


def unrecorded(forward: Forward) -> Forward:
    """Its output is another where grad is disabled."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        out = forward(self, *x, **options)
        return out if torch.is_grad_enabled() else _changed(out, 1.5)

    return broken


def handing_on(forward: Forward) -> Forward:
    """It returns its input itself."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        return x[0]

    return broken


def detaching(forward: Forward) -> Forward:
    """What it returns is cut from the graph."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        return _changed(forward(self, *x, **options), None)

    return broken


def writing(forward: Forward) -> Forward:
    """It writes into its parameters and buffers."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        with torch.no_grad():
            for t in [*self.parameters(), *self.buffers()]:
                t.add_(1)
        return forward(self, *x, **options)

    return broken


def refusing(forward: Forward) -> Forward:
    """In training it refuses inputs of one sample."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        if self.training and x[0].shape[0] == 1:
            raise ValueError("one sample only")
        return forward(self, *x, **options)

    return broken


def _changed(out: Any, factor: float | None) -> Any:
    if isinstance(out, tuple):
        return (_changed(out[0], factor), *out[1:])
    if not isinstance(out, torch.Tensor) or not out.is_floating_point():
        return out
    return out.detach() if factor is None else (out + 1) * factor


#: How a trait is broken, and the words of the message that name it.
BREAKING: dict[Callable[[Forward], Forward], str] = {
    drawing: "draws randomness",
    flipping: "differs between train and eval",
    unrecorded: "takes another kernel where nothing is recorded",
    handing_on: "returns its input itself",
    detaching: "requires_grad",
    writing: "moves a buffer|writes a parameter",
    refusing: "refuses single values in training alone",
}


def _breakable() -> list[tuple[str, Callable[[Forward], Forward]]]:
    """Every layer with each way to break one of its traits that changes what it does."""
    found = []
    for name in CLASSES:
        if name.startswith("Parameter") or "Lazy" in name or name == "Identity":
            continue  # no forward, the forward of another class, nothing to break
        traits = TRAITS[name]
        ways = [way for way in BREAKING if way not in (writing, handing_on)]
        ways += [writing] if traits.parameters({}) else []
        ways += [handing_on] if traits.call in ("{self}({0})", "{self}({0}, {1})") else []
        found += [(name, way) for way in ways if not _does_anyway(name, way)]
    return found


def _does_anyway(name: str, way: Callable[[Forward], Forward]) -> bool:
    traits = TRAITS[name]
    telling = way in (drawing, flipping) and traits.differs({"num_layers": 2, "dropout": 0.5})
    return bool(telling) or (way is refusing and traits.batch({}))


#: More than 20, so that every way is among them; with another seed others are broken.
BROKEN = random.Random(3).sample(_breakable(), 40)


@pytest.mark.parametrize(
    ("name", "breaking"), BROKEN, ids=[f"{name}-{b.__name__}" for name, b in BROKEN]
)
def test_a_broken_trait_is_noticed(name: str, breaking: Callable[[Forward], Forward]) -> None:
    owner = getattr(nn, name)
    trial = Trial(LAW, "cpu", load(), name)

    @settings(
        max_examples=40,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(drawn_for(LAW, name))
    def judge(drawn: dict[str, Any]) -> None:
        with suppress(Unsupported):
            trial.judge(Case(LAW.name, "cpu", **drawn))

    broken = mock.patch.object(owner, "forward", breaking(owner.forward))
    with broken, pytest.raises(Violation) as caught:
        judge()
    words = BREAKING[breaking].split("|")
    assert any(word in caught.value.message for word in words), caught.value.message
    assert trial.violation is not None
    case, violation = trial.violation
    assert f"nn.{name}(" in message(case, violation), "the message names the layer"
