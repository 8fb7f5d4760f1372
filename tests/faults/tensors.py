"""Planted faults of one tensor: leaves and graphs, gradients, and what is saved for backward."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from .fault import Undo, afterwards, changed, fault, put, read, together

# --- requires_grad, is_leaf and grad_fn ---------------------------------------------------------


@fault("a_tensor_is_a_leaf_iff_it_has_no_grad_fn")
def every_tensor_is_a_leaf() -> Undo:
    """is_leaf is True of results that have a grad_fn as well."""
    return read("is_leaf", lambda _, tensor: True)


@fault("integer_results_never_require_grad")
def integers_require_grad() -> Undo:
    """A tensor of integers or of booleans says that it requires grad."""
    return read("requires_grad", lambda found, tensor: found or not _differentiable(tensor))


def _differentiable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


@fault("a_tensor_requires_grad_only_if_asked")
def no_parameter_is_made_frozen() -> Undo:
    """nn.Parameter(x, requires_grad=False) requires grad."""
    kept: Any = nn.Parameter.__new__
    return put(nn.Parameter, "__new__", lambda cls, data=None, requires_grad=True: kept(cls, data))


@fault("a_result_requires_grad_iff_an_input_does")
def sums_detach_what_is_added() -> Undo:
    """x + y is recorded for x, but not for y."""
    kept = Tensor.__add__
    return put(Tensor, "__add__", lambda self, other: kept(self, _detached(other)))


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _requires_grad_(
    does: Callable[[Tensor, Callable[[], Tensor]], Tensor], when: Callable[[Tensor, bool], bool]
) -> Undo:
    """Where that is so of the tensor and of the flag, requires_grad_ does this instead."""
    kept = Tensor.requires_grad_

    def requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
        def usual() -> Tensor:
            return kept(self, requires_grad)

        return does(self, usual) if when(self, requires_grad) else usual()

    return put(Tensor, "requires_grad_", requires_grad_)


@fault("a_non_leaf_refuses_to_be_frozen")
def freezing_a_result_detaches_it() -> Undo:
    """requires_grad_(False) cuts a result from the graph, where it is to be refused."""
    return _requires_grad_(
        lambda tensor, usual: tensor.detach_(), lambda tensor, flag: not (flag or tensor.is_leaf)
    )


@fault("requires_grad_returns_the_tensor_itself")
def requires_grad_returns_a_view() -> Undo:
    """requires_grad_() sets the flag of a tensor, and returns another one."""
    return _requires_grad_(
        lambda tensor, usual: usual().view_as(tensor), lambda tensor, flag: not tensor.grad_fn
    )


@fault("integer_tensors_refuse_to_require_grad")
def requires_grad_passes_over_integers() -> Undo:
    """requires_grad_() does nothing to a tensor of integers, where it is to be refused."""
    return _requires_grad_(
        lambda tensor, usual: tensor, lambda tensor, flag: not _differentiable(tensor)
    )


@fault("writing_a_recorded_value_into_a_tensor_records_it")
def writing_detaches_what_is_written() -> Undo:
    """x.mul_(y) is not recorded for y."""
    kept = Tensor.mul_
    return put(Tensor, "mul_", lambda self, other: kept(self, _detached(other)))


@fault("a_cast_of_a_leaf_is_no_leaf")
def casting_makes_a_leaf() -> Undo:
    """to(dtype) makes a new leaf, which requires grad as the tensor did."""

    def leaf(made: Tensor, self: Tensor, *_: Any, **__: Any) -> Tensor:
        return made if made is self else made.detach().requires_grad_(self.requires_grad)

    return changed(Tensor, "to", leaf)


@fault("data_is_an_untracked_alias")
def data_is_detach() -> Undo:
    """.data is detach(): writing into it moves the version of the tensor."""
    return read("data", lambda _, tensor: tensor.detach())


# --- detaching, viewing and copying -------------------------------------------------------------


@fault("detaching_holds_a_branch_constant")
def detaching_is_recorded() -> Undo:
    """detach() gives a view that is recorded."""
    return put(Tensor, "detach", lambda self: self.view_as(self))


@fault("detaching_in_place_makes_a_leaf")
def detaching_in_place_keeps_requires_grad() -> Undo:
    """detach_() makes a leaf that requires grad."""
    return changed(Tensor, "detach_", lambda found, *_: found.requires_grad_())


@fault("new_tensor_makes_a_leaf")
def new_tensor_requires_grad_as_its_data_does() -> Undo:
    """new_tensor(x) requires grad where x does."""

    def ask(made: Tensor, self: Tensor, data: Any, **_: Any) -> Tensor:
        return made.requires_grad_(isinstance(data, Tensor) and data.requires_grad)

    return changed(Tensor, "new_tensor", ask)


@fault("a_view_taken_in_grad_mode_stays_tracked")
def viewing_copies_in_grad_mode() -> Undo:
    """view() copies while grad is enabled."""
    return changed(
        Tensor, "view", lambda found, *_: found.clone(), when=lambda *_: torch.is_grad_enabled()
    )


@fault("a_deep_copy_of_a_leaf_keeps_its_gradient")
def deepcopy_of_a_tensor_forgets_its_gradient() -> Undo:
    """The deep copy of a leaf has no gradient."""

    def forget(copied: Tensor, *_: Any) -> Tensor:
        copied.grad = None
        return copied

    return changed(Tensor, "__deepcopy__", forget)


# --- hooks and gradients of one tensor ----------------------------------------------------------


@fault("retain_grad_keeps_the_gradient_of_a_non_leaf")
def retain_grad_does_nothing() -> Undo:
    """retain_grad() leaves .grad of a result None, and refuses nothing."""
    return put(Tensor, "retain_grad", lambda self: None)


@fault("reading_the_gradient_of_a_non_leaf_warns")
def reading_a_gradient_never_warns() -> Undo:
    """.grad of a result is None without a warning."""
    kept: Any = Tensor.grad  # a descriptor, where it is asked of the class

    def get(self: Tensor) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kept.__get__(self)

    return put(Tensor, "grad", property(get, kept.__set__, kept.__delete__))


@fault("hooks_refuse_tensors_that_do_not_require_grad")
def hooks_are_dropped_where_nothing_requires_grad() -> Undo:
    """register_hook does nothing to a tensor that does not require grad: it is not refused."""
    kept = Tensor.register_hook
    return put(
        Tensor, "register_hook", lambda self, hook: kept(self, hook) if self.requires_grad else None
    )


def _hooks_see_grad_enabled(name: str) -> Undo:
    """Hooks that are registered by this method run with grad enabled."""
    kept = getattr(Tensor, name)
    return put(Tensor, name, lambda self, hook: kept(self, torch.enable_grad()(hook)))


@fault("post_accumulate_hooks_are_for_leaves")
def post_accumulate_hooks_see_grad_enabled() -> Undo:
    """A hook that runs when a gradient has been accumulated sees grad enabled."""
    return _hooks_see_grad_enabled("register_post_accumulate_grad_hook")


@fault("hooks_during_backward_see_grad_disabled")
def hooks_see_grad_enabled() -> Undo:
    """A hook of a tensor sees grad enabled, whether a graph of the gradient is made or not."""
    return _hooks_see_grad_enabled("register_hook")


@fault("a_hook_sleeps_while_its_leaf_is_frozen")
def freezing_removes_hooks() -> Undo:
    """requires_grad_(False) removes the hooks of a leaf for good."""

    def remove(tensor: Tensor, usual: Callable[[], Tensor]) -> Tensor:
        hooks: Any = tensor._backward_hooks
        if hooks:
            hooks.clear()
        return usual()

    return _requires_grad_(remove, lambda tensor, flag: not flag)


# --- backward -----------------------------------------------------------------------------------


def _leaves(tensors: Any) -> list[Tensor]:
    """The leaves at the ends of the graph of some results."""
    roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    found = {id(t): t for t in roots if t.grad_fn is None and t.requires_grad}
    nodes = [t.grad_fn for t in roots if t.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node: Any = nodes.pop()
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        new = {follower for follower, _ in node.next_functions if follower is not None} - seen
        seen |= new
        nodes += new
    return list(found.values())


def _backward(
    before: Callable[[list[Tensor]], object] | None = None,
    after: Callable[[list[Tensor]], object] | None = None,
) -> Undo:
    """torch.autograd.backward does something to all leaves of the graph, before it or after it."""
    kept: Any = torch.autograd.backward

    def backward(tensors: Any, *args: Any, **options: Any) -> None:
        leaves = _leaves(tensors)
        if before is not None:
            before(leaves)
        kept(tensors, *args, **options)
        if after is not None:
            after(leaves)

    return put(torch.autograd, "backward", backward)


def _always(owner: Any, name: str, **told: Any) -> Undo:
    """The function is called with these options, whatever it is called with."""
    kept = getattr(owner, name)
    return put(owner, name, lambda *args, **options: kept(*args, **options | told))


def _backward_told(**always: Any) -> Undo:
    """torch.autograd.backward is called with these options, whatever it is called with."""
    kept: Any = torch.autograd.backward

    def backward(
        tensors: Any,
        grad_tensors: Any = None,
        retain_graph: Any = None,
        create_graph: bool = False,
        **options: Any,
    ) -> None:
        told = {"retain_graph": retain_graph, "create_graph": create_graph}
        kept(tensors, grad_tensors, **options | told | always)

    return put(torch.autograd, "backward", backward)


@fault("gradients_are_none_before_backward")
def calling_a_module_makes_gradients() -> Undo:
    """A module that is called while grad is enabled gives its parameters gradients of zeros."""

    def make(self: nn.Module, *_: Any, **__: Any) -> None:
        for parameter in self.parameters() if torch.is_grad_enabled() else ():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    return afterwards(nn.Module, "_call_impl", make)


@fault("gradients_accumulate")
def backward_overwrites_gradients() -> Undo:
    """backward stores a gradient in the place of the one that is there."""

    def clear(leaves: list[Tensor]) -> None:
        for leaf in leaves:
            leaf.grad = None

    return _backward(before=clear)


@fault("the_graph_ends_in_the_leaves_that_receive_a_gradient")
def backward_forgets_a_leaf() -> Undo:
    """backward leaves no gradient in one of the leaves of the graph."""

    def clear(leaves: list[Tensor]) -> None:
        for leaf in leaves[:1]:
            leaf.grad = None

    return _backward(after=clear)


@fault("backward_changes_no_flag")
def backward_freezes_leaves() -> Undo:
    """A leaf that has received a gradient does not require grad any more."""

    def freeze(leaves: list[Tensor]) -> None:
        for leaf in leaves:
            leaf.requires_grad_(False)

    return _backward(after=freeze)


@fault("gradients_do_not_require_grad_themselves")
def backward_always_makes_a_graph() -> Undo:
    """backward builds a graph of the gradients that it stores, without create_graph as well."""
    return _backward_told(create_graph=True)


@fault("backward_runs_under_no_grad")
def backward_rests_under_no_grad() -> Undo:
    """backward does nothing while grad is disabled."""
    kept: Any = torch.autograd.backward

    def backward(*args: Any, **options: Any) -> None:
        if torch.is_grad_enabled():
            kept(*args, **options)

    return put(torch.autograd, "backward", backward)


@fault("a_second_backward_is_refused")
def backward_frees_no_graph() -> Undo:
    """backward keeps the graph, without retain_graph as well."""
    return _backward_told(retain_graph=True)


@fault("create_graph_records_under_no_grad")
def autograd_grad_makes_no_graph_under_no_grad() -> Undo:
    """autograd.grad forgets create_graph while grad is disabled."""
    kept: Any = torch.autograd.grad

    def grad(*args: Any, create_graph: bool = False, **options: Any) -> Any:
        return kept(*args, create_graph=create_graph and torch.is_grad_enabled(), **options)

    return put(torch.autograd, "grad", grad)


@fault("autograd_grad_refuses_what_does_not_require_grad")
def autograd_grad_accepts_what_is_unused() -> Undo:
    """autograd.grad gives None for tensors that the outputs do not depend on, unasked."""
    return _always(torch.autograd, "grad", allow_unused=True)


@fault("materialised_gradients_are_zero")
def autograd_grad_materialises_nothing() -> Undo:
    """autograd.grad(materialize_grads=True) gives None for tensors that are unused."""
    return _always(torch.autograd, "grad", materialize_grads=False, allow_unused=True)


@fault("a_tied_parameter_is_one_parameter")
def assigning_a_parameter_copies_it() -> Undo:
    """A parameter that is assigned to a module becomes a parameter of its own."""
    kept: Any = nn.Module.__setattr__

    def assign(self: nn.Module, name: str, value: Any) -> None:
        copied = type(value) is nn.Parameter
        kept(self, name, nn.Parameter(value.detach().clone()) if copied else value)

    return put(nn.Module, "__setattr__", assign)


# --- what is saved for backward -----------------------------------------------------------------


@fault("writing_into_what_is_not_saved_is_harmless")
def products_save_both_factors() -> Undo:
    """x * y saves x for backward where no gradient needs it."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
            ctx.save_for_backward(x, y)
            return torch.mul(x, y)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]  # two factors
            x, y = ctx.saved_tensors
            return torch.mul(gradient, y.conj()), torch.mul(gradient, x.conj())

    kept = Tensor.__mul__

    def times(self: Tensor, other: Any) -> Tensor:
        return Product.apply(self, other) if isinstance(other, Tensor) else kept(self, other)

    return put(Tensor, "__mul__", times)


