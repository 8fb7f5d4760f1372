"""Parametrizations, norms and pruning: put on and taken off in a mode, of weights frozen or not."""

from __future__ import annotations

import random
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from ..drawing import choices, mode
from ..law import law
from ..relations import equal, holds, refuses
from ..sample import Nesting, Sample


class _Doubled(nn.Module):
    """Twice its original; it has no inverse."""

    def forward(self, original: Tensor) -> Tensor:
        return 2 * original


class _Halved(nn.Module):
    """Half of its original; it has an inverse."""

    def forward(self, original: Tensor) -> Tensor:
        return original / 2

    def right_inverse(self, weight: Tensor) -> Tensor:
        return 2 * weight


class _Sum(nn.Module):
    """The sum of several originals."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, *originals: Tensor) -> Tensor:
        return torch.stack(originals).sum(0)

    def right_inverse(self, weight: Tensor) -> list[Tensor]:
        return [weight / self.count for _ in range(self.count)]


_SINGLE = ("doubled", "halved", "halved and doubled", "spectral_norm", "orthogonal")
_SEVERAL = ("weight_norm", "sum of two", "sum of three", "sum of two, doubled")


def _parametrized(layer: nn.Module, kind: str) -> nn.Module:
    """The layer with a parametrization of its weight."""
    if kind in ("weight_norm", "spectral_norm", "orthogonal"):
        getattr(parametrizations, kind)(layer)
        return layer
    if kind.startswith("sum"):
        parts: list[nn.Module] = [_Sum(3 if "three" in kind else 2)]
    else:
        parts = [_Halved()] if kind.startswith("halved") else []
    for part in [*parts, *([_Doubled()] if "doubled" in kind else [])]:
        parametrize.register_parametrization(layer, "weight", part)
    return layer


def _layer(draw: random.Random, seed: int, shape: Any, dtype: torch.dtype, device: str) -> Any:
    """A layer with a weight of some size, frozen or not."""
    torch.manual_seed(seed)
    width, height = 1 + shape[0], 1 + shape[-1]
    made = draw.choice(
        [
            lambda: nn.Linear(width, height),
            lambda: nn.Conv1d(width, height, 2),
            lambda: nn.ConvTranspose2d(width, height, 1),
            lambda: nn.Embedding(width, height),
            lambda: nn.Bilinear(width, 2, height),
        ]
    )()
    made.weight.requires_grad_(draw.random() < 0.5)
    return made.to(device, dtype)


def _precise(dtype: torch.dtype) -> torch.dtype:
    """A type that linear algebra takes."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def _facts(tensor: Any) -> tuple[bool, bool, bool, bool]:
    """Whether it is a parameter, requires grad, is a leaf, and is an inference tensor."""
    parameter = isinstance(tensor, nn.Parameter)
    return parameter, tensor.requires_grad, tensor.is_leaf, tensor.is_inference()


@law(
    source="nn.utils.parametrize.register_parametrization: 'will register a number of new parameters'",
    norms=("D13",),
)
def a_parametrization_takes_over_what_requires_grad(sample: Sample, nest: Nesting) -> None:
    """In any grad mode the originals are leaves and parameters that require grad as the weight did.

    Several originals that are made in inference mode are inference tensors; a single one is the
    parameter that was there, and stays a normal tensor. The parametrization has the mode of its
    layer.
    """
    draw = choices(sample.seed, sample.shape, sample.dtype, nest.contexts)
    dtype = _precise(getattr(torch, sample.dtype))
    layer = _layer(draw, sample.seed, sample.shape, dtype, sample.device)
    kind, told, trained = (
        draw.choice(_SINGLE + _SEVERAL),
        draw.random() < 0.5,
        layer.weight.requires_grad,
    )
    weight, single = layer.weight, kind in _SINGLE
    layer.train(told)
    with nest.entered():
        _, inference = mode()
        _parametrized(layer, kind)
    held = layer.parametrizations.weight
    originals = [p for n, p in held.named_parameters() if n.startswith("original")]
    new = [not single] * len(originals)
    if kind == "weight_norm":
        new[1] = False  # the direction is the weight as it is
    made = [(True, trained, True, inference and fresh) for fresh in new]
    holds([_facts(p) for p in originals], f"the facts of the originals of {kind}", made)
    holds(len(originals) > 1, f"whether {kind} has several originals", not single)
    holds(
        any(p is weight for p in layer.parameters()),
        "whether the weight is a parameter",
        single,
    )
    holds([m.training for m in held.modules()], "the modes", [True, *[told] * len(held)])


