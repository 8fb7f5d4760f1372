"""Hooks: what each kind is handed, in which order, and what becomes of what it returns.

Each law draws several hooks, of one module or of all, registered before others or after, some of
them removed again, and compares what they note with a model in plain Python.
"""

from __future__ import annotations

import random
import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as globally
from torch.optim import optimizer as optimizers

from ..drawing import mode, turns
from ..law import law
from ..relations import equal, holds, refuses
from ..sample import Nesting, Sample


class _Hook:
    """A hook that is to be registered: its kind, and how."""

    def __init__(self, number: int, draw: random.Random, kinds: tuple[str, ...]) -> None:
        self.number = number
        self.kind = draw.choice(kinds)
        self.everywhere = draw.random() < 0.3  # of all modules, not of one
        self.first = draw.random() < 0.4 and not self.everywhere  # before those that are there
        self.removed = draw.random() < 0.2
        named = self.kind.startswith("forward") and not (self.everywhere and "pre" in self.kind)
        self.named = draw.random() < 0.5 and named and not self.everywhere  # with_kwargs
        self.always = draw.random() < 0.4 and self.kind == "forward"
        self.returns = draw.random() < 0.5
        self.factor = draw.choice([2, 3, 5])

    def register(self, module: nn.Module, call: Any) -> Any:
        """Register what is called, and return the handle."""
        options: dict[str, bool] = {}
        if self.first:
            options["prepend"] = True
        if self.named:
            options["with_kwargs"] = True
        if self.always:
            options["always_call"] = True
        if self.everywhere:
            return getattr(globally, f"register_module_{self.kind}_hook")(call, **options)
        return getattr(module, f"register_{self.kind}_hook")(call, **options)


def _hooks(draw: random.Random, *kinds: str) -> list[_Hook]:
    """Up to five hooks, in the order in which they are registered."""
    return [_Hook(number, draw, kinds) for number in range(1 + draw.randrange(5))]


def _order(hooks: list[_Hook], kind: str) -> list[_Hook]:
    """The hooks of a kind in the order in which they are called: those of all modules first."""
    own: list[_Hook] = []
    for hook in hooks:
        if hook.kind == kind and not hook.everywhere and not hook.removed:
            own.insert(0 if hook.first else len(own), hook)
    everywhere = [h for h in hooks if h.kind == kind and h.everywhere and not h.removed]
    return everywhere + own


def _registered(hooks: list[_Hook], module: nn.Module, call: Any) -> list[Any]:
    """Register all hooks, take away again those that are to be removed, and return the handles."""
    handles = []
    for hook in hooks:
        handles.append(
            hook.register(module, lambda *given, hook=hook: call(hook, *given))  # type: ignore[misc]
        )
    for hook, handle in zip(hooks, handles, strict=True):
        if hook.removed:
            handle.remove()
    return handles


def _remove(handles: list[Any]) -> None:
    """Remove hooks, those that are gone as well: that changes nothing."""
    for handle in handles:
        handle.remove()


class _Scaled(nn.Module):
    """Its inputs times its weight, or an error."""

    def __init__(self, dtype: torch.dtype, device: str, fails: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 2.0, dtype=dtype, device=device))
        self.fails = fails

    def forward(self, *inputs: Any, plus: float = 0.0) -> Any:
        if self.fails:
            raise KeyError("on purpose")
        results = tuple(x * self.weight + plus for x in inputs if isinstance(x, Tensor))
        return results if len(results) > 1 else results[0]


def _seen_in_forward(
    hooks: list[_Hook], module: nn.Module, inputs: tuple[Any, ...], plus: dict[str, float]
) -> tuple[list[Any], list[str]]:
    """What the hooks of forward note while a module is called, and how the call failed."""
    noted: list[Any] = []
    results: list[Any] = []
    raised = []
    forward = module.forward

    def call(hook: _Hook, owner: nn.Module, args: Any, *rest: Any) -> None:
        same = [a is b for a, b in zip(args, inputs, strict=True)]
        kept: tuple[Any, ...] = owner is module, type(args), same, module.training, mode()
        if hook.named:
            kept = (*kept, rest[0] == plus)
        if hook.kind == "forward":
            kept = (*kept, rest[-1] is (results[0] if results else None))
        noted.append((hook.number, len(rest), *kept))

    def noting(*args: Any, **options: Any) -> Any:
        noted.append("forward")
        results.append(forward(*args, **options))
        return results[0]

    module.forward = noting  # type: ignore[method-assign]
    handles = _registered(hooks, module, call)
    try:
        returned = module(*inputs, **plus)
        noted.append(returned is results[0])
    except KeyError as error:
        raised.append(type(error).__name__)
    finally:
        _remove(handles)
    return noted, raised


