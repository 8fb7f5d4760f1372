"""Inference mode: no-grad mode without the bookkeeping, for tensors that stay out of autograd."""

from __future__ import annotations

import copy

import torch

from ..law import law
from ..preconditions import a_parameter_receives_a_gradient, it_is_recorded_in_grad_mode
from ..relations import absent, agree, every, holds, refuses, unrecorded
from ..sample import Sample
from ..setting import (
    INFERENCE,
    NO_GRAD,
    Setting,
    all_of,
    in_inference_mode,
    no_input_requires_grad,
    plain_grad,
    training,
    unfrozen,
)
from ..subject import Subject
from ..traits import BUFFERED, PARAMETRIC


@law(
    source="torch.inference_mode; C++ notes on inference mode",
    norms=("C2",),
    when=in_inference_mode,
    given=it_is_recorded_in_grad_mode,
    everywhere=True,
)
def inference_mode_records_nothing(subject: Subject, setting: Setting) -> None:
    """Inference tensors that a module computes do not require grad and have no grad_fn."""
    unrecorded(subject.run(setting).output)


@law(
    source="notes/autograd, Inference Mode: 'Just like in no-grad mode'",
    norms=("C23", "B7", "B8"),
    when=plain_grad,
    everywhere=True,
)
def inference_mode_acts_as_no_grad(subject: Subject, setting: Setting) -> None:
    """Values, state and randomness are the same under inference_mode as under no_grad."""
    inference = subject.run(setting.but(grad=INFERENCE))
    no_grad = subject.run(setting.but(grad=NO_GRAD))
    agree(inference.output, no_grad.output)
    agree(inference.state, no_grad.state)
    agree(inference.randomness, no_grad.randomness)


@law(
    source="torch.inference_mode, warning on eval()",
    norms=("C13", "D8"),
    when=in_inference_mode,
    everywhere=True,
)
def inference_mode_changes_no_training_flag(subject: Subject, setting: Setting) -> None:
    """inference_mode does not put a module into evaluation mode."""
    agree(subject.run(setting).flags, subject.run(setting.but(grad=())).flags)


@law(
    source="C++ notes on inference mode; nn.BatchNorm1d",
    norms=("C14",),
    when=all_of(in_inference_mode, training),
    having=BUFFERED,
)
def buffers_moved_in_inference_mode_stay_normal(subject: Subject, setting: Setting) -> None:
    """Statistics updated under inference_mode remain normal tensors, fit for later training."""
    run = subject.run(setting, after="pass")
    every(
        run.evaluate(*(f"model.get_buffer({n!r}).is_inference()" for n in subject.buffers)), False
    )


@law(
    source="C++ notes on inference mode",
    norms=("C16",),
    when=all_of(plain_grad, training, unfrozen),
    having=PARAMETRIC,
)
def a_module_built_in_inference_mode_has_inference_parameters(
    subject: Subject, setting: Setting
) -> None:
    """Parameters made under inference_mode are inference tensors; a state_dict copy is normal."""
    built = "with torch.inference_mode():\n    other, _ = build()\n"
    run = subject.backward(setting, prepare=f"{built}model.load_state_dict(other.state_dict())")
    names = subject.specimen.recipe.parameters()
    every(run.evaluate(*(f"other.get_parameter({n!r}).is_inference()" for n in names)), True)
    every(run.evaluate(*(f"model.get_parameter({n!r}).is_inference()" for n in names)), False)
    agree(run.gradients, subject.backward(setting).gradients)


@law(
    source="C++ notes on inference mode: the rule of allocation",
    norms=("C20",),
    when=all_of(plain_grad, training, unfrozen),
    having=PARAMETRIC,
)
def a_copy_made_in_inference_mode_has_inference_parameters(
    subject: Subject, setting: Setting
) -> None:
    """deepcopy under inference_mode gives inference tensors; the original stays trainable."""
    prepare = "with torch.inference_mode():\n    twin = copy.deepcopy(model)"
    run = subject.backward(setting, prepare=prepare)
    names = subject.specimen.recipe.parameters()
    every(run.evaluate(*(f"twin.get_parameter({n!r}).is_inference()" for n in names)), True)
    agree(run.gradients, subject.backward(setting).gradients)


@law(
    source="C++ notes on inference mode, in-place operations on normal tensors",
    norms=("C18",),
    when=plain_grad,
)
def writing_state_in_inference_mode_keeps_it_trainable(subject: Subject, setting: Setting) -> None:
    """load_state_dict and requires_grad_ under inference_mode leave normal leaves behind."""
    keep = "flags = [p.requires_grad for p in model.parameters()]\n"
    within = "with torch.inference_mode():\n    model.load_state_dict(copy.deepcopy(model.state_dict()))\n"
    again = "    for p, flag in zip(model.parameters(), flags): p.requires_grad_(flag)"
    run = subject.backward(setting, prepare=keep + within + again)
    agree(run.requires_grad, subject.backward(setting).requires_grad)
    agree(run.gradients, subject.backward(setting).gradients)


