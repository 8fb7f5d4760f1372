"""Caveats: what torch does and has never promised, though one may expect something else.

PyTorch's documentation says nothing of them. They are stated as what does happen, and judged
like any law, so that a change of torch is seen.
"""

from __future__ import annotations

import asyncio

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import swa_utils

from ..law import law
from ..preconditions import is_a_real_sample
from ..relations import holds
from ..sample import Nesting, Sample


@law(
    source="undocumented: torch.optim.swa_utils.update_bn calls Module.train",
    norms=("L2",),
    given=is_a_real_sample,
)
def update_bn_gives_every_submodule_the_mode_of_the_whole(sample: Sample) -> None:
    """After update_bn each submodule is in the mode of the model, whichever it was in before."""
    sample.needs_values()
    x = sample.tensor().reshape(1, -1)
    batch = torch.cat([x, x + 1])
    for training in (False, True):
        norm = nn.BatchNorm1d(x.numel(), device=x.device, dtype=x.dtype)
        model = nn.Sequential(norm, nn.Dropout(0.5)).train(training)
        norm.train(not training)
        swa_utils.update_bn([batch], model, device=torch.device(sample.device))
        holds([m.training for m in model.modules()], "the training flags", [training] * 3)


class _Doubled(nn.Module):
    """Twice the weight."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@law(source="undocumented: nn.utils.parametrize.cached and the grad mode", norms=("J14",))
def a_cached_weight_is_of_the_mode_of_its_first_use(sample: Sample) -> None:
    """In parametrize.cached() a weight first used under no_grad is not recorded later, and reversed."""
    x = sample.tensor()
    for first in (False, True):
        layer = nn.Linear(x.shape[-1], 2, bias=False, device=x.device, dtype=x.dtype)
        parametrize.register_parametrization(layer, "weight", _Doubled())
        with parametrize.cached():
            with torch.set_grad_enabled(first):
                holds(layer.weight.requires_grad, "layer.weight.requires_grad at first", first)
            with torch.set_grad_enabled(not first):
                holds(layer.weight.requires_grad, "layer.weight.requires_grad later", first)
            holds(layer(x).requires_grad, "layer(x).requires_grad in grad mode", first)
        holds(layer(x).requires_grad, "layer(x).requires_grad after the block")


@law(source="undocumented: torch.no_grad as a decorator of an async def", norms=("B32",))
def a_decorated_coroutine_runs_in_the_mode_of_its_caller(nesting: Nesting) -> None:
    """The decorator covers the making of the coroutine: its body runs later, outside of the mode."""

    @torch.no_grad()
    async def disabled():
        return torch.is_grad_enabled()

    @torch.enable_grad()
    async def enabled():
        return torch.is_grad_enabled()

    with nesting.entered():
        outside = torch.is_grad_enabled()
        holds(asyncio.run(disabled()), "is_grad_enabled() in a coroutine with no_grad", outside)
        holds(asyncio.run(enabled()), "is_grad_enabled() in a coroutine with enable_grad", outside)


@law(
    source="undocumented: torch.no_grad is 'thread local', and tasks share a thread", norms=("B33",)
)
def tasks_of_a_thread_share_its_mode(nesting: Nesting) -> None:
    """A task that awaits inside of a grad mode leaves it to whichever task runs next."""

    async def holding(enabled, entered, leave):
        with torch.set_grad_enabled(enabled):
            entered.set()
            await leave.wait()

    async def looking(enabled):
        entered, leave = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(holding(enabled, entered, leave))
        await entered.wait()
        seen = torch.is_grad_enabled()
        leave.set()
        await task
        return seen

    with nesting.entered():
        for enabled in (False, True):
            seen = asyncio.run(looking(enabled))
            holds(seen, "torch.is_grad_enabled() in another task", enabled)
