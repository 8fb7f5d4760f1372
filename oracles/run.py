"""A run, and all that it shows, named by expressions of plain torch.

A script that evaluates such an expression sees the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property, partial
from itertools import product
from types import CodeType
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from .law import NotApplicable, Script, Term
from .pristine import Look, look
from .specimen import Plan

if TYPE_CHECKING:
    from .subject import Subject


class Seen(Mapping[str, Any]):
    """What a run shows of one kind: plain-torch expressions and their values."""

    def __init__(self, script: Callable[[], Script] | None, values: dict[str, Any]) -> None:
        self.script = script
        self.values_by_expression = values

    def __getitem__(self, expression: str) -> Any:
        return self.values_by_expression[expression]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_expression)

    def __len__(self) -> int:
        return len(self.values_by_expression)

    def term(self, expression: str) -> Term:
        """One of the expressions, with its value and how to see it again."""
        return Term(expression, self[expression], self.script() if self.script else None)

    def named(self, expression: str) -> Seen:
        """That expression alone."""
        return Seen(self.script, {expression: self[expression]})

    def only(self, wanted: Callable[[str, Any], bool]) -> Seen:
        """Those expressions and values that are wanted."""
        return Seen(self.script, {k: v for k, v in self.items() if wanted(k, v)})


GENERATOR_STATES: Final = ("torch.get_rng_state()", "torch.cuda.get_rng_state()")


class Run:
    """One run and all that it shows."""

    def __init__(
        self, plan: Plan, subject: Subject, scope: Mapping[str, Any], seen: Look | None = None
    ) -> None:
        self.plan = plan
        self.subject = subject
        self.model: nn.Module = scope["model"]
        self.inputs: list[Tensor] = scope["x"]
        self.out: tuple[Tensor, ...] = scope["out"]
        self.scope = scope
        # The next run changes these.
        self.grad_enabled = torch.is_grad_enabled()
        self.inference = torch.is_inference_mode_enabled()
        self.random_states = [g.get_state() for g in subject.generators]
        if seen is not None:
            # Into the dictionary itself: a cached property takes a lock each time, on Python 3.11.
            vars(self)["look"] = seen

    @cached_property
    def look(self) -> Look:
        """What the module shows afterwards."""
        return look(self.model)

    def _seen(self, values: dict[str, Any]) -> Seen:
        # Nothing that a run holds may hold the run: its module is used again when it is gone.
        return Seen(partial(self.subject.script, self.plan), values)

    @cached_property
    def output(self) -> Seen:
        """The tensors that forward returned."""
        return self._seen({f"out[{i}]": t for i, t in enumerate(self.out)})

    @cached_property
    def recording(self) -> Seen:
        """What was recorded of each output: requires_grad, leaf or not, grad_fn, inference."""
        return self._seen(
            {
                f"out[{i}].{attribute}": value
                for i, t in enumerate(self.out)
                for attribute, value in (
                    ("requires_grad", t.requires_grad),
                    ("grad_fn is None", t.grad_fn is None),
                    ("is_leaf", t.is_leaf),
                    ("is_inference()", t.is_inference()),
                )
            }
        )

    @cached_property
    def aliases(self) -> Seen:
        """Which outputs are an input itself, the very same object."""
        pairs = product(enumerate(self.out), enumerate(self.inputs))
        return self._seen({f"out[{i}] is x[{k}]": t is u for (i, t), (k, u) in pairs})

    @cached_property
    def gradients(self) -> Seen:
        """What backward left in .grad of each parameter and input."""
        found = {f"model.get_parameter({n!r}).grad": g for n, g in self.look.gradients.items()}
        inputs = {f"x[{i}].grad": t.grad for i, t in enumerate(self.inputs)}
        return self._seen(found | inputs)

    @cached_property
    def receiving(self) -> Seen:
        """Whether each parameter and input was left without a gradient."""
        return self._seen({f"{e} is None": g is None for e, g in self.gradients.items()})

    @property
    def paths(self) -> list[str]:
        """Where its submodules are, the root included."""
        return list(self.look.training)

    @property
    def _values(self) -> dict[str, Tensor]:
        return self.look.state if self.subject.has_values else {}

    @cached_property
    def moving(self) -> Seen:
        """Whether each parameter and buffer is what it was before."""
        saved = self.subject.saved
        return self._seen(
            {
                unmoved(n): t is saved[n] or torch.equal(t, saved[n])
                for n, t in self._values.items()
                if n in saved
            }
        )

    @cached_property
    def drawing(self) -> Seen:
        """Whether some global random generator is no longer in the state it was in."""
        return self._seen({undrawn(self.subject.specimen.seed): not self.draws})

    @cached_property
    def state(self) -> Seen:
        """Parameters and buffers afterwards."""
        self.subject.needs_values()
        return self._seen({in_state(n): t for n, t in self._values.items()})

    @cached_property
    def flags(self) -> Seen:
        """The training flag of every submodule afterwards."""
        told = self.look.training.items()
        return self._seen({f"model.get_submodule({n!r}).training": flag for n, flag in told})

    @cached_property
    def requires_grad(self) -> Seen:
        """The requires_grad flag of every parameter afterwards."""
        flags = self.look.requires_grad.items()
        return self._seen({f"model.get_parameter({n!r}).requires_grad": f for n, f in flags})

    @cached_property
    def buffers(self) -> Seen:
        """What autograd makes of every buffer afterwards."""
        return self._seen(
            {
                f"model.get_buffer({n!r}).{attribute}": value
                for n, told in self.look.buffers.items()
                for attribute, value in zip(("requires_grad", "is_leaf"), told, strict=True)
            }
        )

    @cached_property
    def calls(self) -> Seen:
        """How often each counting hook fired."""
        return self._seen(
            {
                f"getattr(model.get_submodule({n!r}), 'calls', 0)": self.look.calls.get(n, 0)
                for n in self.subject.counting
            }
        )

    @cached_property
    def randomness(self) -> Seen:
        """The state of each global random generator afterwards."""
        self.subject.needs_values()
        return self._seen(dict(zip(GENERATOR_STATES, self.random_states, strict=False)))

    @cached_property
    def mode(self) -> Seen:
        """The grad mode afterwards."""
        return self._seen(
            {
                "torch.is_grad_enabled()": self.grad_enabled,
                "torch.is_inference_mode_enabled()": self.inference,
            }
        )

    @property
    def records(self) -> bool:
        """Whether an output requires grad: if none does, there is nothing to go backward from."""
        return any(t.requires_grad for t in self.out)

    @property
    def draws(self) -> bool:
        """Whether it drew from a global random generator."""
        return not all(map(torch.equal, self.random_states, self.subject.start))

    def evaluate(self, *expressions: str) -> Seen:
        """More that it shows: expressions in its scope, for runs with steps."""
        try:
            scope = dict(self.scope)  # eval takes no other mapping
            return self._seen({e: eval(_compiled(e), scope) for e in expressions})
        except NotImplementedError:
            if self.subject.has_values:
                raise
            raise NotApplicable("tensors of the meta device have no values") from None

    def items(self, *expressions: str) -> Seen:
        """Each item of these lists, by an expression of its own: none, where they are empty."""
        lists = self.evaluate(*expressions).items()
        return self._seen({f"({e})[{i}]": item for e, got in lists for i, item in enumerate(got)})


@cache
def _compiled(expression: str) -> CodeType:
    return compile(expression, "<torchlaws_expression>", "eval")


def in_state(name: str) -> str:
    """The expression for a parameter or buffer."""
    return f"model.state_dict()[{name!r}]"


def unmoved(name: str) -> str:
    """The expression that says that a parameter or buffer is as it was built."""
    return f"torch.equal({in_state(name)}, build()[0].state_dict()[{name!r}])"


def undrawn(seed: int) -> str:
    """The expression that says that the global generator is as it was seeded."""
    return f"torch.equal(torch.get_rng_state(), torch.Generator().manual_seed({seed}).get_state())"
