"""Others who see or run a module: modes that watch it, tensors of another class, TorchScript."""

from __future__ import annotations

import random
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..drawing import choices, mode, turns
from ..law import law
from ..relations import equal, holds, refuses
from ..sample import Nesting, Sample


class _Dispatched(TorchDispatchMode):
    """Notes the operations that are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(str(operation).split(".")[1])
        return operation(*args, **(kwargs or {}))


class _Called(TorchFunctionMode):
    """Notes the functions of torch that are called, but for those that switch the grad mode."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", str(function))
        self.names += [] if name == "_set_grad_enabled" else [name]
        return function(*args, **(kwargs or {}))


class _Marked(torch.Tensor):
    """A tensor of a class of its own, which nothing is changed in."""


#: Layers that take and return three rows and four columns: what is dispatched in grad mode, and
#: what is in inference mode, where operations that are made of others are not taken apart.
_LAYERS = {
    "Linear": (lambda: nn.Linear(4, 4), ["t", "addmm"], ["linear"]),
    "GELU": (nn.GELU, ["gelu"], ["gelu"]),
    "Tanh": (nn.Tanh, ["tanh"], ["tanh"]),
    "Softmax": (lambda: nn.Softmax(-1), ["_softmax"], ["softmax"]),
    "LayerNorm": (lambda: nn.LayerNorm(4), ["native_layer_norm"], ["layer_norm"]),
    "PReLU": (nn.PReLU, ["view", "_prelu_kernel"], ["prelu"]),
    "SELU": (nn.SELU, ["elu"], ["selu"]),
    "Flatten": (nn.Flatten, [], ["flatten"]),
}


def _stack(draw: random.Random, device: str) -> tuple[list[str], nn.Module, Tensor]:
    """Some layers one after another, frozen or not, in training or not, and an input."""
    names = [draw.choice(list(_LAYERS)) for _ in range(1 + draw.randrange(4))]
    model = nn.Sequential(*[_LAYERS[name][0]() for name in names]).to(device)  # type: ignore[operator]
    model.train(draw.random() < 0.5)
    for parameter in model.parameters():
        parameter.requires_grad_(draw.random() < 0.5)
    return names, model, torch.ones(3, 4, device=device, requires_grad=draw.random() < 0.5)


@law(
    source="undocumented: torch.utils._python_dispatch.TorchDispatchMode (#126268)",
    since="2.4",
)
def a_dispatch_mode_is_shown_whole_operations_in_inference_mode(
    sample: Sample, nest: Nesting
) -> None:
    """Under no_grad it is shown what it is in grad mode; in inference mode operations as they are called.

    There linear is one operation, not the product that it is made of. Train and eval, and what is
    frozen, make no difference.
    """
    for draw in turns(sample.seed, sample.shape, nest.contexts):
        names, model, x = _stack(draw, sample.device)
        with nest.entered():
            _, inference = mode()
            with _Dispatched() as seen:
                model(x)
        parts = [part for name in names for part in _LAYERS[name][1 + inference]]  # type: ignore[attr-defined]
        shown = [name for name in seen.names if name != "detach"]  # a result that is saved
        holds(shown, f"what is dispatched of {names}, in inference mode {inference}", parts)


@law(source="torch.overrides.TorchFunctionMode; notes/extending", since="2.0")
def a_function_mode_is_shown_the_same_calls_in_every_mode(sample: Sample, nest: Nesting) -> None:
    """Which functions of torch a module calls depends on no grad mode and on nothing that is frozen."""
    for draw in turns(sample.seed, sample.shape, nest.contexts, count=2):
        names, model, x = _stack(draw, sample.device)
        with _Called() as plain:
            model(x)
        model.requires_grad_(draw.random() < 0.5)
        with nest.entered(), _Called() as seen:
            model(x)
        holds(seen.names, f"what is called by {names}", plain.names)
        holds(len(plain.names) >= len(names), "whether each layer calls something")


@law(source="torch.utils.flop_counter.FlopCounterMode; #126268", since="2.6")
def flops_are_counted_in_every_mode(sample: Sample, nest: Nesting) -> None:
    """What is counted of a forward is two for each multiplication, in whichever mode it runs."""
    from torch.utils.flop_counter import FlopCounterMode  # since torch 2.1

    for draw in turns(sample.seed, sample.shape, nest.contexts, count=2):
        size, width, height = (1 + draw.randrange(3) for _ in range(3))
        kind = draw.choice(["Linear", "Conv1d", "Conv2d", "several"])
        linear = nn.Linear(width, height, bias=draw.random() < 0.5)
        conv1d, conv2d = nn.Conv1d(width, height, 2), nn.Conv2d(width, height, 1)
        layers: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
            "Linear": (linear, (size, width), 2 * size * width * height),
            "Conv1d": (conv1d, (size, width, 4), 2 * size * height * 3 * width * 2),
            "Conv2d": (conv2d, (size, width, 2, 3), 2 * size * height * 6 * width),
            "several": (
                nn.Sequential(linear, nn.Dropout(), nn.Linear(height, 2)),
                (size, width),
                2 * size * height * (width + 2),
            ),
        }
        layer, shape, wanted = layers[kind]
        layer.to(sample.device).train(draw.random() < 0.5).requires_grad_(draw.random() < 0.5)
        x = torch.ones(shape, device=sample.device)
        around = draw.random() < 0.5
        counter = FlopCounterMode(display=False)
        if around:
            with counter, nest.entered():
                layer(x)
        else:
            with nest.entered(), counter:
                layer(x)
        holds(counter.get_total_flops(), f"the flops of {kind} on {shape}", wanted)


