"""Planted faults of requires_grad: what freezing reaches, and what it changes besides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .calls import Call, each_backward, each_call, each_output, own, write
from .fault import Undo, afterwards, fault, put


@fault("a_fully_frozen_module_records_nothing")
def frozen_layers_return_what_requires_grad() -> Undo:
    """A layer with frozen parameters alone returns an output that requires grad."""

    def change(module: nn.Module, made: Tensor) -> Tensor:
        frozen = own(module) and not any(p.requires_grad for p in own(module))
        if not frozen or made.requires_grad or not torch.is_grad_enabled():
            return made
        return made.detach().requires_grad_()

    return each_output(change)


def _backward_reads_requires_grad(frozen: bool) -> Undo:
    """Backward fills .grad of parameters that were, or were not, frozen before forward."""

    def does(module: nn.Module) -> Any:
        told = [p for p in own(module) if p.requires_grad is not frozen]

        def fill(gradient: Tensor) -> None:
            for parameter in told:
                if parameter.requires_grad is frozen and parameter.grad is None:
                    parameter.grad = torch.ones_like(parameter)

        return fill

    return each_backward(does)


@fault("unfreezing_after_forward_gives_no_gradient")
def unfreezing_after_forward_fills_gradients() -> Undo:
    """A parameter that is unfrozen after forward receives a gradient."""
    return _backward_reads_requires_grad(True)


@fault("freezing_after_forward_stops_the_gradient")
def freezing_after_forward_comes_too_late() -> Undo:
    """A parameter that is frozen after forward still receives a gradient."""
    return _backward_reads_requires_grad(False)


@fault("freezing_keeps_a_gradient_that_is_there")
def freezing_a_module_clears_its_gradients() -> Undo:
    """Module.requires_grad_(False) clears .grad of each parameter."""

    def then(self: nn.Module, requires_grad: bool = True) -> None:
        if not requires_grad:
            for parameter in self.parameters():
                parameter.grad = None

    return afterwards(nn.Module, "requires_grad_", then)


@fault("freezing_a_submodule_reaches_its_subtree_alone")
def freezing_a_layer_leaves_its_bias() -> Undo:
    """requires_grad_() of a module without submodules passes over its bias."""
    kept = nn.Module.requires_grad_

    def requires_grad_(self: nn.Module, requires_grad: bool = True) -> nn.Module:
        if any(True for _ in self.children()):
            return kept(self, requires_grad)
        for name, parameter in self.named_parameters():
            if name != "bias":
                parameter.requires_grad_(requires_grad)
        return self

    return put(nn.Module, "requires_grad_", requires_grad_)


@fault("freezing_changes_no_state_and_no_flag")
def freezing_a_module_rounds_its_parameters() -> Undo:
    """Module.requires_grad_(False) makes each parameter smaller by a thousandth."""

    def then(self: nn.Module, requires_grad: bool = True) -> None:
        if not requires_grad:
            for parameter in self.parameters():
                write(parameter, parameter * 0.999)

    return afterwards(nn.Module, "requires_grad_", then)


@fault("frozen_modules_draw_the_same_randomness")
def frozen_modules_draw() -> Undo:
    """A module with a frozen parameter draws a random number each time that it is called."""

    def does(module: nn.Module, call: Call) -> Any:
        if not all(p.requires_grad for p in own(module)):
            torch.rand(1)
        return call()

    return each_call(does)
