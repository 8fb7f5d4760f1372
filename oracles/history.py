"""Histories: programs that switch modes, as data.

A history is a tree of steps. It goes to JSON and back, it is rendered to a script of plain
torch, and that script is what is executed: :mod:`oracles.play` runs it on torch, and
:mod:`oracles.machine` says beforehand what must be seen after each step.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from .optimizers import OPTIMIZERS


@dataclass(frozen=True)
class Step:
    """One thing that is done.

    kind   which: a key of SIMPLE or BLOCKS
    on     the name of what it is done to: a tensor t0, a module m0 or m0.1, an optimizer o0, ...
    words  what else it is told: names, contexts, flags, as they are written
    makes  the name that it binds; "" for none
    body   what happens inside of a block, in order
    """

    kind: str
    on: str = ""
    words: tuple[str, ...] = ()
    makes: str = ""
    body: tuple[Step, ...] = ()


@dataclass(frozen=True)
class History:
    """A program: its steps in order, and the seed of what it draws."""

    steps: tuple[Step, ...] = ()
    seed: int = 0

    def walk(self) -> Iterator[Step]:
        """Every step, in the order in which they are written: their numbers count them."""
        return _walk(self.steps)


def _walk(steps: tuple[Step, ...]) -> Iterator[Step]:
    for step in steps:
        yield step
        yield from _walk(step.body)


#: The modules that are built, by kind. All take and return tensors of three rows and two columns.
MODULES: Final = {
    "Linear": "nn.Linear(2, 2)",
    "BatchNorm": "nn.BatchNorm1d(2)",
    "Dropout": "nn.Dropout(0.5)",
    "Tanh": "nn.Tanh()",
    "Sequential": "nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))",
    "Nested": "nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), nn.Dropout(0.5))",
}

#: Steps that are one line. {on}, {makes} and the words by number; {module} is looked up below.
SIMPLE: Final = {
    # grad modes
    "set_grad_enabled": "torch.set_grad_enabled({0})",
    "context": "{makes} = {0}",
    "enter": "{on}.__enter__()",
    "leave": "{on}.__exit__(None, None, None)",
    # tensors
    "tensor": "{makes} = torch.ones(3, 2)",
    "requiring_tensor": "{makes} = torch.ones(3, 2, requires_grad=True)",
    "parameter": "{makes} = nn.Parameter(torch.ones(3, 2))",
    "add": "{makes} = {on} + {0}",
    "mul": "{makes} = {on} * {0}",
    "tanh": "{makes} = {on}.tanh()",
    "clone": "{makes} = {on}.clone()",
    "detach": "{makes} = {on}.detach()",
    "view": "{makes} = {on}.view(3, 2)",
    "add_": "{on}.add_({0})",
    "mul_": "{on}.mul_(0.5)",
    "detach_": "{on}.detach_()",
    "tensor_requires_grad_": "{on}.requires_grad_({0})",
    "retain_grad": "{on}.retain_grad()",
    "backward": "{on}.backward(weights)",
    "backward_retaining": "{on}.backward(weights, retain_graph=True)",
    "backward_into": "{on}.backward(weights, inputs=[{0}])",
    "grad": "torch.autograd.grad({on}, [{0}], weights)",
    "forget_grad": "{on}.grad = None",
    # modules
    "module": "{makes} = {module}",
    "train": "{on}.train()",
    "eval": "{on}.eval()",
    "train_told": "{on}.train({0})",
    "requires_grad_": "{on}.requires_grad_({0})",
    "zero_grad": "{on}.zero_grad()",
    "zero_grad_to_zero": "{on}.zero_grad(set_to_none=False)",
    "forward": "{makes} = {on}({0})",
    "deepcopy": "{makes} = copy.deepcopy({on})",
    "pickle": "{makes} = pickle.loads(pickle.dumps({on}))",
    "save_and_load": "{makes} = saved_and_loaded({on})",
    "load_state_dict": "{on}.load_state_dict({0}.state_dict())",
    "load_leniently": "{on}.load_state_dict({0}.state_dict(), strict=False)",
    "assign_state_dict": "{on}.load_state_dict({0}.state_dict(), assign=True)",
    "lazy": "{makes} = after_forward(nn.LazyLinear(2), {on})",
    "to_its_device": '{on}.to("cpu")',
    "remove_hook": "{on}.remove()",
    "to_float64_and_back": "{on}.double().float()",
    "append": "{on}.append({0})",
    "share": "{on}.append({0})",
    "replace": "{on}[0] = {0}",
    "remove": "del {on}[-1]",
    "tie": "{on}.weight = {0}.weight",
    "parametrize": 'nn.utils.parametrize.register_parametrization({on}, "weight", Doubled())',
    "unparametrize": (
        'nn.utils.parametrize.remove_parametrizations({on}, "weight", leave_parametrized=False)'
    ),
    "unparametrize_leaving": 'nn.utils.parametrize.remove_parametrizations({on}, "weight")',
    "untie": "{on}.weight = nn.Parameter({on}.weight.detach().clone())",
    # optimizers
    "optimizer": "{makes} = {optimizer}",
    "step": "{on}.step()",
    "step_with_closure": "{on}.step(lambda: weights.sum())",
    "add_param_group": '{on}.add_param_group({{"params": [{0}]}})',
    "optimizer_zero_grad": "{on}.zero_grad()",
    "optimizer_zero_grad_to_zero": "{on}.zero_grad(set_to_none=False)",
}

PRELUDE: Final = """\
import asyncio
import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch
from torch import nn


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def after_forward(module, x):
    module(x)
    return module


