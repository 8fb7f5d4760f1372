"""Modules that are no tree: one with several owners, and those that hold one another.

A graph of modules is drawn, and a model in plain Python says what each operation reaches.
"""

from __future__ import annotations

import copy
import io
import pickle
import random
from typing import Any

import torch
from torch import nn

from ..drawing import choices, turns
from ..law import law
from ..relations import holds
from ..sample import Sample


def _layers(draw: random.Random) -> list[nn.Module]:
    """Modules from the root to the leaves; the first two are containers."""
    kinds = [nn.Dropout, lambda: nn.BatchNorm1d(1), lambda: nn.Linear(1, 1), nn.Sequential]
    return [nn.Sequential(), nn.Sequential(), *[draw.choice(kinds)() for _ in range(4)]]


def _graph(draw: random.Random, modules: list[nn.Module], ring: bool) -> dict[int, list[int]]:
    """Attach each module to one or two owners before it, and with a ring some to one after it."""
    edges: dict[int, list[int]] = {n: [] for n in range(len(modules))}
    for child in range(1, len(modules)):
        owners = [n for n in range(child) if isinstance(modules[n], nn.Sequential)]
        for owner in draw.sample(owners, min(len(owners), 1 + (draw.random() < 0.6))):
            edges[owner].append(child)
    if ring:
        held = [n for n in _reached(edges, 0) if isinstance(modules[n], nn.Sequential)]
        last = draw.choice(held)
        ancestors = [n for n in held if last in _reached(edges, n)]
        place = draw.randrange(len(edges[last]) + 1)
        edges[last].insert(place, draw.choice(ancestors))
    for owner, children in edges.items():
        for child in children:
            modules[owner].append(modules[child])  # type: ignore[operator]
    return edges


def _reached(edges: dict[int, list[int]], start: int) -> list[int]:
    """What can be reached from a module: itself first, each once, in depth first."""
    found = [start]
    for child in edges[start]:
        for further in [] if child in found else _reached({**edges, start: []}, child):
            found += [] if further in found else [further]
    return found


def _paths(edges: dict[int, list[int]], start: int) -> list[int]:
    """The module at each path below one, in order: as often as there are ways to it."""
    return [start] + [m for child in edges[start] for m in _paths(edges, child)]


def _flags(modules: list[nn.Module]) -> list[tuple[bool, list[bool]]]:
    """Of each module, whether it trains, and which of its own parameters require grad."""
    own = [[p.requires_grad for p in m.parameters(recurse=False)] for m in modules]
    return list(zip([m.training for m in modules], own, strict=True))


@law(
    source="Module.train; Module.requires_grad_; Module.modules: 'Duplicate modules are returned only once'",
    norms=("A26", "D14"),
)
def what_one_owner_is_told_holds_for_all_of_them(sample: Sample) -> None:
    """A module with several owners has one flag each: that which any of its owners was told last."""
    for draw in turns(sample.seed, sample.shape, sample.dtype):
        modules = _layers(draw)
        edges = _graph(draw, modules, ring=False)
        wanted = _flags(modules)
        owners = [n for n, children in edges.items() if children] * 2
        for _ in range(8):
            owner, told = draw.choice([*owners, *edges]), draw.random() < 0.5
            if draw.random() < 0.5:
                modules[owner].train(told)
                for n in _reached(edges, owner):
                    wanted[n] = told, wanted[n][1]
            else:
                modules[owner].requires_grad_(told)
                for n in _reached(edges, owner):
                    wanted[n] = wanted[n][0], [told] * len(wanted[n][1])
            holds(_flags(modules), f"the flags after {owner} was told, of {edges}", wanted)


def _counts(modules: list[nn.Module]) -> list[int]:
    """How many batches each normalisation has counted."""
    return [int(m.num_batches_tracked) for m in modules if isinstance(m, nn.BatchNorm1d)]  # type: ignore[arg-type]


@law(source="Module.train; nn.BatchNorm1d", norms=("D14",))
def a_shared_layer_runs_in_its_mode_for_each_owner(sample: Sample) -> None:
    """Whichever owner runs it, it moves its statistics where it was told to train, by any of them.

    A teacher in evaluation that shares a layer with a student has switched the student's as well.
    """
    sample.needs_values()
    draw = choices(sample.seed, sample.shape, sample.dtype)
    modules = [*_layers(draw), nn.BatchNorm1d(1)]
    for module in modules:
        module.to(sample.device)
    edges = _graph(draw, modules, ring=False)
    trains = [True] * len(modules)
    wanted = [0] * len(modules)
    x = torch.ones(3, 1, device=sample.device)
    for _ in range(3):
        owner, told = draw.randrange(2), draw.random() < 0.5
        modules[owner].train(told)
        for n in _reached(edges, owner):
            trains[n] = told
        owner = draw.randrange(2)
        modules[owner](x)
        for n in _paths(edges, owner):
            wanted[n] += trains[n]
        counts = [c for c, m in zip(wanted, modules, strict=True) if isinstance(m, nn.BatchNorm1d)]
        holds(_counts(modules), f"the batches counted, after {owner} ran, of {edges}", counts)


