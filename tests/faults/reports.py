"""Planted faults of the kinds of cases that public reports show."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from functools import wraps
from multiprocessing.pool import Pool
from multiprocessing.queues import SimpleQueue
from types import SimpleNamespace
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.multiprocessing import reductions
from torch.nn.modules import module as globally
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.nn.utils import parametrize, prune
from torch.optim import Optimizer
from torch.utils import hooks
from torch.utils.data import _utils as loading
from torch.utils.flop_counter import FlopCounterMode

from .fault import Undo, afterwards, fault, put

#: What is patched here and by no other theory.
OWNERS: Final = (
    *(parametrize, parametrize.ParametrizationList, prune.BasePruningMethod, globally, hooks),
    *(hooks.BackwardHook, nn.BatchNorm1d, LazyModuleMixin, UninitializedBuffer, torch.utils),
    *(FunctionCtx, Function, FlopCounterMode, torch.jit._script.RecursiveScriptModule, os, Pool),
    *(SimpleQueue, loading.worker, loading.collate, reductions),
)

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


# --- hooks --------------------------------------------------------------------------------------

Call = Callable[..., Any]


def _registering(owner: Any, name: str, changed: Callable[[Call], Call], **told: bool) -> Undo:
    """What registers a hook registers another in its place, and is told other options."""
    kept = getattr(owner, name)

    def register(*given: Any, **options: Any) -> Any:
        *owned, hook = given
        return kept(*owned, changed(hook), **{**options, **told})

    return put(owner, name, register)


FORWARD = "hooks_of_forward_are_handed_what_it_takes_and_returns"
RETURNED = "what_a_hook_of_forward_returns_takes_the_place_of_it"
BACKWARD = "hooks_of_backward_are_handed_gradients_and_may_replace_them"
LEAF = "a_hook_is_handed_the_gradient_and_a_post_accumulate_hook_the_leaf"


@fault(FORWARD)
def hooks_are_never_prepended() -> Undo:
    """prepend=True of a forward hook is ignored."""
    return _registering(nn.Module, "register_forward_hook", lambda hook: hook, prepend=False)


@fault(FORWARD)
def always_called_hooks_are_not() -> Undo:
    """always_call=True of a forward hook is ignored."""
    return _registering(nn.Module, "register_forward_hook", lambda hook: hook, always_call=False)


@fault(FORWARD)
def hooks_of_all_modules_run_with_grad_enabled() -> Undo:
    """A forward hook of all modules runs with grad enabled."""
    return _registering(
        globally,
        "register_module_forward_hook",
        lambda hook: lambda *given: torch.enable_grad()(hook)(*given),
    )


@fault(FORWARD)
def hooks_are_handed_copies() -> Undo:
    """A forward hook is handed a copy of the output."""
    return _registering(
        nn.Module,
        "register_forward_hook",
        lambda hook: (
            lambda *given: hook(*given[:-1], given[-1] if given[-1] is None else given[-1] + 0)
        ),
    )


@fault(RETURNED)
def what_pre_hooks_return_is_dropped() -> Undo:
    """What a forward pre-hook returns is of no account."""

    def dropping(hook: Call) -> Call:
        def call(*given: Any) -> None:
            hook(*given)

        return call

    return _registering(nn.Module, "register_forward_pre_hook", dropping)


@fault(BACKWARD)
def backward_hooks_are_handed_the_other_gradients() -> Undo:
    """A full backward hook is handed the gradients of the outputs for those of the inputs."""
    return _registering(
        nn.Module,
        "register_full_backward_hook",
        lambda hook: (
            lambda module, inner, outer: hook(
                module, outer if len(outer) == len(inner) else inner, outer
            )
        ),
    )


@fault(BACKWARD)
def backward_pre_hooks_run_with_grad_enabled() -> Undo:
    """A full backward pre-hook runs with grad enabled."""
    return _registering(
        nn.Module,
        "register_full_backward_pre_hook",
        lambda hook: lambda *given: torch.enable_grad()(hook)(*given),
    )


@fault(BACKWARD)
def backward_hooks_warn_of_nothing() -> Undo:
    """That no input requires grad is no reason for a warning."""
    return put(hooks, "warnings", SimpleNamespace(warn=lambda *given, **options: None))


@fault("a_hook_of_backward_forbids_to_write_into_the_output")
def backward_hooks_return_copies() -> Undo:
    """A module with a backward hook returns a copy, not a view."""
    kept = hooks.BackwardHook.setup_output_hook

    def setup(self: Any, args: Any) -> Any:
        return kept(self, args).clone()

    return put(hooks.BackwardHook, "setup_output_hook", setup)


@fault(LEAF)
def post_accumulate_hooks_are_handed_the_gradient() -> Undo:
    """A post-accumulate hook is handed the gradient, not the leaf."""
    return _registering(
        torch.Tensor,
        "register_post_accumulate_grad_hook",
        lambda hook: lambda leaf: hook(leaf.grad),
    )


@fault(LEAF)
def what_tensor_hooks_return_is_halved() -> Undo:
    """Half of the gradient that a hook of a tensor returns is handed on."""

    def halving(hook: Call) -> Call:
        def call(gradient: Any) -> Any:
            found = hook(gradient)
            return None if found is None else found / 2

        return call

    return _registering(torch.Tensor, "register_hook", halving)


@fault("a_post_accumulate_hook_returns_nothing")
def post_accumulate_hooks_may_return_something() -> Undo:
    """What a post-accumulate hook returns is ignored."""

    def dropping(hook: Call) -> Call:
        def call(leaf: Any) -> None:
            hook(leaf)

        return call

    return _registering(torch.Tensor, "register_post_accumulate_grad_hook", dropping)


@fault("hooks_of_an_optimizer_run_in_the_mode_of_the_caller")
def hooks_of_optimizers_run_in_no_grad() -> Undo:
    """A step hook of an optimizer runs in no_grad."""
    return _registering(
        Optimizer,
        "register_step_pre_hook",
        lambda hook: lambda *given: torch.no_grad()(hook)(*given),
    )


@fault("a_hook_of_all_modules_is_not_handed_named_arguments_of_a_failure")
def hooks_of_all_modules_are_handed_no_arguments_by_name() -> Undo:
    """A hook of all modules with with_kwargs is handed an empty dictionary where it lacked one."""

    def filling(hook: Call) -> Call:
        def call(module: Any, args: Any, *rest: Any) -> Any:
            return hook(module, args, *([{}] if len(rest) == 1 else []), *rest)

        return call

    kept = globally.register_module_forward_hook

    def register(hook: Call, *, with_kwargs: bool = False, always_call: bool = False) -> Any:
        changed = filling(hook) if with_kwargs else hook
        return kept(changed, with_kwargs=with_kwargs, always_call=always_call)

    return put(globally, "register_module_forward_hook", register)


# --- modules that are no tree -------------------------------------------------------------------


@fault("what_one_owner_is_told_holds_for_all_of_them")
def train_hears_one_owner_alone() -> Undo:
    """train() reaches a child from the owner that told it first, and from no other."""
    owners: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        self.training = mode
        for child in self.children():
            if owners.setdefault(child, id(self)) == id(self):
                child.train(mode)
        return self

    return put(nn.Module, "train", train)


@fault("what_one_owner_is_told_holds_for_all_of_them")
def freezing_hears_one_owner_alone() -> Undo:
    """requires_grad_() reaches a child from the owner that told it first, and from no other."""
    owners: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    def told(self: nn.Module, requires_grad: bool = True) -> nn.Module:
        for parameter in self.parameters(recurse=False):
            parameter.requires_grad_(requires_grad)
        for child in self.children():
            if owners.setdefault(child, id(self)) == id(self):
                child.requires_grad_(requires_grad)
        return self

    return put(nn.Module, "requires_grad_", told)


@fault(
    "a_shared_layer_runs_in_its_mode_for_each_owner",
    "what_one_owner_is_told_holds_for_all_of_them",
)
def a_second_owner_holds_a_copy() -> Undo:
    """A module that has an owner is copied when another one takes it."""
    kept = nn.Sequential.append
    owned: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    def append(self: Any, module: nn.Module) -> Any:
        given = copy.deepcopy(module) if module in owned else module
        owned[module] = True
        return kept(self, given)

    return put(nn.Sequential, "append", append)


@fault("a_shared_module_is_listed_once_and_saved_under_each_name")
def a_shared_module_is_saved_once() -> Undo:
    """A state_dict has each tensor once."""
    kept = nn.Module.state_dict

    def state_dict(self: nn.Module, *args: Any, **options: Any) -> Any:
        found = kept(self, *args, **{**options, "keep_vars": True})
        known: set[int] = set()
        for name in list(found):
            if id(found[name]) in known:
                del found[name]
            else:
                known.add(id(found[name]))
        return found

    return put(nn.Module, "state_dict", state_dict)


@fault("a_copy_shares_what_is_shared_and_nothing_with_the_original")
def copies_are_told_to_train() -> Undo:
    """A copy of a module is in training mode."""

    def then(self: nn.Module, state: Any) -> None:
        self.training = True

    return afterwards(nn.Module, "__setstate__", then)


@fault("a_copy_shares_what_is_shared_and_nothing_with_the_original")
def copies_share_normalisations_with_the_original() -> Undo:
    """A deep copy has the very normalisation of the original."""
    return put(nn.BatchNorm1d, "__deepcopy__", lambda self, memo: self)


@fault("freezing_goes_round_a_ring_of_modules_once")
def freezing_reaches_children_alone() -> Undo:
    """requires_grad_() reaches the parameters of a module and of its children."""

    def told(self: nn.Module, requires_grad: bool = True) -> nn.Module:
        for module in (self, *self.children()):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(requires_grad)
        return self

    return put(nn.Module, "requires_grad_", told)


@fault("switching_the_mode_of_a_ring_never_ends")
def train_goes_round_once() -> Undo:
    """train() reaches each module once, in a ring as well."""

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        for module in self.modules():
            module.training = mode
        return self

    return put(nn.Module, "train", train)


# --- lazy layers, conversion while a graph lives, state that is made anew -----------------------

KEPT = "a_lazy_layer_keeps_what_it_was_told_before_its_first_forward"


@fault(KEPT)
def the_first_forward_unfreezes() -> Undo:
    """The first forward of a lazy layer makes all of its parameters require grad."""

    def then(self: Any, module: Any, *rest: Any) -> None:
        module.requires_grad_(True)

    return afterwards(LazyModuleMixin, "_infer_parameters", then)


@fault(KEPT)
def the_first_forward_trains() -> Undo:
    """The first forward of a lazy layer switches it to training."""
    return afterwards(
        LazyModuleMixin, "_infer_parameters", lambda self, module, *rest: module.train()
    )


@fault("a_lazy_layer_that_was_loaded_is_not_made_anew")
def the_first_forward_forgets_what_was_loaded() -> Undo:
    """The first forward of a lazy layer draws its parameters, though they were loaded."""
    return afterwards(
        LazyModuleMixin,
        "_infer_parameters",
        lambda self, module, *rest: module.reset_parameters(),
    )


@fault("freezing_a_model_with_a_lazy_layer_stops_half_way")
def freezing_looks_at_all_parameters_first() -> Undo:
    """requires_grad_() changes nothing where it is refused."""
    kept = nn.Module.requires_grad_

    def told(self: nn.Module, requires_grad: bool = True) -> nn.Module:
        for parameter in self.parameters():
            if is_lazy(parameter):
                raise ValueError("there is an uninitialized parameter")
        return kept(self, requires_grad)

    return put(nn.Module, "requires_grad_", told)


@fault("a_lazy_layer_with_buffers_is_not_deep_copied")
def uninitialized_buffers_are_copied() -> Undo:
    """A buffer that is not there yet can be deep-copied."""

    def copied(self: Any, memo: Any) -> Any:
        return type(self)(device=self.data.device, dtype=self.data.dtype)

    return put(UninitializedBuffer, "__deepcopy__", copied)


@fault("converting_by_swapping_waits_for_the_graph")
def swapping_asks_for_no_graph() -> Undo:
    """Parameters are swapped whatever graph has saved them."""

    def swap(parameter: Any, other: Any) -> None:
        parameter.data = other.data

    return put(torch.utils, "swap_tensors", swap)


@fault("a_graph_gives_gradients_of_the_type_in_which_it_was_made")
def gradients_have_the_type_of_their_parameter() -> Undo:
    """What a converted parameter gets is converted to its type."""

    def then(self: nn.Module, *rest: Any) -> None:
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(
                    lambda leaf: setattr(leaf, "grad", leaf.grad.to(leaf.dtype))
                )

    return afterwards(nn.Module, "to", then)


@fault("state_that_forward_makes_is_what_its_mode_makes")
def buffers_are_detached() -> Undo:
    """What is put in the place of a buffer is detached."""
    kept = nn.Module.__setattr__

    def assign(self: nn.Module, name: str, value: Any) -> None:
        held = self.__dict__.get("_buffers", {})
        kept(self, name, value.detach() if name in held and value is not None else value)

    return put(nn.Module, "__setattr__", assign)


# --- custom functions ---------------------------------------------------------------------------


@fault("a_function_that_writes_is_an_operation_in_place")
def functions_mark_nothing_dirty() -> Undo:
    """mark_dirty does nothing."""
    return put(FunctionCtx, "mark_dirty", lambda self, *args: None)


@fault("a_function_that_writes_hands_on_its_input_where_it_is_recorded")
def functions_that_write_always_hand_on_their_input() -> Undo:
    """What a function returns is its first input itself where it has the same memory."""
    kept = Function.__dict__["apply"].__func__

    def apply(cls: Any, *args: Any, **options: Any) -> Any:
        found = kept(cls, *args, **options)
        given = args[0]
        alike = isinstance(found, torch.Tensor) and isinstance(given, torch.Tensor)
        if alike and not found.requires_grad and found.data_ptr() == given.data_ptr():
            return given
        return found

    return put(Function, "apply", classmethod(apply))


@fault("a_function_that_hands_on_its_input_returns_a_view")
def functions_return_copies_of_their_input() -> Undo:
    """What a function returns of its first input is a copy of it."""
    kept = Function.__dict__["apply"].__func__

    def apply(cls: Any, *args: Any, **options: Any) -> Any:
        found = kept(cls, *args, **options)
        given = args[0]
        alike = isinstance(found, torch.Tensor) and isinstance(given, torch.Tensor)
        if alike and found is not given and found.data_ptr() == given.data_ptr():
            return found.clone()
        return found

    return put(Function, "apply", classmethod(apply))


@fault("a_function_is_told_what_is_needed_of_it")
def functions_mark_nothing_as_not_differentiable() -> Undo:
    """mark_non_differentiable does nothing."""
    return put(FunctionCtx, "mark_non_differentiable", lambda self, *args: None)


@fault("a_function_is_told_what_is_needed_of_it")
def functions_are_always_handed_zeros() -> Undo:
    """set_materialize_grads does nothing."""
    return put(FunctionCtx, "set_materialize_grads", lambda self, value: None)


# --- modes that watch, tensors of another class, TorchScript ------------------------------------


@fault("a_dispatch_mode_is_shown_whole_operations_in_inference_mode")
def inference_mode_takes_operations_apart() -> Undo:
    """A softmax is called by its parts."""

    def softmax(x: Any, dim: int, *rest: Any, **options: Any) -> Any:
        return torch._softmax(x, dim, False)

    return put(nn.functional, "softmax", softmax)


@fault("a_function_mode_is_shown_the_same_calls_in_every_mode")
def functions_are_called_apart_where_grad_is_disabled() -> Undo:
    """Where grad is disabled, a layer normalisation copies what it is given."""
    kept = nn.functional.layer_norm

    def normalised(x: Any, *rest: Any, **options: Any) -> Any:
        return kept(x if torch.is_grad_enabled() else x.clone(), *rest, **options)

    return put(nn.functional, "layer_norm", normalised)


@fault("flops_are_counted_in_every_mode")
def flops_are_not_counted_in_inference_mode() -> Undo:
    """The counter counts nothing in inference mode."""
    kept = FlopCounterMode._count_flops

    def count(self: Any, func: Any, out: Any, args: Any, kwargs: Any) -> Any:
        return out if torch.is_inference_mode_enabled() else kept(self, func, out, args, kwargs)

    return put(FlopCounterMode, "_count_flops", count)


@fault("a_tensor_of_another_class_is_recorded_as_any_other")
def tensors_of_another_class_are_detached() -> Undo:
    """What a function returns for a tensor of another class is detached where grad is enabled."""
    kept = torch.Tensor.__torch_function__.__func__  # type: ignore[attr-defined]

    def called(cls: Any, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = kept(cls, function, types, args, kwargs)
        name = getattr(function, "__name__", "")
        return found.detach() if name in ("linear", "layer_norm") else found

    return put(torch.Tensor, "__torch_function__", classmethod(called))


@fault("a_layer_that_is_scripted_records_as_the_layer_does")
def tracing_copies() -> Undo:
    """What is traced has parameters of its own."""
    kept = torch.jit.trace

    def trace(module: Any, *args: Any, **options: Any) -> Any:
        return kept(copy.deepcopy(module), *args, **options)

    return put(torch.jit, "trace", trace)


@fault("a_scripted_function_records_under_no_grad_if_it_first_ran_without")
def functions_are_not_scripted() -> Undo:
    """What is scripted stays the Python function that it is."""
    return put(torch.jit, "script", lambda function, *rest, **options: function)


@fault("a_scripted_module_refuses_to_be_frozen_itself")
def scripted_modules_are_frozen() -> Undo:
    """requires_grad_() of a scripted module does what it does for others."""
    scripted = torch.jit._script.RecursiveScriptModule
    return put(scripted, "requires_grad_", nn.Module.requires_grad_)


# --- processes ----------------------------------------------------------------------------------


@fault(
    "a_forked_process_begins_in_the_mode_of_its_parent",
    "samples_are_made_in_the_mode_in_which_their_process_began",
)
def forks_begin_with_grad_enabled() -> Undo:
    """A process that is forked begins with grad enabled."""
    kept = os.fork

    def fork() -> int:
        child = kept()
        if child == 0:
            torch._C._set_grad_enabled(True)
        return child

    return put(os, "fork", fork)


@fault("a_forked_process_begins_in_the_mode_of_its_parent")
def modules_share_no_memory() -> Undo:
    """Module.share_memory does nothing."""
    return put(nn.Module, "share_memory", lambda self: self)


@fault("a_spawned_process_has_a_mode_of_its_own")
def what_another_process_is_told_holds_here() -> Undo:
    """What switches the grad mode of another process switches it here as well."""
    kept = Pool.apply

    def apply(self: Any, function: Any, args: Any = ()) -> Any:
        if function is torch._C._set_grad_enabled:
            function(*args)
        return kept(self, function, args)

    return put(Pool, "apply", apply)


@fault("samples_are_made_in_the_mode_in_which_their_process_began")
def workers_begin_with_grad_enabled() -> Undo:
    """A worker of a loader makes its samples with grad enabled."""
    kept = loading.worker._worker_loop

    def loop(*given: Any) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            kept(*given)

    return put(loading.worker, "_worker_loop", loop)


@fault("a_batch_of_leaves_is_recorded_where_grad_is_enabled")
def batches_are_not_recorded() -> Undo:
    """A batch is made with grad disabled."""
    kept = loading.collate.default_collate
    return put(loading.collate, "default_collate", lambda batch: torch.no_grad()(kept)(batch))


@fault("what_is_sent_shares_its_memory_and_keeps_its_flag")
def what_is_received_is_frozen() -> Undo:
    """What arrives in another process does not require grad."""
    kept = reductions.rebuild_tensor

    @wraps(kept)
    def rebuild(*given: Any) -> Any:
        return kept(*given).requires_grad_(False)

    return put(reductions, "rebuild_tensor", rebuild)


@fault("what_was_recorded_is_not_sent")
def what_is_sent_is_detached() -> Undo:
    """A tensor that is sent to another process is detached before."""
    kept = SimpleQueue.put

    def sent(self: Any, thing: Any) -> None:
        kept(self, thing.detach() if isinstance(thing, torch.Tensor) else thing)

    return put(SimpleQueue, "put", sent)


# --- what else is copied ------------------------------------------------------------------------


@fault(
    "a_deep_copy_of_a_parameter_forgets_what_was_noted_on_it",
    "a_module_keeps_what_was_noted_on_its_parameters",
)
def deep_copies_of_parameters_keep_attributes() -> Undo:
    """What is noted on a parameter is on its deep copy."""
    kept = nn.Parameter.__deepcopy__

    def copied(self: Any, memo: Any) -> Any:
        found = kept(self, memo)
        found.__dict__.update(self.__dict__)
        return found

    return put(nn.Parameter, "__deepcopy__", copied)


@fault("a_module_keeps_what_was_noted_on_its_parameters")
def converting_makes_new_parameters() -> Undo:
    """A converted module has other parameters."""

    def then(self: nn.Module, *rest: Any) -> None:
        for module in self.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                made = nn.Parameter(parameter.detach(), parameter.requires_grad)
                setattr(module, name, made)

    return afterwards(nn.Module, "to", then)
