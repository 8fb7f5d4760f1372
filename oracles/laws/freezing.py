"""Freezing: requires_grad=False on parameters selects gradients, and changes nothing else."""

from __future__ import annotations

from ..coverage import most_parameters
from ..law import law
from ..preconditions import (
    a_parameter_receives_a_gradient,
    an_output_requires_grad,
    has_a_submodule_with_some_parameters,
    is_frozen_in_part,
    parts,
)
from ..relations import absent, agree, every, unrecorded
from ..run import Seen
from ..setting import (
    Setting,
    all_of,
    core_grad,
    grad_enabled,
    no_input_requires_grad,
    partly_frozen,
    plain_grad,
    unfrozen,
)
from ..subject import Layer, Subject
from ..traits import CLASSES, PARAMETRIC

#: The classes of torch.nn whose layers can have several parameters.
SEVERAL_PARAMETERS = tuple(name for name in CLASSES if most_parameters(name) > 1)


@law(
    source="notes/autograd, Setting requires_grad",
    norms=("A9",),
    when=partly_frozen,
    everywhere=True,
)
def freezing_changes_no_value(subject: Subject, setting: Setting) -> None:
    """Freezing any parameters leaves every output as it was."""
    agree(subject.run(setting).output, subject.run(setting.but(frozen=())).output)


@law(
    source="notes/autograd, Setting requires_grad",
    norms=("A5",),
    when=all_of(grad_enabled, partly_frozen),
    given=an_output_requires_grad,
    everywhere=True,
)
def a_frozen_parameter_receives_no_gradient(subject: Subject, setting: Setting) -> None:
    """backward leaves .grad of a frozen parameter None."""
    gradients = subject.backward(setting).gradients
    absent(gradients.only(lambda e, _: any(repr(name) in e for name in setting.frozen)))


@law(
    source="notes/autograd, Setting requires_grad",
    norms=("A10", "A11", "A13", "I12", "J4", "J18"),
    when=all_of(grad_enabled, partly_frozen),
    everywhere=True,
)
def freezing_changes_no_other_gradient(subject: Subject, setting: Setting) -> None:
    """The gradient of a trainable parameter or input does not depend on what is frozen."""
    gradients = subject.backward(setting).gradients
    others = subject.backward(setting.but(frozen=())).gradients
    trainable = [e for e in gradients if not any(repr(name) in e for name in setting.frozen)]
    agree(gradients.only(lambda e, _: e in trainable), others.only(lambda e, _: e in trainable))


@law(
    source="notes/autograd, Setting requires_grad",
    norms=("A10", "A11"),
    when=all_of(plain_grad, partly_frozen),
    given=is_frozen_in_part,
    having=SEVERAL_PARAMETERS,
)
def a_layer_frozen_in_part_keeps_its_other_gradients(layer: Layer, setting: Setting) -> None:
    """Frozen in part, a layer gives other parameters, and its input, the gradients they have anyway.

    First the parameters that are frozen in the setting, and then all but those.
    """
    whole = layer.backward(setting.but(frozen=())).gradients
    others = [name for name in layer.parameters if name not in setting.frozen]
    for frozen in (setting.frozen, others):
        gradients = layer.backward(setting.but(frozen=frozen)).gradients
        receiving = [e for e in gradients if not any(repr(name) in e for name in frozen)]
        agree(*(_among(receiving, found) for found in (gradients, whole)))


def _among(expressions: list[str], seen: Seen) -> Seen:
    return seen.only(lambda expression, _: expression in expressions)


@law(
    source="notes/autograd, Setting requires_grad",
    norms=("A12",),
    when=all_of(plain_grad, unfrozen, no_input_requires_grad),
    given=an_output_requires_grad,
    having=PARAMETRIC,
    everywhere=True,
)
def a_fully_frozen_module_records_nothing(subject: Subject, setting: Setting) -> None:
    """With every parameter frozen and inputs that do not require grad, nothing is recorded."""
    unrecorded(subject.run(setting.but(frozen=subject.parameters)).output)


@law(
    source="notes/autograd, How autograd encodes the history",
    norms=("A15",),
    when=all_of(plain_grad, partly_frozen),
    given=an_output_requires_grad,
    having=PARAMETRIC,
)
def unfreezing_after_forward_gives_no_gradient(subject: Subject, setting: Setting) -> None:
    """The graph is fixed in forward: a parameter unfrozen afterwards gets nothing from it.

    A checkpointed block makes its graph again in backward: it is called as it is here.
    """
    subject = subject.unchecked()
    unfrozen = subject.backward(setting, between="model.requires_grad_(True)")
    agree(unfrozen.gradients, subject.backward(setting).gradients)


