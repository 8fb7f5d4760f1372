"""Gradients: where backward puts them, and what leaves them alone."""

from __future__ import annotations

import copy
from math import isfinite
from typing import Final

import torch

from ..law import OutOfScope, law
from ..preconditions import an_output_requires_grad, something_requires_grad
from ..relations import absent, agree, agree_with, allows, equal, every, holds, refuses
from ..sample import Sample
from ..setting import Setting, all_of, grad_enabled, partly_frozen, plain_grad
from ..specimen import BACKWARD, DEFAULT_MODE
from ..subject import Subject


@law(
    source="Tensor.grad: 'None by default'",
    norms=("A19",),
    given=something_requires_grad,
    everywhere=True,
)
def gradients_are_none_before_backward(subject: Subject, setting: Setting) -> None:
    """Forward alone leaves every .grad None."""
    absent(subject.run(setting).gradients)


@law(
    source="Tensor.grad; Tensor.backward: 'accumulates gradients in the leaves'",
    norms=("A19",),
    when=grad_enabled,
    given=an_output_requires_grad,
)
def gradients_accumulate(subject: Subject, setting: Setting) -> None:
    """Two backwards leave the sum of two gradients: twice the one."""
    twice = f"{BACKWARD[:-1]}, retain_graph=True)\n{BACKWARD}"
    halve = "for t in [*model.parameters(), *x]:\n    if t.grad is not None: t.grad.mul_(0.5)"
    agree(
        subject.backward(setting, twice, after=halve).gradients, subject.backward(setting).gradients
    )


@law(
    source="torch.autograd.grad",
    norms=("A20",),
    when=grad_enabled,
    given=an_output_requires_grad,
)
def autograd_grad_touches_no_grad_field(subject: Subject, setting: Setting) -> None:
    """autograd.grad returns the gradients that backward accumulates, and leaves .grad None."""
    call = "leaves = [t for t in [*model.parameters(), *x] if t.requires_grad]\nfound = []\n"
    call += "roots = [o for o in out if o.grad_fn is not None or any(o is t for t in x)]\n"
    call += "roots = [o for o in roots if o.requires_grad]\n"
    call += "if roots and leaves:\n    found = torch.autograd.grad(roots, leaves, "
    call += "[weights(o) for o in roots], allow_unused=True)\n"
    call += "untouched = [leaf.grad is None for leaf in leaves]"
    put = "for leaf, gradient in zip(leaves, found): leaf.grad = gradient"
    run = subject.backward(setting, call, after=put)
    every(run.items("untouched"), True)
    agree(run.gradients, subject.backward(setting).gradients)


@law(
    source="notes/autograd, How autograd encodes the history",
    norms=("A14",),
    when=plain_grad,
    given=an_output_requires_grad,
)
def the_graph_ends_in_the_leaves_that_receive_a_gradient(
    subject: Subject, setting: Setting
) -> None:
    """The leaves at the ends of the graph of the outputs are those that backward reaches."""
    walk = "todo = [o.grad_fn for o in out if o.grad_fn is not None]\n"
    walk += "ends = {id(t) for t in x if t.requires_grad and any(t is o for o in out)}\n"
    walk += "seen = set(todo)\nwhile todo:\n    node = todo.pop()\n"
    walk += "    if hasattr(node, 'variable'): ends.add(id(node.variable))\n"
    walk += "    new = {n for n, _ in node.next_functions if n is not None} - seen\n"
    walk += "    seen |= new\n    todo += new\n"
    walk += "others = ends - {id(t) for t in [*model.parameters(), *x]}\n"
    # Both are found in one run: a gradient that is missing is missing in the script as well.
    parameters = "[(id(p) in ends) == (p.grad is not None) for p in model.parameters()]"
    inputs = "[(id(t) in ends) == (t.grad is not None) for t in x]"
    run = subject.backward(setting, between=walk)
    every(run.items(parameters, inputs), True)
    every(run.evaluate("len(others)"), 0)


@law(source="Module.parameters; Tensor.grad", norms=("A26",))
def a_tied_parameter_is_one_parameter(sample: Sample) -> None:
    """A parameter with two owners gets the sum of both uses' gradients, and has one flag."""
    sample.needs_values()
    x = sample.tensor()
    width = x.shape[-1]
    first = torch.nn.Linear(width, width, bias=False, dtype=x.dtype, device=x.device)
    one, two = copy.deepcopy(first), copy.deepcopy(first)
    second = copy.deepcopy(first)
    second.weight = first.weight
    second(first(x)).sum().abs().backward()
    two(one(x)).sum().abs().backward()
    equal(first.weight.grad, one.weight.grad + two.weight.grad, "the gradient of a tied weight")
    second.requires_grad_(False)
    holds(first.weight.requires_grad, "first.weight.requires_grad, frozen as the second's", False)