weights = torch.tensor([[1.0, 2.0], [3.0, 5.0], [4.0, 7.0]])
pool = ThreadPoolExecutor(1)
"""

#: What is written before and after a step, by its number.
Note = Callable[[int], str]


def reached(history: History) -> set[tuple[str, ...]]:
    """The kinds of its steps, and those that follow each other in one block."""
    found: set[tuple[str, ...]] = {(step.kind,) for step in history.walk()}
    for steps in (history.steps, *(step.body for step in history.walk())):
        found.update((before.kind, after.kind) for before, after in pairwise(steps))
    return found


@dataclass
class Rendering:
    """Writes a history as Python source.

    refused  what is written where a step raises, by its number; "" where it may not
    before   what is written before each step
    after    what is written after each step
    """

    refused: Note
    before: Note
    after: Note
    number: int = -1
    #: What happens while the generator that is being written is suspended, in order.
    meanwhile: list[str] = field(default_factory=list)

    def source(self, history: History) -> str:
        """The statements of the history, without the prelude and the seed."""
        self.number = -1
        return "".join(map(self._written, history.steps))

    def _written(self, step: Step) -> str:
        self.number += 1
        number = self.number
        if step.kind in BLOCKS:
            written = BLOCKS[step.kind](self, step)
        else:
            written = line(step) + "\n"
            refused = self.refused(number)
            if refused:
                written = (
                    f"try:\n{indented(written)}except Exception as error:\n{indented(refused)}"
                )
        return self.before(number) + written + self.after(number)

    def body(self, step: Step) -> str:
        """The steps inside of a block."""
        return "".join(map(self._written, step.body)) or "pass\n"

    def function(self, step: Step, name: str, start: str = "", kind: str = "def") -> str:
        """The steps inside of a block as a function without arguments."""
        return f"{start}{kind} {name}():\n{indented(_shared(step) + self.body(step))}"


def _shared(step: Step) -> str:
    """What a function says that names made inside of a block are everyone's."""
    made = sorted({s.makes for s in _walk(step.body)} - {""})
    return f"global {', '.join(made)}\n" if made else ""


