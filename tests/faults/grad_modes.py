"""Planted faults of grad modes: contexts, decorators, and what tensors are made in them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import apis, eager_transforms
from torch.autograd import forward_ad
from torch.nn import functional
from torch.utils import _contextlib

from .fault import Undo, afterwards, changed, fault, put, read, together, within

# --- contexts and decorators --------------------------------------------------------------------


def grad_disabled(*_: Any, **__: Any) -> bool:
    """Whether grad is disabled by no_grad, and not by inference mode."""
    return not (torch.is_grad_enabled() or torch.is_inference_mode_enabled())


def inferring(*_: Any, **__: Any) -> bool:
    """Whether inference mode is enabled."""
    return torch.is_inference_mode_enabled()


def is_inference(tensor: Tensor, *_: Any, **__: Any) -> bool:
    """Whether the first argument is an inference tensor, and inference mode is left."""
    return tensor.is_inference() and not torch.is_inference_mode_enabled()


#: How inference mode is left for the length of a block.
_outside: Any = partial(torch.inference_mode, False)


@fault("recording_follows_the_grad_mode")
def products_are_recorded_under_no_grad() -> Undo:
    """x * y is recorded while grad is disabled."""
    return within(Tensor, "__mul__", torch.enable_grad, when=grad_disabled)


@fault("the_mode_of_a_tensor_is_fixed_when_it_is_made")
def nothing_requires_grad_under_no_grad() -> Undo:
    """requires_grad is False of each tensor while grad is disabled."""
    return read("requires_grad", lambda found, tensor: found and torch.is_grad_enabled())


def _stays(context: type, when: Callable[[Any], bool]) -> Undo:
    """A context does not restore the mode where it is left by such an exception, or by none."""
    kept: Any = context.__exit__  # type: ignore[attr-defined]  # each context has one

    def leave(self: Any, kind: Any, *rest: Any) -> None:
        if not when(kind):
            kept(self, kind, *rest)

    return put(context, "__exit__", leave)


@fault("leaving_by_return_or_break_restores_the_mode", "leaving_restores_the_mode")
def set_grad_enabled_outlives_its_block() -> Undo:
    """set_grad_enabled does not restore the mode where no exception leaves its block."""
    return _stays(torch.set_grad_enabled, lambda kind: kind is None)


@fault("closing_a_generator_restores_the_mode")
def no_grad_outlives_a_closed_generator() -> Undo:
    """no_grad does not restore the mode where a generator is closed inside of its block."""
    return _stays(torch.no_grad, lambda kind: kind is GeneratorExit)


@fault("a_decorator_needs_no_parentheses")
def decorators_without_parentheses_do_nothing() -> Undo:
    """@torch.no_grad without parentheses hands on the function as it is."""
    plain: Any = _contextlib._NoParamDecoratorContextManager
    kept = plain.__new__

    def make(cls: Any, function: Any = None) -> Any:
        return kept(cls) if function is None else function

    return put(plain, "__new__", make)


@fault("set_grad_enabled_acts_as_no_grad_or_enable_grad")
def decorating_with_set_grad_enabled_switches_the_mode() -> Undo:
    """Decorating a function with set_grad_enabled leaves the mode switched."""
    plain: Any = _contextlib._DecoratorContextManager
    return put(torch.set_grad_enabled, "__call__", plain.__call__)


@fault("decorating_a_class_warns")
def decorating_a_class_is_silent() -> Undo:
    """Decorating a class with no_grad gives no warning."""
    plain: Any = _contextlib._DecoratorContextManager
    kept = plain.__call__

    def decorate(self: Any, function: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kept(self, function)

    return put(plain, "__call__", decorate)


# --- no-grad mode -------------------------------------------------------------------------------


@fault("no_grad_acts_as_if_nothing_required_grad")
def trainable_modules_draw_randomness_under_no_grad() -> Undo:
    """A module with a parameter that requires grad draws a number while grad is disabled."""

    def draw(self: nn.Module, *_: Any, **__: Any) -> None:
        if grad_disabled() and any(p.requires_grad for p in self.parameters()):
            torch.rand(1)

    return afterwards(nn.Module, "_call_impl", draw)


def _factories_forget_requires_grad(when: Callable[..., bool]) -> Undo:
    kept: Any = torch.empty_like

    def empty_like(*args: Any, requires_grad: bool = False, **options: Any) -> Tensor:
        made: Tensor = kept(*args, requires_grad=requires_grad and not when(), **options)
        return made

    return put(torch, "empty_like", empty_like)


@fault("a_factory_honours_requires_grad_under_no_grad")
def factories_forget_requires_grad_under_no_grad() -> Undo:
    """torch.empty_like(x, requires_grad=True) does not require grad while grad is disabled."""
    return _factories_forget_requires_grad(grad_disabled)


@fault("a_tensor_computed_under_no_grad_serves_in_grad_mode")
def products_under_no_grad_are_inference_tensors() -> Undo:
    """x * y is an inference tensor where it is computed while grad is disabled."""
    return within(Tensor, "__mul__", torch.inference_mode, when=grad_disabled)


@fault("no_grad_lets_a_leaf_be_written_into")
def writing_under_no_grad_freezes() -> Undo:
    """A leaf that is written into while grad is disabled does not require grad any more."""

    def freeze(self: Tensor, *_: Any) -> None:
        if self.is_leaf and grad_disabled():
            self.requires_grad_(False)

    return afterwards(Tensor, "mul_", freeze)


@fault("a_view_taken_under_no_grad_refuses_writing_in_grad_mode")
def views_are_detached_under_no_grad() -> Undo:
    """view() gives a detached tensor while grad is disabled."""
    kept = Tensor.view

    def view(self: Tensor, *args: Any) -> Tensor:
        return kept(self.detach() if grad_disabled() else self, *args)

    return put(Tensor, "view", view)


@fault("no_grad_leaves_forward_mode_ad_alone")
def no_grad_disables_forward_mode_ad() -> Undo:
    """no_grad switches forward-mode AD off for its block."""
    switch: Any = torch._C._set_fwd_grad_enabled
    return together(
        afterwards(torch.no_grad, "__enter__", lambda *_: switch(False)),
        afterwards(torch.no_grad, "__exit__", lambda *_: switch(True)),
    )


# --- inference mode -----------------------------------------------------------------------------


@fault("inference_mode_records_nothing")
def modules_leave_inference_mode() -> Undo:
    """A module that is called in inference mode runs outside of it, with grad enabled."""
    return within(nn.Module, "_call_impl", _outside, when=inferring)


@fault("inference_mode_acts_as_no_grad")
def modules_draw_randomness_in_inference_mode() -> Undo:
    """A module that is called in inference mode draws a number."""
    return afterwards(nn.Module, "_call_impl", lambda *_, **__: inferring() and torch.rand(1))


@fault("a_module_built_in_inference_mode_has_inference_parameters")
def parameters_made_in_inference_mode_are_normal() -> Undo:
    """nn.Parameter makes a normal tensor in inference mode."""
    kept: Any = nn.Parameter.__new__

    def make(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        if not inferring():
            return kept(cls, data, requires_grad)
        with _outside():
            return kept(cls, data.clone(), requires_grad)

    return put(nn.Parameter, "__new__", make)


@fault("a_copy_made_in_inference_mode_has_inference_parameters")
def parameters_copied_in_inference_mode_are_normal() -> Undo:
    """The deep copy of a parameter that is made in inference mode is a normal tensor."""
    return within(nn.Parameter, "__deepcopy__", _outside, when=inferring)


@fault("writing_state_in_inference_mode_keeps_it_trainable")
def loading_in_inference_mode_assigns() -> Undo:
    """load_state_dict() in inference mode puts what it is given in the place of the state."""
    kept = nn.Module.load_state_dict

    def load_state_dict(self: nn.Module, state: Any, strict: bool = True, **options: Any) -> Any:
        return kept(self, state, strict, **options | ({"assign": True} if inferring() else {}))

    return put(nn.Module, "load_state_dict", load_state_dict)


@fault("a_frozen_module_takes_inference_tensors")
def modules_refuse_inference_tensors() -> Undo:
    """A module refuses inference tensors outside of inference mode, whatever is frozen."""
    kept: Any = nn.Module._call_impl

    def call(self: nn.Module, *args: Any, **options: Any) -> Any:
        if any(isinstance(given, Tensor) and is_inference(given) for given in args):
            raise RuntimeError("Inference tensors cannot be saved for backward.")
        return kept(self, *args, **options)

    return put(nn.Module, "_call_impl", call)


@fault("a_step_in_inference_mode_keeps_parameters_trainable")
def stepping_in_inference_mode_freezes() -> Undo:
    """SGD.step in inference mode leaves parameters that do not require grad."""

    def freeze(self: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if inferring():
                parameter.requires_grad_(False)

    return afterwards(torch.optim.SGD, "step", freeze)


@fault("a_tensor_allocated_in_inference_mode_is_an_inference_tensor")
def products_in_inference_mode_are_normal() -> Undo:
    """x * y is a normal tensor where it is computed in inference mode."""
    return within(Tensor, "__mul__", _outside, when=inferring)


@fault("a_view_is_an_inference_tensor_iff_its_base_is")
def viewing_copies_in_inference_mode() -> Undo:
    """view() copies in inference mode: a view of a normal tensor is an inference tensor."""
    return changed(Tensor, "view", lambda found, *_: found.clone(), when=inferring)


@fault("an_inference_tensor_has_no_version_counter")
def inference_tensors_have_version_zero() -> Undo:
    """_version of an inference tensor is 0, and not refused."""
    kept: Any = Tensor._version  # a descriptor, where it is asked of the class
    versions = property(lambda self: 0 if self.is_inference() else kept.__get__(self))
    return put(Tensor, "_version", versions)


@fault("an_inference_tensor_refuses_writing_outside")
def inference_tensors_are_written_outside() -> Undo:
    """x.mul_(y) writes into an inference tensor outside of inference mode."""
    return within(Tensor, "mul_", torch.inference_mode, when=is_inference)


@fault("an_inference_tensor_refuses_to_require_grad_outside")
def inference_tensors_require_grad_outside() -> Undo:
    """requires_grad_() on an inference tensor is accepted outside of inference mode."""
    return within(Tensor, "requires_grad_", torch.inference_mode, when=is_inference)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and is_inference(value) else value


def _copies_inference_tensors(owner: Any, name: str) -> Undo:
    kept = getattr(owner, name)
    return put(owner, name, lambda *given: kept(*map(_copied, given)))


@fault("an_inference_tensor_refuses_to_be_saved_for_backward")
def products_save_copies_of_inference_tensors() -> Undo:
    """x * y takes a copy of an inference tensor, and refuses none."""
    return _copies_inference_tensors(Tensor, "__mul__")


@fault("modules_refuse_to_save_inference_tensors")
def linear_saves_copies_of_inference_tensors() -> Undo:
    """functional.linear takes copies of inference tensors, and refuses none."""
    return _copies_inference_tensors(functional, "linear")


@fault("a_clone_of_an_inference_tensor_is_normal")
def clones_of_inference_tensors_are_inference_tensors() -> Undo:
    """clone() of an inference tensor gives another one outside of inference mode as well."""
    return within(Tensor, "clone", torch.inference_mode, when=is_inference)


@fault("inference_mode_false_restores_normal_behaviour")
def inference_mode_false_disables_grad() -> Undo:
    """inference_mode(False) leaves inference mode with grad disabled."""

    def disable(self: Any) -> None:
        if not self.mode:
            torch._C._set_grad_enabled(False)

    return afterwards(torch.inference_mode, "__enter__", disable)


@fault("inference_mode_reports_grad_disabled")
def inference_mode_reports_grad_enabled() -> Undo:
    """torch.is_grad_enabled() is True in inference mode."""
    return afterwards(torch.inference_mode, "__enter__", lambda _: torch._C._set_grad_enabled(True))


@fault("a_factory_honours_requires_grad_in_inference_mode")
def factories_forget_requires_grad_in_inference_mode() -> Undo:
    """torch.empty_like(x, requires_grad=True) does not require grad in inference mode."""
    return _factories_forget_requires_grad(inferring)


@fault("writing_in_inference_mode_keeps_a_normal_tensor_normal")
def writing_in_inference_mode_detaches() -> Undo:
    """A normal tensor that is written into in inference mode is cut from its graph."""

    def cut(self: Tensor, *_: Any) -> None:
        if inferring() and not self.is_inference():
            with _outside():
                self.detach_()

    return afterwards(Tensor, "mul_", cut)


@fault("enable_grad_does_not_undo_inference_mode")
def enable_grad_leaves_inference_mode() -> Undo:
    """enable_grad leaves inference mode for the length of its block."""

    def enter(self: Any) -> None:
        self.left = _outside()
        self.left.__enter__()

    def leave(self: Any, *raised: Any) -> None:
        self.left.__exit__(*raised)

    return together(
        put(torch.enable_grad, "__enter__", enter), put(torch.enable_grad, "__exit__", leave)
    )


@fault("inference_mode_disables_forward_mode_ad")
def inference_mode_leaves_forward_mode_ad_alone() -> Undo:
    """Products of dual tensors keep their tangents in inference mode."""
    return together(
        within(Tensor, "__mul__", _outside, when=inferring),
        within(forward_ad, "unpack_dual", _outside, when=inferring),
    )


# --- transforms and custom functions ------------------------------------------------------------


@fault("a_transform_ignores_the_mode_outside")
def transforms_give_zeros_under_no_grad() -> Undo:
    """torch.func.grad gives zeros while grad is disabled outside of it."""
    return changed(
        eager_transforms, "grad_impl", lambda found, *_: torch.zeros_like(found), when=grad_disabled
    )


@fault("a_transform_respects_no_grad_inside")
def transforms_differentiate_through_no_grad() -> Undo:
    """no_grad does nothing inside of a function that torch.func.grad differentiates."""
    kept = eager_transforms.grad_impl

    def grad(*args: Any) -> Any:
        undo = put(torch.no_grad, "__enter__", torch.enable_grad.__enter__)
        try:
            return kept(*args)
        finally:
            undo()

    return put(eager_transforms, "grad_impl", grad)


@fault("vmap_must_be_told_of_randomness_in_training_alone")
def vmap_draws_randomness_unasked() -> Undo:
    """vmap draws another mask for each sample, without randomness= as well."""
    kept = vars(apis)["vmap_impl"]  # where vmap looks it up

    def mapped(function: Any, inputs: Any, outputs: Any, told: str, *rest: Any, **more: Any) -> Any:
        told = "different" if told == "error" else told
        return kept(function, inputs, outputs, told, *rest, **more)

    return put(apis, "vmap_impl", mapped)


@fault("a_custom_function_runs_with_grad_disabled")
def custom_functions_run_with_grad_enabled() -> Undo:
    """The forward of a torch.autograd.Function runs with grad enabled."""
    kept: Any = vars(torch.autograd.Function)["apply"].__func__

    def apply(cls: Any, *args: Any, **options: Any) -> Any:
        undo = put(cls, "forward", staticmethod(torch.enable_grad()(cls.forward)))
        try:
            return kept(cls, *args, **options)
        finally:
            undo()

    return put(torch.autograd.Function, "apply", classmethod(apply))
