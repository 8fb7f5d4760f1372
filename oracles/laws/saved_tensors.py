"""What is saved for backward, and the hooks that see it: nothing more than gradients need."""

from __future__ import annotations

import threading

import torch
from torch.autograd.graph import register_multi_grad_hook, saved_tensors_hooks

from ..law import law
from ..preconditions import an_output_requires_grad, it_is_recorded_in_grad_mode
from ..relations import agree, every, holds
from ..sample import Nesting, Sample
from ..setting import (
    Setting,
    all_of,
    any_of,
    grad_disabled,
    in_inference_mode,
    no_input_requires_grad,
    plain_grad,
    unfrozen,
)
from ..specimen import UNWRAP
from ..subject import Subject
from ..traits import PARAMETRIC

#: The module under hooks that note the grad mode each time that a tensor is saved.
_PACKING = """\
inner, packed = model, []
def pack(t):
    packed.append(torch.is_grad_enabled())
    return t
def model(*x):
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        return inner(*x)
"""


@law(
    source="torch.autograd.graph.saved_tensors_hooks; torch.no_grad: 'reduce memory consumption'",
    norms=("K8",),
    when=any_of(grad_disabled, in_inference_mode),
    given=it_is_recorded_in_grad_mode,
    without=("enable_grad",),
)
def nothing_is_saved_where_nothing_is_recorded(subject: Subject, setting: Setting) -> None:
    """Under no_grad and inference_mode, no tensor is saved for backward."""
    run = subject.unchecked().run(setting, prepare=_PACKING, after=UNWRAP)
    every(run.evaluate("len(packed)"), 0)


@law(
    source="notes/autograd, Setting requires_grad: 'excluded from the backward graph'",
    norms=("K8",),
    when=all_of(plain_grad, unfrozen, no_input_requires_grad),
    given=an_output_requires_grad,
    having=PARAMETRIC,
)
def nothing_is_saved_of_what_is_frozen(subject: Subject, setting: Setting) -> None:
    """Where neither parameter nor input requires grad, no tensor is saved for backward."""
    still = setting.but(frozen=subject.parameters)
    run = subject.unchecked().run(still, prepare=_PACKING, after=UNWRAP)
    every(run.evaluate("len(packed)"), 0)


@law(
    source="torch.autograd.graph.saved_tensors_hooks; notes/autograd, Hooks for saved tensors",
    norms=("K9",),
    when=plain_grad,
    given=an_output_requires_grad,
)
def saving_is_not_recorded_itself(subject: Subject, setting: Setting) -> None:
    """Hooks of saved tensors run with grad disabled, and change neither values nor gradients."""
    subject = subject.unchecked()
    plain = subject.backward(setting)
    run = subject.backward(setting, prepare=_PACKING, after=UNWRAP)
    every(run.items("packed"), False)
    agree(run.output, plain.output)
    agree(run.gradients, plain.gradients)


@law(source="notes/autograd, Hooks for saved tensors: 'thread-local'", norms=("K9",))
def hooks_of_saved_tensors_are_of_their_thread(sample: Sample) -> None:
    """What another thread saves is not handed to the hooks of this one."""
    x, packed = sample.tensor(requires_grad=True), []

    def pack(saved: torch.Tensor) -> torch.Tensor:
        packed.append(threading.current_thread())
        return saved

    with saved_tensors_hooks(pack, lambda saved: saved):
        other = threading.Thread(target=x.tanh)
        other.start()
        other.join()
        holds(len(packed), "tensors packed in the other thread", 0)
        result = x.tanh()
    here = threading.current_thread()
    holds([thread is here for thread in packed], "whether tensors were packed here", [True])
    result.backward(torch.ones_like(x))


@law(source="notes/autograd, Saved tensors; Setting requires_grad", norms=("K10",))
def freezing_a_weight_saves_no_input(sample: Sample) -> None:
    """The input of a linear layer is saved for the weight's gradient alone, and reversed."""
    x = sample.tensor(requires_grad=True).reshape(1, -1)
    layer = torch.nn.Linear(x.numel(), 2, device=x.device, dtype=x.dtype)
    for frozen in (False, True):
        for leaf in (False, True):
            layer.weight.requires_grad_(not frozen)
            saved: list[tuple[int, ...]] = []
            given = x.detach() if leaf else x

            def pack(t: torch.Tensor, saved: list[tuple[int, ...]] = saved) -> torch.Tensor:
                saved.append(tuple(sorted(t.shape)))
                return t

            with saved_tensors_hooks(pack, lambda t: t):
                layer(given)
            told = f"with the weight {'frozen' if frozen else 'trained'}"
            needed = (not frozen) + (not leaf)
            holds(len(saved), f"tensors saved {told}, the input {leaf and 'a constant'}", needed)


@law(source="Module.register_full_backward_hook, rules 1 to 3", norms=("K12",))
def a_full_backward_hook_fires_where_something_requires_grad(sample: Sample, nest: Nesting) -> None:
    """It fires once where an input or a parameter requires grad, and never without a graph."""
    for frozen in (False, True):
        for leaf in (False, True):
            x = sample.tensor(requires_grad=not leaf)
            layer = torch.nn.Linear(x.shape[-1], 2, device=x.device, dtype=x.dtype)
            layer.requires_grad_(not frozen)
            fired: list[bool] = []
            layer.register_full_backward_hook(lambda *given, fired=fired: fired.append(True))
            with nest.entered():
                out = layer(x)
            recorded = nest.recording and not (frozen and leaf)
            holds(out.requires_grad, "out.requires_grad", recorded)
            if recorded:
                out.backward(torch.ones_like(out))
            holds(len(fired), "how often the hook fired", int(recorded))


@law(source="torch.autograd.graph.register_multi_grad_hook", norms=("K20",), since="2.0")
def a_hook_on_several_gradients_waits_for_those_that_come(sample: Sample) -> None:
    """It fires once, when all gradients are there that backward computes; others are None."""
    x, y, unused = (sample.tensor(requires_grad=True) for _ in range(3))
    seen: list[list[bool]] = []
    register_multi_grad_hook(
        (x, y, unused), lambda given: seen.append([g is not None for g in given])
    )
    y.requires_grad_(False)
    (x * y).backward(torch.ones_like(x))
    holds(seen, "which gradients the hook was given", [[True, False, False]])
