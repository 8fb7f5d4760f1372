"""Compiled modules: the switches count when the module is called, as they do without compiling."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ..law import law
from ..relations import every, holds
from ..sample import Sample
from ..setting import Setting, all_of, plain_grad, training, unfrozen
from ..subject import Subject


@law(
    source="torch.compile; Module.train",
    norms=("D23",),
    when=all_of(plain_grad, training, unfrozen),
    since="2.1",
)
def a_compiled_module_hands_on_its_mode(subject: Subject, setting: Setting) -> None:
    """train() and eval() of the compiled module reach the module, and the flag is the same."""
    for told in (False, True):
        after = f'compiled = torch.compile(model, backend="eager")\ncompiled.train({told})'
        run = subject.run(setting, after=after)
        every(run.flags, told)
        every(run.evaluate("compiled.training"), told)


def _built(device: str) -> nn.Sequential:
    """A module of which every switch shows: it moves state, draws, and can be frozen."""
    torch.manual_seed(0)
    layers = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)
    return nn.Sequential(*layers).to(device)


_GRADS = {
    "grad enabled": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}
#: Each way to throw the switches: train or eval, the grad mode, and whether it is frozen.
_SWITCHES = tuple(product((True, False), _GRADS, (False, True)))


def _facts(called: Any, model: nn.Sequential, x: Tensor, how: tuple[bool, str, bool]) -> object:
    """What a call shows: what is recorded, which parameters have a gradient, what moved, values."""
    told, mode, frozen = how
    called.train(told)
    model.requires_grad_(not frozen)
    model.zero_grad()
    torch.manual_seed(1)
    with _GRADS[mode]():
        out = called(x)
    if out.requires_grad:
        out.backward(torch.ones_like(out))
    values = (
        []
        if x.device.type == "meta"
        else [out.tolist(), dict(model.named_buffers())["1.running_mean"].tolist()]
    )
    recorded = out.requires_grad, out.is_leaf, out.is_inference()
    return recorded, [p.grad is None for p in model.parameters()], values


@law(
    source="torch.compile: 'guards'; Module.train; torch.no_grad; Module.requires_grad_",
    norms=("L7", "L8"),
    since="2.1",
    costly=True,
)
def a_compiled_module_obeys_each_switch_as_it_is_thrown(sample: Sample) -> None:
    """Compiled once, it does what the module does, in whichever order the switches are thrown."""
    torch._dynamo.reset()
    model, twin = _built(sample.device), _built(sample.device)
    compiled = torch.compile(twin, backend="aot_eager")
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(sample.seed)).to(sample.device)
    for how in random.Random(sample.seed).sample(_SWITCHES, 2):
        plain, shown = _facts(model, model, x, how), _facts(compiled, twin, x, how)
        holds(shown, f"what the compiled module shows with {how}", plain)