@law(source="nn.utils.parametrize.remove_parametrizations, leave_parametrized")
def taking_off_a_parametrization_keeps_a_single_original(sample: Sample, nest: Nesting) -> None:
    """In any grad mode the weight is the parameter that it was, a leaf, and frozen as before.

    Its value is the one that was computed, or that of the original if it is not to be left.
    """
    sample.needs_values()
    draw = choices(sample.seed, sample.shape, sample.dtype, nest.contexts)
    dtype = _precise(getattr(torch, sample.dtype))
    layer = _layer(draw, sample.seed, sample.shape, dtype, sample.device)
    kind, leave, weight = draw.choice(_SINGLE), draw.random() < 0.5, layer.weight
    facts = _facts(weight)
    _parametrized(layer, kind).eval()
    with torch.no_grad():
        value = (layer.weight if leave else layer.parametrizations.weight.original).clone()
    with nest.entered():
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=leave)
    holds(layer.weight is weight, f"whether {kind} leaves the parameter itself")
    holds(any(p is weight for p in layer.parameters()), "whether it is among the parameters")
    holds(_facts(layer.weight), f"the facts of the weight after {kind}", facts)
    equal(layer.weight.detach(), value, f"the weight after {kind}, left {leave}")
    holds(parametrize.is_parametrized(layer), "whether it is parametrized still", False)


@law(source="nn.utils.parametrize.remove_parametrizations: 'depends on just one tensor'")
def several_originals_cannot_be_left_as_they_were(sample: Sample, nest: Nesting) -> None:
    """leave_parametrized=False is refused in any grad mode, and the layer stays as it is."""
    draw = choices(sample.seed, sample.shape, sample.dtype, nest.contexts)
    dtype = _precise(getattr(torch, sample.dtype))
    layer = _layer(draw, sample.seed, sample.shape, dtype, sample.device)
    _parametrized(layer, draw.choice(_SEVERAL))
    facts = [_facts(p) for p in layer.parameters()]
    with nest.entered():
        refuses(
            lambda: parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False),
            ValueError,
            "leave_parametrized=False",
        )
    holds([_facts(p) for p in layer.parameters()], "the facts of the parameters", facts)
    holds(parametrize.is_parametrized(layer), "whether it is parametrized still")


@law(source="undocumented: nn.utils.parametrize.remove_parametrizations, several originals")
def taking_off_several_originals_leaves_a_parameter_where_it_is_recorded(
    sample: Sample, nest: Nesting
) -> None:
    """The weight is a new parameter if computing it is recorded; else it is a buffer.

    So under no_grad, or with all originals frozen, it is among the parameters no more, and no
    optimizer and no requires_grad_ of the module reaches it. In inference mode it is an inference
    tensor.
    """
    draw = choices(sample.seed, sample.shape, sample.dtype, nest.contexts)
    dtype = _precise(getattr(torch, sample.dtype))
    layer = _layer(draw, sample.seed, sample.shape, dtype, sample.device)
    kind = draw.choice(_SEVERAL)
    _parametrized(layer, kind)
    originals = list(layer.parametrizations.weight.parameters())
    for original in originals:
        original.requires_grad_(draw.random() < 0.5)
    with nest.entered():
        recording, inference = mode()
        parametrize.remove_parametrizations(layer, "weight")
    recorded = recording and any(p.requires_grad for p in originals)
    made = recorded, recorded, True, inference
    holds(_facts(layer.weight), f"the facts of the weight after {kind}", made)
    held = any(p is layer.weight for p in layer.parameters())
    holds(held, "whether it is among the parameters", recorded)
    held = any(b is layer.weight for b in layer.buffers())
    holds(held, "whether it is among the buffers", not recorded)
    layer.requires_grad_(False)
    holds(layer.weight.requires_grad, "whether it is reached by requires_grad_(False)", False)


