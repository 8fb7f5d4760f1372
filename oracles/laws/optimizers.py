"""Optimizers: they look at .grad, not at requires_grad, and record nothing."""

from __future__ import annotations

import zlib
from functools import cache
from typing import Final

import torch
from torch import nn

from ..law import law
from ..optimizers import DECAYING, OPTIMIZERS, PARTICULAR, present, takes
from ..preconditions import a_parameter_receives_a_gradient, an_output_requires_grad
from ..relations import absent, agree, agree_with, every
from ..setting import Setting, all_of, partly_frozen, plain_grad, unfrozen
from ..specimen import DEFAULT_MODE
from ..subject import Subject, lacking
from ..traits import PARAMETRIC, SPARSE

_ANY = {**OPTIMIZERS, **DECAYING, **PARTICULAR}
#: One step. All optimizers take a closure; LBFGS needs one.
_STEP = "optimizer.step(lambda: torch.zeros(()))\n"


def _some(subject: Subject, table: dict[str, str]) -> list[str]:
    """Two of the optimizers that take its parameters, others for other subjects, as statements."""
    dtype = subject.specimen.dtype
    fit = [n for n in table if present(n, torch.__version__) and takes(n, dtype)]
    fit = [n for n in fit if _computes(table[n], dtype)]
    if not subject.has_values:
        fit = [n for n in fit if n in ("SGD_decaying", "AdamW_decaying")]
    first = zlib.crc32(subject.specimen.key.encode()) % len(fit)
    chosen = fit[first], fit[first - len(fit) // 2]
    return [f"optimizer = {table[n].format('model.parameters()')}\n" for n in chosen]


@cache
def _computes(written: str, dtype: str) -> bool:
    """Whether this torch has what a step of the optimizer computes, for this type."""
    given = nn.Parameter(torch.ones(2, dtype=getattr(torch, dtype)))
    given.grad = torch.ones_like(given)
    scope = {"torch": torch, "nn": nn, "given": given}
    try:
        exec(f"optimizer = {written.format('[given]')}\n{_STEP}", scope)
    except RuntimeError as error:
        if lacking(error):
            return False
        raise
    return True


@law(
    source="notes/autograd, No-grad Mode, on optimizers",
    norms=("B26", "E20"),
    when=plain_grad,
    given=a_parameter_receives_a_gradient,
    having=PARAMETRIC,
    without=SPARSE,
)
def a_step_records_nothing(subject: Subject, setting: Setting) -> None:
    """Optimizer.step leaves parameters the leaves they were, and the grad mode as it was."""
    for optimizer in _some(subject, _ANY):
        run = subject.backward(setting, after=optimizer + _STEP)
        agree(run.requires_grad, subject.run(setting).requires_grad)
        agree_with(run.mode, DEFAULT_MODE)
        every(run.items("[p.is_leaf and p.grad_fn is None for p in model.parameters()]"), True)


@law(
    source="notes/autograd, No-grad Mode, on optimizers",
    norms=("B26",),
    when=all_of(plain_grad, unfrozen),
    given=a_parameter_receives_a_gradient,
    having=PARAMETRIC,
    without=SPARSE,
)
def a_step_restores_the_grad_mode(subject: Subject, setting: Setting) -> None:
    """Optimizer.step leaves the grad mode of its caller, whichever it is."""
    step = "seen = []\nfor enabled in (True, False):\n    with torch.set_grad_enabled(enabled):\n"
    step += f"        {_STEP}        seen += [torch.is_grad_enabled() is enabled]"
    for optimizer in _some(subject, _ANY):
        every(subject.backward(setting, after=optimizer + step).items("seen"), True)


@law(
    source="Optimizer.zero_grad, set_to_none: 'skips the step altogether'",
    norms=("E7",),
    when=all_of(plain_grad, partly_frozen),
    having=PARAMETRIC,
    without=SPARSE,
)
def a_step_skips_parameters_without_gradient(subject: Subject, setting: Setting) -> None:
    """A parameter whose .grad is None does not move, in spite of weight decay and momentum."""
    for optimizer in _some(subject, _ANY):
        before = (
            optimizer + "state = {n: p.detach().clone() for n, p in model.named_parameters()}\n"
        )
        run = subject.backward(setting, after=before + _STEP + _STEP)
        same = (f"torch.equal(state[{n!r}], model.get_parameter({n!r}))" for n in setting.frozen)
        every(run.evaluate(*same), True)


#: Each parameter starts at a half, where decay moves it; what is there before a step is kept.
_START: Final = """\
with torch.no_grad():
    for p in model.parameters(): p.fill_(0.5)
model.requires_grad_(False)
state = copy.deepcopy(model.state_dict())
"""
#: Of each parameter that has a gradient, whether it is where it was.
_STILL: Final = "[torch.equal(state[n], p) for n, p in model.named_parameters() if {}]"


@law(
    source="Optimizer.zero_grad; notes/autograd: 'won't have their .grad fields updated'",
    norms=("E8",),
    when=all_of(plain_grad, unfrozen),
    given=a_parameter_receives_a_gradient,
    having=PARAMETRIC,
    without=SPARSE,
)
def a_step_moves_a_frozen_parameter_that_still_has_a_gradient(
    subject: Subject, setting: Setting
) -> None:
    """Optimizers look at .grad: freezing protects only with zero_grad(set_to_none=True)."""
    subject.needs_values()
    ones = "for p in model.parameters():\n    if p.grad is not None: p.grad.fill_(1)\n"
    for optimizer in _some(subject, DECAYING):
        start = optimizer + _START + ones
        stale = subject.backward(setting, after=start + _STEP)
        every(stale.items(_STILL.format("p.grad is not None")), False)
        cleared = f"{start}optimizer.zero_grad(set_to_none=True)\n{_STEP}"
        every(subject.backward(setting, after=cleared).items(_STILL.format("True")), True)


@law(
    source="Optimizer.zero_grad: 'does the step with a gradient of 0'",
    norms=("E9",),
    when=all_of(plain_grad, unfrozen),
    given=a_parameter_receives_a_gradient,
    having=PARAMETRIC,
    without=SPARSE,
)
def a_zero_gradient_does_not_protect_from_weight_decay(subject: Subject, setting: Setting) -> None:
    """zero_grad(set_to_none=False) leaves zeros: weight decay still moves a frozen parameter."""
    subject.needs_values()
    zero = "zero = [not p.grad.any() for p in model.parameters() if p.grad is not None]\n"
    for optimizer in _some(subject, DECAYING):
        start = f"{optimizer}optimizer.zero_grad(set_to_none=False)\n{zero}{_START}"
        run = subject.backward(setting, after=start + _STEP)
        every(run.items("zero"), True)
        every(run.items(_STILL.format("p.grad is not None")), False)


@law(
    source="Module.zero_grad; Optimizer.zero_grad",
    norms=("E10",),
    when=plain_grad,
    given=a_parameter_receives_a_gradient,
    having=PARAMETRIC,
)
def zero_grad_clears_every_gradient(subject: Subject, setting: Setting) -> None:
    """zero_grad(set_to_none=True) makes each .grad None, False makes it zero; no flag changes."""
    none = subject.backward(setting, after="model.zero_grad(set_to_none=True)")
    absent(none.gradients.only(lambda e, _: "get_parameter" in e))
    agree(none.requires_grad, subject.run(setting).requires_grad)
    zero = subject.backward(setting, after="model.zero_grad(set_to_none=False)")
    agree(zero.receiving, subject.backward(setting).receiving)
    left = "for p in model.parameters() if p.grad is not None"
    every(zero.items(f"[bool(p.grad.any()) {left}]", f"[p.grad.requires_grad {left}]"), False)


@law(
    source="torch.optim, Taking an optimization step: optimizer.step(closure)",
    norms=("B27",),
    when=all_of(plain_grad, unfrozen),
    having=PARAMETRIC,
    without=SPARSE,
)
def a_closure_runs_with_grad_enabled(subject: Subject, setting: Setting) -> None:
    """step(closure) enables grad for the closure, called inside no_grad as well."""
    step = "seen = []\ndef closure():\n    seen.append(torch.is_grad_enabled())\n    return torch.zeros(())\n"
    step += (
        "with torch.no_grad():\n    optimizer.step(closure)\n    after = torch.is_grad_enabled()"
    )
    for optimizer in _some(subject, _ANY):
        run = subject.backward(setting, after=optimizer + step)
        agree_with(run.evaluate("seen", "after"), {"seen": [True], "after": False})


@law(
    source='torch.optim: "can\'t optimize a non-leaf Tensor"',
    norms=("E20",),
    when=plain_grad,
    having=PARAMETRIC,
)
def optimizers_refuse_tensors_that_are_no_leaves(subject: Subject, setting: Setting) -> None:
    """An optimizer accepts frozen leaves and rejects tensors that are no leaves."""
    attempt = "torch.optim.SGD(model.requires_grad_(False).parameters(), lr=0.1)\n"
    attempt += "try: torch.optim.SGD([torch.ones(1, requires_grad=True) * 2], lr=0.1)\n"
    attempt += "except ValueError as error: refused = 'non-leaf' in str(error)"
    every(subject.run(setting, prepare="refused = False\n" + attempt).evaluate("refused"), True)


@law(
    source="Optimizer.zero_grad, note 2",
    norms=("E11",),
    when=plain_grad,
    given=an_output_requires_grad,
    having=PARAMETRIC,
)
def a_gradient_is_none_iff_none_was_received(subject: Subject, setting: Setting) -> None:
    """After zero_grad(set_to_none=True) and backward, .grad is None where backward gave nothing."""
    again = _some(subject, OPTIMIZERS)[0] + "optimizer.zero_grad(set_to_none=True)\n"
    again += "cleared = [p.grad is None for p in model.parameters()]\n"
    again += "for t in x: t.grad = None\nout = model(*x)\n"
    again += "differentiate(out if isinstance(out, tuple) else (out,))"
    run = subject.backward(setting, after=again)
    every(run.items("cleared"), True)
    agree(run.receiving, subject.backward(setting).receiving)
