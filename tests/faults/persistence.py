"""Planted faults of copies, files, state_dicts, conversions, devices and parametrizations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .calls import each_output, write
from .fault import Undo, afterwards, fault, put


@fault("saving_a_module_keeps_every_flag")
def loading_a_file_switches_to_training() -> Undo:
    """A module that torch.load returns is in training mode."""
    kept = torch.load
    return put(torch, "load", lambda *args, **options: kept(*args, **options).train())


@fault("a_deep_copy_is_independent")
def deepcopy_shares_the_memory_of_parameters() -> Undo:
    """The deep copy of a parameter is another parameter on the same memory."""

    def deepcopy(self: nn.Parameter, memo: dict[int, Any]) -> Any:
        return memo.setdefault(id(self), nn.Parameter(self.data, self.requires_grad))

    return put(nn.Parameter, "__deepcopy__", deepcopy)


@fault("loading_records_nothing")
def loading_variables_is_recorded() -> Undo:
    """A parameter that is loaded from a tensor that requires grad is its copy, with a graph."""

    def then(self: nn.Module, state: Any, *args: Any, **options: Any) -> None:
        for name, _ in list(self.named_parameters()):
            if state[name].requires_grad:
                path, _, last = name.rpartition(".")
                holder: Any = self.get_submodule(path)
                holder._parameters[last] = state[name].clone()

    return afterwards(nn.Module, "load_state_dict", then)


@fault("converting_by_swapping_keeps_every_flag")
def swapping_unfreezes() -> Undo:
    """A parameter whose content is swapped requires grad."""

    def then(one: Tensor, other: Tensor) -> None:
        one.requires_grad_(True)

    return afterwards(torch.utils, "swap_tensors", then)


@fault("freezing_the_original_freezes_the_parametrized_weight")
def parametrized_weights_always_require_grad() -> Undo:
    """A parametrized weight requires grad, though its originals are frozen."""
    kept = parametrize.ParametrizationList.forward

    def forward(self: Any) -> Tensor:
        made = kept(self)
        return made if made.requires_grad else made.detach().requires_grad_()

    return put(parametrize.ParametrizationList, "forward", forward)


@fault("devices_agree_on_every_fact", device="meta")
def meta_tensors_are_detached() -> Undo:
    """A module on the meta device returns an output that is cut from the graph."""
    return each_output(lambda module, made: made.detach() if made.is_meta else made)


@fault("devices_agree_on_every_value", device="cpu:0")
def moving_rounds_the_parameters() -> Undo:
    """A module that is moved to a device has parameters that are larger by a tenth."""

    def then(self: nn.Module, *args: Any, **options: Any) -> None:
        if any(isinstance(given, str) for given in args):
            for parameter in self.parameters():
                write(parameter, parameter * 1.1)

    return afterwards(nn.Module, "to", then)
