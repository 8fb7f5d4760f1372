"""Planted faults of the kinds of cases that public reports show."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from .fault import Undo, afterwards, fault, put

# --- parametrizations, norms and pruning --------------------------------------------------------


@fault("a_parametrization_takes_over_what_requires_grad")
def parametrizing_unfreezes() -> Undo:
    """The originals of a parametrization require grad, whatever the weight did."""

    def then(self: nn.Module, *rest: Any, **options: Any) -> None:
        for original in self.parameters(recurse=False):
            original.requires_grad_(True)

    return afterwards(parametrize.ParametrizationList, "__init__", then)


@fault("taking_off_a_parametrization_keeps_a_single_original")
def taking_off_makes_a_new_parameter() -> Undo:
    """Without its parametrization a layer has a new parameter for its weight."""

    def then(module: Any, name: str, **options: Any) -> None:
        if isinstance(module.weight, nn.Parameter):
            module.weight = nn.Parameter(module.weight.detach(), module.weight.requires_grad)

    return afterwards(parametrize, "remove_parametrizations", then)


@fault("taking_off_a_parametrization_keeps_a_single_original")
def taking_off_unfreezes() -> Undo:
    """Without its parametrization the weight of a layer requires grad."""

    def then(module: Any, name: str, **options: Any) -> None:
        if isinstance(module.weight, nn.Parameter):
            module.weight.requires_grad_(True)

    return afterwards(parametrize, "remove_parametrizations", then)


@fault("several_originals_cannot_be_left_as_they_were")
def several_originals_are_left_computed() -> Undo:
    """leave_parametrized=False is taken for True where there are several originals."""
    kept = parametrize.remove_parametrizations

    def remove(module: Any, name: str, leave_parametrized: bool = True) -> Any:
        single = module.parametrizations[name].is_tensor
        return kept(module, name, leave_parametrized or not single)

    return put(parametrize, "remove_parametrizations", remove)


@fault("taking_off_several_originals_leaves_a_parameter_where_it_is_recorded")
def several_originals_always_leave_a_parameter() -> Undo:
    """The weight that is computed of several originals becomes a parameter under no_grad too."""

    def then(module: Any, name: str, **options: Any) -> None:
        if not isinstance(module.weight, nn.Parameter):
            value = module.weight
            del module.weight
            module.weight = nn.Parameter(value)

    return afterwards(parametrize, "remove_parametrizations", then)


@fault("pruning_and_its_removal_keep_the_parameter")
def unpruning_unfreezes() -> Undo:
    """A weight that is pruned no more requires grad."""
    return afterwards(prune, "remove", lambda module, name: module.weight.requires_grad_(True))


@fault("pruning_and_its_removal_keep_the_parameter")
def pruning_twice_replaces_the_parameter() -> Undo:
    """Pruned a second time, a layer has another parameter."""
    kept = prune.BasePruningMethod.apply

    def apply(cls: Any, module: Any, name: str, *args: Any, **options: Any) -> Any:
        if hasattr(module, f"{name}_orig"):
            orig = getattr(module, f"{name}_orig")
            setattr(module, f"{name}_orig", nn.Parameter(orig.detach(), orig.requires_grad))
        return kept.__func__(cls, module, name, *args, **options)  # type: ignore[attr-defined]

    return put(prune.BasePruningMethod, "apply", classmethod(apply))


@fault("the_norms_that_are_hooks_forget_what_is_frozen")
def norms_that_are_hooks_keep_what_is_frozen() -> Undo:
    """remove_weight_norm leaves a parameter that is frozen as its originals were."""
    kept = nn.utils.remove_weight_norm

    def remove(module: Any, name: str = "weight") -> Any:
        trained = module.weight_v.requires_grad
        return kept(module, name).requires_grad_(trained)

    return put(nn.utils, "remove_weight_norm", remove)