@law(
    source="Module.modules, parameters: 'Duplicate modules are returned only once'; Module.state_dict",
    norms=("D14",),
)
def a_shared_module_is_listed_once_and_saved_under_each_name(sample: Sample) -> None:
    """modules() and parameters() list it once; named without duplicates too, and each path with.

    A state_dict has its tensors under each of its names.
    """
    for draw in turns(sample.seed, sample.shape, sample.dtype):
        modules = _layers(draw)
        edges = _graph(draw, modules, ring=False)
        root = modules[0]
        once, each = _reached(edges, 0), _paths(edges, 0)
        listed = [modules.index(m) for m in root.modules()]
        holds(listed, f"root.modules() of {edges}", once)
        listed = [modules.index(m) for _, m in root.named_modules(remove_duplicate=False)]
        holds(listed, f"the same with duplicates, of {edges}", each)
        own = [p for n in once for p in modules[n].parameters(recurse=False)]
        same = [p is q for p, q in zip(root.parameters(), own, strict=True)]
        holds(same, "whether root.parameters() are those of each module once", [True] * len(own))
        saved = [len(modules[n]._parameters) + len(modules[n]._buffers) for n in each]
        holds(len(root.state_dict()), f"len(root.state_dict()) of {edges}", sum(saved))


def _copied(how: str, module: nn.Module) -> Any:
    """A copy of a module, made in some way."""
    if how == "deepcopy":
        return copy.deepcopy(module)
    if how == "pickle":
        return pickle.loads(pickle.dumps(module))
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@law(
    source="copy.deepcopy; notes/serialization: pickling a module; torch.save; Module.requires_grad_",
    norms=("E17",),
)
def a_copy_shares_what_is_shared_and_nothing_with_the_original(sample: Sample) -> None:
    """What has several owners, or owns itself, does so in a copy, and keeps its flags there."""
    draw = choices(sample.seed, sample.shape, sample.dtype)
    modules = _layers(draw)
    edges = _graph(draw, modules, ring=draw.random() < 0.5)
    for n, module in enumerate(modules):
        module.training = draw.random() < 0.5
        for parameter in modules[n].parameters(recurse=False):
            parameter.requires_grad_(draw.random() < 0.5)
    held, flags = _reached(edges, 0), _flags(modules)
    how = draw.choice(["deepcopy", "pickle", "torch.save"])
    copies = list(_copied(how, modules[0]).modules())
    kept = [flags[n] for n in held]
    holds(_flags(copies), f"the flags of the copy by {how}, of {edges}", kept)
    copies[-1].requires_grad_(False)
    copies[-1].training = False
    holds(_flags(modules), "the flags of the original", flags)
    for n, copied in zip(held, copies, strict=True):
        children = [held.index(child) for child in edges[n]]
        shown = [copies.index(m) for m in copied._modules.values()]
        holds(shown, f"which modules {n} has in the copy by {how}, of {edges}", children)


@law(source="Module.modules, parameters: 'Duplicate modules are returned only once'")
def freezing_goes_round_a_ring_of_modules_once(sample: Sample) -> None:
    """Where modules hold one another, each is listed once; requires_grad_ and zero_grad reach it."""
    for draw in turns(sample.seed, sample.shape, sample.dtype):
        modules = _layers(draw)
        edges = _graph(draw, modules, ring=True)
        start = draw.choice(_reached(edges, 0))
        found = _reached(edges, start)
        holds([modules.index(m) for m in modules[start].modules()], f"modules() of {edges}", found)
        for module in modules:
            for parameter in module.parameters(recurse=False):
                parameter.grad = torch.ones_like(parameter)
        modules[start].zero_grad()
        cleared = [
            n
            for n, m in enumerate(modules)
            if all(p.grad is None for p in m.parameters(recurse=False))
        ]
        bare = [n for n, m in enumerate(modules) if not m._parameters]
        holds(cleared, f"which are cleared from {start} in {edges}", sorted({*found, *bare}))
        modules[start].requires_grad_(False)
        frozen = [n for n, (_, flags) in enumerate(_flags(modules)) if not any(flags)]
        holds(frozen, f"which are frozen from {start} in {edges}", sorted({*found, *bare}))


def _until_a_ring(
    edges: dict[int, list[int]], start: int, above: list[int]
) -> tuple[list[int], bool]:
    """What is met on the way down until a module comes again that is above, and whether one does."""
    if start in above:
        return [], True
    met = [start]
    for child in edges[start]:
        further, closed = _until_a_ring(edges, child, [*above, start])
        met += further
        if closed:
            return met, True
    return met, False


def _endless(call: Any) -> bool:
    """Whether a call ends in a RecursionError."""
    try:
        call()
    except RecursionError:
        return True
    return False


@law(
    source="undocumented: Module.train; Module.state_dict; Module.apply; Module.to (#13162, #76920)"
)
def switching_the_mode_of_a_ring_never_ends(sample: Sample) -> None:
    """train and eval of modules that hold one another end in a RecursionError, half done.

    Those that were met before the first module that came again have their flag then; the others
    do not. state_dict, apply and conversions end in the same way, and change no flag.
    """
    draw = choices(sample.seed, sample.shape, sample.dtype)
    modules = _layers(draw)
    edges = _graph(draw, modules, ring=True)
    start, told = draw.choice(_reached(edges, 0)), draw.random() < 0.3
    met, closed = _until_a_ring(edges, start, [])
    for module in modules:
        module.training = not told
    root = modules[start]
    if draw.random() < 0.3:
        ways = [root.state_dict, root.double, root.float, lambda: root.apply(nn.Module.zero_grad)]
        endless = _endless(draw.choice(ways))
        holds(endless, f"whether it never ends from {start} in {edges}", closed)
        trains = [m.training for m in modules]
        holds(trains, "the flags after that", [not told] * len(modules))
    endless = _endless(lambda: root.train(told))
    holds(endless, f"whether train never ends from {start} in {edges}", closed)
    trains = [m.training for m in modules]
    wanted = [told if n in met else not told for n in range(len(modules))]
    holds(trains, f"the flags after train({told}) of {start} in {edges}", wanted)