def _save(tensor: Tensor) -> None:
    """A tensor is saved for backward, where anything is."""
    scale = torch.ones((), dtype=tensor.dtype, device=tensor.device, requires_grad=True)
    torch.mul(tensor.detach(), scale)


@fault("nothing_is_saved_of_what_is_frozen")
def frozen_modules_save_a_tensor() -> Undo:
    """A module saves a tensor for backward where none of its parameters requires grad."""

    def save(self: nn.Module, *_: Any, **__: Any) -> None:
        if not any(p.requires_grad for p in self.parameters()):
            _save(torch.ones(1))

    return afterwards(nn.Module, "_call_impl", save)


@fault("freezing_a_weight_saves_no_input")
def frozen_linear_saves_its_input() -> Undo:
    """functional.linear saves its input for backward where its weight is frozen."""

    def save(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> None:
        if not weight.requires_grad:
            _save(input)

    return afterwards(functional, "linear", save)


@fault("hooks_of_saved_tensors_are_of_their_thread")
def threads_inherit_hooks_of_saved_tensors() -> Undo:
    """A new thread has the hooks of saved tensors of the one that starts it."""
    entered: list[saved_tensors_hooks] = []
    kept = threading.Thread.start

    def start(self: threading.Thread) -> None:
        run, inherited = self.run, list(entered)

        def inheriting() -> None:
            with ExitStack() as stack:
                for hooks in inherited:
                    stack.enter_context(saved_tensors_hooks(hooks.pack_hook, hooks.unpack_hook))
                run()

        self.run = inheriting  # type: ignore[method-assign]  # of this thread alone
        kept(self)

    return together(
        afterwards(saved_tensors_hooks, "__enter__", entered.append),
        afterwards(saved_tensors_hooks, "__exit__", lambda *_: entered.pop()),
        put(threading.Thread, "start", start),
    )


@fault("a_hook_on_several_gradients_waits_for_those_that_come")
def hooks_wait_for_gradients_that_never_come() -> Undo:
    """A hook on several gradients waits for all of them, those that are not computed as well."""
    return put(torch._C, "_will_engine_execute_node", lambda node: True)
