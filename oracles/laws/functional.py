"""Functional calls, torch.func and custom functions: modes inside count, modes outside do not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from ..law import law
from ..preconditions import an_output_is_floating_point
from ..relations import agree, equal, every, holds, refuses
from ..run import in_state
from ..sample import Nesting, Sample
from ..setting import ENABLED, Setting, all_of, core_grad, evaluating, unfrozen
from ..specimen import UNWRAP, seeding
from ..subject import Subject
from ..traits import BUFFERED, PARAMETRIC

#: The module called with copies of its parameters and buffers, which require grad as told.
_FUNCTIONAL = """\
inner = model
state = {{n: p.detach().clone().requires_grad_({}) for n, p in model.named_parameters()}}
state |= {{n: b.clone() for n, b in model.named_buffers()}}
def model(*x):
    return torch.func.functional_call(inner, state, x)
"""


@law(
    source="torch.func.functional_call: 'replacing the module parameters and buffers'",
    norms=("K14",),
    when=core_grad,
    having=BUFFERED,
)
def a_functional_call_moves_the_state_that_it_is_given(subject: Subject, setting: Setting) -> None:
    """Values, randomness and what moves are those of a call, but the module stays as it was."""
    plain = subject.run(setting)
    run = subject.run(setting, prepare=_FUNCTIONAL.format("p.requires_grad"), after=UNWRAP)
    agree(run.output, plain.output)
    agree(run.recording, plain.recording)
    agree(run.randomness, plain.randomness)
    every(run.moving, True)
    for name in subject.buffers:
        equal(run.scope["state"][name], plain.state[in_state(name)], f"state[{name!r}] afterwards")


@law(
    source="torch.func.functional_call; notes/autograd, Setting requires_grad",
    norms=("K14",),
    when=all_of(core_grad, unfrozen),
    having=PARAMETRIC,
)
def a_functional_call_is_recorded_by_what_it_is_given(subject: Subject, setting: Setting) -> None:
    """Whether the tensors handed in require grad decides, not what the module's own say."""
    frozen = subject.run(setting.but(frozen=subject.parameters))
    for told, plain in ((False, frozen), (True, subject.run(setting))):
        run = subject.run(setting, prepare=_FUNCTIONAL.format(told), after=UNWRAP)
        agree(run.recording, plain.recording)


#: Forward may write to its inputs: the second one takes copies.
_COPIED = "again = [t.detach().clone() for t in x]"
#: The gradients by torch.func.grad, in the place of those that backward has left in .grad: zeros
#: where there is none, as a function of the parameters depends on each of them.
_GRADIENTS = """\
def loss(parameters, *x):
    found = torch.func.functional_call(model, parameters, x)
    found = found if isinstance(found, tuple) else (found,)
    return sum((o * weights(o)).sum() for o in found if o.is_floating_point())
parameters = {{n: p.detach() for n, p in model.named_parameters()}}
for name in {frozen!r}:
    model.get_parameter(name).requires_grad_(False)
{seeding}
with {context}:
    found = torch.func.grad(loss)(parameters, *again)
for name, gradient in found.items():
    model.get_parameter(name).grad = gradient.to_dense()  # it may be sparse
"""
_ZEROS = """\
for p in model.parameters():
    p.grad = torch.zeros_like(p) if p.grad is None else p.grad.to_dense()
"""


@law(
    source="torch.func.grad; torch.func.functional_call",
    norms=("K16",),
    when=all_of(core_grad, evaluating),
    given=an_output_is_floating_point,
    having=(*PARAMETRIC, "positive", "argmax"),  # some outputs then have no gradient at all
)
def a_transform_computes_the_gradients_of_frozen_parameters_too(
    subject: Subject, setting: Setting
) -> None:
    """torch.func.grad gives the gradients of backward up to rounding, whatever is frozen."""
    subject = subject.unchecked()
    subject.needs_values()
    compared = _GRADIENTS.format(
        frozen=setting.frozen,
        seeding=seeding(subject.specimen, subject.device),
        context=", ".join(setting.grad) or "torch.enable_grad()",
    )
    free = setting.but(grad=ENABLED, frozen=())
    plain = subject.backward(free, after=_ZEROS)
    agree(subject.backward(free, prepare=_COPIED, after=compared).gradients, plain.gradients)


@law(source="torch.func.grad, note: 'should not depend on a context manager'", norms=("K15", "K17"))
def a_transform_ignores_the_mode_outside(sample: Sample, nest: Nesting) -> None:
    """torch.func.grad differentiates inside of every grad mode: it is a function of f alone."""
    x = sample.tensor()
    inside = grad(lambda x: _sum(x * x))(x)
    with nest.entered():
        outside = grad(lambda x: _sum(x * x))(x)
    sample.needs_values()
    equal(outside, inside, "grad(f)(x) inside of the contexts")


@law(source="torch.func.grad, note: 'torch.no_grad inside' is respected", norms=("K15",))
def a_transform_respects_no_grad_inside(sample: Sample) -> None:
    """What f computes under no_grad is a constant for torch.func.grad."""

    def f(x: Tensor) -> Tensor:
        with torch.no_grad():
            shift = x * x
        return _sum(x - shift)

    x = sample.tensor()
    found, wanted = grad(f)(x), grad(lambda x: _sum(x))(x)
    sample.needs_values()
    equal(found, wanted, "grad(f)(x)")


def _sum(x: Tensor) -> Tensor:
    """A real number to differentiate."""
    return torch.view_as_real(x).sum() if x.is_complex() else x.sum()


@law(source="torch.func.vmap, randomness", norms=("K18",))
def vmap_must_be_told_of_randomness_in_training_alone(sample: Sample) -> None:
    """Dropout under vmap needs randomness= in training, and nothing in evaluation."""
    x = torch.stack([sample.tensor()] * 4)
    layer = torch.nn.Dropout(0.5)
    refuses(lambda: vmap(layer)(x), RuntimeError, "random")
    same = vmap(layer, randomness="same")(x)
    vmap(layer, randomness="different")(x)
    layer.eval()
    still = vmap(layer)(x)
    sample.needs_values()
    equal(still, x, "vmap(layer)(x) in evaluation")
    equal(same, torch.stack([same[0]] * 4), "vmap(layer, randomness='same') of equal samples")


class _Noting(torch.autograd.Function):
    """Notes the grad mode in forward, and which inputs are to have a gradient."""

    seen: list[tuple[Any, ...]]

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        _Noting.seen.append((torch.is_grad_enabled(), ctx.needs_input_grad))
        return x + y

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        return given[0], given[0]


@law(source="notes/extending; torch.autograd.Function", norms=("K19",))
def a_custom_function_runs_with_grad_disabled(sample: Sample, nest: Nesting) -> None:
    """forward runs with grad disabled; needs_input_grad says which inputs require grad."""
    for left in (False, True):
        for right in (False, True):
            _Noting.seen = []
            x, y = sample.tensor(left), sample.tensor(right)
            with nest.entered():
                out = _Noting.apply(x, y)
            holds(_Noting.seen, "the mode and needs_input_grad", [(False, (left, right))])
            recorded = nest.recording and (left or right)
            holds(out.requires_grad, "out.requires_grad", recorded)