@law(
    source="Module.register_forward_pre_hook; Module.register_forward_hook; register_module_forward_hook",
    norms=("K11",),
    since="2.1",
)
def hooks_of_forward_are_handed_what_it_takes_and_returns(sample: Sample, nest: Nesting) -> None:
    """Each is called once, in order, with the module, the inputs themselves and the output itself.

    Those of all modules come first, those that are prepended before those that were there; with
    with_kwargs they are handed the named arguments as well. They run in the grad mode of the call,
    and see the mode that the module has. Where forward fails, those with always_call are called
    nevertheless, with None for the output, and the error is raised.
    """
    for draw in turns(sample.seed, sample.shape, sample.dtype, nest.contexts):
        hooks = _hooks(draw, "forward_pre", "forward")
        fails, told = draw.random() < 0.3, draw.random() < 0.5
        module = _Scaled(getattr(torch, sample.dtype), sample.device, fails).train(told)
        inputs = (sample.tensor(requires_grad=draw.random() < 0.5), *[None, 3][: draw.randrange(3)])
        plus = {"plus": 1.0} if draw.random() < 0.5 else {}
        with nest.entered():
            inside = mode()
            seen, raised = _seen_in_forward(hooks, module, inputs, plus)
        facts = True, tuple, [True] * len(inputs), told, inside
        wanted: list[Any] = [
            (h.number, int(h.named), *facts, *[True] * h.named)
            for h in _order(hooks, "forward_pre")
        ]
        after = [
            (h.number, 1 + h.named, *facts, *[True] * h.named, True)
            for h in _order(hooks, "forward")
            if h.always or not fails
        ]
        wanted = [*wanted, "forward", *after, *([] if fails else [True])]
        holds(seen, "what the hooks noted", wanted)
        holds(raised, "what was raised", ["KeyError"] if fails else [])


def _changed_in_forward(hooks: list[_Hook], module: nn.Module, x: Tensor) -> Tensor:
    """What a module returns if hooks multiply what they are handed."""

    def call(hook: _Hook, owner: nn.Module, args: Any, *rest: Any) -> Any:
        if not hook.returns:
            return None
        if hook.kind == "forward":
            return hook.factor * rest[-1]
        if hook.named:
            return (hook.factor * args[0],), {"plus": rest[0].get("plus", 0.0) + 1}
        changed = hook.factor * args[0]
        return changed if hook.number % 2 else (changed,)

    handles = _registered(hooks, module, call)
    try:
        returned: Tensor = module(x)
    finally:
        _remove(handles)
    return returned


@law(
    source="Module.register_forward_pre_hook: 'the hook can modify the input'; register_forward_hook",
    norms=("K13",),
    since="2.1",
)
def what_a_hook_of_forward_returns_takes_the_place_of_it(sample: Sample, nest: Nesting) -> None:
    """Inputs, named arguments and outputs are those that the hook before returned, if not None.

    A single value that a pre-hook returns is wrapped. What hooks compute is recorded as the rest.
    """
    sample.needs_values()
    for draw in turns(sample.seed, sample.shape, sample.dtype, nest.contexts):
        hooks = _hooks(draw, "forward_pre", "forward")
        module = _Scaled(torch.float64, sample.device)
        whole = torch.arange(1.0, 4.0, dtype=torch.float64, device=sample.device)
        x = whole.requires_grad_(draw.random() < 0.5)
        with nest.entered():
            recording, _ = mode()
            shown = _changed_in_forward(hooks, module, x)
        before, after = _order(hooks, "forward_pre"), _order(hooks, "forward")
        wanted, plus = x.tolist(), 0.0
        for hook in before:
            if hook.returns:
                wanted, plus = [hook.factor * v for v in wanted], plus + hook.named
        wanted = [2 * v + plus for v in wanted]
        for hook in after:
            wanted = [hook.factor * v for v in wanted] if hook.returns else wanted
        holds(shown.tolist(), "what the module returned", wanted)
        holds(shown.requires_grad, "whether it requires grad", recording)


