"""Other moments in the life of a module: before a lazy layer's first forward, while a graph lives.

Between its making and its first forward a lazy layer can be switched, frozen, copied and loaded;
between forward and backward a module can be converted; and a module may make its state anew in
each forward, in whichever mode that runs.
"""

from __future__ import annotations

import copy
import pickle
import random
import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..drawing import mode, turns
from ..law import law
from ..relations import equal, holds, refuses
from ..sample import Nesting, Sample


def _lazy(draw: random.Random, device: str, dtype: torch.dtype) -> tuple[Any, nn.Module, Tensor]:
    """A lazy layer, the layer that it is to become, and an input of it."""
    width, height = 1 + draw.randrange(3), 2 + draw.randrange(2)
    told: dict[str, Any] = {"device": device, "dtype": dtype}
    made: list[tuple[Any, Any, tuple[int, ...]]] = [
        (lambda: nn.LazyLinear(width, **told), lambda: nn.Linear(height, width, **told), ()),
        (
            lambda: nn.LazyConv1d(width, 2, **told),
            lambda: nn.Conv1d(height, width, 2, **told),
            (4,),
        ),
        (
            lambda: nn.LazyConvTranspose2d(width, 1, **told),
            lambda: nn.ConvTranspose2d(height, width, 1, **told),
            (2, 2),
        ),
        (lambda: nn.LazyBatchNorm1d(**told), lambda: nn.BatchNorm1d(height, **told), ()),
        (lambda: nn.LazyBatchNorm2d(**told), lambda: nn.BatchNorm2d(height, **told), (2, 1)),
    ]
    lazy, plain, sizes = draw.choice(made)
    x = torch.ones(3, height, *sizes, device=device, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that lazy modules are new
        return lazy(), plain(), x


def _float(dtype: torch.dtype) -> torch.dtype:
    """A type in which every layer runs."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def _facts(module: nn.Module) -> list[tuple[bool, bool, bool, bool]]:
    """Of each parameter: whether it is one, requires grad, is a leaf, is an inference tensor."""
    return [
        (type(p) is nn.Parameter, p.requires_grad, p.is_leaf, p.is_inference())
        for p in module.parameters()
    ]


@law(
    source="nn.modules.lazy.LazyModuleMixin; nn.parameter.UninitializedParameter.materialize: 'with the same properties'",
    norms=("J15",),
)
def a_lazy_layer_keeps_what_it_was_told_before_its_first_forward(
    sample: Sample, nest: Nesting
) -> None:
    """Its mode, and requires_grad of each parameter as it was set, in whichever mode it first runs.

    Its parameters are those that there were, and so an optimizer that was made before has them;
    it becomes a layer that is not lazy. Made in inference mode, their data are inference tensors.
    """
    for draw in turns(sample.seed, sample.shape, sample.dtype, nest.contexts, count=2):
        dtype = _float(getattr(torch, sample.dtype))
        layer, plain, x = _lazy(draw, sample.device, dtype)
        parameters = list(layer.parameters())
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        flags, told = [True] * len(parameters), True
        for _ in range(3):
            what = draw.randrange(5)
            if what == 0:
                told = draw.random() < 0.5
                layer.train(told)
            elif what == 1:
                place = draw.randrange(len(parameters))
                flags[place] = draw.random() < 0.5
                parameters[place].requires_grad = flags[place]
            elif what == 2:
                layer.zero_grad()
            elif what == 3:
                layer.load_state_dict(layer.state_dict())
            else:
                layer.half().to(dtype)
        with nest.entered():
            _, inference = mode()
            layer(x)
        holds(type(layer) is type(plain), "whether it is a layer that is not lazy")
        holds([m.training for m in layer.modules()], "whether it trains", [told])
        wanted = [(True, flag, True, inference) for flag in flags]
        holds(_facts(layer), "the facts of its parameters", wanted)
        same = [p is q for p, q in zip(layer.parameters(), parameters, strict=True)]
        holds(same, "whether its parameters are those that there were", [True] * len(flags))
        held = [
            p is q for p, q in zip(optimizer.param_groups[0]["params"], parameters, strict=True)
        ]
        holds(held, "whether the optimizer has them", [True] * len(flags))
        shapes = [tuple(p.shape) for p in plain.parameters()]
        holds([tuple(p.shape) for p in parameters], "their sizes", shapes)


@law(
    source="nn.modules.lazy.LazyModuleMixin: 'lazy modules can be serialized'; load_state_dict",
    norms=("J15",),
)
def a_lazy_layer_that_was_loaded_is_not_made_anew(sample: Sample, nest: Nesting) -> None:
    """Loaded before its first forward, in any grad mode, it has the values that were loaded.

    Its parameters are leaves that require grad as they did, and the first forward changes none of
    them. Loaded in inference mode, their data are inference tensors.
    """
    sample.needs_values()
    for draw in turns(sample.seed, sample.shape, sample.dtype, nest.contexts, count=2):
        layer, plain, x = _lazy(draw, sample.device, _float(getattr(torch, sample.dtype)))
        with torch.no_grad():
            for number, value in enumerate(plain.parameters()):
                value.fill_(2.0 + number)
        flags = [draw.random() < 0.5 for _ in layer.parameters()]
        for parameter, flag in zip(layer.parameters(), flags, strict=True):
            parameter.requires_grad = flag
        with nest.entered():
            _, inference = mode()
            layer.load_state_dict(plain.state_dict())
        wanted = [(True, flag, True, inference) for flag in flags]
        holds(_facts(layer), "the facts of its parameters", wanted)
        with torch.no_grad():
            out = layer.eval()(x)
        holds(_facts(layer), "the facts of its parameters after forward", wanted)
        equal(out, plain.eval()(x).detach(), "what it returns")


@law(source="undocumented: UninitializedParameter; Module.requires_grad_ (#73009)")
def freezing_a_model_with_a_lazy_layer_stops_half_way(sample: Sample) -> None:
    """requires_grad_ is refused at the first parameter that is not there yet; those before it are set.

    The flag of such a parameter itself can be set as an attribute.
    """
    for draw in turns(sample.seed, sample.shape, sample.dtype):
        layers = [nn.Linear(2, 2) for _ in range(draw.randrange(4))]
        place, told = draw.randrange(len(layers) + 1), draw.random() < 0.5
        lazy, _, _ = _lazy(draw, sample.device, torch.float32)
        model = nn.Sequential(*layers[:place], lazy, *layers[place:])
        for parameter in model.parameters():
            parameter.requires_grad = not told
        refuses(
            partial(model.requires_grad_, told),
            ValueError,
            "uninitialized parameter",
        )
        flags = [layer.weight.requires_grad for layer in layers]
        wanted = [told if n < place else not told for n in range(len(layers))]
        holds(flags, f"the flags of the layers beside one at {place}", wanted)


@law(source="undocumented: UninitializedBuffer; copy.deepcopy; pickle")
def a_lazy_layer_with_buffers_is_not_deep_copied(sample: Sample) -> None:
    """deepcopy refuses a lazy layer with statistics; of others it keeps each flag, as pickling does.

    Pickling keeps no dtype: what is made of the copy later has the default one.
    """
    for draw in turns(sample.seed, sample.shape, sample.dtype, count=2):
        layer, _, x = _lazy(draw, sample.device, torch.float64)
        flags = [draw.random() < 0.5 for _ in layer.parameters()]
        for parameter, flag in zip(layer.parameters(), flags, strict=True):
            parameter.requires_grad = flag
        if list(layer.buffers()):
            refuses(partial(copy.deepcopy, layer), ValueError, "uninitialized")
        else:
            copied = copy.deepcopy(layer)
            copied(x)
            holds([f for _, f, *_ in _facts(copied)], "the flags of a deep copy", flags)
            holds({p.dtype for p in copied.parameters()}, "their types", {torch.float64})
        pickled = pickle.loads(pickle.dumps(layer)).to(sample.device)
        for buffer in pickled.buffers():
            buffer.data = buffer.data.float()
        pickled(x.float())
        holds([f for _, f, *_ in _facts(pickled)], "the flags of what was pickled", flags)
        holds({p.dtype for p in pickled.parameters()}, "their types", {torch.float32})


def _swapped(module: nn.Module) -> str:
    """Convert a module by swapping its parameters: the type of the error, "" if there was none."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        module.to(torch.float64)
    except RuntimeError as error:
        return type(error).__name__
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    return ""


@law(
    source="undocumented: torch.__future__.set_swap_module_params_on_conversion; torch.utils.swap_tensors",
    norms=("E13",),
    since="2.4",
)
def converting_by_swapping_waits_for_the_graph(sample: Sample, nest: Nesting) -> None:
    """It is refused while a graph is alive that has saved the weight, frozen or not, and only then.

    A linear layer saves its weight where its input requires grad. Once backward has run, or the
    output is gone, it is converted. Flags and modes are kept, and a gradient is converted too.
    """
    for draw in turns(sample.seed, sample.shape, sample.dtype, nest.contexts):
        layer = nn.Linear(1 + sample.shape[0], 2, device=sample.device)
        flags = [draw.random() < 0.5 for _ in range(2)]
        for parameter, flag in zip(layer.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
        needed = draw.random() < 0.7
        x = torch.ones(1, 1 + sample.shape[0], device=sample.device, requires_grad=needed)
        end = draw.choice(["kept", "dropped", "backward"])
        with nest.entered():
            recording, _ = mode()
            out = layer(x)
        recorded = recording and (needed or any(flags))
        if end == "backward" and recorded:
            out.sum().backward()
        if end == "dropped":
            del out
        saved = recording and needed and end == "kept"
        refused = _swapped(layer)
        told = f"flags {flags}, input requires grad {needed}, {end}"
        holds(refused, f"how it was refused with {told}", "RuntimeError" if saved else "")
        wanted = torch.float32 if saved else torch.float64
        holds([p.dtype for p in layer.parameters()], f"the types with {told}", [wanted] * 2)
        holds([p.requires_grad for p in layer.parameters()], f"the flags with {told}", flags)
        types = [None if p.grad is None else p.grad.dtype for p in layer.parameters()]
        graded = end == "backward" and recorded
        made = [torch.float64 if flag and graded else None for flag in flags]
        holds(types, f"the types of the gradients with {told}", made)


@law(source="undocumented: Module.to; torch.Tensor.backward")
def a_graph_gives_gradients_of_the_type_in_which_it_was_made(sample: Sample) -> None:
    """Converted between forward and backward, a parameter gets a gradient of the former type.

    Its own type is another then. Who receives a gradient is what it was at forward.
    """
    for draw in turns(sample.seed, sample.shape, sample.dtype):
        before, after = draw.sample([torch.float32, torch.float64, torch.bfloat16], 2)
        layer = nn.Linear(2, 2, device=sample.device, dtype=before)
        flags = [draw.random() < 0.6 for _ in range(2)]
        for parameter, flag in zip(layer.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
        x = torch.ones(1, 2, device=sample.device, dtype=before, requires_grad=True)
        out = layer(x)
        layer.to(after)
        out.sum().backward()
        types = [None if p.grad is None else p.grad.dtype for p in layer.parameters()]
        made = [before if flag else None for flag in flags]
        holds(types, "the types of the gradients", made)
        holds([p.dtype for p in layer.parameters()], "the types of the parameters", [after] * 2)
        holds(x.grad is not None and x.grad.dtype, "the type of x.grad", before)
        layer.zero_grad()


class _Remembering(nn.Module):
    """Keeps what it computed in a buffer, which it makes anew or writes into."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, device=device))
        self.register_buffer("state", torch.zeros(2, device=device))

    state: Tensor

    def forward(self, x: Tensor, anew: bool, detached: bool) -> Tensor:
        made = x * self.weight
        made = made.detach() if detached else made
        if anew:
            self.state = self.state * 0.5 + made
        else:
            self.state.mul_(0.5).add_(made)
        return made


@law(
    source="C++ notes/inference_mode; notes/autograd, In-place operations; nn.Module.register_buffer",
    norms=("B7",),
)
def state_that_forward_makes_is_what_its_mode_makes(sample: Sample, nest: Nesting) -> None:
    """A buffer that forward makes anew is recorded, or an inference tensor, as the mode says.

    What is written into it in place is refused where it is an inference tensor and inference mode
    has been left. A module whose buffer was recorded is not deep-copied.
    """
    for draw in turns(sample.seed, sample.shape, sample.dtype, nest.contexts):
        module = _Remembering(sample.device)
        module.weight.requires_grad_(draw.random() < 0.7)
        x = torch.ones(2, device=sample.device)
        recorded = frozen = False  # whether the buffer is recorded, or an inference tensor
        for _ in range(3):
            outside, anew, detached = (draw.random() < 0.5 for _ in range(3))
            refused = ""
            with torch.set_grad_enabled(outside), nest.entered():
                recording, inference = mode()
                try:
                    module(x, anew, detached)
                except RuntimeError as error:
                    refused = str(error)[:43]
            new = recording and module.weight.requires_grad and not detached
            if anew:
                recorded, frozen = (recording and recorded) or new, inference
            elif frozen and not inference:
                holds(refused, "how it was refused", "Inplace update to inference tensor outside ")
                continue
            else:
                recorded = recorded or new
            holds(refused, "how it was refused", "")
            facts = module.state.requires_grad, module.state.is_inference()
            holds(facts, f"the facts of the buffer, made anew {anew}", (recorded, frozen))
        holds(module.state is dict(module.named_buffers())["state"], "whether it is a buffer still")
        if recorded:
            refuses(
                partial(copy.deepcopy, module),
                RuntimeError,
                "created explicitly by the user",
            )
