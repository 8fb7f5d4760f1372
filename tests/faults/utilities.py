"""Planted faults of checkpoints, hooks, functional calls, compiled modules and utilities."""

from __future__ import annotations

import copy
from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import clip_grad, fusion, prune
from torch.optim import swa_utils

from .fault import Undo, afterwards, fault, put, together

# --- checkpoints and what is saved --------------------------------------------------------------


@fault("a_checkpoint_is_a_plain_call_where_nothing_is_recorded")
def checkpoints_compute_twice() -> Undo:
    """A checkpoint calls its function twice in forward."""
    kept = torch.utils.checkpoint.checkpoint

    def checkpoint(function: Any, *args: Any, **options: Any) -> Any:
        def twice(*args: Any) -> Any:
            function(*args)
            return function(*args)

        return kept(twice, *args, **options)

    return put(torch.utils.checkpoint, "checkpoint", checkpoint)


@fault("a_checkpoint_notices_that_another_shape_is_computed")
def checkpoints_compare_no_metadata() -> Undo:
    """A checkpoint takes what was computed again, whatever its shape."""
    checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
    blind = dict.fromkeys(checks, checks["none"])
    return put(torch.utils.checkpoint, "_allowed_determinism_checks_to_fns", blind)


@fault("a_reentrant_checkpoint_loses_gradients_where_no_input_requires_grad")
def no_checkpoint_is_reentrant() -> Undo:
    """use_reentrant=True is taken for False."""
    kept = torch.utils.checkpoint.checkpoint

    def checkpoint(function: Any, *args: Any, use_reentrant: bool, **options: Any) -> Any:
        return kept(function, *args, use_reentrant=False, **options)

    return put(torch.utils.checkpoint, "checkpoint", checkpoint)


@fault("a_checkpoint_computes_again_with_grad_enabled")
def reentrant_checkpoints_do_not_compute_again() -> Undo:
    """A reentrant checkpoint records its function as it is."""

    class Plain:
        @staticmethod
        def apply(function: Any, preserve: bool, *args: Any) -> Any:
            return function(*args)

    return put(torch.utils.checkpoint, "CheckpointFunction", Plain)


@fault("nothing_is_saved_where_nothing_is_recorded", "nothing_is_saved_of_what_is_frozen")
def something_is_always_saved() -> Undo:
    """The hooks of saved tensors are called once in any case."""
    return afterwards(saved_tensors_hooks, "__enter__", lambda self: self.pack_hook(torch.ones(1)))


@fault("saving_is_not_recorded_itself")
def hooks_of_saved_tensors_run_with_grad_enabled() -> Undo:
    """A tensor that is saved is packed with grad enabled."""
    kept = saved_tensors_hooks.__init__

    def init(self: Any, pack: Any, unpack: Any) -> None:
        kept(self, torch.enable_grad()(lambda t: pack(t)), unpack)

    return put(saved_tensors_hooks, "__init__", init)


@fault("a_full_backward_hook_fires_where_something_requires_grad")
def full_backward_hooks_are_forgotten() -> Undo:
    """register_full_backward_hook does nothing."""
    return put(nn.Module, "register_full_backward_hook", lambda self, hook, prepend=False: None)


@fault("a_hook_on_what_is_never_called_never_fires")
def parameter_lists_fire_hooks() -> Undo:
    """A list or dictionary of parameters calls its forward hooks when a parameter is taken."""

    def then(self: nn.Module, key: Any) -> None:
        for hook in self._forward_hooks.values():
            hook(self, (), None)

    kinds = (nn.ParameterList, nn.ParameterDict)
    return together(*(afterwards(kind, "__getitem__", then) for kind in kinds))


# --- functional calls and compiled modules ------------------------------------------------------


@fault("a_functional_call_moves_the_state_that_it_is_given")
def functional_calls_move_the_state_of_the_module() -> Undo:
    """What a functional call moves, it moves in the module as well."""
    kept = torch.func.functional_call

    def call(module: nn.Module, state: dict[str, Any], args: Any) -> Any:
        found = kept(module, state, args)
        for name, buffer in module.named_buffers():
            buffer.copy_(state[name])
        return found

    return put(torch.func, "functional_call", call)


@fault("a_functional_call_is_recorded_by_what_it_is_given")
def functional_calls_obey_the_flags_of_the_module() -> Undo:
    """Whether a parameter that is handed in requires grad, the module's own says."""
    kept = torch.func.functional_call

    def call(module: nn.Module, state: dict[str, Any], args: Any) -> Any:
        for name, parameter in module.named_parameters():
            state[name].requires_grad = parameter.requires_grad
        return kept(module, state, args)

    return put(torch.func, "functional_call", call)


@fault("a_transform_computes_the_gradients_of_frozen_parameters_too")
def transforms_double_gradients() -> Undo:
    """torch.func.grad computes twice the gradient."""
    kept = torch.func.grad

    def grad(function: Any) -> Any:
        return kept(lambda *args: 2 * function(*args))

    return put(torch.func, "grad", grad)