@law(
    source="torch.inference_mode; notes/autograd, Inference Mode",
    norms=("C8",),
    when=all_of(plain_grad, unfrozen, no_input_requires_grad),
    having=PARAMETRIC,
)
def a_frozen_module_takes_inference_tensors(subject: Subject, setting: Setting) -> None:
    """Where nothing requires grad, nothing is saved for backward: inference tensors are welcome."""
    frozen = setting.but(frozen=subject.parameters)
    made = "with torch.inference_mode():\n    x = [t.clone() for t in x]"
    run = subject.run(frozen, prepare=made)
    agree(run.output, subject.run(frozen).output)
    absent(run.gradients)


@law(source="torch.Tensor.is_inference; C++ notes on inference mode", norms=("C1",))
def a_tensor_allocated_in_inference_mode_is_an_inference_tensor(sample: Sample) -> None:
    """A tensor that is no view is an inference tensor iff it was allocated in inference mode."""
    outside = sample.tensor()
    with torch.inference_mode():
        inside = sample.tensor()
        result = outside * 2
    holds(outside.is_inference(), "outside.is_inference()", False)
    holds(inside.is_inference(), "inside.is_inference()")
    holds(result.is_inference(), "result.is_inference()")
    holds((outside * 2).is_inference(), "(outside * 2).is_inference()", False)


@law(source="C++ notes on inference mode, view operations", norms=("C1", "C3", "C21"))
def a_view_is_an_inference_tensor_iff_its_base_is(sample: Sample) -> None:
    """In inference mode a view of a normal tensor is normal, and keeps requires_grad."""
    x = sample.tensor(requires_grad=True)
    with torch.inference_mode():
        view, detached, inner = x.view(-1), x.detach(), sample.tensor().view(-1)
    holds(view.is_inference(), "view.is_inference()", False)
    holds(view.requires_grad, "view.requires_grad")
    holds(view.grad_fn is None, "view.grad_fn is None")
    holds(detached.is_inference(), "detached.is_inference()", False)
    holds(detached.requires_grad, "detached.requires_grad", False)
    holds(detached.data_ptr() == x.data_ptr(), "detached.data_ptr() == x.data_ptr()")
    holds(inner.is_inference(), "inner.is_inference()")


@law(
    source="torch.inference_mode: 'disables view tracking and version counter bumps'", norms=("C4",)
)
def an_inference_tensor_has_no_version_counter(sample: Sample) -> None:
    """Inference tensors do not track versions: reading the counter is refused."""
    with torch.inference_mode():
        inside = sample.tensor()
    refuses(lambda: inside._version, RuntimeError, "version counter")


@law(source="C++ notes on inference mode, in-place operations", norms=("C5",))
def an_inference_tensor_refuses_writing_outside(sample: Sample) -> None:
    """Inference tensors may be changed in place inside inference mode, and not outside."""
    with torch.inference_mode():
        inside = sample.tensor()
        inside.mul_(2)
    refuses(lambda: inside.mul_(2), RuntimeError, "Inplace update to inference tensor")


@law(source="C++ notes on inference mode", norms=("C6",))
def an_inference_tensor_refuses_to_require_grad_outside(sample: Sample) -> None:
    """requires_grad_() on an inference tensor raises outside inference mode."""
    with torch.inference_mode():
        inside = sample.tensor()
    refuses(lambda: inside.requires_grad_(), RuntimeError, "inference tensor")


@law(source="torch.inference_mode; notes/autograd, Inference Mode", norms=("C7",))
def an_inference_tensor_refuses_to_be_saved_for_backward(sample: Sample) -> None:
    """Outside, an inference tensor cannot be saved for backward; where nothing is, it serves."""
    x = sample.tensor(requires_grad=True)
    with torch.inference_mode():
        inside = sample.tensor()
    refuses(lambda: x * inside, RuntimeError, "saved for backward")
    holds((x + inside).requires_grad, "(x + inside).requires_grad")


@law(source="C++ notes on inference mode; torch.inference_mode", norms=("C8", "C16", "C20"))
def modules_refuse_to_save_inference_tensors(sample: Sample) -> None:
    """A module made or copied in inference mode, or fed from it, raises where it must be trained."""
    x = sample.tensor(requires_grad=True)
    module = torch.nn.Linear(x.shape[-1], 2, dtype=x.dtype, device=x.device)
    with torch.inference_mode():
        made = torch.nn.Linear(x.shape[-1], 2, dtype=x.dtype, device=x.device)
        twin, inside = copy.deepcopy(module), sample.tensor()
    refuses(lambda: made(x), RuntimeError, "saved for backward")
    refuses(lambda: twin(x), RuntimeError, "saved for backward")
    refuses(lambda: module(inside), RuntimeError, "saved for backward")
    module.requires_grad_(False)
    holds(module(inside).requires_grad, "frozen(inside).requires_grad", False)


