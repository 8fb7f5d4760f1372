"""Planted faults of caveats: torch does what one may expect, and not what it does."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator
from contextlib import nullcontext
from types import coroutine
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim import swa_utils
from torch.utils import _contextlib

from .fault import Undo, fault, put


@fault("update_bn_gives_every_submodule_the_mode_of_the_whole")
def update_bn_puts_the_mode_of_each_submodule_back() -> Undo:
    """After update_bn each submodule is in the mode that it was in before."""
    kept = swa_utils.update_bn

    def update_bn(loader: Any, model: nn.Module, **options: Any) -> None:
        flags = [(module, module.training) for module in model.modules()]
        kept(loader, model, **options)
        for module, flag in flags:
            module.training = flag

    return put(swa_utils, "update_bn", update_bn)


@fault("a_cached_weight_is_of_the_mode_of_its_first_use")
def parametrized_weights_are_not_cached() -> Undo:
    """parametrize.cached() keeps no weight."""
    return put(parametrize, "cached", nullcontext)


@fault("a_decorated_coroutine_runs_in_the_mode_of_its_caller")
def decorators_cover_coroutines() -> Undo:
    """The body of a decorated coroutine runs in the mode of the decorator."""
    kept = _contextlib.context_decorator

    def decorate(context: Any, function: Any) -> Any:
        if not inspect.iscoroutinefunction(function):
            return kept(context, function)

        async def covered(*args: Any, **options: Any) -> Any:
            with context():
                return await function(*args, **options)

        return covered

    return put(_contextlib, "context_decorator", decorate)


@fault("tasks_of_a_thread_share_its_mode")
def each_task_has_a_mode_of_its_own() -> Undo:
    """A task that is created keeps its grad mode to itself, whatever the others enter."""
    kept: Callable[..., Any] = asyncio.create_task

    @coroutine
    def stepping(course: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        own = torch.is_grad_enabled()
        while True:
            outside = torch.is_grad_enabled()
            torch._C._set_grad_enabled(own)
            try:
                awaited = course.send(None)
            except StopIteration as end:
                return end.value
            finally:
                own = torch.is_grad_enabled()
                torch._C._set_grad_enabled(outside)
            yield awaited

    async def apart(course: Coroutine[Any, Any, Any]) -> Any:
        return await stepping(course)

    return put(asyncio, "create_task", lambda course: kept(apart(course)))
