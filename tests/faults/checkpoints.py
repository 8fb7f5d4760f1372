"""Planted faults of checkpoints: how forward runs again in backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from .calls import each_backward, write
from .fault import Undo, fault, put, together

Again = Callable[..., Any]


def _computing_again(change: Callable[[Any], Again]) -> Undo:
    """A checkpoint that is not reentrant computes again by what this makes of its function."""
    kept = torch.utils.checkpoint._checkpoint_without_reentrant_generator

    def generator(function: Any, *rest: Any, **options: Any) -> Any:
        return kept(change(function), *rest, **options)

    return put(torch.utils.checkpoint, "_checkpoint_without_reentrant_generator", generator)


@fault("a_checkpointed_batch_norm_counts_its_batch_twice")
def checkpoints_put_buffers_back() -> Undo:
    """A checkpoint that has computed again puts buffers back to what forward left."""

    def change(function: Any) -> Again:
        def again(*args: Any, **options: Any) -> Any:
            buffers = list(function.buffers()) if isinstance(function, nn.Module) else []
            before = [buffer.clone() for buffer in buffers]
            try:  # an exception ends it, where all that was saved is there again
                return function(*args, **options)
            finally:
                for buffer, value in zip(buffers, before, strict=True):
                    write(buffer, value)

        return again

    return _computing_again(change)


@fault("a_checkpoint_computes_again_in_the_mode_of_backward")
def checkpoints_keep_the_mode_of_forward() -> Undo:
    """A checkpoint computes again in the mode in which forward ran."""

    def change(function: Any) -> Again:
        modules = list(function.modules()) if isinstance(function, nn.Module) else []
        flags = [module.training for module in modules]

        def again(*args: Any, **options: Any) -> Any:
            now = [module.training for module in modules]
            _tell(modules, flags)
            try:
                return function(*args, **options)
            finally:
                _tell(modules, now)

        return again

    return _computing_again(change)


def _tell(modules: list[nn.Module], flags: list[bool]) -> None:
    for module, flag in zip(modules, flags, strict=True):
        module.training = flag


@fault("gradients_accumulate")
def a_second_backward_through_a_checkpoint_doubles() -> Undo:
    """From the second backward on, gradients that go through a checkpointed module are doubled."""
    checkpointed: WeakSet[nn.Module] = WeakSet()

    def change(function: Again) -> Again:
        if isinstance(function, nn.Module):
            checkpointed.add(function)
        return function

    def does(module: nn.Module) -> Any:
        backwards: list[None] = []

        def double(gradient: Tensor) -> Tensor:
            backwards.append(None)
            return gradient * 2 if module in checkpointed and len(backwards) > 1 else gradient

        return double

    return together(_computing_again(change), each_backward(does))


@fault("a_reentrant_checkpoint_loses_gradients_where_no_input_requires_grad")
def reentrant_checkpoints_return_what_requires_grad() -> Undo:
    """A reentrant checkpoint returns tensors that require grad where no input does."""
    kept: Any = torch.utils.checkpoint.CheckpointFunction

    class Recording:
        @staticmethod
        def apply(*args: Any) -> Any:
            made = kept.apply(*args)
            for t in made if isinstance(made, tuple) else (made,):
                if t.is_floating_point() and not t.requires_grad and torch.is_grad_enabled():
                    t.requires_grad_()
            return made

    return put(torch.utils.checkpoint, "CheckpointFunction", Recording)
