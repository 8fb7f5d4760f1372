"""What a layer's result reaches in a module: which outputs, which gradients, which state.

No torch here. A known deviation of one layer shows where its result goes, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from .recipe import Node, Recipe, node_parameters
from .setting import Setting
from .traits import Returns

_MODES: Final = (True, False)


@dataclass(frozen=True, eq=False)
class Use:
    """One call of a layer or function in a forward.

    node          what is called: of a layer that is used again, the node that made it
    path          where its layer, parameter or buffer is held
    owner         where the module is held whose forward calls it; "" for the root
    within        the grad modes that forward enters around it, outermost first
    checkpointed  whether it runs inside of a checkpointed block
    takes, makes  numbers of the values that it takes and returns
    parameters    names of its parameters, as they are registered
    """

    node: Node
    path: str
    owner: str
    within: tuple[str, ...]
    checkpointed: bool
    takes: tuple[int, ...]
    makes: tuple[int, ...]
    parameters: tuple[str, ...]

    def trains(self, setting: Setting) -> bool:
        """Whether it runs in training mode: a function has the mode of its module."""
        return setting.trains(self.path if self.node.traits.is_layer else self.owner)

    def moves(self) -> set[str]:
        """Names of the parameters and buffers that a forward may change in some mode."""
        traits, args = self.node.traits, self.node.arguments
        names = {f"{self.path}.{name}" for mode in _MODES for name in traits.moves(args, mode)}
        if self.node.parametrized == "spectral_norm":
            base = f"{self.path}.parametrizations.weight.0"
            names |= {f"{base}._u", f"{base}._v"}
        return names


@dataclass(frozen=True)
class Places:
    """Where a deviation shows, as positions of inputs and outputs and names of state.

    outputs  positions of outputs
    inputs   positions of inputs
    leaves   parameters and inputs with a gradient, as they are written in plain torch
    states   names in the state_dict
    seed     of the randomness of the run
    """

    outputs: frozenset[int] = frozenset()
    inputs: frozenset[int] = frozenset()
    leaves: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    seed: int = 0

    def __or__(self, other: Places) -> Places:
        return Places(
            self.outputs | other.outputs,
            self.inputs | other.inputs,
            self.leaves | other.leaves,
            self.states | other.states,
        )


def parameter(name: str) -> str:
    """A parameter, as it is written in plain torch."""
    return f"model.get_parameter({name!r})"


class Flow:
    """The calls of a forward, in order, and which values go from one to another."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.uses: list[Use] = []
        self._numbers = count()
        self.inputs = [next(self._numbers) for _ in recipe.inputs]
        self.outputs = self._forward(recipe, "", self.inputs, (), False)

    def _forward(
        self,
        recipe: Recipe,
        prefix: str,
        taken: Sequence[int],
        within: tuple[str, ...],
        checkpointed: bool,
    ) -> list[int]:
        values = list(taken)
        for index, node in enumerate(recipe.nodes):
            maker = node if node.shared is None else recipe.nodes[node.shared]
            path = prefix + recipe.own_path(index)
            inner = (*within, node.within) if node.within else within
            given = [values[i] for i in node.inputs]
            if node.body is not None:
                block = checkpointed or node.checkpointed
                values += self._forward(node.body, path + ".", given, inner, block)
                continue
            made = tuple(next(self._numbers) for _ in maker.outputs)
            names = node_parameters(maker, path)
            if maker.tied is not None:
                names.remove(f"{path}.weight")
                names.append(f"{prefix}{recipe.own_path(maker.tied)}.weight")
            owner = prefix.rstrip(".")
            use = Use(maker, path, owner, inner, checkpointed, tuple(given), made, tuple(names))
            self.uses.append(use)
            if any(maker.traits.returns(maker.arguments, m) is Returns.WRITTEN for m in _MODES):
                values = [made[0] if v == given[0] else v for v in values]
            values += made
        return [values[i] for i in recipe.outputs]

    def touched(self, sources: Callable[[Use], bool]) -> tuple[list[Use], set[int]]:
        """These calls and those that their results go to, and the values that they all make."""
        touched, reached = list[Use](), set[int]()
        for use in self.uses:
            if sources(use) or reached.intersection(use.takes):
                touched.append(use)
                reached.update(use.makes)
        return touched, reached

    def of(self, sources: Callable[[Use], bool]) -> Places:
        """Where the results of these calls go, the calls included.

        A gradient is among them where it is computed from such a result: that of every leaf
        from which a way leads to a call that takes it.
        """
        touched, reached = self.touched(sources)
        leaves, needed, ends = set[str](), set[int](), set(touched)
        for use in reversed(self.uses):
            if use in ends or needed.intersection(use.makes):
                needed.update(use.takes)
                leaves.update(map(parameter, use.parameters))
        inputs = frozenset(i for i, value in enumerate(self.inputs) if value in needed)
        return Places(
            frozenset(i for i, value in enumerate(self.outputs) if value in reached),
            inputs,
            frozenset(leaves.union(f"x[{i}]" for i in inputs)),
            frozenset(name for use in touched for name in use.moves()),
        )

    @property
    def everywhere(self) -> Places:
        """All of the module."""
        inputs = range(len(self.inputs))
        leaves = {*map(parameter, self.recipe.parameters()), *(f"x[{i}]" for i in inputs)}
        states = frozenset(name for use in self.uses for name in use.moves())
        outputs = frozenset(range(len(self.outputs)))
        return Places(outputs, frozenset(inputs), frozenset(leaves), states)
