"""Planted faults that break caveats: each is a torch that does what one may expect instead."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.optim import swa_utils
from torch.utils import _contextlib

from .fault import Undo, afterwards, fault, put


@fault("update_bn_gives_every_submodule_the_mode_of_the_whole")
def update_bn_puts_every_mode_back() -> Undo:
    """swa_utils.update_bn leaves each submodule in the mode that it was in before."""
    kept = swa_utils.update_bn

    def update(loader: Any, model: Any, *rest: Any, **options: Any) -> None:
        told = [(module, module.training) for module in model.modules()]
        kept(loader, model, *rest, **options)
        for module, training in told:
            module.training = training

    return put(swa_utils, "update_bn", update)


class _ByMode(dict[Any, Tensor]):
    """A cache with a value of its own for each grad mode."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((key, torch.is_grad_enabled()), default)

    def __setitem__(self, key: Any, value: Tensor) -> None:
        super().__setitem__((key, torch.is_grad_enabled()), value)


@fault("a_cached_weight_is_of_the_mode_of_its_first_use")
def the_cache_of_weights_looks_at_the_grad_mode() -> Undo:
    """parametrize.cached() computes a weight once in each grad mode."""
    kept = parametrize.cached

    @contextmanager
    def cached() -> Iterator[None]:
        with kept(), by_mode():
            yield

    @contextmanager
    def by_mode() -> Iterator[None]:
        undo = put(parametrize, "_cache", _ByMode())
        try:
            yield
        finally:
            undo()

    return put(parametrize, "cached", cached)


@fault("a_decorated_coroutine_runs_in_the_mode_of_its_caller")
def decorators_cover_the_body_of_a_coroutine() -> Undo:
    """A grad mode that decorates an async def is in force while its body runs."""
    kept = _contextlib._DecoratorContextManager.__call__

    def decorate(self: Any, function: Any) -> Any:
        if not inspect.iscoroutinefunction(function):
            return kept(self, function)

        async def within(*args: Any, **options: Any) -> Any:
            with self.clone():
                return await function(*args, **options)

        return within

    return put(_contextlib._DecoratorContextManager, "__call__", decorate)


@fault("tasks_of_a_thread_share_its_mode")
def a_grad_mode_ends_where_its_task_awaits() -> Undo:
    """When a task that entered set_grad_enabled awaits, the mode from before is in force again."""

    def leave_soon(mode: Any) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # there are no tasks
            return
        loop.call_soon(torch._C._set_grad_enabled, mode.prev)

    return afterwards(torch.set_grad_enabled, "__enter__", leave_soon)
