"""Histories: random programs that switch modes, drawn against the reference machine.

The machine plays a history while it is drawn, so that every step is about something that is
there, and refusals are drawn on purpose. They shrink towards fewer and simpler steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from oracles.history import MODULES, History, Step
from oracles.machine import (
    ASTRAY,
    GIVEN,
    Context,
    Machine,
    Module,
    Optimizer,
    Tensor,
    Thread,
    Unsaid,
)
from oracles.optimizers import OPTIMIZERS, present
from oracles.setting import CONTEXTS

from .layers.kinds import pick, upto

#: How many steps a history has at the most, those inside of blocks included.
STEPS: Final = 40

_BARE: Final = ("torch.no_grad", "torch.enable_grad", "torch.inference_mode")
_LEAVING: Final = ("end", "exception", "return", "break")
_FORMS: Final = ("function", "method", "coroutine", "asynchronous generator")
_ENDINGS: Final = ("exhausted", "closed", "collected")
_BOOLEANS: Final = ("True", "False")
#: SGD as often as all others together: of it, most is known.
_PRESENT: Final = [o for o in OPTIMIZERS if present(o, torch.__version__)]
_OPTIMIZERS: Final = (*(o for o in _PRESENT if "SGD" in o),) * 3 + tuple(_PRESENT)

Maker = Callable[["_Drawing", str], Step | None]


@dataclass
class _Drawing:
    """A history while it is drawn."""

    parent: DrawFn
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
        names = [n for n in self.names(Tensor) if n != GIVEN]
        names += [
            f"{m}.{p}" for m in self.names(Module) for p in self.machine.names[m].named_parameters()
        ]
        return names

    def full(self) -> str:
        """A tensor of three rows and two columns: no parameter of a module."""
        return str(self.pick([n for n in self.names(Tensor) if n != GIVEN]))

    def module(self) -> str:
        """A module, or a submodule of one."""
        names = []
        for name in self.names(Module):
            paths = [path for path, _ in self.machine.names[name].walk()]
            names += [f"{name}.{path}".rstrip(".") for path in paths]
        return str(self.pick(names))

    def weighted(self) -> list[str]:
        """The linear layers, each of which has a weight of the same size."""
        return [
            f"{name}.{path}".rstrip(".")
            for name in self.names(Module)
            for path, module in self.machine.names[name].walk()
            if module.kind == "Linear"
        ]

    def alike(self, left: str, right: str) -> bool:
        """Whether two modules are made of the same layers in the same places."""
        first, second = self.machine.names[left], self.machine.names[right]
        return [(p, m.kind) for p, m in first.walk()] == [(p, m.kind) for p, m in second.walk()]

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
def histories(draw: DrawFn, steps: int = STEPS) -> History:
    """Programs of up to ``steps`` steps, each about something that is there."""
    root = Step("")
    drawing = _Drawing(draw, steps, Machine(frozenset(ASTRAY)), draw)
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
    kind = pick(draw, _available(drawing))
    return MAKERS[kind](drawing, kind)


def _available(drawing: _Drawing) -> list[str]:
    """The kinds of steps that are possible now."""
    machine, inside = drawing.machine, drawing.inside
    values = list(machine.names.values())
    options = list(_ALWAYS)
    modules = [v for v in values if isinstance(v, Module)]
    if len(drawing.names(Tensor)) > 1:
        options += _OF_TENSORS
        if modules:
            options += ["forward"] * 6
    if modules:
        options += _OF_MODULES
        left = [p for m in modules for p in m.named_parameters().values() if p.grad != "none"]
        options += ["requires_grad_"] * 2 * bool(left)
        options += ["zero_grad"] * 6 * any(not p.told for p in left)
        options += ["append", "replace", "remove"] * any(m.children for m in modules)
        options += ["tie"] * (len(drawing.weighted()) > 1)
        if any(m.named_parameters() for m in modules):
            options += ["optimizer"] * 2
    optimizers = [v for v in values if isinstance(v, Optimizer)]
    if optimizers:
        options += _OF_OPTIMIZERS
        left = [p for o in optimizers for p in o.parameters if p.grad != "none"]
        options += ["step"] * 6 * bool(left)
        options += (
            ["backward"] * 6 * any(isinstance(v, Tensor) and v.node is not None for v in values)
        )
        options += ["requires_grad_"] * 3 * bool(left)
        options += ["optimizer_zero_grad"] * 6 * any(not p.told for p in left)
    contexts = [v for v in values if isinstance(v, Context)]
    options += ["enter"] * bool(contexts) + ["leave"] * any(c.active for c in contexts)
    # What lets others run can do so where nothing but with statements are around.
    around = [kind for kind in inside if kind != "with"][-1]
    if around == "generator":
        options += ["suspended"] * 4
    if around == "task":
        options += ["await"] * 4
    if drawing.left > 2:
        options += ["with", "decorated", "thread"]
        # Its only thread would wait for itself. It is of interest once its mode was changed.
        again = 4 if machine.pool.mode != Thread().mode else 1
        options += ["pool"] * again * ("pool" not in inside)
        options += ["generator"] * 2 + ["tasks"] * ("task" not in inside) * 2
    options += ["set_grad_enabled"] * 4 * (inside[-1] == "pool")
    return options


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


def _into(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.full(), (drawing.tensor(),))


def _training(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.module(), (drawing.pick((*_BOOLEANS, "1")),))


def _module(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, words=(drawing.pick(tuple(MODULES)),), makes=drawing.name("m"))


def _on_module(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.module())


def _with_module_flag(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.module(), (drawing.pick(_BOOLEANS),))


def _from_module(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.module(), makes=drawing.name("m"))


def _forward(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.module(), (drawing.full(),), drawing.name("t"))


def _loading(drawing: _Drawing, kind: str) -> Step | None:
    module = drawing.pick(drawing.names(Module))
    alike = [n for n in drawing.names(Module) if drawing.alike(n, module)]
    return Step(kind, module, (drawing.pick(alike),))


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


def _tying(drawing: _Drawing, kind: str) -> Step:
    weighted = drawing.weighted()
    return Step(kind, drawing.pick(weighted), (drawing.pick(weighted),))


def _optimizer(drawing: _Drawing, kind: str) -> Step:
    return Step(kind, drawing.module(), (drawing.pick(_OPTIMIZERS),), drawing.name("o"))


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


#: For each kind of step, how one is drawn.
MAKERS: Final[dict[str, Maker]] = {
    "set_grad_enabled": _switch,
    "context": _context,
    "enter": _entering,
    "leave": _leaving,
    **dict.fromkeys(("tensor", "requiring_tensor", "parameter"), _making("t")),
    **dict.fromkeys(("add", "mul"), _from_two),
    **dict.fromkeys(("tanh", "clone", "detach", "view"), _from_tensor),
    "add_": _writing,
    "mul_": lambda drawing, kind: Step(kind, drawing.full()),
    **dict.fromkeys(("detach_", "retain_grad", "forget_grad"), _on_tensor),
    "tensor_requires_grad_": _with_flag,
    **dict.fromkeys(
        ("backward", "backward_retaining"), lambda drawing, kind: Step(kind, drawing.full())
    ),
    **dict.fromkeys(("backward_into", "grad"), _into),
    "module": _module,
    **dict.fromkeys(
        ("train", "eval", "zero_grad", "zero_grad_to_zero", "to_float64_and_back"), _on_module
    ),
    "train_told": _training,
    "requires_grad_": _with_module_flag,
    "forward": _forward,
    **dict.fromkeys(("deepcopy", "pickle", "save_and_load"), _from_module),
    "load_state_dict": _loading,
    "append": _attaching,
    "replace": _attaching,
    "remove": _sequential,
    "tie": _tying,
    "optimizer": _optimizer,
    **dict.fromkeys(
        ("step", "step_with_closure", "optimizer_zero_grad", "optimizer_zero_grad_to_zero"),
        _on_optimizer,
    ),
    "add_param_group": _group,
    "with": _with,
    "decorated": _decorated,
    "generator": _generator,
    **dict.fromkeys(("suspended", "await", "thread", "pool", "tasks"), lambda d, kind: Step(kind)),
}

_ALWAYS: Final = (
    "tensor",
    "requiring_tensor",
    "parameter",
    "module",
    "module",
    "set_grad_enabled",
    "context",
)
_OF_TENSORS: Final = (
    *("add", "mul", "tanh", "clone", "detach", "view", "add_", "mul_", "detach_", "retain_grad"),
    *("tensor_requires_grad_", "backward", "backward", "backward_retaining", "backward_into"),
    *("grad", "forget_grad"),
)
_OF_MODULES: Final = (
    *("train", "eval", "train_told", "requires_grad_", "zero_grad", "zero_grad_to_zero"),
    *("deepcopy", "pickle", "save_and_load", "load_state_dict", "to_float64_and_back"),
)
_OF_OPTIMIZERS: Final = (
    *("step", "step", "step", "step_with_closure", "optimizer_zero_grad"),
    *("optimizer_zero_grad_to_zero", "add_param_group"),
)