@law(
    source="Tensor.backward, inputs",
    norms=("A22",),
    when=all_of(plain_grad, partly_frozen),
    given=something_requires_grad,
)
def backward_to_a_subset_acts_as_freezing_the_rest(subject: Subject, setting: Setting) -> None:
    """backward(inputs=...) gives those leaves the same gradients as freezing all others would."""
    wanted = [f"model.get_parameter({n!r})" for n in subject.parameters if n not in setting.frozen]
    wanted += [f"x[{i}]" for i in setting.inputs]
    asked = f"differentiate(out, inputs=[{', '.join(wanted)}])"
    some = subject.backward(setting.but(frozen=()), asked)
    agree(some.gradients, subject.backward(setting).gradients)


@law(
    source="notes/autograd: backward accumulates gradients, and nothing else",
    when=grad_enabled,
    given=an_output_requires_grad,
    everywhere=True,
)
def backward_changes_no_flag(subject: Subject, setting: Setting) -> None:
    """Backward leaves training flags, requires_grad and the grad mode as they are."""
    backward, forward = subject.backward(setting), subject.run(setting)
    agree(backward.flags, forward.flags)
    agree(backward.requires_grad, forward.requires_grad)
    agree_with(backward.mode, DEFAULT_MODE)


#: What keeps a gradient from being the slope.
_CUT: Final = ("detach", "no_grad")
_SLOPES: Final = """\
drawn, leaves = torch.get_rng_state(), [t for t in [*model.parameters(), *x] if t.requires_grad]
moved = {b: b.clone() for b in model.buffers()}
def loss():
    torch.set_rng_state(drawn)
    with torch.no_grad():
        for b, value in moved.items(): b.copy_(value)
    out = model(*x)
    out = out if isinstance(out, tuple) else (out,)
    return sum((o * weights(o)).sum() for o in out if o.is_floating_point())
def beside(step):
    with torch.no_grad():
        for t, d in zip(leaves, directions): t.add_(d, alpha=step)
    value = loss().item()
    with torch.no_grad():
        for t, d in zip(leaves, directions): t.sub_(d, alpha=step)
    return value
directions = [torch.cos(torch.arange(t.numel(), dtype=t.dtype) + 2).reshape(t.shape) for t in leaves]
found = torch.autograd.grad(loss(), leaves, allow_unused=True)
slope = sum((g * d).sum().item() for g, d in zip(found, directions) if g is not None)
steps = (1e-5, 1e-6, 1e-7)
differences = [(beside(h) - beside(-h)) / (2 * h) for h in steps]
"""


@law(
    source="notes/autograd, Gradients for non-differentiable functions: 'if the function is differentiable'",
    when=plain_grad,
    given=an_output_requires_grad,
    without=(
        *_CUT,
        "spectral_norm",
        "Linear_spectral_norm",
        "Embedding",
        "EmbeddingBag",
        "GaussianNLLLoss",
    ),
)
def gradients_are_slopes(subject: Subject, setting: Setting) -> None:
    """Gradients are the slope of the loss, as central differences in float64 measure it.

    An absolute check: a fault of every gradient alike is seen here. One of three steps has to
    agree, since a kink may lie within the others. Out of scope are modules that cut the graph
    (their gradient is not a slope by design), the power iteration of spectral_norm, which
    counts as constant, embeddings, which may scale gradients or leave rows out, and the Gaussian
    loss, which clamps the variance and differentiates as if it did not.
    """
    wide = subject.in_float64()
    wide.backward(setting)  # where it is refused there is no gradient, and another law says so
    run = wide.run(setting, after=_SLOPES)
    if not all(map(isfinite, run.scope["differences"])):
        raise OutOfScope("the loss is not finite: there is no slope to measure")
    every(run.evaluate("min(abs(slope - d) for d in differences) <= 1e-3 * (1 + abs(slope))"), True)


@law(source="Module.register_forward_hook", norms=("K13",), when=plain_grad)
def hooks_that_return_none_change_nothing(subject: Subject, setting: Setting) -> None:
    """Forward hooks that return None change neither outputs nor gradients nor recording."""
    attach = "for m in model.modules():\n    m.register_forward_hook(lambda *_: None)\n"
    attach += "    m.register_forward_pre_hook(lambda *_: None)"
    hooked, plain = subject.backward(setting, prepare=attach), subject.backward(setting)
    agree(hooked.output, plain.output)
    agree(hooked.recording, plain.recording)
    agree(hooked.gradients, plain.gradients)