def _seen_in_backward(
    hooks: list[_Hook], module: nn.Module, inputs: tuple[Any, ...], create_graph: bool
) -> tuple[list[Any], list[str], list[Any]]:
    """What hooks of backward note, the warnings, and the gradients of the weight and the inputs."""
    noted: list[Any] = []

    def call(hook: _Hook, owner: nn.Module, *given: Any) -> Any:
        values = [[None if g is None else g.tolist() for g in some] for some in given]
        tuples = all(isinstance(some, tuple) for some in given)
        noted.append((hook.number, owner is module, tuples, values, torch.is_grad_enabled()))
        if not hook.returns:
            return None
        return tuple(None if g is None else hook.factor * g for g in given[0])

    handles = _registered(hooks, module, call)
    graded: list[Any] = [
        module.weight,
        *[x for x in inputs if isinstance(x, Tensor) and x.requires_grad],
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            returned = module(*inputs)
            results = returned if isinstance(returned, tuple) else (returned,)
            found: list[Any] = []
            if results[0].requires_grad:
                weights = [torch.full_like(r, 1.0 + n) for n, r in enumerate(results)]
                given = torch.autograd.grad(results, graded, weights, create_graph=create_graph)
                found = [g.tolist() for g in given]
        finally:
            _remove(handles)
    told = [str(w.message).partition(" when")[0] for w in caught]
    return noted, told, found


@law(
    source="Module.register_full_backward_hook, rules 1 to 3; register_full_backward_pre_hook; register_module_full_backward_hook",
    norms=("B23", "K12"),
    since="2.1",
)
def hooks_of_backward_are_handed_gradients_and_may_replace_them(
    sample: Sample, nest: Nesting
) -> None:
    """Pre-hooks are handed the gradients of the outputs, hooks those of the inputs as well.

    In order, those of all modules first; None stands for what is no tensor, and zero for a tensor
    that requires no grad beside one that does (undocumented). What one returns is handed on in the place of what it was given: by a pre-hook also
    to the parameters. Grad mode is off, or on with create_graph. Nothing is called where nothing
    was recorded. Where no input requires grad the hooks are handed None, and torch warns of that.
    """
    sample.needs_values()
    for draw in turns(sample.seed, sample.shape, sample.dtype, nest.contexts):
        hooks = _hooks(draw, "full_backward_pre", "full_backward")
        module = _Scaled(torch.float64, sample.device)
        flags = [draw.random() < 0.6 for _ in range(1 + draw.randrange(3))]
        tensors = [
            torch.arange(1.0, 3.0, dtype=torch.float64, device=sample.device, requires_grad=flag)
            for flag in flags
        ]
        inputs = (*tensors, *["no tensor"] * draw.randrange(2))
        create_graph = draw.random() < 0.3
        before, after = _order(hooks, "full_backward_pre"), _order(hooks, "full_backward")
        if not any(flags):
            for hook in after:
                hook.returns = False  # torch refuses that
        with nest.entered():
            recording, _ = mode()
            seen, told, found = _seen_in_backward(hooks, module, inputs, create_graph)
        wanted: list[Any] = []
        outer: list[Any] = [[1.0 + n] * 2 for n in range(len(flags))]
        for hook in before:
            wanted.append((hook.number, True, True, [outer], create_graph))
            outer = [[hook.factor * v for v in g] for g in outer] if hook.returns else outer
        inner: list[Any] = [None] * len(inputs)
        if any(flags):
            inner = [[2 * v * f for v in g] for g, f in zip(outer, flags, strict=True)]
            inner += [None] * (len(inputs) - len(flags))
        for hook in after:
            wanted.append((hook.number, True, True, [inner, outer], create_graph))
            if hook.returns:
                inner = [None if g is None else [hook.factor * v for v in g] for g in inner]
        weight = sum(v * (1.0 + n) for g in outer for n, v in enumerate(g))
        gradients = [[weight], *[g for g, f in zip(inner, flags, strict=False) if f]]
        holds(seen, "what the hooks noted", wanted if recording else [])
        holds(found, "the gradients of the weight and the inputs", gradients if recording else [])
        if after or not before:  # pre-hooks alone: torch 2.14 warned, 2.15 does not
            warned = recording and not any(flags) and bool(after)
            text = ["Full backward hook is firing"] if warned else []
            holds(told, "what torch warned of", text)


@law(
    source="Module.register_full_backward_hook: 'Modifying inputs or outputs inplace is not allowed'",
)
def a_hook_of_backward_forbids_to_write_into_the_output(sample: Sample, nest: Nesting) -> None:
    """What a module with a hook of backward returns is a view: writing into it is refused.

    But where nothing is recorded there is no view, and it may be written to.
    """
    for draw in turns(sample.seed, sample.shape, sample.dtype, nest.contexts):
        module = _Scaled(getattr(torch, sample.dtype), sample.device)
        module.requires_grad_(draw.random() < 0.5)
        x = sample.tensor(requires_grad=draw.random() < 0.5)
        kind = draw.choice(["full_backward", "full_backward_pre"])
        getattr(module, f"register_{kind}_hook")(lambda *given: None)
        with nest.entered():
            recording, _ = mode()
            out = module(x)
            recorded = recording and (x.requires_grad or module.weight.requires_grad)
            holds(out.requires_grad, "out.requires_grad", recorded)
            if recorded:
                refuses(
                    partial(out.mul_, 2),
                    RuntimeError,
                    "is a view and is being modified inplace",
                )
            else:
                written = out.data_ptr() == out.mul_(2).data_ptr()
                holds(written, "whether it is written to")


def _seen_of_a_tensor(
    draw: random.Random, x: Tensor, leaf: bool, times: int, create_graph: bool
) -> tuple[list[Any], list[Any], Any, Any]:
    """What hooks of a tensor note in some backwards, what they should, and the gradients."""
    noted: list[Any] = []
    wanted: list[Any] = []
    middle = x if leaf else x * 2
    hooks = [
        (n, draw.choice([None, 2.0, 3.0]), draw.random() < 0.2) for n in range(draw.randrange(4))
    ]
    posts = [(n, draw.random() < 0.2) for n in range(draw.randrange(3))] if leaf else []
    if not leaf and draw.random() < 0.5:
        middle.retain_grad()  # before the hooks or not: it is what all of them leave
    handles = []

    def hook(number: int, factor: Any) -> Any:
        def call(gradient: Tensor) -> Any:
            noted.append((number, gradient.tolist(), gradient is middle, torch.is_grad_enabled()))
            return None if factor is None else factor * gradient

        return call

    def post(number: int) -> Any:
        def call(given: Any) -> None:
            summed = None if given is not x or given.grad is None else given.grad.tolist()
            noted.append(("leaf", number, given is x, summed, torch.is_grad_enabled()))

        return call

    for number, factor, _ in hooks:
        handles.append(middle.register_hook(hook(number, factor)))
    for number, _ in posts:
        handles.append(x.register_post_accumulate_grad_hook(post(number)))
    for handle, (*_, removed) in zip(handles, [*hooks, *posts], strict=True):
        if removed:
            handle.remove()
    sums = [0.0] * x.numel()
    last = sums
    for _ in range(times):
        torch.autograd.backward((middle * 5).sum(), retain_graph=True, create_graph=create_graph)
        last = [5.0] * x.numel()
        for number, factor, removed in hooks:
            if not removed:
                wanted.append((number, last, False, create_graph))
                last = last if factor is None else [factor * v for v in last]
        sums = [a + b if leaf else a + 2 * b for a, b in zip(sums, last, strict=True)]
        for number, removed in posts:
            if not removed:
                wanted.append(("leaf", number, True, sums, create_graph))
    found = None if x.grad is None else x.grad.tolist()
    x.grad = None  # with its graph, it and what it belongs to hold one another
    middle.grad = None
    return noted, wanted, found, sums


@law(
    source="Tensor.register_hook; Tensor.register_post_accumulate_grad_hook: 'operates on the tensor that requires grad and not the grad itself'",
    norms=("B23",),
    since="2.1",
)
def a_hook_is_handed_the_gradient_and_a_post_accumulate_hook_the_leaf(sample: Sample) -> None:
    """A hook of a tensor is handed its gradient, and what it returns is handed on in its place.

    In the order in which they are registered. A post-accumulate hook is called after those, with
    the leaf itself, whose gradient is summed up by then. Both run with grad mode off, or on with
    create_graph.
    """
    sample.needs_values()
    for draw in turns(sample.seed, sample.shape, sample.dtype):
        shape = sample.shape[-1:]
        x = torch.ones(shape, dtype=torch.float64, device=sample.device, requires_grad=True)
        leaf, times, graph = draw.random() < 0.5, 1 + draw.randrange(2), draw.random() < 0.3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the cycle that create_graph makes
            seen, wanted, found, sums = _seen_of_a_tensor(draw, x, leaf, times, graph)
        holds(seen, f"what the hooks of a {'leaf' if leaf else 'result'} noted", wanted)
        holds(found, "x.grad", sums)


@law(source="Tensor.register_post_accumulate_grad_hook: 'hook(param: Tensor) -> None'", since="2.1")
def a_post_accumulate_hook_returns_nothing(sample: Sample) -> None:
    """Backward is refused if it returns a tensor; the gradient is summed up by then."""
    sample.needs_values()
    x = sample.tensor(requires_grad=True)
    x.register_post_accumulate_grad_hook(
        random.Random(sample.seed).choice([torch.clone, torch.neg])
    )
    refuses(lambda: (3 * x).backward(torch.ones_like(x)), RuntimeError, "should return None")
    equal(x.grad, torch.full_like(x, 3), "x.grad")


def _seen_in_steps(
    draw: random.Random, optimizer: Any, closure: Any
) -> tuple[list[Any], list[Any]]:
    """What hooks of an optimizer note while it steps, and what they should."""
    noted: list[Any] = []
    hooks = [
        (n, draw.choice(["pre", "post"]), draw.random() < 0.4, draw.random() < 0.2)
        for n in range(1 + draw.randrange(4))
    ]
    weight = optimizer.param_groups[0]["params"][0]
    before = weight.detach().clone()
    given = () if closure is None else (closure,)

    def hook(number: int) -> Any:
        def call(owner: Any, args: Any, kwargs: Any) -> None:
            moved = not torch.equal(weight, before)
            same = len(args) == 1 + len(given) and args[0] is optimizer and kwargs == {}
            noted.append((number, owner is optimizer, same, moved, mode()))

        return call

    handles = []
    for number, kind, everywhere, _ in hooks:
        if everywhere:
            register = getattr(optimizers, f"register_optimizer_step_{kind}_hook")
        else:
            register = getattr(optimizer, f"register_step_{kind}_hook")
        handles.append(register(hook(number)))
    for handle, (*_, removed) in zip(handles, hooks, strict=True):
        if removed:
            handle.remove()
    try:
        optimizer.step(*given)
    finally:
        _remove(handles)
    inside = mode()

    def called(kind: str, everywhere: bool) -> list[Any]:
        some = [n for n, k, e, gone in hooks if (k, e, gone) == (kind, everywhere, False)]
        return [(n, True, True, kind == "post", inside) for n in some]

    wanted = called("pre", True) + called("pre", False) + called("post", False)
    return noted, wanted + called("post", True)


@law(
    source="Optimizer.register_step_pre_hook; register_optimizer_step_post_hook; torch.optim, closure",
    since="2.1",
)
def hooks_of_an_optimizer_run_in_the_mode_of_the_caller(sample: Sample, nest: Nesting) -> None:
    """They are handed the optimizer and the arguments of step, before it moves and after.

    The grad mode is that in which step was called, not the one in which the optimizer moves.
    """
    sample.needs_values()
    for draw in turns(sample.seed, sample.shape, sample.dtype, nest.contexts, count=2):
        weight = nn.Parameter(torch.ones(sample.shape, device=sample.device))
        weight.grad = torch.ones_like(weight)
        kinds = [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad]
        optimizer = draw.choice(kinds)([weight], lr=0.1)
        closure = draw.choice([None, lambda: torch.ones(())])
        with nest.entered():
            seen, wanted = _seen_in_steps(draw, optimizer, closure)
        holds(seen, "what the hooks noted", wanted)


def _after_a_failure(dtype: torch.dtype, device: str, x: Tensor) -> tuple[list[int], list[str]]:
    """With how many arguments a hook of all modules is called when forward fails; warnings."""
    module, counts = _Scaled(dtype, device, fails=True), []
    handle = globally.register_module_forward_hook(
        lambda module, args, kwargs, output: counts.append(4), with_kwargs=True, always_call=True
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            module(x)
        except KeyError:
            counts.append(0)
        finally:
            handle.remove()
            globally._global_forward_hooks_with_kwargs.clear()  # its handle does not
    return counts, [str(w.message).partition(" that was")[0] for w in caught]


@law(source="undocumented: register_module_forward_hook, with_kwargs and always_call", since="2.3")
def a_hook_of_all_modules_is_not_handed_named_arguments_of_a_failure(
    sample: Sample, nest: Nesting
) -> None:
    """With with_kwargs and always_call it is called without them where forward fails.

    What that raises is silenced, and torch warns of it.
    """
    with nest.entered():
        counts, told = _after_a_failure(
            getattr(torch, sample.dtype), sample.device, sample.tensor()
        )
    holds(counts, "with how many arguments the hook was called, and the failure", [0])
    text = "global module forward hook with ``always_call=True`` raised an exception"
    holds(told, "what torch warned of", [text])
