"""The reference model: what must be observed of a run, said in plain Python.

No torch here. A module is interpreted over abstract tensors that know only whether
they require grad, whether they are recorded, which object they are and which leaves
their gradient reaches. It is the specification of the whole; laws are its theorems.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import NamedTuple

from .recipe import Node, Recipe, node_parameters
from .setting import GradState, Setting, fold
from .traits import TRAITS, Certainty, Returns


@dataclass(frozen=True)
class Value:
    """An abstract tensor.

    requires_grad   Tensor.requires_grad
    recorded        whether it has a grad_fn
    inference       whether it is an inference tensor
    differentiable  whether its dtype can require grad
    identity        which object it is: equal for two names of one tensor
    reaches         the leaves that receive a gradient when it is differentiated
    """

    requires_grad: bool
    recorded: bool
    inference: bool
    differentiable: bool
    identity: int
    reaches: frozenset[str]


class Call(NamedTuple):
    """How a layer is called: what decides what it may do.

    op          the kind of its node
    parameters  how many of its own it has
    frozen      how many of these are frozen
    training    whether it is in training mode
    grad        the grad mode in force
    given       whether something that it is given requires grad
    """

    op: str
    parameters: int
    frozen: int
    training: bool
    grad: GradState
    given: bool


@dataclass
class Prediction:
    """Every fact of a run that the reference model speaks of.

    outputs    the abstract tensors that forward returns
    receives   the leaves (parameters by name, inputs as "x[0]") that backward gives a gradient
    moves      parameters and buffers that forward changes, with how sure that is
    draws      whether forward draws from the global random generator
    calls      how often a counting forward hook fires, by path of its layer
    layers     each call of a layer, in order
    leaves     all parameters by name, and all inputs
    """

    outputs: list[Value] = field(default_factory=list)
    receives: frozenset[str] = frozenset()
    moves: dict[str, Certainty] = field(default_factory=dict)
    draws: Certainty = Certainty.NEVER
    calls: dict[str, int] = field(default_factory=dict)
    layers: list[Call] = field(default_factory=list)
    leaves: tuple[str, ...] = ()

    def recording(self) -> dict[str, bool]:
        """What must be recorded of each output."""
        return {
            f"out[{i}].{attribute}": value
            for i, v in enumerate(self.outputs)
            for attribute, value in (
                ("requires_grad", v.requires_grad),
                ("grad_fn is None", not v.recorded),
                ("is_leaf", not v.recorded),
                ("is_inference()", v.inference),
            )
        }

    def aliases(self) -> dict[str, bool]:
        """Which outputs must be an input itself."""
        inputs = sum(leaf.startswith("x[") for leaf in self.leaves)
        return {
            f"out[{i}] is x[{k}]": v.identity == k
            for i, v in enumerate(self.outputs)
            for k in range(inputs)
        }

    def receiving(self) -> dict[str, bool]:
        """Which leaves must be left without a gradient."""
        return {
            f"{leaf if leaf.startswith('x[') else f'model.get_parameter({leaf!r})'}.grad is None": (
                leaf not in self.receives
            )
            for leaf in self.leaves
        }

    def hook_calls(self) -> dict[str, int]:
        """How often each counting hook must have fired."""
        return {
            f"getattr(model.get_submodule({path!r}), 'calls', 0)": count
            for path, count in self.calls.items()
        }

    def moving(self, seen: Mapping[str, bool]) -> dict[str, bool]:
        """Which parameters and buffers must be as before; where it depends, what was seen."""
        return {
            e: self._is_unmoved(next((s for n, s in self.moves.items() if repr(n) in e), 0), v)
            for e, v in seen.items()
        }

    def drawing(self, seen: Mapping[str, bool]) -> dict[str, bool]:
        """Whether the random generator must be as before; where it depends, what was seen."""
        return {e: self._is_unmoved(self.draws, v) for e, v in seen.items()}

    @staticmethod
    def _is_unmoved(sure: int, seen: bool) -> bool:
        return seen if sure == Certainty.MAYBE else sure == Certainty.NEVER


def predict(recipe: Recipe, setting: Setting, dtype: str = "float32") -> Prediction:
    """What a forward and backward of ``recipe`` in ``setting`` must show. It is not to be changed.

    The latest is kept: a cell is asked about by its law, the register and the count of coverage.
    """
    latest = _Latest.asked
    # The recipe itself, as comparing two of them takes as long as a prediction.
    if latest is None or latest[0] is not recipe or latest[1:] != (setting, dtype):
        _Latest.made = _predict(recipe, setting, dtype)
        _Latest.asked = (recipe, setting, dtype)
    return _Latest.made


class _Latest:
    """The latest prediction, and what it is of."""

    asked: tuple[Recipe, Setting, str] | None = None
    made: Prediction = Prediction()


def _predict(recipe: Recipe, setting: Setting, dtype: str) -> Prediction:
    machine = _Machine(setting, exact=dtype in ("float32", "float64"))
    inputs = [machine.input(i, given.high == 0) for i, given in enumerate(recipe.inputs)]
    outputs = machine.forward(recipe, "", inputs, fold(setting.grad))
    # Gradients are asked of the outputs that require them (torch.autograd.backward).
    machine.prediction.outputs = outputs
    leaves = (*recipe.parameters(), *(f"x[{i}]" for i in range(len(recipe.inputs))))
    machine.prediction.leaves = leaves
    machine.prediction.receives = frozenset().union(*(v.reaches for v in outputs))
    return machine.prediction


class _Machine:
    """One forward: the fresh identities it hands out, and what it notes on the way."""

    def __init__(self, setting: Setting, exact: bool) -> None:
        self.setting = setting
        self.exact = exact
        self.identities = count()
        self.prediction = Prediction()

    def input(self, index: int, differentiable: bool) -> Value:
        requires = differentiable and index in self.setting.inputs
        reaches = frozenset({f"x[{index}]"} if requires else ())
        return Value(requires, False, False, differentiable, next(self.identities), reaches)

    def forward(
        self, recipe: Recipe, prefix: str, inputs: Sequence[Value], state: GradState
    ) -> list[Value]:
        values = list(inputs)
        for index, node in enumerate(recipe.nodes):
            inner = state.enter(f"torch.{node.within}()") if node.within else state
            taken = [values[i] for i in node.inputs]
            path = prefix + recipe.own_path(index)
            if node.body is not None:
                made = self.forward(node.body, path + ".", taken, inner)
            else:
                # A function inside forward sees the flag of the module whose forward it is in.
                owner = path if node.traits.is_layer else prefix.rstrip(".")
                training = self.setting.trains(owner)
                made = list(self.node(recipe, index, prefix, taken, inner, training))
            for value in range(len(made)):
                written = made[value]
                values = [written if v.identity == written.identity else v for v in values]
            values += made
        return [values[i] for i in recipe.outputs]

    def node(
        self,
        recipe: Recipe,
        index: int,
        prefix: str,
        taken: list[Value],
        state: GradState,
        training: bool,
    ) -> Iterator[Value]:
        node = _maker_of(recipe, index)
        path = prefix + recipe.own_path(index)
        traits, args = node.traits, node.arguments
        self.note(node, path, training)
        owned = self.owned(recipe, index, prefix)
        trainable = owned.difference(self.setting.frozen)
        if traits.is_layer:
            given = any(v.requires_grad for v in taken)
            frozen = len(owned) - len(trainable)
            self.prediction.layers.append(Call(node.op, len(owned), frozen, training, state, given))
        returns = traits.returns(args, training)
        if node.hooked == "full_backward" and state.recording:
            # Module.register_full_backward_hook: inputs and outputs that require grad
            # are passed through a function of its own, so the objects are new.
            taken = [self.fresh([v], frozenset(), state) if v.requires_grad else v for v in taken]
            if returns is Returns.ITSELF and taken[0].requires_grad:
                returns = Returns.FRESH
        # That function takes all outputs at once: each then comes from whatever one comes from.
        hooked = node.hooked == "full_backward" and state.recording
        for position, differentiable in enumerate(node.outputs):
            names = () if hooked else traits.unreached(args, position)
            yield self.result(
                returns if position == 0 or returns is Returns.VIEW else Returns.FRESH,
                taken,
                trainable.difference(f"{path}.{name}" for name in names),
                state,
                differentiable,
            )

    def result(
        self,
        returns: Returns,
        taken: list[Value],
        trainable: frozenset[str],
        state: GradState,
        differentiable: bool,
    ) -> Value:
        source = taken[0]
        match returns:
            case Returns.ITSELF:
                return source
            case Returns.VIEW if state.recording:
                return replace(self.fresh(taken, trainable, state), inference=source.inference)
            case Returns.VIEW:
                # A view of a normal tensor is a normal tensor in inference mode too (C++ notes
                # on inference mode). Recorded or not, it says requires_grad as its base does:
                # undocumented, and against the words of torch.no_grad (see the register).
                seen = replace(source, recorded=False, identity=next(self.identities))
                return replace(seen, reaches=frozenset())
            case Returns.DETACHED:
                return Value(
                    False, False, source.inference, True, next(self.identities), frozenset()
                )
            case Returns.WRITTEN:
                if not state.recording:
                    return source
                made = self.fresh(taken, trainable, state)
                return replace(made, identity=source.identity, inference=source.inference)
            case Returns.FRESH:
                made = self.fresh(taken, trainable, state)
                if differentiable:
                    return made
                return replace(
                    made,
                    requires_grad=False,
                    recorded=False,
                    differentiable=False,
                    reaches=frozenset(),
                )

    def fresh(self, taken: list[Value], trainable: frozenset[str], state: GradState) -> Value:
        """A new tensor: it requires grad if recording is on and something it comes from does."""
        requires = state.recording and (bool(trainable) or any(v.requires_grad for v in taken))
        reaches = trainable.union(*(v.reaches for v in taken)) if requires else frozenset()
        return Value(requires, requires, state.inference, True, next(self.identities), reaches)

    def owned(self, recipe: Recipe, index: int, prefix: str) -> frozenset[str]:
        """The parameters of a node, under the names they are registered by."""
        node, path = _maker_of(recipe, index), prefix + recipe.own_path(index)
        names = node_parameters(node, path)
        if node.tied is not None:
            names.remove(f"{path}.weight")
            names.append(f"{prefix}{recipe.own_path(node.tied)}.weight")
        return frozenset(names)

    def note(self, node: Node, path: str, training: bool) -> None:
        """Randomness, state and hooks: they know nothing of the grad mode."""
        prediction, traits, args = self.prediction, node.traits, node.arguments
        # What draws inside of a layer does so in its own mode, whatever that of the layer.
        inner = [f"{path}.{part}" for part in node.drawing if part]
        drawing = any(map(self.setting.trains, inner)) if inner else training
        prediction.draws = max(prediction.draws, traits.draws(args, drawing))
        if node.hooked in ("forward", "forward_pre"):
            prediction.calls[path] = prediction.calls.get(path, 0) + traits.is_called
        moves = {f"{path}.{name}": sure for name, sure in traits.moves(args, training).items()}
        if node.parametrized == "spectral_norm" and training:
            base = f"{path}.parametrizations.weight.0"
            moves |= {f"{base}._u": Certainty.ALWAYS, f"{base}._v": Certainty.ALWAYS}
        for name, sure in moves.items():
            # In half precision a small step may be rounded away.
            if not (self.exact or name.endswith("num_batches_tracked")):
                sure = min(sure, Certainty.MAYBE)
            prediction.moves[name] = max(prediction.moves.get(name, Certainty.NEVER), sure)


def _maker_of(recipe: Recipe, index: int) -> Node:
    shared = recipe.nodes[index].shared
    return recipe.nodes[index] if shared is None else recipe.nodes[shared]


def buffers(recipe: Recipe) -> list[str]:
    """Names of all buffers of the module."""
    names = []
    for path, node in recipe.paths():
        if node.op in TRAITS:
            names += [f"{path}.{name}" for name in node.traits.buffers(node.arguments)]
        if node.op == "shift":
            names.append(path)
        if node.parametrized == "spectral_norm":
            names += [f"{path}.parametrizations.weight.0.{v}" for v in ("_u", "_v")]
    return names
