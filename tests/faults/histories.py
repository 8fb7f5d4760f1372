"""Planted faults that show over time: each is noticed by a program, at one of its steps."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Optimizer
from torch.utils import _contextlib

from .fault import Undo, afterwards, fault, put, together

LAW: Final = "torch_agrees_with_the_reference_machine"


# --- modes --------------------------------------------------------------------------------------


@fault(LAW)
def no_grad_enables_grad_when_it_is_left() -> Undo:
    """Leaving no_grad enables grad, whatever was there before."""
    return put(torch.no_grad, "__exit__", lambda self, *_: torch._C._set_grad_enabled(True))


@fault(LAW)
def enable_grad_stays_after_an_exception() -> Undo:
    """enable_grad left by an exception restores nothing."""
    kept = torch.enable_grad.__exit__

    def leave(self: Any, kind: Any, *rest: Any) -> None:
        if kind is None:
            kept(self, kind, *rest)

    return put(torch.enable_grad, "__exit__", leave)


@fault(LAW)
def set_grad_enabled_disables_for_good() -> Undo:
    """A block of set_grad_enabled leaves grad disabled behind it."""
    kept = torch.set_grad_enabled.__exit__

    def leave(self: Any, *given: Any) -> None:
        kept(self, *given)
        if not self.mode:
            torch._C._set_grad_enabled(False)

    return put(torch.set_grad_enabled, "__exit__", leave)


@fault(LAW)
def a_closed_generator_keeps_the_mode() -> Undo:
    """A decorated generator that is closed leaves its mode behind."""

    def wrap(context: Callable[[], Any], function: Callable[..., Any]) -> Callable[..., Any]:
        def generator(*args: Any, **options: Any) -> Any:
            course = function(*args, **options)
            entered = context()
            while True:
                with context():
                    try:
                        value = next(course)
                    except StopIteration:
                        return
                try:
                    yield value
                except GeneratorExit:
                    entered.__enter__()
                    raise

        return generator

    return put(_contextlib, "_wrap_generator", wrap)


@fault(LAW)
def a_decorator_forgets_what_a_call_changes() -> Undo:
    """A decorated function that sets the grad mode itself keeps it after the call."""
    kept = _contextlib.context_decorator

    def decorate(context: Any, function: Any) -> Any:
        whole = kept(context, function)

        def call(*args: Any, **options: Any) -> Any:
            inside: list[bool] = []

            def noted(*given: Any, **named: Any) -> Any:
                before = torch.is_grad_enabled()
                found = function(*given, **named)
                inside.extend([torch.is_grad_enabled()] * (before != torch.is_grad_enabled()))
                return found

            found = kept(context, noted)(*args, **options)
            if inside:
                torch._C._set_grad_enabled(inside[0])
            return found

        return whole if _is_a_course(function) else call

    return put(_contextlib, "context_decorator", decorate)


def _is_a_course(function: Any) -> bool:
    return bool(function.__code__.co_flags & 0x2A0)  # generators and coroutines of all kinds


@fault(LAW, "a_program_goes_in_a_new_thread_as_it_does_here")
def other_threads_begin_in_the_mode_of_this_one() -> Undo:
    """What is given to another thread runs in the grad mode of whoever gave it."""
    kept = ThreadPoolExecutor.submit

    def submit(self: Any, call: Callable[[], Any], /, *args: Any, **options: Any) -> Any:
        enabled = torch.is_grad_enabled()

        def inheriting() -> Any:
            torch._C._set_grad_enabled(enabled)
            return call()

        return kept(self, inheriting)

    return put(ThreadPoolExecutor, "submit", submit)


@fault(LAW)
def threads_of_a_pool_forget_their_mode() -> Undo:
    """Each call that is given to a pool begins with grad enabled."""
    kept = ThreadPoolExecutor.submit

    def submit(self: Any, call: Callable[[], Any], /, *args: Any, **options: Any) -> Any:

        def anew() -> Any:
            torch._C._set_grad_enabled(True)
            return call()

        return kept(self, anew)

    return put(ThreadPoolExecutor, "submit", submit)


# --- flags and gradients over time --------------------------------------------------------------


@fault(LAW)
def training_unfreezes() -> Undo:
    """train() makes every parameter require grad again."""

    def then(self: nn.Module, mode: bool = True) -> None:
        if mode is True:
            for parameter in self.parameters():
                parameter.requires_grad = True

    return afterwards(nn.Module, "train", then)


@fault(LAW)
def evaluating_forgets_gradients() -> Undo:
    """eval() takes the gradients away."""

    def then(self: nn.Module) -> None:
        for parameter in self.parameters():
            parameter.grad = None

    return afterwards(nn.Module, "eval", then)


@fault(LAW)
def freezing_forgets_gradients() -> Undo:
    """requires_grad_(False) takes the gradients away."""

    def then(self: nn.Module, requires_grad: bool = True) -> None:
        for parameter in () if requires_grad else self.parameters():
            parameter.grad = None

    return afterwards(nn.Module, "requires_grad_", then)


@fault(LAW)
def zero_grad_skips_what_is_frozen() -> Undo:
    """Module.zero_grad leaves the gradients of frozen parameters."""
    kept = nn.Module.zero_grad

    def zero_grad(self: nn.Module, set_to_none: bool = True) -> None:
        frozen = [(p, p.grad) for p in self.parameters() if not p.requires_grad]
        kept(self, set_to_none)
        for parameter, grad in frozen:
            parameter.grad = grad

    return put(nn.Module, "zero_grad", zero_grad)


@fault(LAW)
def backward_frees_nothing() -> Undo:
    """backward retains the graph, asked or not."""
    kept = torch.autograd.backward

    def backward(*args: Any, **options: Any) -> None:
        named = ("tensors", "grad_tensors", "retain_graph")
        kept(**(dict(zip(named, args, strict=False)) | options | {"retain_graph": True}))

    return put(torch.autograd, "backward", _positional(backward))


def _positional(backward: Callable[..., None]) -> Callable[..., None]:
    """As Tensor.backward calls it: the fourth argument is create_graph."""

    def called(
        tensors: Any,
        grad_tensors: Any = None,
        retain_graph: Any = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        backward(
            tensors=tensors,
            grad_tensors=grad_tensors,
            retain_graph=retain_graph,
            create_graph=create_graph,
            inputs=inputs,
        )

    return called


@fault(LAW)
def backward_ignores_its_inputs() -> Undo:
    """backward(inputs=...) fills every leaf."""
    kept = torch.autograd.backward

    def backward(**options: Any) -> None:
        kept(**(options | {"inputs": None}))

    return put(torch.autograd, "backward", _positional(backward))


@fault(LAW)
def backward_leaves_grad_disabled() -> Undo:
    """backward leaves grad disabled."""
    kept = torch.autograd.backward

    def backward(**options: Any) -> None:
        kept(**options)
        torch._C._set_grad_enabled(False)

    return put(torch.autograd, "backward", _positional(backward))


@fault(LAW)
def a_detached_tensor_has_a_version_of_its_own() -> Undo:
    """detach() copies, so that a write to one is not counted by the other."""
    kept = Tensor.detach
    return put(Tensor, "detach", lambda self: kept(self).clone())


# --- layers over time ---------------------------------------------------------------------------


@fault(LAW)
def batch_norm_counts_in_evaluation() -> Undo:
    """Batch normalisation counts its batches in evaluation too."""

    def then(self: _BatchNorm, x: Tensor) -> None:
        counter = self.num_batches_tracked
        if not self.training and counter is not None and not counter.is_inference():
            counter.add_(1)

    return afterwards(_BatchNorm, "forward", then)


@fault(LAW)
def batch_norm_counts_recorded_batches_alone() -> Undo:
    """Batch normalisation counts no batch while grad is disabled."""

    def then(self: _BatchNorm, x: Tensor) -> None:
        counter = self.num_batches_tracked
        if self.training and counter is not None and not torch.is_grad_enabled():
            counter.sub_(1)

    return afterwards(_BatchNorm, "forward", then)


@fault(LAW)
def dropout_rests_where_nothing_is_recorded() -> Undo:
    """Dropout drops nothing while grad is disabled."""
    kept = functional.dropout

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return kept(x, p, training and torch.is_grad_enabled(), inplace)

    return put(functional, "dropout", dropout)


# --- modules that are put together, copied and loaded -------------------------------------------


@fault(LAW)
def appending_hands_on_the_flag() -> Undo:
    """A module that is appended takes over the flag of the nn.Sequential."""

    def then(self: nn.Sequential, module: nn.Module) -> None:
        module.train(self.training)

    return afterwards(nn.Sequential, "append", then)


@fault(LAW)
def replacing_trains() -> Undo:
    """A module that replaces another is switched to training."""
    return afterwards(nn.Sequential, "__setitem__", lambda self, idx, module: module.train())


@fault(LAW)
def tying_copies() -> Undo:
    """A parameter that is assigned is copied."""
    kept = nn.Module.__setattr__

    def assign(self: nn.Module, name: str, value: Any) -> None:
        known = isinstance(value, nn.Parameter) and name in self._parameters
        kept(self, name, nn.Parameter(value.detach().clone()) if known else value)

    return put(nn.Module, "__setattr__", assign)


def _changing(module: Any, name: str, change: Callable[[nn.Module], Any]) -> Undo:
    """What the function returns is changed, if it is a module."""
    kept = getattr(module, name)

    def changed(*args: Any, **options: Any) -> Any:
        found = kept(*args, **options)
        if isinstance(found, nn.Module):
            change(found)
        return found

    return put(module, name, changed)


@fault(LAW)
def copies_train() -> Undo:
    """A deep copy is in training mode."""
    return _changing(copy, "deepcopy", lambda module: module.train())


@fault(LAW)
def loaded_modules_are_frozen() -> Undo:
    """torch.load freezes the module that it reads."""
    return _changing(torch, "load", lambda module: module.requires_grad_(False))


@fault(LAW)
def copies_share_their_parameters() -> Undo:
    """A deep copy holds the very parameters of its original."""
    kept = copy.deepcopy

    def deepcopy(module: Any, *args: Any) -> Any:
        found = kept(module, *args)
        if isinstance(found, nn.Linear) and not args:
            found.weight = module.weight
        return found

    return put(copy, "deepcopy", deepcopy)


@fault(LAW)
def loading_a_state_unfreezes() -> Undo:
    """load_state_dict makes every parameter require grad."""

    def then(self: nn.Module, *args: Any, **options: Any) -> None:
        for parameter in self.parameters():
            parameter.requires_grad = True

    return afterwards(nn.Module, "load_state_dict", then)


@fault(LAW)
def converting_forgets_gradients() -> Undo:
    """Converting to another dtype takes the gradients away."""

    def then(self: nn.Module) -> None:
        for parameter in self.parameters():
            parameter.grad = None

    return afterwards(nn.Module, "double", then)


# --- optimizers over time -----------------------------------------------------------------------


@fault(LAW)
def building_an_optimizer_unfreezes() -> Undo:
    """An optimizer makes the parameters that it is given require grad."""

    def then(self: Optimizer, group: dict[str, Any]) -> None:
        for parameter in self.param_groups[-1]["params"]:
            if parameter.is_leaf:
                parameter.requires_grad = True

    return afterwards(Optimizer, "add_param_group", then)


@fault(LAW)
def sgd_moves_what_has_no_gradient() -> Undo:
    """SGD moves parameters that have no gradient."""
    kept = SGD.step

    def step(self: SGD, closure: Any = None) -> Any:
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                if parameter.grad is None and not parameter.is_inference():
                    parameter.add_(1)
        return kept(self, closure)

    return put(SGD, "step", step)


@fault(LAW)
def a_step_clears_the_gradients() -> Undo:
    """A step of SGD takes the gradients away."""

    def then(self: SGD, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    return afterwards(SGD, "step", then)


@fault(LAW)
def optimizers_clear_what_is_trained_alone() -> Undo:
    """Optimizer.zero_grad leaves the gradients of frozen parameters."""
    kept = Optimizer.zero_grad

    def zero_grad(self: Optimizer, set_to_none: bool = True) -> None:
        parameters = [p for group in self.param_groups for p in group["params"]]
        frozen = [(p, p.grad) for p in parameters if p.is_leaf and not p.requires_grad]
        kept(self, set_to_none)
        for parameter, grad in frozen:
            parameter.grad = grad

    return put(Optimizer, "zero_grad", zero_grad)


@fault(LAW)
def a_parameter_may_be_in_two_groups() -> Undo:
    """add_param_group takes a parameter that it has."""
    kept = Optimizer.add_param_group

    def add_param_group(self: Optimizer, group: dict[str, Any]) -> None:
        try:
            kept(self, group)
        except ValueError as error:
            if "more than one" not in str(error):
                raise

    return put(Optimizer, "add_param_group", add_param_group)


# --- hooks, and modules that are loaded or made late --------------------------------------------


@fault(LAW)
def hooks_of_tensors_run_with_grad_enabled() -> Undo:
    """A hook of a tensor runs with grad enabled."""
    kept = Tensor.register_hook

    def register(self: Tensor, hook: Callable[[Tensor], Any]) -> Any:
        return kept(self, torch.enable_grad()(lambda grad: hook(grad)))

    return put(Tensor, "register_hook", register)


@fault(LAW)
def hooks_of_leaves_are_forgotten() -> Undo:
    """A hook of a leaf is not called."""
    kept = Tensor.register_hook

    def register(self: Tensor, hook: Callable[[Tensor], Any]) -> Any:
        return kept(self, (lambda grad: None) if self.is_leaf else hook)

    return put(Tensor, "register_hook", register)


@fault(LAW)
def assigning_freezes() -> Undo:
    """load_state_dict with assign=True freezes what it assigns."""

    def then(self: nn.Module, *args: Any, **options: Any) -> None:
        if options.get("assign"):
            self.requires_grad_(False)

    return afterwards(nn.Module, "load_state_dict", then)


@fault(LAW)
def lazy_modules_are_frozen_where_nothing_is_recorded() -> Undo:
    """A lazy module whose first forward runs under no_grad is frozen."""

    def then(self: nn.Module, *args: Any, **options: Any) -> None:
        self.requires_grad_(torch.is_grad_enabled())

    return afterwards(nn.LazyLinear, "initialize_parameters", then)


@fault(LAW)
def loading_counts_no_version() -> Undo:
    """load_state_dict() writes to parameters as if nobody had: backward takes what they are now."""
    kept = nn.Module.load_state_dict

    def load_state_dict(self: nn.Module, *args: Any, **options: Any) -> Any:
        counted = [(p, p._version) for p in self.parameters() if not p.is_inference()]
        made = kept(self, *args, **options)
        for parameter, version in counted:
            torch._C._autograd._unsafe_set_version_counter((parameter,), (version,))
        return made

    return put(nn.Module, "load_state_dict", load_state_dict)


# --- the same program elsewhere -----------------------------------------------------------------


@fault("a_program_goes_in_a_new_thread_as_it_does_here")
def no_grad_does_nothing_in_the_main_thread() -> Undo:
    """no_grad does not disable grad in the main thread, but in all others."""
    kept = torch.no_grad.__enter__

    def enter(self: Any) -> None:
        kept(self)
        if threading.current_thread() is threading.main_thread():
            torch._C._set_grad_enabled(self.prev)

    return put(torch.no_grad, "__enter__", enter)


@fault("enabling_grad_where_it_is_enabled_changes_nothing")
def no_grad_does_nothing_outside_of_enable_grad() -> Undo:
    """no_grad disables grad in a block of enable_grad alone."""
    entered: list[None] = []
    kept, enter = torch.no_grad.__enter__, torch.enable_grad.__enter__
    leave = torch.enable_grad.__exit__

    def noted(self: Any) -> None:
        entered.append(None)
        enter(self)

    def left(self: Any, *raised: Any) -> None:
        entered.pop()
        leave(self, *raised)

    def disable(self: Any) -> None:
        kept(self)
        if not entered:
            torch._C._set_grad_enabled(self.prev)

    return together(
        put(torch.no_grad, "__enter__", disable),
        put(torch.enable_grad, "__enter__", noted),
        put(torch.enable_grad, "__exit__", left),
    )
