"""What is done to a module before it runs: the three switches, as data.

A :class:`Setting` is one point of the lattice train/eval x grad mode x which
leaves require grad. It is concrete: it names the submodules, the contexts and
the parameters, so it can be read, stored and replayed without the specimen it
was drawn for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from itertools import combinations
from typing import Final

#: The context managers a grad-mode stack is made of, as they are written.
CONTEXTS: Final = (
    "torch.no_grad()",
    "torch.enable_grad()",
    "torch.set_grad_enabled(False)",
    "torch.set_grad_enabled(True)",
    "torch.inference_mode()",
    "torch.inference_mode(False)",
)

Stack = tuple[str, ...]

ENABLED: Final[Stack] = ()
NO_GRAD: Final[Stack] = ("torch.no_grad()",)
INFERENCE: Final[Stack] = ("torch.inference_mode()",)

#: The grad modes in which every law is tried: each way to switch recording off, each way back.
GRADS: Final[tuple[Stack, ...]] = (
    ENABLED,
    NO_GRAD,
    INFERENCE,
    ("torch.set_grad_enabled(False)",),
    ("torch.no_grad()", "torch.enable_grad()"),
    ("torch.inference_mode()", "torch.inference_mode(False)"),
    ("torch.inference_mode()", "torch.enable_grad()"),
)


@dataclass(frozen=True)
class GradState:
    """What the grad mode is at one point of a program.

    grad       what torch.is_grad_enabled() says
    inference  what torch.is_inference_mode_enabled() says
    outside    the grad flag to which leaving inference mode returns
    """

    grad: bool = True
    inference: bool = False
    outside: bool = True

    @property
    def recording(self) -> bool:
        """Whether operations are recorded in the backward graph."""
        return self.grad and not self.inference

    def enter(self, context: str) -> GradState:
        """The state inside ``with context:``.

        Sources: torch.no_grad, torch.enable_grad ("enables gradient calculation,
        if it has been disabled via no_grad or set_grad_enabled": not via
        inference_mode), torch.set_grad_enabled, torch.inference_mode(mode).
        """
        match context:
            case "torch.no_grad()" | "torch.set_grad_enabled(False)":
                return replace(self, grad=False)
            case "torch.enable_grad()" | "torch.set_grad_enabled(True)":
                return replace(self, grad=True)
            case "torch.inference_mode()":
                outside = self.outside if self.inference else self.grad
                return GradState(grad=False, inference=True, outside=outside)
            case "torch.inference_mode(False)":
                return GradState(grad=self.outside) if self.inference else self
        raise ValueError(f"unknown context {context!r}; known: {', '.join(CONTEXTS)}")


@cache
def fold(stack: Stack) -> GradState:
    """The grad state inside a stack of contexts, the outermost first."""
    return fold(stack[:-1]).enter(stack[-1]) if stack else GradState()


@dataclass(frozen=True)
class Setting:
    """One way to run a module.

    training  what the root is told: ``model.train()`` or ``model.eval()``
    switched  submodules then told the opposite, by path, each with its subtree
    grad      the stack of contexts around forward, the outermost first
    frozen    parameters with requires_grad=False, by name; all others have True
    inputs    positions of the inputs that require grad
    """

    training: bool = True
    switched: tuple[str, ...] = ()
    grad: Stack = ENABLED
    frozen: tuple[str, ...] = ()
    inputs: tuple[int, ...] = ()

    @cached_property
    def _hash(self) -> int:
        return hash((self.training, self.switched, self.grad, self.frozen, self.inputs))

    def __hash__(self) -> int:
        return self._hash  # settings are keys of the remembered runs: hashed once

    def but(
        self,
        *,
        training: bool | None = None,
        switched: Sequence[str] | None = None,
        grad: Stack | None = None,
        frozen: Sequence[str] | None = None,
        inputs: Sequence[int] | None = None,
    ) -> Setting:
        """The same setting, except for what is given."""
        return Setting(
            self.training if training is None else training,
            self.switched if switched is None else tuple(switched),
            self.grad if grad is None else grad,
            self.frozen if frozen is None else tuple(frozen),
            self.inputs if inputs is None else tuple(inputs),
        )

    @property
    def axes(self) -> tuple[Hashable, ...]:
        """What it is on each axis: modes, grad mode, frozen parameters, inputs requiring grad."""
        return (self.training, self.switched), self.grad, self.frozen, self.inputs

    @property
    def pairs(self) -> frozenset[Hashable]:
        """Any two of its values: that they meet in it."""
        return frozenset(combinations(enumerate(self.axes), 2))

    def trains(self, path: str) -> bool:
        """Whether the submodule at ``path`` is in training mode."""
        inside = any(path == s or path.startswith(s + ".") for s in self.switched)
        return self.training is not inside

    def __str__(self) -> str:
        mode = "train()" if self.training else "eval()"
        switched = f", but {', '.join(self.switched)} told the opposite" if self.switched else ""
        grad = " > ".join(self.grad) or "grad enabled"
        frozen = f"frozen: {', '.join(self.frozen)}" if self.frozen else "no parameter frozen"
        inputs = ", ".join(f"x[{i}]" for i in self.inputs) or "none"
        return f"{mode}{switched}; {grad}; {frozen}; inputs that require grad: {inputs}"


def covering(settings: Sequence[Setting], turn: int) -> list[Setting]:
    """Few of these settings, in their order, in which two values meet wherever they do in all.

    Two values of different axes, as evaluation and a frozen parameter are: this is pairwise
    testing, by a covering array. There are many such arrays, and turn picks one: three values
    that do not meet in one array do so in another.
    """
    axes = [dict.fromkeys(axis) for axis in zip(*(s.axes for s in settings), strict=True)]
    numbers = [{value: k for k, value in enumerate(axis)} for axis in axes]
    rows = (tuple(n[value] for n, value in zip(numbers, s.axes, strict=True)) for s in settings)
    return [settings[k] for k in _covering(tuple(rows), turn % max(len(settings), 1))]


@lru_cache(maxsize=4096)
def _covering(rows: tuple[tuple[int, ...], ...], turn: int) -> list[int]:
    """Again and again the row with the most new pairs; of several, the first from turn on."""
    pairs = [set(combinations(enumerate(row), 2)) for row in rows]
    places = [*range(turn, len(rows)), *range(turn)]
    missing, chosen = set[object]().union(*pairs), list[int]()
    while missing:
        best = max(places, key=lambda k: len(pairs[k] & missing))
        missing -= pairs[best]
        chosen.append(best)
    return sorted(chosen)


Precondition = Callable[[Setting], bool]


def always(setting: Setting) -> bool:
    """Every setting."""
    return True


def grad_enabled(setting: Setting) -> bool:
    """Operations are recorded."""
    return fold(setting.grad).recording


def grad_disabled(setting: Setting) -> bool:
    """Nothing is recorded, and it is not for inference mode."""
    state = fold(setting.grad)
    return not state.grad and not state.inference


def in_inference_mode(setting: Setting) -> bool:
    """Inference mode is on."""
    return fold(setting.grad).inference


def evaluating(setting: Setting) -> bool:
    """Every submodule is in evaluation mode."""
    return not setting.training and not setting.switched


def training(setting: Setting) -> bool:
    """Every submodule is in training mode."""
    return setting.training and not setting.switched


def uniform(setting: Setting) -> bool:
    """All submodules are in one mode, training or evaluation."""
    return not setting.switched


def plain_grad(setting: Setting) -> bool:
    """No grad-mode context at all: PyTorch's default mode."""
    return setting.grad == ENABLED


def core_grad(setting: Setting) -> bool:
    """The default grad mode, no_grad or inference_mode, alone."""
    return setting.grad in (ENABLED, NO_GRAD, INFERENCE)


def partly_frozen(setting: Setting) -> bool:
    """Some parameter is frozen."""
    return bool(setting.frozen)


def no_input_requires_grad(setting: Setting) -> bool:
    """No input requires grad."""
    return not setting.inputs


def unfrozen(setting: Setting) -> bool:
    """No parameter is frozen."""
    return not setting.frozen


def all_of(*conditions: Precondition) -> Precondition:
    """All of these preconditions."""

    def both(setting: Setting) -> bool:
        return all(condition(setting) for condition in conditions)

    both.__doc__ = " ".join(c.__doc__ or "" for c in conditions)
    return both


def any_of(*conditions: Precondition) -> Precondition:
    """One of these preconditions."""

    def either(setting: Setting) -> bool:
        return any(condition(setting) for condition in conditions)

    either.__doc__ = " Or: ".join(c.__doc__ or "" for c in conditions)
    return either
