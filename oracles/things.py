"""What the reference machine knows of each thing: tensors, what was recorded, modules, threads.

Plain Python, no torch: a tensor here knows whether it requires grad and what was recorded of it,
and holds no values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .history import Step
from .setting import GradState


class Refusal(Exception):
    """A step is refused: the type of the error, and a phrase of its message."""

    def __init__(self, error: str, phrase: str) -> None:
        super().__init__(f"{error}: {phrase}")
        self.error = error
        self.phrase = phrase


class Unsaid(Exception):
    """From here on nothing is said: PyTorch promises no order in which leaves take gradients."""


@dataclass(eq=False)
class Storage:
    """The memory that a tensor shares with its views: how often it was written to."""

    version: int = 0
    #: False once a step wrote to it that may write more than once, as optimizers do.
    counted: bool = True
    #: Whether its values changed in the last step; None where nothing can be said.
    moved: bool | None = False


@dataclass(eq=False)
class Saved:
    """What backward needs: a memory, its version when it was saved, and whose it is.

    recorded  the tensor, if it was recorded
    view      the tensor, if it is a view that was taken where nothing is recorded
    """

    storage: Storage
    version: int
    recorded: Tensor | None
    view: Tensor | None = None


@dataclass(eq=False)
class Hook:
    """What is to be done when a gradient or an output is there: once, and not if it is removed."""

    step: Step
    active: bool = True


@dataclass(eq=False)
class Leaf:
    """Where gradients end: what accumulates them in a leaf."""

    tensor: Tensor


@dataclass(eq=False)
class Node:
    """What was recorded of one operation: where its gradients go and what they need.

    order   later nodes run first in backward
    inputs  the nodes and leaves that gradients are handed on to
    saved   what backward needs
    hooks   what is called with the gradient of the result
    thread  the number of the thread in which it was recorded
    """

    order: int
    inputs: list[Node | Leaf]
    saved: list[Saved] = field(default_factory=list)
    freed: bool = False
    retained: list[Tensor] = field(default_factory=list)
    hooks: list[Hook] = field(default_factory=list)
    thread: int = 0


@dataclass(eq=False)
class Tensor:
    """A tensor or parameter.

    told     the flag that was set by hand: that of a leaf
    node     None for a leaf
    base     what it is a view of
    made     in which mode a view was taken: "" where it may be recorded
    seen     the version that its memory had when its node was made
    grad     "none", "zero" or "some"
    grad_is_inference   whether that gradient was made in inference mode
    writable      of an inference tensor, whether it may be written to outside of inference mode
    versionless   whether it has no version, and so cannot be saved for backward
    orphaned      whether it retained a gradient when it was detached in place
    hooks         what is called with the gradient of a leaf
    """

    told: bool = False
    node: Node | None = None
    storage: Storage = field(default_factory=Storage)
    inference: bool = False
    base: Tensor | None = None
    made: str = ""
    seen: int = 0
    grad: str = "none"
    grad_is_inference: bool = False
    leaf: Leaf = field(init=False)
    writable: bool = False
    versionless: bool = False
    orphaned: bool = False
    hooks: list[Hook] = field(default_factory=list)

    @property
    def requires_grad(self) -> bool:
        """Tensor.requires_grad: told so, or computed from what requires it, or a view of such."""
        return (
            self.told
            or self.node is not None
            or (self.base is not None and self.base.requires_grad)
        )

    def __post_init__(self) -> None:
        self.leaf = Leaf(self)

    def history(self) -> Node | None:
        """Its node; that of a view is made anew when its memory was written to through another.

        Source: A, In-place operations; a view that was not recorded cannot say what it is then.
        """
        if self.base is None or (self.node is None and not self.base.requires_grad):
            return self.node
        if self.seen != self.storage.version:
            if self.made:
                raise Refusal("RuntimeError", f"created in {self.made}")
            # It goes nowhere where the base was detached in place.
            goes_on = self.base.carries
            self.node = Node(0, [self.base.history() or self.base.leaf] if goes_on else [])
            self.seen = self.storage.version
        return self.node

    @property
    def carries(self) -> bool:
        """Whether gradients go on from here: not from a view that says it requires grad only."""
        return self.told or self.history() is not None

    @property
    def retains(self) -> bool:
        """Whether a non-leaf keeps its gradient."""
        return self.node is not None and self in self.node.retained

    def facts(self) -> tuple[Any, ...]:
        """What is compared, in the order of play.TENSOR_FACTS."""
        try:
            leaf = self.history() is None
        except Refusal as refusal:
            return (refusal.phrase,)
        has_grad = self.grad != "none" if leaf or self.retains else None
        version = None if self.inference or not self.storage.counted else self.storage.version
        return self.requires_grad, leaf, self.inference, has_grad, version


@dataclass(eq=False)
class MadeClass:
    """The class of a parametrized module: whether it still has the property of the weight."""

    spent: bool = False


@dataclass(eq=False)
class Module:
    """A module: its kind, its flag, its children in order, its parameters and its counter."""

    kind: str
    training: bool = True
    children: list[Module] = field(default_factory=list)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    counter: Tensor | None = None
    statistics: Tensor | None = None
    counted: int = 0
    hooks: list[Hook] = field(default_factory=list)
    #: What computes its weight: an nn.ModuleDict with a list that has the original, and the rule.
    parametrized: Module | None = None
    #: The class that was made for it, which has the property: a copy is of the same class.
    made: MadeClass = field(default_factory=lambda: MadeClass())

    @property
    def hooked(self) -> bool:
        """Whether something below it has a hook: then it is not copied."""
        return any(hook.active for _, module in self.walk() for hook in module.hooks)

    def walk(self, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Module]]:
        """It and all modules below it, each once, by path."""
        seen = set() if seen is None else seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield path, self
        for name, child in self.named_children():
            yield from child.walk(f"{path}.{name}".lstrip("."), seen)

    def paths(self, path: str = "") -> Iterator[tuple[str, Module]]:
        """It and all modules below it by path: one with several owners at each of its paths."""
        yield path, self
        for name, child in self.named_children():
            yield from child.paths(f"{path}.{name}".lstrip("."))

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules right below it, by name."""
        for number, child in enumerate(self.children):
            yield "weight" if self.kind == "ModuleDict" else str(number), child
        if self.parametrized is not None:
            yield "parametrizations", self.parametrized

    def named_parameters(self) -> dict[str, Tensor]:
        """Its parameters by name, each once."""
        found: dict[str, Tensor] = {}
        known: set[int] = set()
        for path, module in self.walk():
            for name, parameter in module.parameters.items():
                if id(parameter) not in known:
                    known.add(id(parameter))
                    found[f"{path}.{name}".lstrip(".")] = parameter
        return found


@dataclass(eq=False)
class Optimizer:
    """An optimizer.

    kept   the parameters of which it keeps something between steps, with whether that was made
           in inference mode
    """

    kind: str
    parameters: list[Tensor]
    kept: dict[Tensor, bool] = field(default_factory=dict)


@dataclass(eq=False)
class Context:
    """A context manager as an object: what it was made of, and what it must restore."""

    written: str
    saved: list[GradState] = field(default_factory=list)
    active: int = 0
    used: bool = False


@dataclass
class Thread:
    """A thread of control: its grad mode, how many nodes were recorded in it, and its number."""

    mode: GradState = field(default_factory=GradState)
    order: int = 0
    number: int = 0
