"""Leaves and graphs: what requires_grad, is_leaf, grad_fn and detach say of one tensor."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import torch

from ..law import law
from ..preconditions import an_output_is_integer
from ..relations import equal, holds, leaf_iff_no_grad_fn, refuses, unrecorded
from ..sample import Sample
from ..setting import Setting
from ..subject import Subject


@law(
    source="Tensor.is_leaf; notes/autograd, Setting requires_grad",
    norms=("A4", "F1"),
    everywhere=True,
)
def a_tensor_is_a_leaf_iff_it_has_no_grad_fn(subject: Subject, setting: Setting) -> None:
    """An output with a grad_fn requires grad and is no leaf; one without is a leaf."""
    leaf_iff_no_grad_fn(subject.run(setting).output)


@law(
    source="notes/autograd, non-differentiable functions; Tensor.requires_grad_",
    norms=("A3",),
    given=an_output_is_integer,
    having=("argmax", "positive", "MaxPool2d_with_indices"),
)
def integer_results_never_require_grad(subject: Subject, setting: Setting) -> None:
    """Integer and boolean outputs are not recorded, in any mode."""
    output = subject.run(setting).output
    unrecorded(output.only(lambda _, t: not (t.is_floating_point() or t.is_complex())))


@law(source="Tensor.requires_grad; nn.Parameter", norms=("A1",))
def a_tensor_requires_grad_only_if_asked(sample: Sample) -> None:
    """A factory-made tensor does not require grad; an nn.Parameter does."""
    x = sample.tensor()
    holds(x.requires_grad, "x.requires_grad", False)
    holds(torch.empty_like(x).requires_grad, "torch.empty_like(x).requires_grad", False)
    holds(torch.nn.Parameter(x).requires_grad, "torch.nn.Parameter(x).requires_grad")
    frozen = torch.nn.Parameter(x, requires_grad=False)
    holds(frozen.requires_grad, "torch.nn.Parameter(x, requires_grad=False).requires_grad", False)


@law(source="notes/autograd, Setting requires_grad", norms=("A2",))
def a_result_requires_grad_iff_an_input_does(sample: Sample) -> None:
    """In grad mode a result requires grad iff at least one of its inputs does."""
    for left in (False, True):
        for right in (False, True):
            result = sample.tensor(left) + sample.tensor(right)
            holds(result.requires_grad, f"requires_grad of {left} + {right}", left or right)


@law(source="notes/autograd; Tensor.requires_grad_", norms=("A6",))
def a_non_leaf_refuses_to_be_frozen(sample: Sample) -> None:
    """requires_grad=False on a non-leaf raises; True changes nothing."""
    result = sample.tensor(requires_grad=True) * 2
    refuses(lambda: result.requires_grad_(False), RuntimeError, "leaf")
    holds(result.requires_grad_(True) is result, "result.requires_grad_(True) is result")
    holds(result.grad_fn is None, "result.grad_fn is None", False)


@law(source="Tensor.requires_grad_: 'in-place. Returns this tensor'", norms=("A7",))
def requires_grad_returns_the_tensor_itself(sample: Sample) -> None:
    """requires_grad_ works in place and returns the same object."""
    x = sample.tensor()
    holds(x.requires_grad_() is x, "x.requires_grad_() is x")
    holds(x.requires_grad, "x.requires_grad")
    holds(x.requires_grad_(False) is x, "x.requires_grad_(False) is x")
    holds(x.requires_grad, "x.requires_grad after requires_grad_(False)", False)


#: Every type that holds no fractions; older versions lack some.
_WHOLE = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")


@law(source="Tensor.requires_grad_", norms=("A8",))
def integer_tensors_refuse_to_require_grad(sample: Sample) -> None:
    """Only floating-point and complex tensors may require grad; False is always accepted."""
    for name in _WHOLE:
        if not hasattr(torch, name):
            continue
        kind = getattr(torch, name)
        x = sample.tensor().abs().to(kind)
        refuses(x.requires_grad_, RuntimeError, "floating point")
        holds(x.requires_grad, "x.requires_grad after the refusal", False)
        holds(x.requires_grad_(False).requires_grad, "x.requires_grad_(False).requires_grad", False)
        refuses(partial(torch.empty_like, x, requires_grad=True), RuntimeError, "floating point")
        refuses(partial(torch.nn.Parameter, x), RuntimeError, "floating point")
        frozen = torch.nn.Parameter(x, requires_grad=False)
        holds(frozen.requires_grad, "torch.nn.Parameter(x, False).requires_grad", False)


@law(source="notes/autograd, In-place operations", norms=("A25",))
def writing_a_recorded_value_into_a_tensor_records_it(sample: Sample) -> None:
    """A tensor into which a value that requires grad is written requires grad and is no leaf.

    Not under no_grad: there it stays as it was.
    """
    x, target, other = sample.tensor(requires_grad=True), sample.tensor(), sample.tensor()
    target.mul_(x)
    holds(target.requires_grad, "target.requires_grad")
    holds(target.is_leaf, "target.is_leaf", False)
    (gradient,) = torch.autograd.grad(target, x, torch.ones_like(x))
    holds(gradient.shape == x.shape, "whether x receives a gradient of its shape")
    with torch.no_grad():
        other.mul_(x)
    holds(other.requires_grad, "other.requires_grad, written under no_grad", False)
    holds(other.is_leaf, "other.is_leaf, written under no_grad")


@law(source="Tensor.is_leaf, examples", norms=("F2",))
def a_cast_of_a_leaf_is_no_leaf(sample: Sample) -> None:
    """A cast of a requiring leaf is a non-leaf; requires_grad_() after the cast keeps it a leaf."""
    other = torch.complex128 if sample.dtype == "complex64" else torch.float64
    other = torch.float32 if sample.dtype == "float64" else other
    holds(sample.tensor(requires_grad=True).to(other).is_leaf, "x.to(other).is_leaf", False)
    holds(
        sample.tensor().to(other).requires_grad_().is_leaf, "x.to(other).requires_grad_().is_leaf"
    )


@law(source="Tensor.detach", norms=("F3",))
def a_detached_tensor_shares_storage_and_version(sample: Sample) -> None:
    """detach() never requires grad, and shares memory and version counter."""
    x = sample.tensor(requires_grad=True) * 1
    detached = x.detach()
    holds(detached.requires_grad, "detached.requires_grad", False)
    version = x._version
    detached.mul_(2)
    holds(x._version > version, "x._version > version after detached.mul_(2)")
    if sample.device != "meta":
        holds(detached.data_ptr() == x.data_ptr(), "detached.data_ptr() == x.data_ptr()")


@law(source="Tensor.detach: 'detached from the current graph'", norms=("F4",))
def detaching_holds_a_branch_constant(sample: Sample) -> None:
    """Gradients are those with the detached branch held constant."""
    x = sample.tensor(requires_grad=True)
    (cut,) = torch.autograd.grad(x * x.detach(), x, torch.ones_like(x))
    (constant,) = torch.autograd.grad(x * sample.tensor(), x, torch.ones_like(x))
    sample.needs_values()
    equal(cut, constant, "the gradient of x * x.detach()")


@law(source="Tensor.detach_: 'Views cannot be detached in-place'", norms=("F5",))
def detaching_in_place_makes_a_leaf(sample: Sample) -> None:
    """detach_ makes a leaf that does not require grad; on a view it raises."""
    result = sample.tensor(requires_grad=True) * 2
    holds(result.detach_() is result, "result.detach_() is result")
    holds(result.is_leaf, "result.is_leaf")
    holds(result.requires_grad, "result.requires_grad", False)
    view = (sample.tensor(requires_grad=True) * 2).view(-1)
    refuses(lambda: view.detach_(), RuntimeError, "view")


@law(source="Tensor.retain_grad", norms=("F6",))
def retain_grad_keeps_the_gradient_of_a_non_leaf(sample: Sample) -> None:
    """retain_grad fills .grad of a non-leaf, and raises where nothing is recorded."""
    x = sample.tensor(requires_grad=True)
    middle = x * 2
    middle.retain_grad()
    x.retain_grad()
    (middle * 2).backward(torch.ones_like(x))
    holds(middle.grad is None, "middle.grad is None", False)
    with torch.no_grad():
        unrecorded_result = x * 2
    refuses(lambda: unrecorded_result.retain_grad(), RuntimeError, "requires_grad=False")


@law(source="Tensor.is_leaf; Tensor.grad", norms=("F7",))
def reading_the_gradient_of_a_non_leaf_warns(sample: Sample) -> None:
    """.grad of a non-leaf without retain_grad warns, and is None."""
    middle = sample.tensor(requires_grad=True) * 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gradient = middle.grad
    holds(gradient is None, "middle.grad is None")
    holds([w.category for w in caught], "the warnings", [UserWarning])


@law(source="Tensor.register_hook", norms=("F8",))
def hooks_refuse_tensors_that_do_not_require_grad(sample: Sample) -> None:
    """register_hook on a tensor that does not require grad raises."""
    x = sample.tensor()
    refuses(lambda: x.register_hook(print), RuntimeError, "require")


@law(source="Tensor.register_post_accumulate_grad_hook", norms=("F8", "B23"), since="2.1")
def post_accumulate_hooks_are_for_leaves(sample: Sample) -> None:
    """Non-leaves refuse these hooks; on a leaf they run with grad mode off, when .grad is there."""
    x, seen = sample.tensor(requires_grad=True), []
    middle = x * 2
    refuses(lambda: middle.register_post_accumulate_grad_hook(print), RuntimeError, "leaf")
    x.register_post_accumulate_grad_hook(
        lambda leaf: seen.append((torch.is_grad_enabled(), leaf is x, leaf.grad is not None))
    )
    middle.backward(torch.ones_like(x))
    holds(seen, "torch.is_grad_enabled(), leaf is x, leaf.grad is not None", [(False, True, True)])


@law(source="Tensor.register_hook: 'every time a gradient is computed'", norms=("F9",))
def a_hook_sleeps_while_its_leaf_is_frozen(sample: Sample) -> None:
    """A hook does not fire for graphs built while its leaf was frozen, and fires again after."""
    x, other = sample.tensor(requires_grad=True), sample.tensor(requires_grad=True)
    fired: list[int] = []
    x.register_hook(lambda gradient: fired.append(len(fired)))
    x.requires_grad_(False)
    (x * other).backward(torch.ones_like(x))
    holds(len(fired), "hooks fired while frozen", 0)
    x.requires_grad_(True)
    (x * other).backward(torch.ones_like(x))
    holds(len(fired), "hooks fired after unfreezing", 1)


@law(source="Tensor.__deepcopy__", norms=("F10",))
def a_non_leaf_refuses_to_be_deep_copied(sample: Sample) -> None:
    """Only leaves can be deep-copied; they keep requires_grad."""
    x = sample.tensor(requires_grad=True)
    refuses(lambda: copy.deepcopy(x * 2), RuntimeError, "created explicitly by the user")
    holds(copy.deepcopy(x).requires_grad, "copy.deepcopy(x).requires_grad")
    holds(copy.deepcopy(x).is_leaf, "copy.deepcopy(x).is_leaf")


@law(source="Tensor.__deepcopy__", norms=("F10",))
def a_deep_copy_of_a_leaf_keeps_its_gradient(sample: Sample) -> None:
    """A deep copy of a leaf has its .grad, as a tensor of its own."""
    sample.needs_values()
    x = sample.tensor(requires_grad=True)
    (x * 2).backward(torch.ones_like(x))
    twin = copy.deepcopy(x)
    equal(twin.grad, x.grad, "copy.deepcopy(x).grad")
    holds(twin.grad is x.grad, "copy.deepcopy(x).grad is x.grad", False)


@law(source="Tensor.new_tensor: 'leaf'", norms=("F11",))
def new_tensor_makes_a_leaf(sample: Sample) -> None:
    """new_tensor(x) is a leaf with memory of its own that does not require grad."""
    x = sample.tensor(requires_grad=True)
    made = x.new_tensor(x)
    holds(made.is_leaf, "x.new_tensor(x).is_leaf")
    holds(made.requires_grad, "x.new_tensor(x).requires_grad", False)
    if sample.device != "meta":
        holds(made.data_ptr() == x.data_ptr(), "the copy shares the memory of x", False)


@law(source="notes/autograd, In-place operations", norms=("B24",))
def a_view_taken_in_grad_mode_stays_tracked(sample: Sample) -> None:
    """A view taken in grad mode may be written into there, and its base is recorded with it."""
    x = sample.tensor(requires_grad=True) * 1
    view = x.view(-1)
    before = x.grad_fn
    view.mul_(2)
    holds(view.requires_grad, "view.requires_grad")
    holds(x.grad_fn is before, "x.grad_fn is what it was before view.mul_(2)", False)


@law(source="Tensor.data", norms=("F11",))
def data_is_an_untracked_alias(sample: Sample) -> None:
    """.data does not require grad, and changing it in place does not move the version counter."""
    x = sample.tensor(requires_grad=True)
    version = x._version
    x.data.mul_(2)
    holds(x.data.requires_grad, "x.data.requires_grad", False)
    holds(x._version, "x._version after x.data.mul_(2)", version)


@law(source="torch.clone; Tensor.contiguous; Tensor.to", norms=("F12",))
def a_copy_is_differentiable(sample: Sample) -> None:
    """clone() and to(copy=True) carry requires_grad in grad mode, and drop it in no_grad."""
    x = sample.tensor(requires_grad=True)
    holds(x.clone().requires_grad, "x.clone().requires_grad")
    holds(x.to(x.dtype, copy=True).requires_grad, "x.to(x.dtype, copy=True).requires_grad")
    with torch.no_grad():
        holds(x.clone().requires_grad, "x.clone().requires_grad under no_grad", False)
        copied = x.to(x.dtype, copy=True)
    holds(copied.requires_grad, "x.to(x.dtype, copy=True).requires_grad under no_grad", False)


@law(source="torch.no_grad; Tensor.contiguous; Tensor.to", norms=("F13",))
def an_operation_without_work_returns_its_input_itself(sample: Sample) -> None:
    """contiguous() and to() with nothing to do hand on the very tensor, under no_grad as well."""
    x = sample.tensor(requires_grad=True)
    with torch.no_grad():
        holds(x.contiguous() is x, "x.contiguous() is x")
        holds(x.to(x.dtype) is x, "x.to(x.dtype) is x")
        holds(x.contiguous().requires_grad, "x.contiguous().requires_grad under no_grad")
