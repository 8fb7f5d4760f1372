"""Histories: random programs that switch modes, drawn against the reference machine.

The machine plays a history while it is drawn, so that every step is about something that is
there, and refusals are drawn on purpose. They shrink towards fewer and simpler steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from oracles.deviations import astray
from oracles.history import MODULES, History, Step
from oracles.machine import GIVEN, Machine
from oracles.optimizers import OPTIMIZERS, present
from oracles.play import ASSIGNS, DECORATES_BARE
from oracles.setting import CONTEXTS
from oracles.things import Context, Hook, Module, Optimizer, Refusal, Tensor, Thread, Unsaid

from .layers.kinds import maybe, pick, upto

#: How many steps a history has at the most, those inside of blocks included.
STEPS: Final = 40
#: How many blocks lie in each other at the most: Python refuses 20, and some are written as three.
DEEPEST: Final = 6

#: Decorators without parentheses: an old torch has none.
_BARE: Final = (
    ("torch.no_grad", "torch.enable_grad", "torch.inference_mode") if DECORATES_BARE else ()
)
_LEAVING: Final = ("end", "exception", "return", "break")
_FORMS: Final = ("function", "method", "coroutine", "asynchronous generator")
_ENDINGS: Final = ("exhausted", "closed", "collected")
_BOOLEANS: Final = ("True", "False")
_PRESENT: Final = [o for o in OPTIMIZERS if present(o, torch.__version__)]
#: SGD as often as all others together: of it, most is known.
_OPTIMIZERS: Final = (*(o for o in _PRESENT if "SGD" in o),) * 3 + tuple(_PRESENT)

Maker = Callable[["_Drawing", str], Step]


@dataclass
class _Drawing:
    """A history while it is drawn.

    wanted  a pair of kinds that is to be reached: one right after the other
    """

    parent: DrawFn
    wanted: tuple[str, str]
    left: int
    machine: Machine
    draw: DrawFn
    inside: list[str] = field(default_factory=list)
    inside_of: dict[int, list[str]] = field(default_factory=dict)
    drawn: dict[int, list[Step]] = field(default_factory=dict)
    kept: list[Step] = field(default_factory=list)
    count: dict[str, int] = field(default_factory=dict)

    def name(self, letter: str) -> str:
        """A name that is not taken."""
        self.count[letter] = self.count.get(letter, -1) + 1
        return f"{letter}{self.count[letter]}"

    def names(self, kind: type) -> list[str]:
        """The names of all things of a kind, the latest first."""
        return [n for n, v in self.machine.names.items() if isinstance(v, kind)][::-1]

    def pick(self, options: Any) -> Any:
        """One of the options."""
        return pick(self.draw, options)

    def tensor(self) -> str:
        """A tensor, or a parameter of a module."""
        return str(self.pick(self.tensors()))

    def tensors(self) -> list[str]:
        """The names of the tensors, and of the parameters of modules."""
        return self.all_full() + [
            f"{m}.{p}" for m in self.names(Module) for p in self.machine.names[m].named_parameters()
        ]

    def all_full(self) -> list[str]:
        """The names of the tensors of three rows and two columns: of no parameter of a module."""
        return [n for n in self.names(Tensor) if n != GIVEN]

    def full(self) -> str:
        """One of these tensors."""
        return str(self.pick(self.all_full()))

    def modules(self) -> list[str]:
        """The modules and the submodules."""
        return [
            f"{name}.{path}".rstrip(".")
            for name in self.names(Module)
            for path, _ in self.machine.names[name].walk()
            if "parametrizations" not in path
        ]

    def module(self, liked: Callable[[Module], bool] = lambda module: False) -> str:
        """A module, or a submodule of one; those that are liked more often."""
        names = self.modules()
        more = [name for name in names if liked(self.machine.named(name))]
        return str(self.pick(more * 4 + names))

    def weighted(self, *, parametrized: bool = False) -> list[str]:
        """The linear layers, each of which has a weight of the same size."""
        return [
            f"{name}.{path}".rstrip(".")
            for name in self.names(Module)
            for path, module in self.machine.names[name].walk()
            if module.kind == "Linear" and (module.parametrized is not None) is parametrized
        ]

    def alike(self, left: str, right: str) -> bool:
        """Whether two modules are made of the same layers in the same places."""
        first, second = self.machine.names[left], self.machine.names[right]
        return [(p, m.kind) for p, m in first.paths()] == [(p, m.kind) for p, m in second.paths()]

    def steps(self, step: Step) -> Iterator[Step]:
        """Draw the steps inside of a block, one after the other."""
        record = self.drawn.setdefault(id(step), [])
        inside = [*self.inside_of.get(id(step), ()), step.kind]
        while self.left > 0:
            self.inside = inside
            made = self.parent(_step(self, step))
            if made is None:
                break
            yield self.noted(made, record, inside)
        # A generator that is left early is left where it is suspended.
        if step.kind == "generator" and step.words[1] != "exhausted":
            yield self.noted(Step("suspended"), record, inside)

    def last(self, block: Step) -> str:
        """The kind of the last step of a block."""
        record = self.drawn.get(id(block))
        return record[-1].kind if record else ""

    def noted(self, step: Step, record: list[Step], inside: list[str]) -> Step:
        """Keep a step that was drawn."""
        self.left -= 1
        self.inside_of[id(step)] = inside
        self.kept.append(step)
        record.append(step)
        return step

    def whole(self, step: Step) -> Step:
        """The step with all that was drawn inside of it."""
        body = tuple(map(self.whole, self.drawn.get(id(step), ())))
        if step.kind == "generator" and step.words[1] != "exhausted":
            # Nothing more may have been drawn where nothing more is said.
            body += () if body and body[-1].kind == "suspended" else (Step("suspended"),)
        return replace(step, body=body)


@st.composite
def histories(draw: DrawFn, steps: int = STEPS, wanted: tuple[str, str] | None = None) -> History:
    """Programs of up to ``steps`` steps, each about something that is there.

    wanted  two kinds of steps, one of which is to follow the other at once; drawn if not given
    """
    root = Step("")
    drawing = _Drawing(draw, wanted or _pair(draw), steps, Machine(astray()), draw)
    drawing.machine.bodies = drawing.steps
    with suppress(Unsaid):
        for _ in drawing.machine.run(drawing.steps(root)):
            pass
    return History(drawing.whole(root).body, draw(upto(2**16)))


@st.composite
def _step(draw: DrawFn, drawing: _Drawing, block: Step) -> Step | None:
    """The next step of a block, or None for its end."""
    drawing.draw = draw
    if block.kind == "tasks":
        return Step("task") if len(drawing.drawn[id(block)]) < 2 else None
    if not draw(upto(15 if block.kind == "" else 5)):
        return None
    options, last = _available(drawing), drawing.last(block)
    first, second = drawing.wanted
    aim = first if second in options else second
    if {first, second} <= SPENDING and len(drawing.weighted(parametrized=True)) < 2:
        aim = "parametrize"  # each of them takes one away
    toward = _toward(aim, options)
    usual = [kind for kind in USUAL.get(last, ()) if kind in options]
    if second in options and last == first and draw(upto(3)):
        kind, drawing.wanted = second, _pair(draw)
    elif toward in options and not draw(upto(2)):
        kind = toward
    elif usual and maybe(draw):
        kind = pick(draw, usual)
    else:
        kind = pick(draw, options)
    return DRAWN[kind][1](drawing, kind)


@dataclass(frozen=True)
class _Sight:
    """What there is to do something to when a step is drawn."""

    drawing: _Drawing

    @property
    def around(self) -> str:
        """The innermost block that is no with statement: what lets others run does so there."""
        return [kind for kind in self.drawing.inside if kind != "with"][-1]

    def within(self, *kinds: str) -> bool:
        """Whether a block of one of these kinds is around."""
        return not set(kinds).isdisjoint(self.drawing.inside)

    @cached_property
    def things(self) -> list[Any]:
        """Everything that has a name."""
        return list(self.drawing.machine.names.values())

    def of(self, kind: type) -> list[Any]:
        """All things of a kind."""
        return [thing for thing in self.things if isinstance(thing, kind)]

    @cached_property
    def modules(self) -> list[Module]:
        """The modules that have a name."""
        return self.of(Module)

    @cached_property
    def tensors(self) -> bool:
        """Whether there is a tensor."""
        return len(self.of(Tensor)) > 1  # one is given

    @cached_property
    def optimizers(self) -> bool:
        """Whether there is an optimizer."""
        return bool(self.of(Optimizer))

    @cached_property
    def parameters(self) -> list[Tensor]:
        """The parameters of all modules."""
        return [p for m in self.modules for p in m.named_parameters().values()]

    @cached_property
    def graded(self) -> list[Tensor]:
        """The parameters of modules that have a gradient."""
        return [p for p in self.parameters if p.grad != "none"]

    @cached_property
    def optimized(self) -> list[Tensor]:
        """The parameters of optimizers that have a gradient."""
        return [p for o in self.of(Optimizer) for p in o.parameters if p.grad != "none"]

    @cached_property
    def recorded(self) -> bool:
        """Whether there is something to differentiate."""
        return any(t.node is not None for t in self.of(Tensor))

    @property
    def room(self) -> bool:
        """Whether steps are left for a block, and Python takes one more inside of the others."""
        return self.drawing.left > 2 and len(self.drawing.inside) <= DEEPEST


def _pair(draw: DrawFn) -> tuple[str, str]:
    """Two kinds of steps, one of which is to follow the other."""
    return pick(draw, _KINDS), pick(draw, _KINDS)


def _toward(kind: str, options: list[str]) -> str:
    """The kind, or what must be done before it is possible."""
    while kind not in options and kind in NEEDS:
        kind = NEEDS[kind]
    return kind


def _available(drawing: _Drawing) -> list[str]:
    """The kinds of steps that are possible now, each as often as it is to be drawn."""
    sight = _Sight(drawing)
    allowed = HOOKED if sight.within("tensor_hook", "forward_hook") else tuple(DRAWN)
    return [kind for kind in allowed for _ in range(int(DRAWN[kind][0](sight)))]


def _making(letter: str) -> Maker:
    return lambda drawing, kind: Step(kind, makes=drawing.name(letter))


def _context(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, words=(drawing.pick(CONTEXTS),), makes=drawing.name("c"))


def _switch(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, words=(drawing.pick(_BOOLEANS),))


def _entering(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.pick(drawing.names(Context)))


def _leaving(drawing: _Drawing, kind: str) -> Step:
    named = drawing.machine.names
    return Step(kind, drawing.pick([n for n in drawing.names(Context) if named[n].active]))


def _on_tensor(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.tensor())


def _from_tensor(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.full(), makes=drawing.name("t"))


def _with_flag(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.tensor(), (drawing.pick(_BOOLEANS),))


def _writing(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.full(), (drawing.full(),))


def _from_two(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.full(), (drawing.full(),), drawing.name("t"))


def _differentiating(drawing: _Drawing, kind: str) -> Step:
    # Mostly of what was recorded: of the rest, all there is to see is a refusal.
    named, options = drawing.machine.names, drawing.all_full()
    recorded = [n for n in options if named[n].node is not None]
    on = drawing.pick(recorded[:1] * 2 * len(recorded) + recorded * 2 + options)
    into = (drawing.tensor(),) if kind in ("backward_into", "grad") else ()
    return Step(kind, on, into)


def _training(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.module(), (drawing.pick((*_BOOLEANS, "1")),))


def _module(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, words=(drawing.pick(tuple(MODULES)),), makes=drawing.name("m"))


def _on_module(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.module(liked=_graded))


def _with_module_flag(drawing: _Drawing, kind: str) -> Step:
    on = drawing.module(liked=_graded)
    return Step(kind, on, (drawing.pick(("False", *_BOOLEANS)),))


def _graded(module: Module) -> bool:
    """Whether some parameter has a gradient."""
    return any(p.grad != "none" for p in module.named_parameters().values())


def _forward(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.module(), (drawing.full(),), drawing.name("t"))


def _loading(drawing: _Drawing, kind: str) -> Step:
    # Mostly from a module that is alike; from another, names are missing or sizes differ.
    module, given = drawing.pick(drawing.names(Module)), drawing.names(Module)
    alike = [n for n in given if drawing.alike(n, module)]
    return Step(kind, module, (drawing.pick(alike * 3 + given),))


def _sequential(drawing: _Drawing, kind: str) -> Step:
    names = drawing.machine.names
    return Step(kind, drawing.pick([n for n in drawing.names(Module) if names[n].children]))


def _attaching(drawing: _Drawing, kind: str) -> Step:
    step = _sequential(drawing, kind)
    parent = drawing.machine.names[step.on]
    # A module in itself would go on for ever.
    fit = [
        n
        for n in drawing.names(Module)
        if all(m is not parent for _, m in drawing.machine.names[n].walk())
    ]
    if not fit:
        return Step("train", step.on)
    return replace(step, words=(drawing.pick(fit),))


def _sharing(drawing: _Drawing, kind: str) -> Step:
    step = _sequential(drawing, kind)
    parent = drawing.machine.names[step.on]
    fit = [
        name
        for name in drawing.modules()
        if "." in name and all(m is not parent for _, m in drawing.machine.named(name).walk())
    ]
    if not fit:
        return Step("train", step.on)
    return replace(step, words=(drawing.pick(fit),))


def _tying(drawing: _Drawing, kind: str) -> Step:
    weighted = drawing.weighted()
    return Step(kind, drawing.pick(weighted), (drawing.pick(weighted),))


def _on_weighted(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.pick(drawing.weighted()))


def _optimizer(drawing: _Drawing, kind: str) -> Step:
    on = drawing.module(liked=lambda module: bool(module.named_parameters()))
    return Step(kind, on, (drawing.pick(_OPTIMIZERS),), drawing.name("o"))


def _on_optimizer(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.pick(drawing.names(Optimizer)))


def _group(drawing: _Drawing, kind: str) -> Step:
    optimizer = drawing.pick(drawing.names(Optimizer))
    if not drawing.tensors():  # its module may have been taken apart
        return Step("step", optimizer)
    return Step(kind, optimizer, (drawing.tensor(),))


def _with(drawing: _Drawing, kind: str) -> Step:
    # A function is no place to leave a generator or a task from.
    leaving = _LEAVING if drawing.inside[-1] in ("", "thread", "pool") else _LEAVING[:2]
    return Step(kind, words=(drawing.pick(CONTEXTS), drawing.pick(leaving)))


def _decorated(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, words=(drawing.pick((*CONTEXTS, *_BARE)), drawing.pick(_FORMS)))


def _generator(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, words=(drawing.pick(("", *CONTEXTS, *_BARE)), drawing.pick(_ENDINGS)))


def _hooking(drawing: _Drawing, kind: str) -> Step:
    if kind == "forward_hook":
        return Step(kind, drawing.module(), makes=drawing.name("h"))
    fit = [name for name in drawing.tensors() if _takes_hook(drawing.machine.named(name))]
    if not fit:
        return Step("requiring_tensor", makes=drawing.name("t"))
    return Step(kind, drawing.pick(fit), makes=drawing.name("h"))


def _takes_hook(tensor: Tensor) -> bool:
    try:
        node = tensor.history()
    except Refusal:  # a view that cannot say what its history is
        return False
    return tensor.carries and not (tensor.hooks or (node and node.hooks))


def _unhooked(drawing: _Drawing, kind: str) -> Step:
    names = drawing.machine.names
    fit = [n for n in drawing.names(Module) if not names[n].hooked]
    return Step(kind, drawing.pick(fit), makes=drawing.name("m"))


def _assigning(drawing: _Drawing, kind: str) -> Step:
    names = drawing.machine.names
    fit = [n for n in drawing.names(Module) if not _counts(names[n])]
    module = drawing.pick(fit)
    return Step(kind, module, (drawing.pick([n for n in fit if drawing.alike(n, module)]),))


def _counts(module: Module) -> bool:
    """Whether it has statistics: when these are assigned, two modules move the same ones."""
    return any(m.counter is not None for _, m in module.walk())


Weight = Callable[[_Sight], int]


def _always(sight: _Sight) -> int:
    return 1


def _with_tensors(sight: _Sight) -> int:
    return sight.tensors


def _with_modules(sight: _Sight) -> int:
    return bool(sight.modules)


def _with_optimizers(sight: _Sight) -> int:
    return sight.optimizers


def _with_weights(sight: _Sight) -> int:
    return bool(sight.drawing.weighted())


def _in_block(weight: int) -> Weight:
    return lambda sight: weight * sight.room


def _with_children(sight: _Sight) -> int:
    return any(m.children for m in sight.modules)


def _block(drawing: _Drawing, kind: str) -> Step:
    return Step(kind)


#: For each kind of step, how often it is drawn, and how. What is of interest only after other
#: steps (gradients left on frozen parameters, a mode left in a pool) is then drawn more often.
DRAWN: Final[dict[str, tuple[Weight, Maker]]] = {
    **{k: (_always, _making("t")) for k in ("tensor", "requiring_tensor", "parameter")},
    "module": (lambda sight: 2, _module),
    "set_grad_enabled": (lambda sight: 5 if sight.around == "pool" else 1, _switch),
    "context": (_always, _context),
    "enter": (lambda sight: bool(sight.of(Context)), _entering),
    "leave": (lambda sight: any(c.active for c in sight.of(Context)), _leaving),
    **dict.fromkeys(("add", "mul"), (_with_tensors, _from_two)),
    **dict.fromkeys(("tanh", "clone", "detach", "view"), (_with_tensors, _from_tensor)),
    "add_": (_with_tensors, _writing),
    "mul_": (_with_tensors, lambda drawing, kind: Step(kind, drawing.full())),
    **dict.fromkeys(("detach_", "retain_grad", "forget_grad"), (_with_tensors, _on_tensor)),
    "tensor_requires_grad_": (_with_tensors, _with_flag),
    "backward": (
        lambda sight: sight.tensors * (2 + 6 * sight.recorded * bool(sight.modules)),
        _differentiating,
    ),
    **dict.fromkeys(
        ("backward_retaining", "backward_into", "grad"), (_with_tensors, _differentiating)
    ),
    "forward": (lambda sight: 6 * bool(sight.modules and sight.tensors), _forward),
    **dict.fromkeys(("train", "eval"), (_with_modules, _on_module)),
    "to_float64_and_back": (
        lambda sight: bool(sight.modules) + 2 * bool(sight.graded),
        _on_module,
    ),
    **dict.fromkeys(("zero_grad_to_zero", "to_its_device"), (_with_modules, _on_module)),
    "zero_grad": (
        lambda sight: bool(sight.modules) + 6 * any(not p.told for p in sight.graded),
        _on_module,
    ),
    "train_told": (_with_modules, _training),
    "requires_grad_": (
        lambda sight: (
            bool(sight.modules) + 2 * bool(sight.graded) + 6 * any(p.told for p in sight.optimized)
        ),
        _with_module_flag,
    ),
    **{
        k: (lambda sight: any(not m.hooked for m in sight.modules), _unhooked)
        for k in ("deepcopy", "pickle", "save_and_load")
    },
    **dict.fromkeys(("load_state_dict", "load_leniently"), (_with_modules, _loading)),
    "assign_state_dict": (
        lambda sight: ASSIGNS and any(not _counts(m) for m in sight.modules),
        _assigning,
    ),
    "lazy": (_with_tensors, lambda d, kind: Step(kind, d.full(), makes=d.name("m"))),
    **dict.fromkeys(("append", "replace"), (_with_children, _attaching)),
    "share": (_with_children, _sharing),
    "remove": (_with_children, _sequential),
    "tie": (lambda sight: len(sight.drawing.weighted()) > 1, _tying),
    "parametrize": (_with_weights, _on_weighted),
    **dict.fromkeys(
        ("unparametrize", "unparametrize_leaving"),
        (
            lambda sight: bool(sight.drawing.weighted(parametrized=True)),
            lambda drawing, kind: Step(kind, drawing.pick(drawing.weighted(parametrized=True))),
        ),
    ),
    "untie": (_with_weights, _on_weighted),
    "optimizer": (
        lambda sight: 2 * bool(sight.parameters) + 6 * bool(sight.graded) * (not sight.optimizers),
        _optimizer,
    ),
    "step": (lambda sight: 3 * sight.optimizers + 8 * bool(sight.optimized), _on_optimizer),
    "step_with_closure": (_with_optimizers, _on_optimizer),
    "optimizer_zero_grad": (
        lambda sight: sight.optimizers + 60 * any(not p.told for p in sight.optimized),
        _on_optimizer,
    ),
    "optimizer_zero_grad_to_zero": (_with_optimizers, _on_optimizer),
    "add_param_group": (_with_optimizers, _group),
    "remove_hook": (
        lambda sight: bool(sight.of(Hook)),
        lambda drawing, kind: Step(kind, drawing.pick(drawing.names(Hook))),
    ),
    "tensor_hook": (lambda sight: 2 * sight.tensors * sight.room, _hooking),
    "forward_hook": (lambda sight: bool(sight.modules) * sight.room, _hooking),
    "with": (_in_block(1), _with),
    "decorated": (_in_block(1), _decorated),
    "thread": (_in_block(1), _block),
    # Its only thread would wait for itself. It is of interest once its mode was changed.
    "pool": (
        lambda sight: (
            (1 + 3 * (sight.drawing.machine.pool.mode != Thread().mode))
            * sight.room
            * (not sight.within("pool"))
        ),
        _block,
    ),
    "generator": (_in_block(2), _generator),
    "tasks": (lambda sight: 2 * sight.room * (not sight.within("task")), _block),
    "suspended": (lambda sight: 4 * (sight.around == "generator"), _block),
    "await": (lambda sight: 4 * (sight.around == "task"), _block),
}

#: What makes the thing that a kind of step is about.
NEEDS: Final = {
    "leave": "enter",
    "enter": "context",
    "remove_hook": "tensor_hook",
    "unparametrize": "parametrize",
    "unparametrize_leaving": "parametrize",
    "parametrize": "module",
    "add_param_group": "optimizer",
    **{k: "optimizer" for k in DRAWN if k.startswith(("step", "optimizer_zero_grad"))},
    **dict.fromkeys(
        ("optimizer", "append", "share", "replace", "remove", "tie", "untie", "forward"), "module"
    ),
}
#: Steps that leave nothing for another of them.
SPENDING: Final = {"unparametrize", "unparametrize_leaving"}
_KINDS: Final = tuple(DRAWN)
#: What usually follows: how models are trained, and what is done to them in between.
USUAL: Final = {
    "module": ("forward", "optimizer"),
    "optimizer": ("forward",),
    "forward": ("backward",),
    "backward": (
        *("step", "requires_grad_", "eval", "zero_grad", "optimizer_zero_grad", "step"),
        *("to_float64_and_back", "deepcopy", "train", "zero_grad_to_zero", "forward"),
    ),
    "requires_grad_": ("optimizer_zero_grad", "zero_grad", "step", "forward"),
    "step": ("optimizer_zero_grad", "forward"),
    "share": ("train", "eval", "requires_grad_"),
    "context": ("enter",),
    "enter": ("leave", "tensor"),
}

#: What is done inside of hooks: nothing that changes what backward or forward is about to use.
HOOKED: Final = (
    *("set_grad_enabled", "tensor", "requiring_tensor", "parameter", "add", "mul", "tanh"),
    *("clone", "detach", "view", "with", "decorated", "module"),
)