def _transforms_skip_frozen_parameters(when: Callable[[Any], bool]) -> Undo:
    kept = torch.func.functional_call

    def call(module: nn.Module, state: dict[str, Any], args: Any) -> Any:
        found = kept(module, state, args)
        if not when(found):
            return found
        frozen = {n for n, p in module.named_parameters() if not p.requires_grad}
        told = {n: t.detach() if n in frozen else t for n, t in state.items()}
        return kept(module, told, args)

    return put(torch.func, "functional_call", call)


@fault("a_transform_computes_the_gradients_of_frozen_parameters_too")
def transforms_skip_frozen_parameters() -> Undo:
    """torch.func.grad gives zero for parameters that are frozen in the module."""
    return _transforms_skip_frozen_parameters(lambda found: True)


@fault("a_transform_computes_the_gradients_of_frozen_parameters_too")
def transforms_of_mixed_outputs_skip_frozen_parameters() -> Undo:
    """The same, where an output of the module is no floating-point number."""

    def mixed(found: Any) -> bool:
        outputs = found if isinstance(found, tuple) else (found,)
        return not all(t.is_floating_point() for t in outputs)

    return _transforms_skip_frozen_parameters(mixed)


@fault("a_compiled_module_hands_on_its_mode")
def compiled_modules_keep_their_mode_to_themselves() -> Undo:
    """train() of a compiled module sets its own flag and no other."""

    def train(self: Any, mode: bool = True) -> Any:
        self.training = mode
        return self

    return put(OptimizedModule, "train", train)


@fault("a_compiled_module_obeys_each_switch_as_it_is_thrown")
def compiling_copies() -> Undo:
    """torch.compile compiles a copy, which knows nothing of what is frozen later."""
    return put(torch, "compile", lambda module, **options: copy.deepcopy(module))


# --- utilities ----------------------------------------------------------------------------------


@fault("update_bn_puts_back_what_it_switches")
def update_bn_leaves_the_model_training() -> Undo:
    """update_bn leaves the model in training mode."""
    return afterwards(swa_utils, "update_bn", lambda loader, model, **options: model.train())


@fault("an_averaged_model_records_nothing")
def averaging_freezes_the_source() -> Undo:
    """AveragedModel.update_parameters freezes the model that it averages."""
    return afterwards(
        swa_utils.AveragedModel,
        "update_parameters",
        lambda self, model: model.requires_grad_(False),
    )


@fault("an_averaged_model_averages_buffers_only_if_told")
def averaging_takes_buffers_in() -> Undo:
    """AveragedModel averages buffers where it is not told so."""
    kept = swa_utils.AveragedModel.__init__

    def init(self: Any, model: nn.Module, *rest: Any, **options: Any) -> None:
        kept(self, model, *rest, **{"use_buffers": True, **options})

    return put(swa_utils.AveragedModel, "__init__", init)


@fault("fusing_is_for_evaluation")
def fusing_unfreezes() -> Undo:
    """A fused layer requires grad, whatever the convolution did."""
    kept = fusion.fuse_conv_bn_eval

    def fuse(*args: Any, **options: Any) -> Any:
        return kept(*args, **options).requires_grad_(True)

    return put(fusion, "fuse_conv_bn_eval", fuse)


@fault("scripted_modules_obey_their_mode")
def freezing_a_script_asks_for_no_mode() -> Undo:
    """torch.jit.freeze takes a module in training mode."""
    return put(torch.jit, "freeze", lambda module: module)


@fault("clipping_leaves_alone_what_has_no_gradient")
def clipping_fills_gradients_in() -> Undo:
    """Clipping makes gradients of zero where there are none."""

    def then(parameters: Any, *rest: Any) -> None:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    kept = nn.utils.clip_grad_norm_

    def clip(parameters: Any, *rest: Any) -> Any:
        found = list(parameters)
        total = kept(found, *rest)
        then(found)
        return total

    return put(nn.utils, "clip_grad_norm_", clip)


@fault("clipping_leaves_alone_what_has_no_gradient")
def clipping_nothing_freezes() -> Undo:
    """clip_grad_norm_ freezes the parameters where none of them has a gradient."""
    kept = nn.utils.clip_grad_norm_

    def clip(parameters: Any, *rest: Any) -> Any:
        found = list(parameters)
        if all(p.grad is None for p in found):
            for p in found:
                p.requires_grad_(False)
        return kept(found, *rest)

    return put(nn.utils, "clip_grad_norm_", clip)


@fault("clipping_is_not_recorded")
def clipping_by_value_is_recorded() -> Undo:
    """clip_grad_value_ writes to gradients without no_grad around it."""
    return put(nn.utils, "clip_grad_value_", unwrap(nn.utils.clip_grad_value_))


@fault("clipping_is_not_recorded")
def clipping_by_norm_is_recorded() -> Undo:
    """clip_grad_norm_ writes to gradients without no_grad around it."""
    inner = ("_get_total_norm", "_clip_grads_with_norm_")
    return together(
        put(nn.utils, "clip_grad_norm_", unwrap(nn.utils.clip_grad_norm_)),
        *(put(clip_grad, name, unwrap(getattr(clip_grad, name))) for name in inner),
    )


@fault("pruning_keeps_requires_grad")
def pruning_unfreezes() -> Undo:
    """A pruned parameter requires grad."""
    return afterwards(
        prune,
        "random_unstructured",
        lambda module, name, **options: module.requires_grad_(True),
    )
