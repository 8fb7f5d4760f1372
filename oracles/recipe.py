"""A module not yet built: its graph as data, and the source it is rendered to.

What ran is what you read: the module under test is the rendered source, executed.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import ModuleType
from typing import Any, Final

import torch

from .traits import TRAITS, Traits, argument

DTYPES: Final[dict[str, torch.dtype]] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "complex64": torch.complex64,
}

BLOCKS: Final = ("Block", "Sequential")
PARAMETRIZATIONS: Final = ("weight_norm", "spectral_norm")
HOOKS: Final = ("forward_pre", "forward", "full_backward")
#: How a module holds its layers; the body of a Sequential node is held by "Sequential".
CONTAINERS: Final = ("attributes", "ModuleList", "ModuleDict", "Sequential")
WITHIN: Final = ("no_grad", "enable_grad")
#: An argument {TENSOR: numbers} is a tensor of them, one {NAMED: name} what has this name.
TENSOR: Final = "tensor"
NAMED: Final = "named"


@dataclass(frozen=True)
class Input:
    """One input of a module.

    shape       its sizes, the batch first
    high        for integer inputs the bound of the values; 0 for inputs of the recipe's dtype
    transposed  whether it is laid out in memory with its last two dimensions exchanged
    """

    shape: tuple[int, ...]
    high: int = 0
    transposed: bool = False


@dataclass(frozen=True)
class Node:
    """One step of a forward.

    op            a layer or function of the traits table, or a block: a module of its own
    inputs        which earlier values it takes, by position
    arguments     what its layer is made with, and what its call is given beside its inputs
    within        the grad mode it runs in, inside forward: "", "no_grad" or "enable_grad"
    shared        an earlier node of the same module whose layer it calls again
    tied          an earlier node of the same module whose weight it shares
    parametrized  "", "weight_norm" or "spectral_norm", on its weight
    hooked        "", "forward_pre", "forward" or "full_backward": a hook that counts its calls
    body          for a block, the module it calls
    checkpointed  for a block, whether it is called through torch.utils.checkpoint
    """

    op: str
    inputs: tuple[int, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    within: str = ""
    shared: int | None = None
    tied: int | None = None
    parametrized: str = ""
    hooked: str = ""
    body: Recipe | None = None
    checkpointed: bool = False

    @property
    def traits(self) -> Traits:
        """The claims about this kind of node."""
        return TRAITS[self.op]

    @property
    def outputs(self) -> tuple[bool, ...]:
        """For each value it returns, whether gradients flow through it."""
        return self.traits.outputs(self.arguments)

    # Of a transformer these are long to find, and are asked for in each setting.
    @cached_property
    def own_parameters(self) -> tuple[str, ...]:
        """Names of its parameters, below its own path, before any parametrization."""
        return self.traits.parameters(self.arguments)

    @cached_property
    def drawing(self) -> tuple[str, ...]:
        """Which of its parts draw, each in its own mode; "" is the layer itself."""
        return self.traits.drawing(self.arguments)


@dataclass(frozen=True)
class Recipe:
    """A module: its inputs, its nodes in order, which values it returns, how it holds layers."""

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    container: str = "attributes"

    def own_path(self, index: int) -> str:
        """Where this module holds the layer, parameter or buffer of node ``index``."""
        node = self.nodes[index]
        if node.shared is not None:
            return self.own_path(node.shared)
        if self.container == "Sequential":
            return str(index)
        if self.container == "attributes" or (node.op not in BLOCKS and not node.traits.is_layer):
            return f"n{index}"
        if self.container == "ModuleDict":
            return f"layers.n{index}"
        held = [i for i, n in enumerate(self.nodes) if n.shared is None and _is_module(n)]
        return f"layers.{held.index(index)}"

    def paths(self, prefix: str = "") -> Iterator[tuple[str, Node]]:
        """Each node that makes something, with the path of what it makes, outermost first."""
        for index, node in enumerate(self.nodes):
            if node.shared is None:
                path = prefix + self.own_path(index)
                yield path, node
                if node.body is not None:
                    yield from node.body.paths(path + ".")

    def modules(self) -> list[str]:
        """Paths of the submodules that the recipe makes itself, in order."""
        return [path for path, node in self.paths() if _is_module(node)]

    def parts(self) -> list[str]:
        """Paths of the submodules that lie in another: in a block, or in a layer of several."""
        found = []
        for path, node in self.paths():
            if _is_module(node) and "." in path.removeprefix("layers."):
                found.append(path)
            if node.body is None:
                found += [f"{path}.{part}" for part in node.traits.parts(node.arguments)]
        return found

    def walk(self) -> Iterator[Node]:
        """Every node, those of blocks included."""
        for node in self.nodes:
            yield node
            if node.body is not None:
                yield from node.body.walk()

    def ops(self) -> set[str]:
        """The kinds of its nodes."""
        return {node.op for node in self.walk()}

    def parameters(self, prefix: str = "") -> list[str]:
        """Names of the parameters, each once: a tied one under its first name."""
        names: list[str] = []
        for index, node in enumerate(self.nodes):
            if node.shared is not None:
                continue
            path = prefix + self.own_path(index)
            if node.body is not None:
                names += node.body.parameters(path + ".")
            else:
                tied = {f"{path}.weight"} if node.tied is not None else set()
                names += [n for n in node_parameters(node, path) if n not in tied]
        return names


def identities(recipe: Recipe, replaced: tuple[str, ...]) -> Recipe:
    """The recipe with nn.Identity in the place of these kinds of layers."""

    def changed(node: Node) -> Node:
        if node.body is not None:
            return replace(node, body=identities(node.body, replaced))
        return replace(node, op="Identity", arguments={}) if node.op in replaced else node

    return replace(recipe, nodes=tuple(changed(node) for node in recipe.nodes))


def uncheckpointed(recipe: Recipe) -> Recipe:
    """The recipe with every block called as it is."""

    def changed(node: Node) -> Node:
        body = uncheckpointed(node.body) if node.body is not None else None
        return replace(node, body=body, checkpointed=False)

    return replace(recipe, nodes=tuple(changed(node) for node in recipe.nodes))


def _is_module(node: Node) -> bool:
    return node.op in BLOCKS or node.traits.is_layer


def node_parameters(node: Node, path: str) -> list[str]:
    """Names of the parameters of one layer or raw parameter at ``path``."""
    names = [f"{path}.{name}" if name else path for name in node.own_parameters]
    if node.parametrized:
        names.remove(f"{path}.weight")
        originals = (
            ("original0", "original1") if node.parametrized == "weight_norm" else ("original",)
        )
        names += [f"{path}.parametrizations.weight.{name}" for name in originals]
    return names


# --- rendering -----------------------------------------------------------------------------

_INDENT: Final = "    "
_PREAMBLE: Final = """\
import torch
import torch.nn.functional as F
from torch import nn
"""
_COUNT_CALLS: Final = """

