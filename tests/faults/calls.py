"""What planted faults are made of that change how modules are called, whatever their class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .fault import Undo, put

Call = Callable[[], Any]


def each_call(does: Callable[[nn.Module, Call], Any]) -> Undo:
    """A call of a module does this: it is given the module, and the call as it was."""
    kept: Any = nn.Module._call_impl

    def call(self: nn.Module, *args: Any, **options: Any) -> Any:
        return does(self, partial(kept, self, *args, **options))

    return put(nn.Module, "_call_impl", call)


def each_output(change: Callable[[nn.Module, Tensor], Tensor]) -> Undo:
    """A module that returns one tensor of floating point returns another in its place."""

    def does(module: nn.Module, call: Call) -> Any:
        made = call()
        floating = isinstance(made, Tensor) and (made.is_floating_point() or made.is_complex())
        return change(module, made) if floating else made

    return each_call(does)


def each_backward(does: Callable[[nn.Module], Callable[[Tensor], Tensor | None]]) -> Undo:
    """A gradient that reaches the output of a module is handed on changed, or as it is.

    does is called in forward, what it returns in backward.
    """

    def change(module: nn.Module, made: Tensor) -> Tensor:
        if made.requires_grad and (made.grad_fn is not None or not made._is_view()):
            hooked: Any = made
            hooked.register_hook(does(module))
        return made

    return each_output(change)


def in_mode(kinds: tuple[type[nn.Module], ...], mode: Callable[[bool], bool]) -> Undo:
    """Modules of these classes run in the mode that this makes of their own."""

    def does(module: nn.Module, call: Call) -> Any:
        if not isinstance(module, kinds):
            return call()
        told, module.training = module.training, mode(module.training)
        try:
            return call()
        finally:
            module.training = told

    return each_call(does)


def own(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module itself, not of its submodules."""
    return list(module.parameters(recurse=False))


def write(tensor: Tensor, value: Tensor) -> None:
    """Write a value into a tensor, which nothing records."""
    with torch.no_grad():
        tensor.copy_(value)
