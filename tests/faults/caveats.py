"""Planted faults of what torch does and never promised: each does what one may expect."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import nullcontext
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim import swa_utils
from torch.utils import _contextlib

from .fault import Undo, fault, put


@fault("a_decorated_coroutine_runs_in_the_mode_of_its_caller")
def decorated_coroutines_run_in_the_mode() -> Undo:
    """The body of a decorated async def runs in the mode of the decorator."""
    kept = _contextlib.context_decorator

    def decorate(context: Callable[[], Any], function: Callable[..., Any]) -> Any:
        if not iscoroutinefunction(function):
            return kept(context, function)

        @wraps(function)
        async def decorated(*args: Any, **options: Any) -> Any:
            with context():
                return await function(*args, **options)

        return decorated

    return put(_contextlib, "context_decorator", decorate)


@types.coroutine
def _in_a_mode_of_its_own(coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """What a coroutine does, with the mode that is its own in force while it runs."""
    own, value = torch.is_grad_enabled(), None
    while True:
        outside = torch.is_grad_enabled()
        torch._C._set_grad_enabled(own)
        try:
            request = coroutine.send(value)
        except StopIteration as end:
            return end.value
        finally:
            own = torch.is_grad_enabled()
            torch._C._set_grad_enabled(outside)
        value = yield request


@fault("tasks_of_a_thread_share_its_mode")
def tasks_have_modes_of_their_own() -> Undo:
    """A task that awaits leaves the mode of other tasks alone."""
    kept: Any = asyncio.create_task

    async def apart(coroutine: Any) -> Any:
        return await _in_a_mode_of_its_own(coroutine)

    return put(asyncio, "create_task", lambda coroutine, **told: kept(apart(coroutine), **told))


@fault("update_bn_gives_every_submodule_the_mode_of_the_whole")
def update_bn_puts_each_mode_back() -> Undo:
    """update_bn leaves each submodule in the mode that it was in."""
    kept = swa_utils.update_bn

    def update(loader: Any, model: nn.Module, device: Any = None) -> None:
        modes = [(module, module.training) for module in model.modules()]
        kept(loader, model, device)
        for module, mode in modes:
            module.training = mode

    return put(swa_utils, "update_bn", update)


@fault("a_cached_weight_is_of_the_mode_of_its_first_use")
def nothing_is_cached() -> Undo:
    """parametrize.cached() caches nothing: each access of a weight computes it."""
    return put(parametrize, "cached", nullcontext)
