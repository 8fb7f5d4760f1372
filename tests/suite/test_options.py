"""Every option of every class of torch.nn is drawn, or excluded with a reason.

What the constructor and forward of a class are really given is noted while drawn layers are
built and run: so it counts however an option gets there.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, wraps
from operator import attrgetter
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

import oracles.laws
from oracles.recipe import execute
from oracles.specimen import Specimen, source_of
from oracles.subject import lacking
from oracles.traits import CLASSES
from strategies import layers
from strategies.layers.kinds import torch_has
from strategies.layers.options import NOT_DRAWN, reason

from .helpers import drawn

assert oracles.laws.THEORIES

#: How many layers of a class are drawn: more only while some option has one value.
DRAWS = (20, 80, 320)
HERE = tuple(name for name in CLASSES if torch_has(name))

Given = dict[str, set[str]]


def _class(name: str) -> Any:
    return attrgetter(name)(nn)


def _made(name: str) -> tuple[Any, str]:
    """Where the constructor of the class is, or the function of nn.utils: its owner and name."""
    found = _class(name)
    if not isinstance(found, type):
        return nn.utils, found.__name__
    # A recurrent layer takes anything, and hands it on to its base.
    return nn.RNNBase if issubclass(found, nn.RNNBase) else found, "__init__"


def options(name: str) -> set[str]:
    """The options of a class: parameters of its constructor, and optional ones of its forward."""
    of_constructor = inspect.signature(getattr(*_made(name))).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = {p.name for p in of_constructor if p.kind not in variadic} - {"self"}
    if isinstance(_class(name), type):
        of_forward = inspect.signature(_class(name).forward).parameters.values()
        found |= {p.name for p in of_forward if p.default is not p.empty}
    # The mode of an RNN is its nonlinearity; those of LSTM and GRU are their names.
    return found - ({"mode"} if name in ("LSTM", "GRU") else set())


def _said(value: Any) -> str:
    """A value of an option, so that equal ones are said alike: of a tensor or module its kind."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of {value.dtype}, {value.dim()} dimensions"
    if isinstance(value, nn.Module):
        return f"an nn.{type(value).__name__}"
    return getattr(value, "__name__", repr(value))


def _noting(
    function: Callable[..., Any], given: Given, kinds: tuple[type, ...]
) -> Callable[..., Any]:
    """The function, which also notes what it is given; a method, where it is of these classes."""
    signature = inspect.signature(function)

    @wraps(function)
    def noting(*args: Any, **kwargs: Any) -> Any:
        if not kinds or isinstance(args[0], kinds):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            for option, value in bound.arguments.items():
                given[option].add(_said(value))
        return function(*args, **kwargs)

    return noting


@cache
def given(name: str) -> Given:
    """What constructor and forward of the class are given, in layers of it that are drawn."""
    found: Given = defaultdict(set)
    for count in DRAWS:
        specimens = {repr(s): s for s in drawn(layers(name), count)}.values()
        with ExitStack() as stack:
            for patch in _patches(name, found):
                stack.enter_context(patch)
            for specimen in specimens:
                _run(specimen)
        if all(len(found[o]) > 1 or reason(name, o) for o in options(name)):
            break
    return found


def _patches(name: str, found: Given) -> Iterator[Any]:
    made, (owner, attribute) = _class(name), _made(name)
    # A lazy layer is of another class after its first forward.
    kinds = (made, getattr(made, "cls_to_become", made)) if isinstance(made, type) else ()
    yield mock.patch.object(owner, attribute, _noting(getattr(owner, attribute), found, kinds))
    if kinds:
        owner = next(c for c in made.__mro__ if "forward" in vars(c))
        yield mock.patch.object(owner, "forward", _noting(owner.forward, found, kinds))


def _run(specimen: Specimen) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            model, inputs = execute(source_of(specimen)).build()
            model(*inputs)
        except Exception as error:
            if not lacking(error):
                raise


@pytest.mark.parametrize("name", HERE)
def test_every_option_of_a_class_is_drawn_or_excluded_with_a_reason(name: str) -> None:
    found = given(name)
    missing = {o: found[o] for o in sorted(options(name)) if not reason(name, o)}
    missing = {option: values for option, values in missing.items() if len(values) < 2}
    assert not missing, f"drawn with one value at the most: {missing}"


#: What a forward must be given in more than one kind, though its signature does not say so.
KINDS = {
    ("CrossEntropyLoss", "target"): ("int64", "float"),
    ("CTCLoss", "targets"): ("1 dimensions", "2 dimensions"),
    ("EmbeddingBag", "input"): ("1 dimensions", "2 dimensions"),
}


@pytest.mark.parametrize(("name", "option"), KINDS, ids=map("-".join, KINDS))
def test_forward_is_given_each_kind_of_target_or_input(name: str, option: str) -> None:
    found = given(name)[option]
    missing = [kind for kind in KINDS[name, option] if not any(kind in said for said in found)]
    assert not missing, found


@pytest.mark.parametrize("excluded", NOT_DRAWN, ids=map("-".join, NOT_DRAWN))
def test_no_option_is_excluded_without_need(excluded: tuple[str, str]) -> None:
    name, option = excluded
    assert NOT_DRAWN[excluded]
    if name != "*" and name not in HERE:
        assert name in CLASSES, "there is no such class"
        return
    having = [n for n in (HERE if name == "*" else (name,)) if option in options(n)]
    assert having, "no class has such an option"
    undrawn = [n for n in having if len(given(n)[option]) < 2]
    assert undrawn, "it is drawn"