def line(step: Step) -> str:
    """A step that is no block, as it is written."""
    words: dict[str, str] = {}
    if step.kind == "module":
        words["module"] = MODULES[step.words[0]]
    if step.kind == "optimizer":
        words["optimizer"] = OPTIMIZERS[step.words[0]].format(f"{attribute(step.on)}.parameters()")
    on = attribute(step.on)
    given = [attribute(word) if word[:1] in "tmop" else word for word in step.words]
    return SIMPLE[step.kind].format(*given, on=on, makes=step.makes, **words)


def attribute(name: str) -> str:
    """A submodule or parameter as it is written: m0.0.weight is m0[0].weight."""
    root, *path = name.split(".")
    if not path or not (root[:1] == "m" and root[1:].isdigit()):
        return name
    return root + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path)


def indented(text: str) -> str:
    """The text one level deeper."""
    return textwrap.indent(text, "    ")


# --- blocks: a step holds what happens inside of it ---------------------------------------------


def _with(rendering: Rendering, step: Step) -> str:
    context, leaving = step.words
    number, body = rendering.number, rendering.body(step)
    if leaving == "exception":
        block = f"with {context}:\n{indented(body + 'raise KeyError')}\n"
        return f"with suppress(KeyError):\n{indented(block)}"
    if leaving == "break":
        block = f"with {context}:\n{indented(body + 'break')}\n"
        return f"for _ in range(1):\n{indented(block)}"
    if leaving == "return":
        block = f"{_shared(step)}with {context}:\n{indented(body + 'return')}\n"
        return f"def f{number}():\n{indented(block)}\n\nf{number}()\n"
    return f"with {context}:\n{indented(body)}"


def _decorated(rendering: Rendering, step: Step) -> str:
    context, form = step.words
    name = f"f{rendering.number}"
    decorator = f"@{context}\n"
    if form == "method":
        body = rendering.function(step, "call").replace("call():", "call(self):", 1)
        return f"class {name.upper()}:\n{indented(decorator + body)}\n\n{name.upper()}().call()\n"
    if form == "coroutine":
        function = rendering.function(step, name, decorator, "async def")
        return f"{function}\n\nwith suppress(StopIteration):\n    {name}().send(None)\n"
    if form == "asynchronous generator":
        function = rendering.function(step, name, decorator, "async def") + "    yield\n"
        return f"{function}\n\nwith suppress(StopIteration):\n    {name}().__anext__().send(None)\n"
    return f"{rendering.function(step, name, decorator)}\n\n{name}()\n"


def _generator(rendering: Rendering, step: Step) -> str:
    context, ending = step.words
    name = f"f{rendering.number}"
    outer, rendering.meanwhile = rendering.meanwhile, []
    function = rendering.function(step, name, f"@{context}\n" if context else "")
    advanced = "".join(f"next(g{name})\n{body}" for body in rendering.meanwhile)
    rendering.meanwhile = outer
    last = {
        "exhausted": f"next(g{name}, None)\n",
        "closed": f"g{name}.close()\n",
        "collected": f"del g{name}\n",
    }[ending]
    return f"{function}    if False:\n        yield\n\n\ng{name} = {name}()\n{advanced}{last}"


def _suspended(rendering: Rendering, step: Step) -> str:
    place = len(rendering.meanwhile)
    rendering.meanwhile.append("")
    rendering.meanwhile[place] = rendering.body(step)
    return "yield\n"


def _thread(rendering: Rendering, step: Step) -> str:
    name = f"f{rendering.number}"
    new = f"with ThreadPoolExecutor(1) as thread:\n    thread.submit({name}).result()\n"
    return f"{rendering.function(step, name)}\n\n{new}"


def _pool(rendering: Rendering, step: Step) -> str:
    name = f"f{rendering.number}"
    return f"{rendering.function(step, name)}\n\npool.submit({name}).result()\n"


def _hook(rendering: Rendering, step: Step) -> str:
    name = f"f{rendering.number}"
    register = "register_hook" if step.kind == "tensor_hook" else "register_forward_hook"
    # It fires once: it takes itself away.
    body = f"{_shared(step)}{step.makes}.remove()\n{rendering.body(step)}"
    registered = f"{step.makes} = {attribute(step.on)}.{register}({name})\n"
    return f"def {name}(*given):\n{indented(body)}\n\n{registered}"


