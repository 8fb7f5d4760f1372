"""A built module that is put back: building one anew for each run would cost more than the run.

What a forward moves is put back by value. What the steps of a plan may do besides (flags,
hooks, submodules, parametrizations, attributes) is put back from a copy of every module's
attributes; a module that cannot be put back is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from .setting import Setting


@dataclass(frozen=True)
class Look:
    """What a module shows at one moment, by name: the next run changes it.

    gradients      .grad of each parameter
    requires_grad  the flag of each parameter
    training       the flag of each submodule
    calls          how often the counting hook of a submodule fired, where it did
    buffers        whether each buffer requires grad, and is a leaf
    state          its state_dict, copied
    """

    gradients: dict[str, Tensor | None]
    requires_grad: dict[str, bool]
    training: dict[str, bool]
    calls: dict[str, int]
    buffers: dict[str, tuple[bool, bool]]
    state: dict[str, Tensor]


def look(model: nn.Module) -> Look:
    """What any module shows now."""
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    state = {n: t.clone() for n, t in model.state_dict().items()}
    return _look(parameters, modules, dict(model.named_buffers()), state)


def _look(
    parameters: dict[str, nn.Parameter],
    modules: dict[str, nn.Module],
    buffers: dict[str, Tensor],
    state: dict[str, Tensor],
) -> Look:
    return Look(
        {n: p.grad for n, p in parameters.items()},
        {n: p.requires_grad for n, p in parameters.items()},
        {n: m.training for n, m in modules.items()},
        {n: vars(m)["calls"] for n, m in modules.items() if "calls" in vars(m)},
        _flags(buffers),
        state,
    )


def _flags(buffers: dict[str, Tensor]) -> dict[str, tuple[bool, bool]]:
    """What autograd makes of each: whether it requires grad, and is a leaf."""
    return {n: (b.requires_grad, b.is_leaf) for n, b in buffers.items()}


class Pristine:
    """A module as it was built, with its inputs.

    Changes that it does not notice, and so does not put back: hooks on gradient
    accumulators, and what is written into attributes of a module other than tensors,
    dictionaries, lists and sets.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Tensor]) -> None:
        self.model = model
        self.inputs = inputs
        self.is_put_back = True
        self._parameters = dict(model.named_parameters())
        self._modules = dict(model.named_modules())
        self._buffers = dict(model.named_buffers())
        self._state = {n: t.detach() for n, t in model.state_dict(keep_vars=True).items()}
        self.saved = {n: t.clone() for n, t in self._state.items()}
        self._has_values = all(t.device.type != "meta" for t in [*self._state.values(), *inputs])
        self._moved: dict[str, Tensor] | None = None
        self._modes: tuple[bool, tuple[str, ...]] | None = None
        self._frozen: tuple[str, ...] | None = None
        self._training: dict[str, bool] = {}
        self._requires_grad: dict[str, bool] = {}
        modules = self._modules.values()
        self._made = [(m, type(m), _attributes(m), _contents(m), _referents(m)) for m in modules]
        self._bound = [
            (held, tuple(held.values())) for m in modules for held in (m._parameters, m._buffers)
        ]
        self._flags = _flags(self._buffers)
        self._tensors = [(t, _identity(t)) for t in [*model.parameters(), *model.buffers()]]

    def tell(self, setting: Setting) -> None:
        """Set the modes and the flags of the parameters, for a run."""
        self.is_put_back = False
        modes = (setting.training, setting.switched)
        if self._modes != modes:
            self.model.train(setting.training)
            for path in setting.switched:
                self.model.get_submodule(path).train(not setting.training)
            self._modes = modes
            self._training = {n: m.training for n, m in self._modules.items()}
        if self._frozen != setting.frozen:
            for name, parameter in self._parameters.items():
                parameter.requires_grad_(name not in setting.frozen)
            self._frozen = setting.frozen
            self._requires_grad = {n: p.requires_grad for n, p in self._parameters.items()}

    def fresh_inputs(self, requiring: Sequence[int]) -> list[Tensor]:
        """Copies of its inputs, those at the given positions requiring grad."""
        copies = [t.clone() for t in self.inputs]
        for i in requiring:
            copies[i].requires_grad_()
        return copies

    def look(self) -> Look:
        """What it shows now: a copy of what moved, and what was saved of the rest."""
        if self._is_bound_anew():
            return look(self.model)
        return _look(self._parameters, self._modules, self._buffers, self.saved | self._moves())

    def _moves(self) -> dict[str, Tensor]:
        """Copies of the parameters and buffers that moved."""
        if self._moved is None:
            # By value: batch norm writes its statistics without counting a version.
            self._moved = {
                n: t.clone()
                for n, t in self._state.items()
                if self._has_values and not torch.equal(t, self.saved[n])
            }
        return self._moved

    def put_back(self, seen: Look | None = None) -> bool:
        """Put it back, and say whether that could be done.

        seen is what the last run showed, if it did no more than forward and backward.
        """
        altered = seen is None or self._is_bound_anew() or seen.buffers != self._flags
        if altered and not self._put_back_attributes():
            return False
        moved = self._moves()
        if moved:
            with torch.no_grad():
                for name in moved:
                    self._state[name].copy_(self.saved[name])
        self._moved = None
        for parameter in self._parameters.values():
            parameter.grad = None
        for module in self._modules.values():
            module.__dict__.pop("calls", None)
        if seen is None or altered or not self._is_told(seen):
            self._modes = self._frozen = None
        self.is_put_back = True
        return True

    def _is_bound_anew(self) -> bool:
        """Whether some parameter or buffer is another tensor now: forward may assign one."""
        return any(
            len(held) != len(was) or not all(map(is_, held.values(), was))
            for held, was in self._bound
        )

    @property
    def is_held(self) -> bool:
        """Whether a graph that is not collected yet holds a parameter: it could not be swapped."""
        # Since torch 2.3, as is swapping.
        return any(t._use_count() > 1 for t, _ in self._tensors if hasattr(t, "_use_count"))

    def _is_told(self, seen: Look) -> bool:
        return (seen.training, seen.requires_grad) == (self._training, self._requires_grad)

    def _put_back_attributes(self) -> bool:
        for module, kind, attributes, contents, referents in self._made:
            if type(module) is not kind:
                module.__class__ = kind
            own = module.__dict__
            own.clear()
            own.update(attributes)
            for name, content in contents:
                _refill(attributes[name], content)
            for name, tensors in referents.items():
                own[name] = [t if t is None else ref(t) for t in tensors]
        return all(_identity(t) == identity for t, identity in self._tensors)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """All but lists of weak references: torch swaps no tensor of which someone keeps one."""
    return {n: value for n, value in vars(module).items() if not _refers_weakly(value)}


def _contents(module: nn.Module) -> list[tuple[str, Any]]:
    """Copies of the containers among these: parameters, hooks, submodules and so on."""
    kinds = (dict, list, set)
    return [(n, v.copy()) for n, v in _attributes(module).items() if isinstance(v, kinds)]


def _referents(module: nn.Module) -> dict[str, list[Tensor | None]]:
    """What its lists of weak references, as recurrent layers keep, refer to."""
    return {
        n: [item if item is None else item() for item in value]
        for n, value in vars(module).items()
        if _refers_weakly(value)
    }


def _refers_weakly(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, ReferenceType) for item in value)


def _refill(container: Any, content: Any) -> None:
    if not container and not content:
        return
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)


def _identity(t: Tensor) -> tuple[Any, ...]:
    """What of a tensor a copy of values does not put back."""
    hooks = bool(t._backward_hooks) or bool(getattr(t, "_post_accumulate_grad_hooks", None))
    kept = hooks, t.requires_grad and not isinstance(t, nn.Parameter), len(vars(t))
    return t.data_ptr(), t.dtype, t.shape, t.stride(), t.is_leaf, *kept