def _pruned(layer: nn.Module, draw: random.Random) -> str:
    """Prune the weight of a layer in some way, once or twice: which."""
    ways = {
        "random": lambda: prune.random_unstructured(layer, "weight", amount=1),
        "smallest": lambda: prune.l1_unstructured(layer, "weight", amount=1),
        "rows": lambda: prune.ln_structured(layer, "weight", amount=1, n=2, dim=0),
        "none": lambda: prune.identity(layer, "weight"),
    }
    names = draw.choices(list(ways), k=1 + (draw.random() < 0.5))
    for name in names:
        ways[name]()
    return " and ".join(names)


@law(
    source="nn.utils.prune.remove: 'the parameter remains permanently pruned'; Setting requires_grad"
)
def pruning_and_its_removal_keep_the_parameter(sample: Sample, nest: Nesting) -> None:
    """Pruned in one mode and unpruned in another, the weight is the parameter that it was.

    Its flag is kept, and its values are those of the pruned weight. Removed in inference mode,
    the parameter holds data that were made there: it is an inference tensor then (undocumented).
    """
    sample.needs_values()
    draw = choices(sample.seed, sample.shape, sample.dtype, nest.contexts)
    dtype = _precise(getattr(torch, sample.dtype))
    layer = _layer(draw, sample.seed, sample.shape, dtype, sample.device)
    weight, facts = layer.weight, _facts(layer.weight)
    with torch.set_grad_enabled(draw.random() < 0.5):
        how = _pruned(layer, draw)
    holds(layer.weight_orig is weight, f"whether {how} keeps the parameter as weight_orig")
    holds(_facts(layer.weight_orig), f"the facts of weight_orig after {how}", facts)
    holds(isinstance(layer.weight, nn.Parameter), "whether the weight is a parameter", False)
    value = (weight * layer.weight_mask).detach()
    with nest.entered():
        _, inference = mode()
        prune.remove(layer, "weight")
    holds(layer.weight is weight, f"whether the removal of {how} leaves the parameter itself")
    holds(any(p is weight for p in layer.parameters()), "whether it is among the parameters")
    holds(_facts(weight), f"the facts of the weight after {how}", (*facts[:3], inference))
    equal(weight.detach(), value, f"the weight after {how}")
    holds(prune.is_pruned(layer), "whether it is pruned still", False)


@law(source="undocumented: nn.utils.weight_norm, spectral_norm (deprecated)")
def the_norms_that_are_hooks_forget_what_is_frozen(sample: Sample, nest: Nesting) -> None:
    """weight_norm unfreezes when it is put on, spectral_norm when it is taken off, in any grad mode.

    Put on with a frozen weight, the magnitude and the direction of weight_norm require grad;
    weight_orig of spectral_norm does as the weight did. Taken off, both leave a new parameter that
    requires grad.
    """
    draw = choices(sample.seed, sample.shape, sample.dtype, nest.contexts)
    dtype = _precise(getattr(torch, sample.dtype))
    layer = _layer(draw, sample.seed, sample.shape, dtype, sample.device)
    norm, trained = draw.choice(["weight_norm", "spectral_norm"]), layer.weight.requires_grad
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weight_norm is deprecated
        getattr(nn.utils, norm)(layer)
        put = [p.requires_grad for n, p in layer.named_parameters() if n.startswith("weight")]
        layer.requires_grad_(False)
        with nest.entered():
            _, inference = mode()
            getattr(nn.utils, f"remove_{norm}")(layer)
    wanted = [True, True] if norm == "weight_norm" else [trained]
    holds(put, f"which originals of {norm} require grad, the weight did {trained}", wanted)
    facts = True, True, True, inference
    holds(_facts(layer.weight), f"the facts of the weight after remove_{norm}", facts)
    holds("weight" in dict(layer.named_parameters()), "whether it is among the parameters")