def count_calls(module, *_):
    module.calls = getattr(module, "calls", 0) + 1
"""


_INITIALISE: Final = """

def initialised(lazy, shape):
    lazy(torch.zeros(shape))
    return lazy
"""
#: Functions that expressions of the traits table use, by name.
_HELPERS: Final = {
    "replacing": """

def replacing(layer, parts):
    for path, part in parts.items():
        owner, _, name = path.rpartition(".")
        setattr(layer.get_submodule(owner), name, part)
    return layer
""",
    "packed": """

def packed(layer, x, lengths, hx=None, enforce_sorted=True):
    form = {"batch_first": layer.batch_first, "enforce_sorted": enforce_sorted}
    out, state = layer(nn.utils.rnn.pack_padded_sequence(x, lengths, **form), hx)
    return nn.utils.rnn.pad_packed_sequence(out, layer.batch_first)[0], state
""",
    "flat": """

def flat(returned):
    out, (h, c) = returned
    return out, h, c
""",
}


def render(recipe: Recipe, name: str = "Model") -> str:
    """The Python source of the module, with its imports: the same for the same recipe."""
    needs_checkpoint = any(n.checkpointed for n in recipe.walk())
    needs_hooks = any(n.hooked for n in recipe.walk())
    preamble = _PREAMBLE
    if needs_checkpoint:
        preamble += "from torch.utils.checkpoint import checkpoint\n"
    if needs_hooks:
        preamble += _COUNT_CALLS
    if any("first" in n.arguments for n in recipe.walk()):
        preamble += _INITIALISE
    classes = "".join(f"\n\n{text}" for text in _classes(recipe, name))
    preamble += "".join(text for name, text in _HELPERS.items() if f"{name}(" in classes)
    return preamble + classes


def _classes(recipe: Recipe, name: str) -> Iterator[str]:
    for index, node in enumerate(recipe.nodes):
        if node.op == "Block" and node.shared is None and node.body is not None:
            yield from _classes(node.body, _block_name(name, index))
    lines = [f"class {name}(nn.Module):", _INDENT + "def __init__(self):"]
    lines += [_INDENT * 2 + "super().__init__()"]
    lines += [_INDENT * 2 + line for line in _init(recipe, name)]
    arguments = ", ".join(["self", *(f"x{i}" for i in range(len(recipe.inputs)))])
    lines += ["", _INDENT + f"def forward({arguments}):"]
    lines += [_INDENT * 2 + line for line in _forward(recipe)]
    yield "\n".join(lines) + "\n"


def _block_name(name: str, index: int) -> str:
    return f"{name}Block{index}" if name == "Model" else f"{name}_{index}"


def _init(recipe: Recipe, name: str) -> Iterator[str]:
    if recipe.container != "attributes":
        yield f"self.layers = nn.{recipe.container}()"
    for index, node in enumerate(recipe.nodes):
        if node.shared is not None or (node.body is None and not node.traits.has_state):
            continue
        path = recipe.own_path(index)
        yield _attach(path, _maker(node, _block_name(name, index)))
        if node.tied is not None:
            yield f"self.{_dotted(path)}.weight = self.{_dotted(recipe.own_path(node.tied))}.weight"
        if node.hooked:
            yield f"self.{_dotted(path)}.register_{node.hooked}_hook(count_calls)"


def _attach(path: str, value: str) -> str:
    if value.startswith("buffer("):
        return f'self.register_buffer("{path}", {value.removeprefix("buffer(")[:-1]})'
    if path.startswith("layers.n"):
        return f'self.layers["{path.removeprefix("layers.")}"] = {value}'
    if path.startswith("layers."):
        return f"self.layers.append({value})"
    return f"self.{path} = {value}"


def _dotted(path: str) -> str:
    """The path as an expression: an index into a container is written as one."""
    holder, _, rest = path.partition(".")
    if holder != "layers":
        return path
    return f'layers["{rest}"]' if rest.startswith("n") else f"layers[{rest}]"


def _maker(node: Node, block_name: str) -> str:
    if node.op == "Block":
        return f"{block_name}()"
    if node.op == "Sequential" and node.body is not None:
        return f"nn.Sequential({', '.join(_maker(n, '') for n in node.body.nodes)})"
    first = node.arguments.get("first")  # of a lazy layer: the shape of what it sees first
    if node.traits.made is not None:
        made = node.traits.made(node.arguments)
    else:
        kept = {k: v for k, v in node.arguments.items() if k not in ("first", *node.traits.given)}
        arguments = ", ".join(argument(k, v) for k, v in kept.items())
        norm = "".join(f", {argument(k, v)}" for k, v in node.arguments.get("norm", {}).items())
        shown = first and tuple(first)
        made = node.traits.makes.format(op=node.op, args=arguments, first=shown, norm=norm)
    if node.parametrized:
        return f"nn.utils.parametrizations.{node.parametrized}({made})"
    return made


def names_of_values(recipe: Recipe) -> tuple[list[str], list[tuple[str, ...]]]:
    """The variable of every value, and for each node the variables it assigns."""
    values = [f"x{i}" for i in range(len(recipe.inputs))]
    assigned = []
    for index, node in enumerate(recipe.nodes):
        count = len(node.body.outputs) if node.body else len(node.outputs)
        names = (f"h{index}",) if count == 1 else tuple(f"h{index}_{k}" for k in range(count))
        assigned.append(names)
        values += names
    return values, assigned


def _forward(recipe: Recipe) -> Iterator[str]:
    values, assigned = names_of_values(recipe)
    within = ""
    for index, node in enumerate(recipe.nodes):
        if node.within and node.within != within:
            yield f"with torch.{node.within}():"
        within = node.within
        line = f"{', '.join(assigned[index])} = {_call(recipe, index, values)}"
        yield (_INDENT if within else "") + line
    yield f"return {', '.join(values[i] for i in recipe.outputs)}"


def _call(recipe: Recipe, index: int, values: list[str]) -> str:
    node = recipe.nodes[index]
    arguments = [values[i] for i in node.inputs]
    layer = f"self.{_dotted(recipe.own_path(index))}"
    if node.body is None:
        return node.traits.called(node.arguments).format(*arguments, self=layer)
    if node.checkpointed:
        return f"checkpoint({', '.join([layer, *arguments])}, use_reentrant=False)"
    return f"{layer}({', '.join(arguments)})"


# --- execution -----------------------------------------------------------------------------


#: How many executed sources are kept, the latest used: pickle and tracebacks look them up. More
#: than subjects are, with those akin to them.
_KEPT: Final = 1024
_executed: OrderedDict[str, ModuleType] = OrderedDict()


def execute(source: str) -> ModuleType:
    """The rendered source as an imported module, with its lines in ``linecache``."""
    if source in _executed:
        _executed.move_to_end(source)
        return _executed[source]
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    module = ModuleType(f"torchlaws_recipe_{digest}")
    filename = f"<{module.__name__}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    # Pickle finds a class by its module: the module must be importable.
    sys.modules[module.__name__] = module
    exec(compile(source, filename, "exec"), module.__dict__)
    _executed[source] = module
    while len(_executed) > _KEPT:
        _, old = _executed.popitem(last=False)
        sys.modules.pop(old.__name__, None)
        linecache.cache.pop(f"<{old.__name__}>", None)
    return module