@law(source="notes/extending: 'Preserving types'; Tensor.__torch_function__", since="2.0")
def a_tensor_of_another_class_is_recorded_as_any_other(sample: Sample, nest: Nesting) -> None:
    """In every mode a subclass is kept through layers, and what is recorded is what a tensor's is.

    So are values, gradients, and which layers are frozen; the gradient of the input is of the class.
    """
    sample.needs_values()
    for draw in turns(sample.seed, sample.shape, nest.contexts, count=2):
        names, model, plain = _stack(draw, sample.device)
        told, x = plain.requires_grad, plain.detach().clone().as_subclass(_Marked)
        x.requires_grad_(told)
        with nest.entered():
            out, wanted = model(x), model(plain)
        holds(type(out) is _Marked, f"whether the result of {names} is of the class")
        facts = [(t.requires_grad, t.is_leaf, t.is_inference()) for t in (out, wanted)]
        holds(facts[0], "the facts of the result", facts[1])
        equal(out.detach().as_subclass(torch.Tensor), wanted.detach(), "the result")
        if out.requires_grad and out.grad_fn is not None:
            out.sum().backward()
            twice = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
            model.zero_grad()
            wanted.sum().backward()
            same = [
                (a is None and p.grad is None) or torch.equal(a, p.grad)  # type: ignore[arg-type]
                for a, p in zip(twice, model.parameters(), strict=True)
            ]
            holds(same, "whether the parameters have the same gradients", [True] * len(same))


def _executed(draw: random.Random, device: str) -> tuple[str, nn.Module, Any]:
    """A layer, and the same layer run by TorchScript."""
    module = draw.choice([lambda: nn.Linear(4, 4), lambda: nn.Conv1d(4, 4, 1), nn.PReLU])().to(
        device
    )
    how = draw.choice(["script", "trace"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        if how == "script":
            return how, module, torch.jit.script(module)
        return (
            how,
            module,
            torch.jit.trace(module, torch.ones(4, 4, device=device), check_trace=False),
        )


@law(
    source="torch.jit.script; torch.jit.trace; torch.no_grad; notes/autograd",
    norms=("L5",),
    costly=True,
)
def a_layer_that_is_scripted_records_as_the_layer_does(sample: Sample, nest: Nesting) -> None:
    """In each mode, frozen or not, again and again, it records what the layer itself records.

    It has the very parameters of the layer: what is told to one holds for both.
    """
    sample.needs_values()
    draw = choices(sample.seed, sample.shape, nest.contexts)
    how, module, executed = _executed(draw, sample.device)
    for _ in range(4):
        flags = [draw.random() < 0.5 for _ in module.parameters()]
        for parameter, flag in zip(module.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
        shown = [p.requires_grad for p in executed.parameters()]
        holds(shown, "the flags of its parameters", flags)
        x = torch.ones(4, 4, device=sample.device, requires_grad=draw.random() < 0.3)
        if draw.random() < 0.5:
            with nest.entered():
                out, wanted = executed(x), module(x)
        else:
            out, wanted = executed(x), module(x)
        facts = [(t.requires_grad, t.is_leaf, t.is_inference()) for t in (out, wanted)]
        holds(facts[0], f"the facts of the result, by {how}", facts[1])
        equal(out.detach(), wanted.detach(), "the result")


def _multiplied() -> Any:
    """A function that is scripted anew."""

    def multiplied(x: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(x * y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        return torch.jit.script(multiplied)


@law(source="undocumented: torch.jit.script (#128261)")
def a_scripted_function_records_under_no_grad_if_it_first_ran_without(sample: Sample) -> None:
    """Once it ran in grad mode, what it returns under no_grad requires grad as an input does.

    If its first run was under no_grad, it records what any function does.
    """
    draw = choices(sample.seed, sample.shape, sample.dtype)
    function = _multiplied()
    y = torch.ones(2, device=sample.device, requires_grad=draw.random() < 0.8)
    modes = [draw.random() < 0.5 for _ in range(4)]
    for enabled in modes:
        with torch.set_grad_enabled(enabled):
            recorded = function(torch.ones(2, device=sample.device), y).requires_grad
        wanted = y.requires_grad and (enabled or modes[0])
        holds(recorded, f"whether it requires grad, with grad enabled in {modes}", wanted)


@law(source="undocumented: torch.jit.ScriptModule (#68340)", costly=True)
def a_scripted_module_refuses_to_be_frozen_itself(sample: Sample) -> None:
    """requires_grad_ of a scripted module is refused and changes nothing; within another it is obeyed.

    So are hooks refused. train and eval reach it and all within it, and its parameters can be
    frozen one by one.
    """
    draw = choices(sample.seed, sample.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        module = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).to(sample.device)
        scripted = torch.jit.script(module)
    told, trains = draw.random() < 0.5, draw.random() < 0.5
    for parameter in scripted.parameters():
        parameter.requires_grad_(not told)
    refuses(lambda: scripted.requires_grad_(told), RuntimeError, "not supported on ScriptModules")
    hook = draw.choice(["forward", "forward_pre", "full_backward"])
    register = getattr(scripted, f"register_{hook}_hook")
    refuses(lambda: register(print), RuntimeError, "not supported on ScriptModules")
    flags = [p.requires_grad for p in scripted.parameters()]
    holds(flags, "the flags after it was refused", [not told] * 2)
    nn.Sequential(scripted).requires_grad_(told)
    flags = [p.requires_grad for p in scripted.parameters()]
    holds(flags, "the flags after its owner was told", [told] * 2)
    scripted.train(trains)
    holds([m.training for m in scripted.modules()], "its modes", [trains] * 3)
