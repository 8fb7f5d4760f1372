"""What a planted fault is: a patch of torch that breaks one promise of torch.

A suite that never fails proves nothing. Each fault names the laws that must be violated
while it is planted. Only functions that Python code looks up when it runs are patched.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

from torch import Tensor

Undo = Callable[[], None]
Plant = Callable[[], Undo]


@dataclass(frozen=True)
class Fault:
    """One way in which torch could break a promise.

    name   says what it does wrong, in CamelCase
    says   the same in a sentence
    laws   laws that must be violated while it is planted, the most specific first
    plant  plants it, and returns what takes it back
    layer  the class of torch.nn on which it shows, where the law is judged on one after another
    device where it shows
    """

    name: str
    says: str
    laws: tuple[str, ...]
    plant: Plant
    layer: str = ""
    device: str = "cpu"

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The fault, for the length of a block."""
        undo = self.plant()
        try:
            yield
        finally:
            undo()


FAULTS: Final[dict[str, Fault]] = {}


def fault(*laws: str, layer: str = "", device: str = "cpu") -> Callable[[Plant], Plant]:
    """Register a fault under its name in CamelCase; its docstring says what it does."""

    def define(plant: Plant) -> Plant:
        name = "".join(word.capitalize() for word in plant.__name__.split("_"))
        assert name not in FAULTS, f"two faults are named {name}"
        FAULTS[name] = Fault(
            name, inspect.cleandoc(plant.__doc__ or ""), laws, plant, layer, device
        )
        return plant

    return define


def put(owner: Any, name: str, new: Any) -> Undo:
    """Put something in the place of an attribute, or add it."""
    patch = mock.patch.object(owner, name, new, create=True)
    patch.start()
    return patch.stop


def always(*_: Any, **__: Any) -> bool:
    """Whatever the arguments are."""
    return True


def afterwards(owner: Any, name: str, then: Callable[..., object]) -> Undo:
    """The function does what it does, and then something else with the same arguments."""
    kept = getattr(owner, name)

    def changed(*args: Any, **options: Any) -> Any:
        found = kept(*args, **options)
        then(*args, **options)
        return found

    return put(owner, name, changed)


def changed(
    owner: Any, name: str, change: Callable[..., Any], when: Callable[..., bool] = always
) -> Undo:
    """What the function returns is changed, where that is so of its arguments.

    change is called with what was returned and the arguments.
    """
    kept = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        apt = when(*args, **options)
        found = kept(*args, **options)
        return change(found, *args, **options) if apt else found

    return put(owner, name, call)


def within(
    owner: Any,
    name: str,
    context: Callable[[], AbstractContextManager[Any]],
    when: Callable[..., bool] = always,
) -> Undo:
    """The function runs in another mode, where that is so of its arguments."""
    kept = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        if not when(*args, **options):
            return kept(*args, **options)
        with context():
            return kept(*args, **options)

    return put(owner, name, call)


def read(name: str, get: Callable[[Any, Any], Any]) -> Undo:
    """Reading an attribute of a tensor gives what is made of its value and the tensor."""
    kept = getattr(Tensor, name)
    return put(
        Tensor, name, property(lambda t: get(kept.__get__(t), t), kept.__set__, kept.__delete__)
    )


def together(*undos: Undo) -> Undo:
    """Takes back several patches, the latest first."""
    stack = ExitStack()
    for undo in undos:
        stack.callback(undo)
    return stack.close
