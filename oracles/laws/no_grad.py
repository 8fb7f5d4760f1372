"""No-grad mode: the same values, and no record of how they came about."""

from __future__ import annotations

import torch

from ..law import law
from ..preconditions import an_output_requires_grad, it_is_recorded_in_grad_mode
from ..relations import agree, allows, holds, refuses, unrecorded
from ..sample import Sample
from ..setting import Setting, all_of, grad_disabled, grad_enabled, plain_grad, training, unfrozen
from ..specimen import BACKWARD
from ..subject import Subject


@law(
    source="torch.no_grad",
    norms=("B1", "F14"),
    when=grad_disabled,
    given=it_is_recorded_in_grad_mode,
    without=("enable_grad",),
    everywhere=True,
)
def disabling_grad_records_nothing(subject: Subject, setting: Setting) -> None:
    """In this mode, the result of every computation has requires_grad=False."""
    unrecorded(subject.run(setting).output)


@law(
    source="notes/autograd, No-grad Mode: 'behave as if none of the inputs require grad'",
    norms=("B6",),
    when=grad_disabled,
    without=("enable_grad",),
    everywhere=True,
)
def no_grad_acts_as_if_nothing_required_grad(subject: Subject, setting: Setting) -> None:
    """Under no_grad, parameters and inputs that require grad act as if they did not."""
    run = subject.run(setting)
    other = subject.run(
        setting.but(grad=(), frozen=subject.specimen.recipe.parameters(), inputs=())
    )
    agree(run.output, other.output)
    agree(run.recording, other.recording)
    agree(run.state, other.state)
    agree(run.randomness, other.randomness)


@law(
    source="torch.no_grad; nn.Parameter", norms=("B3",), when=all_of(plain_grad, training, unfrozen)
)
def a_module_built_under_no_grad_is_trainable(subject: Subject, setting: Setting) -> None:
    """A module constructed under no_grad is as trainable as one built outside."""
    asked = "\n".join(f"x[{i}].requires_grad_()" for i in setting.inputs)
    prepare = f"with torch.no_grad():\n    model, x = build()\n{asked}"
    run = subject.backward(setting, prepare=prepare)
    agree(run.requires_grad, subject.backward(setting).requires_grad)
    agree(run.gradients, subject.backward(setting).gradients)


@law(
    source="notes/autograd, Locally disabling gradient computation",
    norms=("B21",),
    when=grad_enabled,
    given=an_output_requires_grad,
)
def backward_runs_under_no_grad(subject: Subject, setting: Setting) -> None:
    """A graph built in grad mode gives the same gradients when backward is called in no_grad."""
    under = subject.backward(setting, f"with torch.no_grad():\n    {BACKWARD}")
    agree(under.gradients, subject.backward(setting).gradients)


@law(
    source="Tensor.backward, create_graph",
    norms=("B22",),
    when=all_of(plain_grad, unfrozen),
    everywhere=True,
)
def gradients_do_not_require_grad_themselves(subject: Subject, setting: Setting) -> None:
    """What backward stores in .grad does not require grad, unless create_graph=True."""
    gradients = subject.backward(setting).gradients
    unrecorded(gradients.only(lambda expression, gradient: gradient is not None))


@law(source="torch.no_grad: 'all factory functions' are the exception", norms=("B2",))
def a_factory_honours_requires_grad_under_no_grad(sample: Sample) -> None:
    """Factory functions that take requires_grad are not affected by no_grad."""
    x = sample.tensor()
    with torch.no_grad():
        made = torch.empty_like(x, requires_grad=True)
        parameter = torch.nn.Parameter(x)
    holds(made.requires_grad, "torch.empty_like(x, requires_grad=True).requires_grad")
    holds(parameter.requires_grad, "torch.nn.Parameter(x).requires_grad")


@law(source="notes/autograd, No-grad Mode", norms=("B4",))
def a_tensor_computed_under_no_grad_serves_in_grad_mode(sample: Sample) -> None:
    """Computations in no-grad mode give normal tensors: they may be saved for backward later."""
    x = sample.tensor(requires_grad=True)
    with torch.no_grad():
        constant = x * 2
    holds(constant.is_inference(), "constant.is_inference()", False)
    (gradient,) = torch.autograd.grad((x * constant).sum().abs(), x)
    holds(gradient.shape == x.shape, "gradient.shape == x.shape")
    constant.requires_grad_()
    constant_twice = constant * 2
    holds(constant_twice.requires_grad, "(constant * 2).requires_grad")


@law(source="notes/autograd, In-place operations; No-grad Mode", norms=("A24",))
def no_grad_lets_a_leaf_be_written_into(sample: Sample) -> None:
    """Under no_grad a leaf that requires grad may be changed in place, and stays such a leaf."""
    x = sample.tensor(requires_grad=True)
    refuses(lambda: x.mul_(2), RuntimeError, "leaf")
    refuses(lambda: x[0].mul_(2), RuntimeError, "leaf")
    with torch.no_grad():
        allows(lambda: x.mul_(2), "x.mul_(2)")
    holds(x.requires_grad, "x.requires_grad")
    holds(x.is_leaf, "x.is_leaf")


@law(source="notes/autograd, In-place operations", norms=("B24",))
def a_view_taken_under_no_grad_refuses_writing_in_grad_mode(sample: Sample) -> None:
    """A view of a tensor that requires grad, taken under no_grad, may not be written outside it."""
    x = sample.tensor(requires_grad=True) * 1
    with torch.no_grad():
        view = x.view(-1)
    refuses(lambda: view.mul_(2), RuntimeError, "no_grad")


@law(source="torch.no_grad: 'does not apply to forward-mode AD'", norms=("B19",))
def no_grad_leaves_forward_mode_ad_alone(sample: Sample) -> None:
    """Dual tensors keep their tangents inside no_grad."""
    x = sample.tensor()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with torch.no_grad():
            tangent = torch.autograd.forward_ad.unpack_dual(dual * 2).tangent
        holds(tangent is None, "the tangent of dual * 2 is None", False)


@law(source="torch.nn.init; notes/autograd, No-grad Mode", norms=("B25",))
def initialising_records_nothing(sample: Sample) -> None:
    """nn.init functions leave a parameter a leaf that requires grad."""
    x = torch.nn.Parameter(sample.tensor())
    torch.nn.init.zeros_(x)
    torch.nn.init.constant_(x, 2)
    holds(x.requires_grad, "x.requires_grad")
    holds(x.grad_fn is None, "x.grad_fn is None")
    holds(x.is_leaf, "x.is_leaf")


@law(source="Tensor.backward, create_graph", norms=("B22",))
def create_graph_records_under_no_grad(sample: Sample) -> None:
    """backward with create_graph=True builds a graph of the gradient, in no_grad too."""
    x = sample.tensor(requires_grad=True)
    y = (x * x * x).sum().abs()
    with torch.no_grad():
        (gradient,) = torch.autograd.grad(y, x, create_graph=True)
    holds(gradient.requires_grad, "gradient.requires_grad")


@law(source="Tensor.register_hook; Tensor.register_post_accumulate_grad_hook", norms=("B23",))
def hooks_during_backward_see_grad_disabled(sample: Sample) -> None:
    """Hooks run with grad mode off during backward, and on when create_graph=True."""
    x = sample.tensor(requires_grad=True)
    seen = []
    x.register_hook(lambda gradient: seen.append(torch.is_grad_enabled()))
    torch.autograd.grad((x * x).sum().abs(), x)
    torch.autograd.grad((x * x).sum().abs(), x, create_graph=True)
    holds(seen, "torch.is_grad_enabled() in the hook, without and with create_graph", [False, True])
