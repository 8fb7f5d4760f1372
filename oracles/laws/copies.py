"""What else is copied: what a program has noted on a tensor or a parameter as an attribute."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import torch
from torch import nn

from ..drawing import turns
from ..law import law
from ..relations import holds
from ..sample import Sample


def _saved(thing: Any) -> Any:
    """What is loaded of what was saved."""
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _pickled(thing: Any) -> Any:
    """What is unpickled of what was pickled."""
    return pickle.loads(pickle.dumps(thing))


#: Ways to copy a tensor or a parameter, and whether what was noted on it is on the copy.
_COPIES = {
    "copy.copy": (copy.copy, True, True),
    "copy.deepcopy": (copy.deepcopy, True, False),
    "pickle": (_pickled, True, True),
    "torch.save": (_saved, True, True),
    "detach": (torch.Tensor.detach, False, False),
    "clone": (torch.Tensor.clone, False, False),
    "another type": (lambda t: t.to(torch.float64), False, False),
    "its own type": (lambda t: t.to(t.dtype), True, True),
}


@law(source="undocumented: copy.deepcopy of an nn.Parameter (#117275)")
def a_deep_copy_of_a_parameter_forgets_what_was_noted_on_it(sample: Sample) -> None:
    """Attributes of a tensor survive copying, deep-copying, pickling and saving.

    Those of a parameter survive all but deep-copying; nothing that computes or detaches hands them
    on. The flag, and the class, are on every copy of a leaf.
    """
    for draw in turns(sample.seed, sample.shape, sample.dtype):
        told, parameter = draw.random() < 0.5, draw.random() < 0.5
        name = draw.choice(list(_COPIES))
        made, of_tensor, of_parameter = _COPIES[name]
        x = sample.tensor(requires_grad=told)
        x = nn.Parameter(x.detach(), requires_grad=told) if parameter else x
        if name == "another type" and (x.is_complex() or x.dtype == torch.float64):
            x = x.detach().abs().to(torch.float32)
            parameter, told = False, False
        x.group = "no decay"  # type: ignore[attr-defined]
        copied = made(x)
        kind = f"{'parameter' if parameter else 'tensor'}, {name}"
        holds(
            hasattr(copied, "group"),
            f"whether it is on the copy: {kind}",
            of_parameter if parameter else of_tensor,
        )
        if name in ("copy.copy", "copy.deepcopy", "pickle", "torch.save"):
            facts = type(copied) is type(x), copied.requires_grad, copied.is_leaf
            holds(facts, f"class, flag and leaf: {kind}", (True, told, True))


#: What is done to a module, whether the parameter stays the same, and keeps what was noted on it.
_TOLD = {
    "deepcopy": (copy.deepcopy, False, False),
    "pickle": (_pickled, False, True),
    "torch.save": (_saved, False, True),
    "to": (lambda m: m.to(torch.float64), True, True),
    "requires_grad_": (lambda m: m.requires_grad_(False), True, True),
    "train": (lambda m: m.train(), True, True),
    "zero_grad": (lambda m: m.zero_grad() or m, True, True),
}


@law(
    source="Module.to: 'modifies the module in-place'; undocumented: copies of what is noted (#117275)",
    norms=("E12",),
)
def a_module_keeps_what_was_noted_on_its_parameters(sample: Sample) -> None:
    """What is done to a module in place leaves its parameters what they are; copies are others.

    Their attributes are on what was pickled or saved, and not on a deep copy. Those of a buffer
    are on a deep copy, and are lost where it is converted.
    """
    for draw in turns(sample.seed, sample.shape, sample.dtype, count=2):
        name = draw.choice(list(_TOLD))
        done, same, kept = _TOLD[name]
        norm: Any = nn.BatchNorm1d(1 + sample.shape[0], device=sample.device)
        norm.weight.group, norm.running_mean.group = "no decay", "statistics"
        norm.weight.requires_grad_(draw.random() < 0.5)
        model = nn.Sequential(norm)
        made = done(model)[0]
        holds(made.weight is norm.weight, f"whether it is the same parameter after {name}", same)
        holds(hasattr(made.weight, "group"), f"whether it is on the parameter after {name}", kept)
        held = name != "to"
        holds(
            hasattr(made.running_mean, "group"), f"whether it is on the buffer after {name}", held
        )