@law(
    source="C++ notes on inference mode, in-place operations on normal tensors",
    norms=("C18",),
    when=all_of(plain_grad, unfrozen),
    given=a_parameter_receives_a_gradient,
    having=PARAMETRIC,
)
def a_step_in_inference_mode_keeps_parameters_trainable(subject: Subject, setting: Setting) -> None:
    """Optimizer.step under inference_mode leaves normal leaves that require grad."""
    step = "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    step += "with torch.inference_mode(): optimizer.step()"
    run = subject.backward(setting, after=step)
    every(run.items("[p.is_inference() for p in model.parameters()]"), False)
    every(run.items("[p.requires_grad and p.is_leaf for p in model.parameters()]"), True)


@law(source="C++ notes on inference mode: clone() is the way back", norms=("C9",))
def a_clone_of_an_inference_tensor_is_normal(sample: Sample) -> None:
    """clone() outside inference mode gives a normal tensor, usable everywhere."""
    x = sample.tensor(requires_grad=True)
    with torch.inference_mode():
        inside = sample.tensor()
    clone = inside.clone()
    holds(clone.is_inference(), "clone.is_inference()", False)
    holds((x * clone).requires_grad, "(x * clone).requires_grad")
    clone.requires_grad_()
    holds((clone * 2).requires_grad, "(clone * 2).requires_grad")


@law(source="torch.inference_mode, mode; C++ notes, nesting", norms=("C10", "B9"))
def inference_mode_false_restores_normal_behaviour(sample: Sample) -> None:
    """inference_mode(False) inside inference_mode(): tensors are normal and recording works."""
    x = sample.tensor(requires_grad=True)
    with torch.inference_mode():
        with torch.inference_mode(False):
            made = sample.tensor()
            result = x * 2
        after = x * 2
    holds(made.is_inference(), "made.is_inference()", False)
    holds(result.requires_grad, "result.requires_grad")
    holds(after.is_inference(), "after.is_inference()")


@law(source="torch.inference_mode; torch.is_grad_enabled", norms=("C12",))
def inference_mode_reports_grad_disabled(sample: Sample) -> None:
    """is_grad_enabled() is False in inference mode, and both flags return on leaving it."""
    x = sample.tensor(requires_grad=True)
    with torch.inference_mode():
        inside = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    outside = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    holds(inside, "is_grad_enabled(), is_inference_mode_enabled() inside", (False, True))
    holds(outside, "is_grad_enabled(), is_inference_mode_enabled() outside", (True, False))
    holds((x * 2).requires_grad, "(x * 2).requires_grad")


@law(source="torch.no_grad on factory functions; nn.Parameter", norms=("C15",))
def a_factory_honours_requires_grad_in_inference_mode(sample: Sample) -> None:
    """Factories with requires_grad=True give inference tensors that require grad, as Parameters do."""
    x = sample.tensor()
    with torch.inference_mode():
        made = torch.empty_like(x, requires_grad=True)
        parameter = torch.nn.Parameter(sample.tensor())
    holds((made.requires_grad, made.is_inference()), "requires_grad, is_inference()", (True, True))
    holds(parameter.requires_grad, "parameter.requires_grad")
    holds(parameter.is_inference(), "parameter.is_inference()")


@law(
    source="C++ notes on inference mode, in-place operations on normal tensors",
    norms=("C17", "C22"),
)
def writing_in_inference_mode_keeps_a_normal_tensor_normal(sample: Sample) -> None:
    """A normal tensor changed in place inside stays normal, and its version counter moves."""
    x = sample.tensor(requires_grad=True)
    normal = x.clone()
    version = normal._version
    with torch.inference_mode():
        normal.mul_(2)
    holds(normal.is_inference(), "normal.is_inference()", False)
    holds(normal._version > version, "normal._version > version")
    normal.mul_(2)
    holds(normal.requires_grad, "normal.requires_grad")
    holds(normal.view(-1).is_inference(), "normal.view(-1).is_inference()", False)


@law(
    source="torch.enable_grad: 'if it has been disabled via no_grad or set_grad_enabled'",
    norms=("B29", "B30"),
)
def enable_grad_does_not_undo_inference_mode(sample: Sample) -> None:
    """Inside inference_mode, enable_grad records nothing and results are inference tensors."""
    x = sample.tensor(requires_grad=True)
    with torch.inference_mode(), torch.enable_grad():
        result = x * 2
    holds(result.requires_grad, "result.requires_grad", False)
    holds(result.is_inference(), "result.is_inference()")


@law(source="torch.inference_mode, note on forward-mode AD", norms=("B20",))
def inference_mode_disables_forward_mode_ad(sample: Sample) -> None:
    """Dual tensors lose their tangents inside inference_mode."""
    x = sample.tensor()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with torch.inference_mode():
            tangent = torch.autograd.forward_ad.unpack_dual(dual * 2).tangent
        holds(tangent is None, "the tangent of dual * 2 is None")