@law(
    source="notes/autograd: 'only leaf tensors with requires_grad=True will have gradients accumulated'",
    norms=("A16",),
    when=plain_grad,
    given=a_parameter_receives_a_gradient,
    having=PARAMETRIC,
)
def freezing_after_forward_stops_the_gradient(subject: Subject, setting: Setting) -> None:
    """A parameter frozen between forward and backward receives no gradient; inputs still do.

    A checkpointed block makes its graph again in backward: it is called as it is here.
    """
    subject = subject.unchecked()
    run = subject.backward(setting, between="model.requires_grad_(False)")
    absent(run.gradients.only(lambda e, _: "get_parameter" in e))
    inputs = subject.backward(setting).gradients.only(lambda e, _: e.startswith("x["))
    agree(run.gradients.only(lambda e, _: e.startswith("x[")), inputs)


@law(
    source="Tensor.requires_grad_",
    norms=("A17",),
    when=plain_grad,
    given=an_output_requires_grad,
    having=PARAMETRIC,
)
def freezing_and_unfreezing_is_a_round_trip(subject: Subject, setting: Setting) -> None:
    """After freezing and unfreezing, gradients are those of a module that never was frozen."""
    trip = "flags = [p.requires_grad for p in model.parameters()]\nmodel.requires_grad_(False)\n"
    trip += "for p, flag in zip(model.parameters(), flags): p.requires_grad_(flag)"
    agree(subject.backward(setting, prepare=trip).gradients, subject.backward(setting).gradients)


@law(
    source="Tensor.grad; notes/autograd",
    norms=("A18",),
    when=plain_grad,
    given=a_parameter_receives_a_gradient,
    having=PARAMETRIC,
)
def freezing_keeps_a_gradient_that_is_there(subject: Subject, setting: Setting) -> None:
    """Freezing clears no .grad, and later backwards do not change it."""
    again = "model.requires_grad_(False)\nout = model(*x)\n"
    again += "differentiate(out if isinstance(out, tuple) else (out,))"
    frozen, plain = subject.backward(setting, after=again), subject.backward(setting)
    agree(
        frozen.gradients.only(lambda e, _: "get_parameter" in e),
        plain.gradients.only(lambda e, _: "get_parameter" in e),
    )


@law(source="Module.requires_grad_", norms=("E1", "E2"), when=plain_grad, having=PARAMETRIC)
def requires_grad_reaches_every_parameter_and_no_buffer(subject: Subject, setting: Setting) -> None:
    """requires_grad_ sets the flag of each parameter, of no buffer, and returns the module."""
    run = subject.run(setting, prepare="told = model.requires_grad_(True)")
    every(run.requires_grad, True)
    every(run.evaluate("told is model"), True)
    every(run.buffers.only(lambda e, _: e.endswith("requires_grad")), False)
    every(subject.run(setting, prepare="model.requires_grad_(False)").requires_grad, False)


@law(
    source="notes/autograd, Setting requires_grad: 'all of the module's parameters'",
    norms=("E2",),
    when=all_of(plain_grad, unfrozen),
    given=has_a_submodule_with_some_parameters,
    having=PARAMETRIC,
)
def freezing_a_submodule_reaches_its_subtree_alone(subject: Subject, setting: Setting) -> None:
    """requires_grad_ on a submodule equals requires_grad_ on each of its parameters."""
    for path in parts(subject):
        part = f"part = model.get_submodule({path!r})\n"
        whole = subject.run(setting, prepare=f"{part}part.requires_grad_(False)")
        each = f"{part}for p in part.parameters(): p.requires_grad = False"
        agree(whole.requires_grad, subject.run(setting, prepare=each).requires_grad)
        every(whole.items("[p.requires_grad for p in part.parameters()]"), False)
        inside = "{id(p) for p in part.parameters()}"
        outside = f"[p.requires_grad for p in model.parameters() if id(p) not in {inside}]"
        every(whole.items(outside), True)


@law(
    source="Module.requires_grad_: 'sets the parameters' requires_grad attributes in-place'",
    norms=("E3",),
    when=all_of(unfrozen, core_grad),
)
def freezing_changes_no_state_and_no_flag(subject: Subject, setting: Setting) -> None:
    """Freezing changes neither parameters nor buffers nor training flags."""
    free = setting.but(frozen=())
    frozen = subject.run(free, prepare="model.requires_grad_(False)")
    agree(frozen.flags, subject.run(free).flags)
    agree(frozen.state, subject.run(free).state)


@law(
    source="nn.Dropout; notes/autograd, Setting requires_grad",
    norms=("E5",),
    when=partly_frozen,
    having=("Dropout", "AlphaDropout", "Dropout2d", "RReLU"),
)
def frozen_modules_draw_the_same_randomness(subject: Subject, setting: Setting) -> None:
    """Freezing does not stop dropout: the same randomness is drawn, in training and in eval."""
    agree(subject.run(setting).randomness, subject.run(setting.but(frozen=())).randomness)
