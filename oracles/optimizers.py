"""The optimizers of torch.optim, and how each is written."""

from __future__ import annotations

from typing import Final

#: By name, with {0} for the parameters: every class, with the options that change what it moves.
OPTIMIZERS: Final = {
    "SGD": "torch.optim.SGD({0}, lr=0.1)",
    "SGD_decaying": "torch.optim.SGD({0}, lr=0.1, weight_decay=0.1)",
    "SGD_moving": "torch.optim.SGD({0}, lr=0.1, momentum=0.9)",
    "SGD_foreach": "torch.optim.SGD({0}, lr=0.1, foreach=True)",
    "SGD_fused": "torch.optim.SGD({0}, lr=0.1, fused=True)",
    "Adadelta": "torch.optim.Adadelta({0}, lr=0.1)",
    "Adafactor": "torch.optim.Adafactor({0}, lr=0.1)",
    "Adagrad": "torch.optim.Adagrad({0}, lr=0.1)",
    "Adam": "torch.optim.Adam({0}, lr=0.1)",
    "Adam_foreach": "torch.optim.Adam({0}, lr=0.1, foreach=True)",
    "Adam_fused": "torch.optim.Adam({0}, lr=0.1, fused=True)",
    "AdamW": "torch.optim.AdamW({0}, lr=0.1)",
    "Adamax": "torch.optim.Adamax({0}, lr=0.1)",
    "ASGD": "torch.optim.ASGD({0}, lr=0.1)",
    "NAdam": "torch.optim.NAdam({0}, lr=0.1)",
    "RAdam": "torch.optim.RAdam({0}, lr=0.1)",
    "RMSprop": "torch.optim.RMSprop({0}, lr=0.1)",
    "Rprop": "torch.optim.Rprop({0}, lr=0.1)",
}

#: The same with weight decay and momentum, where there are such: a gradient of zero moves these.
DECAYING: Final = {
    "SGD_decaying": OPTIMIZERS["SGD_decaying"],
    "SGD_both": "torch.optim.SGD({0}, lr=0.1, momentum=0.9, weight_decay=0.1)",
    "SGD_foreach_decaying": "torch.optim.SGD({0}, lr=0.1, weight_decay=0.1, foreach=True)",
    "Adadelta_decaying": "torch.optim.Adadelta({0}, lr=1.0, weight_decay=0.1)",
    "Adafactor_decaying": "torch.optim.Adafactor({0}, lr=0.1, weight_decay=0.1)",
    "Adagrad_decaying": "torch.optim.Adagrad({0}, lr=0.1, weight_decay=0.1)",
    "Adam_decaying": "torch.optim.Adam({0}, lr=0.1, weight_decay=0.1)",
    "Adam_fused_decaying": "torch.optim.Adam({0}, lr=0.1, weight_decay=0.1, fused=True)",
    "AdamW_decaying": "torch.optim.AdamW({0}, lr=0.1, weight_decay=0.1)",
    "Adamax_decaying": "torch.optim.Adamax({0}, lr=0.1, weight_decay=0.1)",
    "ASGD_decaying": "torch.optim.ASGD({0}, lr=0.1, weight_decay=0.1)",
    "NAdam_decaying": "torch.optim.NAdam({0}, lr=0.1, weight_decay=0.1)",
    "RAdam_decaying": "torch.optim.RAdam({0}, lr=0.1, weight_decay=0.1)",
    "RMSprop_decaying": "torch.optim.RMSprop({0}, lr=0.1, momentum=0.9, weight_decay=0.1)",
}

#: Those of histories that keep nothing of a parameter between steps.
STATELESS: Final = ("SGD", "SGD_decaying", "SGD_foreach", "SGD_fused")

#: Those that are no part of histories: they need a closure, or parameters of a certain shape.
PARTICULAR: Final = {
    "LBFGS": "torch.optim.LBFGS({0}, lr=0.1, max_iter=1)",
    "Muon": "torch.optim.Muon([p for p in [*{0}, nn.Parameter(torch.ones(2, 2))] if p.dim() == 2])",
}

#: Why a class of torch.optim is in none of these.
LEFT_OUT: Final = {"SparseAdam": "it takes sparse gradients alone, which no drawn module gives"}

#: Those that take parameters of real numbers alone.
REAL: Final = ("Adafactor", "Muon", "fused")
#: Those that need single or double precision.
WIDE: Final = ("LBFGS", "Muon", "Adafactor", "Adadelta")
#: The first torch that has them; fused ones, on the CPU.
SINCE: Final = {"Adafactor": (2, 5), "Muon": (2, 9), "fused": (2, 4)}


def present(name: str, version: str) -> bool:
    """Whether a torch of this version has the optimizer."""
    release = tuple(int(part) for part in version.split(".")[:2])
    return all(release >= since for part, since in SINCE.items() if part in name)


def takes(name: str, dtype: str) -> bool:
    """Whether the optimizer takes parameters of this dtype."""
    if dtype == "complex64" and any(part in name for part in REAL):
        return False
    return dtype in ("float32", "float64", "complex64") or not any(part in name for part in WIDE)