def _tasks(rendering: Rendering, step: Step) -> str:
    name = f"f{rendering.number}"
    tasks = rendering.body(step)
    names = [f"task{n}" for n in _numbers_of_tasks(step, rendering)]
    gathered = f"async def {name}():\n    await asyncio.gather({'(), '.join(names)}())\n"
    return f"{tasks}\n{gathered}\n\nasyncio.run({name}())\n"


def _numbers_of_tasks(step: Step, rendering: Rendering) -> list[int]:
    """The numbers that its tasks have been given: they are counted back from the last step."""
    number, found = rendering.number, []
    for task in reversed(step.body):
        number -= len(list(_walk(task.body)))
        found.append(number)
        number -= 1
    return found[::-1]


def _task(rendering: Rendering, step: Step) -> str:
    return rendering.function(step, f"task{rendering.number}", kind="async def") + "\n\n"


def _await(rendering: Rendering, step: Step) -> str:
    return "await asyncio.sleep(0)\n"


BLOCKS: Final[dict[str, Callable[[Rendering, Step], str]]] = {
    "with": _with,
    "decorated": _decorated,
    "generator": _generator,
    "suspended": _suspended,
    "thread": _thread,
    "pool": _pool,
    "tensor_hook": _hook,
    "forward_hook": _hook,
    "tasks": _tasks,
    "task": _task,
    "await": _await,
}


def written(history: History) -> str:
    """The statements of a history."""
    nothing = Rendering(lambda n: "", lambda n: "", lambda n: "")
    return nothing.source(history)


# --- smaller histories --------------------------------------------------------------------------


def smaller(history: History) -> Iterator[History]:
    """The history without some of its steps, or with a block replaced by what is inside of it.

    Also without a step that made something, where what was made before it stands in for that.
    """
    for steps in _without(history.steps):
        yield History(steps, history.seed)
    last: dict[str, str] = {}
    for name in filter(None, (step.makes for step in history.walk())):
        sort = name[0]
        if sort in last:
            yield History(tuple(_standing_in(last[sort], name, history.steps)), history.seed)
        last[sort] = name


def _without(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    for size in (len(steps) // 2, len(steps) // 4, 1):
        if size > 1 or size == 1:
            for start in range(0, len(steps) - size + 1, size):
                yield steps[:start] + steps[start + size :]
    for i, step in enumerate(steps):
        if step.body:
            # Nothing but tasks is among tasks; of these, a later one may have gone on first.
            orders = {"task": (), "tasks": (step.body, step.body[::-1])}
            for body in orders.get(step.kind, (step.body,)):
                yield (*steps[:i], *_inlined(body), *steps[i + 1 :])
            for body in _without(step.body):
                yield (*steps[:i], replace(step, body=body), *steps[i + 1 :])


def _standing_in(other: str, made: str, steps: tuple[Step, ...]) -> Iterator[Step]:
    """The steps without the one that made this, and with the other thing in its place."""

    def told(name: str) -> str:
        return re.sub(rf"^{made}\b", other, name)

    for step in steps:
        if step.makes != made:
            words, body = tuple(map(told, step.words)), tuple(_standing_in(other, made, step.body))
            yield replace(step, on=told(step.on), words=words, body=body)


def _inlined(steps: tuple[Step, ...]) -> Iterator[Step]:
    """What is inside of a block, without the places at which it lets others run."""
    for inner in steps:
        if inner.kind in ("task", "suspended", "await"):
            yield from _inlined(inner.body)
        else:
            yield inner


def shrunk(history: History, fails: Callable[[History], bool]) -> History:
    """The smallest history that can be reached by leaving out steps and still fails.

    fails must be False of what is no history: one in which a name is used before it is made.
    """
    found = True
    while found:
        found = False
        for candidate in smaller(history):
            if fails(candidate):
                history, found = candidate, True
                break
    return history