@law(
    source="torch.utils.checkpoint.checkpoint",
    norms=("K1", "K7"),
    when=plain_grad,
    having=("checkpoint",),
)
def checkpointing_changes_no_gradient(subject: Subject, setting: Setting) -> None:
    """A block that is checkpointed gives the outputs, randomness and gradients of a plain call."""
    checkpointed, plain = subject.backward(setting), subject.unchecked().backward(setting)
    agree(checkpointed.output, plain.output)
    agree(checkpointed.randomness, plain.randomness)
    agree(checkpointed.gradients, plain.gradients)


@law(source="torch.autograd.grad, allow_unused, materialize_grads", norms=("A21",))
def autograd_grad_refuses_what_does_not_require_grad(sample: Sample) -> None:
    """autograd.grad refuses frozen tensors, and unused ones unless allow_unused=True."""
    x, frozen = sample.tensor(requires_grad=True), sample.tensor()
    unused = sample.tensor(requires_grad=True)
    loss = (x * frozen).sum().abs()
    refuses(
        lambda: torch.autograd.grad(loss, frozen, retain_graph=True), RuntimeError, "require grad"
    )
    refuses(lambda: torch.autograd.grad(loss, unused, retain_graph=True), RuntimeError, "unused")
    (nothing,) = torch.autograd.grad(loss, unused, retain_graph=True, allow_unused=True)
    holds(nothing is None, "torch.autograd.grad(loss, unused, allow_unused=True)[0] is None")


@law(source="torch.autograd.grad, materialize_grads", norms=("A21",), since="2.1")
def materialised_gradients_are_zero(sample: Sample) -> None:
    """materialize_grads=True gives zeros for a tensor that the output does not depend on."""
    sample.needs_values()
    x, unused = sample.tensor(requires_grad=True), sample.tensor(requires_grad=True)
    (zero,) = torch.autograd.grad(x.sum().abs(), unused, materialize_grads=True)
    equal(zero, torch.zeros_like(unused), "the materialised gradient of an unused tensor")


@law(source="Tensor.backward, retain_graph", norms=("A23",))
def a_second_backward_is_refused(sample: Sample) -> None:
    """A second backward through a freed graph raises, unless retain_graph=True."""
    x = sample.tensor(requires_grad=True)
    kept, freed = (x * x).sum().abs(), (x * x).sum().abs()
    kept.backward(retain_graph=True)
    allows(lambda: kept.backward(), "a second backward through a retained graph")
    freed.backward()
    refuses(lambda: freed.backward(), RuntimeError, "second time")


@law(source="notes/autograd, In-place correctness checks", norms=("A27",))
def a_saved_tensor_that_was_written_into_is_refused(sample: Sample) -> None:
    """backward raises where a saved tensor was changed in place, in modes that record nothing too."""
    x = sample.tensor(requires_grad=True)
    for mode in (torch.no_grad(), torch.inference_mode()):
        weight = sample.tensor(requires_grad=True)
        loss = (x * weight).sum().abs()
        with mode:
            weight.mul_(2)
        refuses(loss.backward, RuntimeError, "modified by an inplace operation")


@law(source="notes/autograd, Saved tensors", norms=("A28",))
def writing_into_what_is_not_saved_is_harmless(sample: Sample) -> None:
    """A parameter that no trainable path needs may change between forward and backward."""
    x, weight = sample.tensor(), sample.tensor(requires_grad=True)
    loss = (x * weight).sum().abs()
    with torch.no_grad():
        weight.mul_(2)
    allows(loss.backward, "loss.backward()")
    holds(weight.grad is None, "weight.grad is None", False)


@law(source="nn.Dropout; notes/autograd, non-differentiable functions", norms=("A29", "H2", "H6"))
def the_gradient_of_dropout_is_its_mask(sample: Sample) -> None:
    """Masks are constants for autograd: where an element was zeroed, so is its gradient."""
    sample.needs_values()
    x = torch.ones_like(sample.tensor()).requires_grad_()
    torch.manual_seed(0)
    output = torch.nn.functional.dropout(x, 0.5, training=True)
    (gradient,) = torch.autograd.grad(output, x, torch.ones_like(x))
    kept = output != 0
    equal(output.detach(), kept * torch.full_like(output.detach(), 2), "F.dropout(ones, 0.5)")
    equal(gradient, kept * torch.full_like(gradient, 2), "the gradient of F.dropout(x, 0.5)")
