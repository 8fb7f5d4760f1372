"""Planted faults of optimizers, whatever their class."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer, optimizer

from .fault import Undo, fault, put, together

Does = Callable[[Any], object]


def _step(*, before: Does | None = None, after: Does | None = None) -> Undo:
    """Each step of any optimizer does this, before or after what it does."""

    def hooks(does: Does | None) -> Any:
        return OrderedDict({0: lambda self, *given: does(self)} if does else {})

    return together(
        put(optimizer, "_global_optimizer_pre_hooks", hooks(before)),
        put(optimizer, "_global_optimizer_post_hooks", hooks(after)),
    )


def _parameters(self: Any) -> Iterator[Tensor]:
    return (parameter for group in self.param_groups for parameter in group["params"])


@fault("a_step_records_nothing")
def steps_are_recorded_on_frozen_parameters() -> Undo:
    """A frozen parameter has a graph after a step."""

    def after(self: Any) -> None:
        for parameter in _parameters(self):
            if not parameter.requires_grad:
                with torch.enable_grad():
                    parameter.mul_(torch.ones((), dtype=parameter.dtype, requires_grad=True))

    return _step(after=after)


@fault("a_step_restores_the_grad_mode")
def steps_disable_grad() -> Undo:
    """A step leaves grad disabled."""
    return _step(after=lambda _: torch._C._set_grad_enabled(False))


@fault("a_zero_gradient_does_not_protect_from_weight_decay")
def steps_skip_gradients_of_zero() -> Undo:
    """A step passes over parameters whose gradient is zero."""
    skipped: list[tuple[Tensor, Tensor]] = []

    def before(self: Any) -> None:
        for parameter in _parameters(self):
            if parameter.grad is not None and not parameter.grad.any():
                skipped.append((parameter, parameter.grad))
                parameter.grad = None

    def after(self: Any) -> None:
        while skipped:
            parameter, gradient = skipped.pop()
            parameter.grad = gradient

    return _step(before=before, after=after)


@fault("a_gradient_is_none_iff_none_was_received")
def zero_grad_of_an_optimizer_leaves_zeros() -> Undo:
    """Optimizer.zero_grad(set_to_none=True) makes gradients zero."""
    kept = Optimizer.zero_grad
    return put(Optimizer, "zero_grad", lambda self, set_to_none=True: kept(self, False))
