"""Custom functions of autograd: those that write to what they are given, or hand it on.

They are recorded where grad mode is on, which they alone look at: in inference mode as well, where
it is enabled inside of that (undocumented; the register has it).
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..drawing import turns
from ..law import law
from ..relations import equal, holds, refuses
from ..sample import Nesting, Sample


class _Tripled(Function):
    """Three times its input, written into it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.mul_(3)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * gradient


class _Itself(Function):
    """Its input, as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * gradient


class _Viewed(Function):
    """A view of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.view(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * gradient.view(ctx.shape)


class _Several(Function):
    """Multiples of its inputs, some of which are marked as not differentiable."""

    @staticmethod
    def forward(ctx: Any, noted: list[Any], marked: list[bool], whole: bool, *xs: Tensor) -> Any:
        ctx.noted, ctx.marked = noted, marked
        results = [(2 + n) * x for n, x in enumerate(xs)]
        ctx.mark_non_differentiable(*[r for r, m in zip(results, marked, strict=True) if m])
        ctx.set_materialize_grads(whole)
        noted.append((torch.is_grad_enabled(), [x.requires_grad for x in results]))
        noted.append(list(ctx.needs_input_grad[3:]))
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.noted.append([None if g is None else g.sum().item() for g in gradients])
        ctx.noted.append(torch.is_grad_enabled())
        given = [None if g is None else (2 + n) * g for n, g in enumerate(gradients)]
        return (None, None, None, *given)


def _given(draw: random.Random, leaf: Tensor) -> tuple[str, Tensor]:
    """A tensor of some kind, made of a leaf that requires grad or not."""
    kinds = {
        "leaf": lambda: leaf,
        "result": lambda: leaf * 1,
        "view": lambda: (leaf * 1).view(leaf.shape),
    }
    kind = draw.choice(list(kinds))
    return f"{kind}, requires_grad {leaf.requires_grad}", kinds[kind]()


def _facts(tensor: Tensor) -> tuple[bool, bool, bool]:
    """Whether it requires grad, is a leaf, and is an inference tensor."""
    return tensor.requires_grad, tensor.is_leaf, tensor.is_inference()


def _attempted(call: Any) -> str:
    """How a call was refused, "" if it was not."""
    try:
        call()
    except RuntimeError as error:
        return f"RuntimeError: {'leaf' if 'leaf' in str(error) else str(error)}"
    return ""


@law(
    source="FunctionCtx.mark_dirty: 'modified in an in-place operation'; notes/extending",
    norms=("K19",),
)
def a_function_that_writes_is_an_operation_in_place(sample: Sample, nest: Nesting) -> None:
    """What it does to its input is what an operation in place does, in any grad mode.

    The input is recorded, refused or left alone in the same way, and its version moves; gradients
    go through the function. Where it is refused, the values have been written (undocumented).
    """
    sample.needs_values()
    for draw in turns(sample.seed, sample.shape, sample.dtype, nest.contexts):
        needed, seed = draw.random() < 0.7, draw.random()
        leaf, other = sample.tensor(needed), sample.tensor(needed)
        kind, x = _given(random.Random(seed), leaf)
        _, twin = _given(random.Random(seed), other)
        version = x._version
        with nest.entered():
            enabled = torch.is_grad_enabled()
            refused = _attempted(lambda x=x: _Tripled.apply(x))
        with torch.set_grad_enabled(enabled):
            plain = _attempted(lambda twin=twin: twin.mul_(3))
        holds(refused, f"how it was refused for a {kind}", plain)
        holds(_facts(x), f"the facts of a {kind}", _facts(twin))
        holds(x._version > version, f"whether the version of a {kind} moved")
        equal(
            x.detach(), twin.detach() * 3 if refused else twin.detach(), f"the values of a {kind}"
        )
        if x.requires_grad and not x.is_leaf:
            x.sum().backward() if not x.is_complex() else x.abs().sum().backward()
            twin.sum().backward() if not x.is_complex() else twin.abs().sum().backward()
            equal(leaf.grad, other.grad, f"the gradient of the leaf of a {kind}")


@law(source="undocumented: torch.autograd.Function.apply, mark_dirty (#90209)")
def a_function_that_writes_hands_on_its_input_where_it_is_recorded(
    sample: Sample, nest: Nesting
) -> None:
    """apply(x) is x itself if it is recorded, or if x requires no grad; else it is another tensor.

    That one has the same memory, does not require grad, and is not a view.
    """
    for draw in turns(sample.seed, sample.shape, sample.dtype, nest.contexts):
        kind, x = _given(draw, sample.tensor(draw.random() < 0.7))
        with nest.entered():
            recording = torch.is_grad_enabled()
            if not (recording and x.is_leaf and x.requires_grad):
                before = x.requires_grad
                out = _Tripled.apply(x)
                holds(out is x, f"whether it is the {kind}", recording or not before)
                holds(out.data_ptr() == x.data_ptr(), "whether it has the same memory")
                holds(
                    out.requires_grad,
                    f"whether that of a {kind} requires grad",
                    recording and before,
                )


@law(
    source="torch.autograd.Function: forward; Tensor views; notes/autograd, In-place operations",
    norms=("K19",),
)
def a_function_that_hands_on_its_input_returns_a_view(sample: Sample, nest: Nesting) -> None:
    """What is returned as it was given, or as a view of it, is another tensor with the same memory.

    It is recorded where other operations are. Writing into it is refused where it was recorded,
    and allowed where not. A view that was not recorded says that it requires grad as any view
    taken there does, and the input itself does not (undocumented).
    """
    for draw in turns(sample.seed, sample.shape, sample.dtype, nest.contexts):
        function = draw.choice([_Itself, _Viewed])
        kind, x = _given(draw, sample.tensor(draw.random() < 0.7))
        with nest.entered():
            recording = torch.is_grad_enabled()
            with torch.inference_mode(False), torch.set_grad_enabled(recording):
                plain = x.view(-1)
            out = function.apply(x)
            recorded = recording and x.requires_grad
            holds(out is x, f"whether it is the {kind} itself", False)
            holds(out.data_ptr() == x.data_ptr(), f"whether it has the memory of the {kind}")
            facts = (False, True, False) if function is _Itself and not recorded else _facts(plain)
            holds(_facts(out), f"the facts of what {function.__name__} returns of a {kind}", facts)
            with torch.inference_mode(False), torch.set_grad_enabled(recording):
                if recorded:
                    refuses(partial(out.mul_, 2), RuntimeError, "modified inplace")
                else:
                    holds(out.mul_(2) is out, "whether it may be written to")


@law(
    source="FunctionCtx.mark_non_differentiable; set_materialize_grads; needs_input_grad; notes/extending",
    norms=("K19",),
)
def a_function_is_told_what_is_needed_of_it(sample: Sample, nest: Nesting) -> None:
    """needs_input_grad says which inputs require grad, in any mode; forward runs with grad disabled.

    What is marked as not differentiable does not require grad; the rest does if an input does and
    it is recorded. backward is handed zeros for what was not used, or None without materializing,
    and runs with grad disabled, or enabled with create_graph.
    """
    sample.needs_values()
    for draw in turns(sample.seed, sample.shape, sample.dtype, nest.contexts):
        count = 1 + draw.randrange(3)
        flags = [draw.random() < 0.6 for _ in range(count)]
        marked = [draw.random() < 0.3 for _ in range(count)]
        used = [draw.random() < 0.7 for _ in range(count)]
        whole, graph = draw.random() < 0.5, draw.random() < 0.3
        xs = [torch.ones(2, device=sample.device, requires_grad=flag) for flag in flags]
        noted: list[Any] = []
        with nest.entered():
            recording = torch.is_grad_enabled()
            results = _Several.apply(noted, marked, whole, *xs)
        recorded = recording and any(flags)
        holds(noted[0], "grad mode and flags in forward", (False, [False] * count))
        holds(noted[1], "needs_input_grad", flags)
        made = [recorded and not m for m in marked]
        holds(
            [r.requires_grad for r in results], f"which results require grad, {marked} marked", made
        )
        ends = [r for r, m, u in zip(results, made, used, strict=True) if m and u]
        if ends:
            leaves = [x for x in xs if x.requires_grad]
            weights = [torch.ones_like(e) for e in ends]
            found = torch.autograd.grad(
                ends, leaves, weights, create_graph=graph, allow_unused=True
            )
            nothing = 0.0 if whole else None
            given = [2.0 if m and u else nothing for m, u in zip(made, used, strict=True)]
            holds(noted[2:], "what backward was handed, and its grad mode", [given, graph])
            got = [
                2.0 + n if m and u else nothing
                for n, (m, u) in enumerate(zip(made, used, strict=True))
            ]
            wanted = [g for g, flag in zip(got, flags, strict=True) if flag]
            shown = [None if g is None else g[0].item() for g in found]
            holds(shown, "the gradients", wanted)
