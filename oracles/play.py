"""Plays a history on torch, and holds what is seen beside what the machine says."""

from __future__ import annotations

import asyncio
import copy
import io
import pickle
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from inspect import signature
from typing import Any, Final

import torch
from torch import Tensor, nn

from .history import PRELUDE, History, Rendering, Step, reached
from .law import NotApplicable, Script, Term, Unsupported, Violation
from .machine import SILENT, Machine, Moment
from .optimizers import present
from .relations import compared

#: What is compared of a tensor, as it is written; in the order of machine.Tensor.facts.
TENSOR_FACTS: Final = (
    "{}.requires_grad",
    "{}.is_leaf",
    "{}.is_inference()",
    "{}.grad is not None",
    "{}._version",
)
#: Of a parameter, two more: whether it moved in the step, and whether it was written to.
MOVED: Final = "not torch.equal({}, before)"
WRITTEN: Final = "{}._version != version"


@dataclass
class Shown:
    """What torch shows after one step."""

    number: int
    error: Exception | None
    facts: dict[str, Any]
    drawn: bool

    @property
    def raised(self) -> str | None:
        """The error, as it is written in a script; None if there was none."""
        return None if self.error is None else f"{type(self.error).__name__}: {self.error}"


def _tensor_facts(t: Tensor) -> tuple[Any, ...]:
    inference = t.is_inference()
    try:
        leaf = t.is_leaf
    except RuntimeError as error:  # a view that cannot say what it is
        return (str(error),)
    has_grad = t.grad is not None if leaf or t.retains_grad else None
    try:
        version = None if inference else t._version
    except RuntimeError:  # data was put into an inference tensor: it is none now, and has none
        version = None
    return t.requires_grad, leaf, inference, has_grad, version


@dataclass
class Watch:
    """Looks at everything that has a name, each time that it is told to."""

    scope: dict[str, Any]
    shown: list[Shown] = field(default_factory=list)
    values: dict[str, tuple[Tensor, Tensor, int | None]] = field(default_factory=dict)
    state: Tensor = field(default_factory=lambda: torch.default_generator.get_state())
    refused: dict[int, Exception] = field(default_factory=dict)

    def look(self, number: int) -> None:
        """Note what is seen after this step."""
        mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        facts: dict[str, Any] = {"mode": mode}
        with torch.inference_mode(False):
            known, self.values = self.values, {}
            for name, value in self.scope.items():
                if _TENSOR.fullmatch(name):
                    facts[name] = _tensor_facts(value)
                elif _MODULE.fullmatch(name):
                    self._look_at(name, value, facts, known)
        state = torch.default_generator.get_state()
        drawn, self.state = not torch.equal(state, self.state), state
        self.shown.append(Shown(number, self.refused.get(number), facts, drawn))

    def _look_at(
        self, name: str, module: nn.Module, facts: dict[str, Any], known: dict[str, Any]
    ) -> None:
        for path, part in module.named_modules():
            facts[f"{name}:{path}"] = (part.training,)
            if isinstance(part, nn.BatchNorm1d):
                counter = part.num_batches_tracked
                facts[f"{name}#{path}"] = (int(counter) if counter is not None else None,)
        for path, parameter in module.named_parameters():
            key = f"{name}/{path}"
            was, before, version = known.get(key, (None, parameter, None))
            moved = was is parameter and not torch.equal(parameter, before)
            kept = was is parameter and not moved
            told = _tensor_facts(parameter)
            now = told[-1]
            written = None if now is None else was is parameter and now != version
            self.values[key] = parameter, before if kept else parameter.detach().clone(), now
            facts[key] = (*told, moved, written)


_TENSOR: Final = re.compile(r"t\d+")
_MODULE: Final = re.compile(r"m\d+")


def expressions(name: str) -> tuple[str, ...]:
    """What a tuple of facts is of, as plain torch."""
    if name == "mode":
        return "torch.is_grad_enabled()", "torch.is_inference_mode_enabled()"
    for mark, written in ((":", "{}.get_submodule({!r}).training"), ("#", _COUNTER)):
        if mark in name:
            return (written.format(*name.split(mark)),)
    if "/" in name:
        parameter = "{}.get_parameter({!r})".format(*name.split("/"))
        return tuple(f.format(parameter) for f in (*TENSOR_FACTS, MOVED, WRITTEN))
    return tuple(f.format(name) for f in TENSOR_FACTS)


_COUNTER: Final = "int({}.get_submodule({!r}).num_batches_tracked)"


@cache
def _code(source: str) -> Any:
    return compile(source, "<torchlaws_history>", "exec")


_SCOPE: Final[dict[str, Any]] = {
    "asyncio": asyncio,
    "copy": copy,
    "io": io,
    "pickle": pickle,
    "ThreadPoolExecutor": ThreadPoolExecutor,
    "suppress": suppress,
    "torch": torch,
    "nn": nn,
}


#: Whether load_state_dict may assign, and decorators may be written without parentheses.
ASSIGNS: Final = "assign" in signature(nn.Module.load_state_dict).parameters
DECORATES_BARE: Final = "orig_func" in signature(torch.no_grad.__new__).parameters


def lacks(step: Step) -> bool:
    """Whether this torch is too old for the step."""
    if step.kind == "optimizer":
        return not present(step.words[0], torch.__version__)
    if step.kind in ("decorated", "generator"):
        return not (DECORATES_BARE or step.words[0] == "" or step.words[0].endswith(")"))
    return step.kind == "assign_state_dict" and not ASSIGNS


class Played:
    """A history, played on torch once, and by machines.

    Raises Unsupported where this torch is too old for one of its steps.
    """

    def __init__(self, history: History, device: str = "cpu") -> None:
        missing = [step.kind for step in history.walk() if lacks(step)]
        if missing:
            raise Unsupported(f"torch {torch.__version__} is too old for {missing[0]!r}")
        self.history = history
        self.device = device
        #: How steps must be refused, by a phrase of the error.
        self.refusals: set[str] = set()

    @cached_property
    def shown(self) -> list[Shown]:
        """What torch shows after each step."""
        scope = dict(_SCOPE)
        exec(_code(PRELUDE), scope)
        # As torch.manual_seed, which is slow where CUDA is not in use.
        torch.default_generator.manual_seed(self.history.seed)
        watch = Watch(scope)
        scope["look"], scope["refused"] = watch.look, watch.refused
        rendering = Rendering(
            refused=lambda n: f"refused[{n}] = error\n",
            before=lambda n: "",
            after=lambda n: "" if n in self._silent else f"look({n})\n",
        )
        source = rendering.source(self.history)
        pool = scope["pool"]
        with pool, _mode_kept():
            # What should have made a thing did not run: that is seen in the steps that came.
            with suppress(NameError):
                exec(compile(source, "<torchlaws_history>", "exec"), scope)
            # A guard of inference mode switches back when it is collected: here, not at any time.
            for error in watch.refused.values():
                error.__traceback__ = None
            scope.clear()
        return watch.shown

    @cached_property
    def _silent(self) -> set[int]:
        """The numbers of the steps after which nothing is looked at."""
        return {n for n, step in enumerate(self.history.walk()) if step.kind in SILENT}

    @property
    def reached(self) -> set[tuple[str, ...]]:
        """The kinds of its steps, the pairs of them, and the refusals."""
        return reached(self.history) | {("", "", phrase) for phrase in self.refusals}

    def disagreement(self, astray: frozenset[str] = frozenset()) -> Violation | None:
        """The first difference between what torch shows and what the machine says."""
        # Step by step: after a difference, the machine may not know what the next one is about.
        for index, moment in enumerate(Machine(astray).play(self.history)):
            seen = self.shown[index] if index < len(self.shown) else None
            if seen is None or seen.number != moment.number:
                return self.disorder(index, moment.number)
            if moment.refusal is not None:
                self.refusals.add(moment.refusal.phrase)
            for expression, observed, expected in differences(moment, seen):
                return self.violation(seen.number, expression, observed, expected)
        return None

    def departures(self, astray: frozenset[str]) -> set[str]:
        """The rules on which torch departs from the machine, if nothing else differs.

        They are those without which the machine does not agree with torch.
        """
        if self.disagreement(astray) is not None:
            return set()
        machine = Machine(astray)
        for _ in zip(machine.play(self.history), self.shown, strict=False):
            pass
        needed = {r for r in machine.fired if self.disagreement(astray - {r}) is not None}
        return needed or machine.fired  # where one rule does what another does as well

    def violation(self, number: int, expression: str, observed: Any, expected: Any) -> Violation:
        """What differs after a step, with the script that shows it."""
        script = Script(self.script(number, expression, expected), ())
        message = f"after step {number}, {expression} was {observed}, expected {expected}"
        seen = Term(expression, observed, script)
        return Violation(message, seen, Term(repr(expected), expected))

    def disorder(self, index: int, wanted: int) -> Violation:
        """Another step came than the one that should: a hook was called, or was not."""
        came = [seen.number for seen in self.shown[: index + 1]]
        expected = [*came[:index], wanted]
        rendering = Rendering(
            refused=lambda n: "pass\n",
            before=lambda n: "",
            after=lambda n: "" if n in self._silent else f"observed.append({n})\n",
        )
        seeded = f"torch.manual_seed({self.history.seed})\nobserved = []\n"
        asserted = (
            f"observed = observed[:{len(expected)}]\n"
            f'assert observed == {expected!r}, f"expected {expected!r}, observed {{observed!r}}"\n'
        )
        source = f"{PRELUDE}\n{seeded}{rendering.source(self.history)}{asserted}"
        message = f"the steps that came were {came}, but the last should be {wanted}"
        return Violation(message, Term("the steps", came, Script(source, ())), Term("", wanted))

    def script(self, number: int, expression: str, expected: Any) -> str:
        """The history as it is written, with an assert after the step; without the imports."""
        refused = {seen.number for seen in self.shown if seen.error is not None}
        last = max(refused | {number})
        moved, written = "before" in expression, expression.endswith(WRITTEN[2:])
        name = expression.removeprefix("not torch.equal(").removesuffix(", before)")
        error = expression == RAISES
        asserted = (
            f"observed = {'raised' if error else expression}\n"
            f'assert observed == {expected!r}, f"expected {expected!r}, observed {{observed!r}}"\n'
        )
        if error and expected is not None:
            asserted = asserted.replace(f"== {expected!r}", f"and {expected!r} in observed")

        def before(n: int) -> str:
            if n != number:
                return ""
            if moved:
                return f"before = {name}.detach().clone()\n"
            if written:
                return f"version = {name.removesuffix(WRITTEN[2:])}._version\n"
            if expression == DRAWN:
                return "state = torch.get_rng_state()\n"
            return "raised = None\n" if error else ""

        rendering = Rendering(
            refused=lambda n: (
                'raised = f"{type(error).__name__}: {error}"\n'
                if n == number and error
                else "pass\n"
                if n in refused and n <= last
                else ""
            ),
            before=before,
            after=lambda n: asserted if n == number else "",
        )
        seeded = f"torch.manual_seed({self.history.seed})\n"
        return f"{PRELUDE}\n{seeded}{rendering.source(self.history)}"


@lru_cache(maxsize=4)
def played(history: History, device: str) -> Played:
    """The history, played; the last few are remembered."""
    if device != "cpu":
        raise NotApplicable("histories are played on the CPU")
    return Played(history, device)


def goes_as_the_machine_says(history: Played, astray: frozenset[str]) -> None:
    """After every step torch shows what the machine says.

    astray  the rules on which torch is known to go another way: what else differs comes first
    """
    found = history.disagreement()
    if found is not None:
        raise history.disagreement(astray) or found


def goes_alike(history: Played, other: Played, number: Callable[[int], int]) -> None:
    """Both show the same after the same steps; number says which step of the other it is.

    Until a backward is refused: which leaves have their gradients by then, nobody promises.
    It depends on the order of recording, which is counted in each thread.
    """
    expected = {seen.number: seen for seen in other.shown}
    steps = list(history.history.walk())
    for seen in history.shown:
        twin = expected[number(seen.number)]
        backward = "backward" in steps[seen.number].kind or steps[seen.number].kind == "grad"
        if backward and seen.error is not None and twin.error is not None:
            return
        for expression, observed, wanted in unlike(seen, twin):
            raise history.violation(seen.number, expression, observed, wanted)


RAISES: Final = "the error that it raised"
DRAWN: Final = "torch.equal(torch.get_rng_state(), state)"


def differences(moment: Moment, seen: Shown) -> Iterator[tuple[str, Any, Any]]:
    """What differs: an expression of plain torch, what was observed, and what was expected."""
    observed, expected = seen.raised, moment.refusal
    compared()
    if expected is None:
        if observed is not None:
            yield RAISES, observed, None
    elif observed is None or not observed.startswith(expected.error):
        yield RAISES, observed, expected.error
    elif expected.phrase not in observed:
        yield RAISES, observed, expected.phrase
    yield from _facts_that_differ(seen.facts, moment.facts)
    if seen.drawn is not moment.drawn:
        yield DRAWN, not seen.drawn, not moment.drawn


def unlike(seen: Shown, other: Shown) -> Iterator[tuple[str, Any, Any]]:
    """What differs between what torch shows after two steps."""
    compared()
    if seen.raised != other.raised:
        yield RAISES, seen.raised, other.raised
    yield from _facts_that_differ(seen.facts, other.facts)
    if seen.drawn is not other.drawn:
        yield DRAWN, not seen.drawn, not other.drawn


def _facts_that_differ(
    shown: dict[str, tuple[Any, ...]], said: dict[str, tuple[Any, ...]]
) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*said, *shown}):
        left, right = shown.get(name), said.get(name)
        if left is None or right is None:
            yield f"{name!r} in globals()", left is not None, right is not None
        elif left == right:
            compared()
        elif len(left) != len(right) or isinstance(right[0], str):
            # A view that cannot say what it is: all there is to compare is the error.
            if not (isinstance(right[0], str) and right[0] in str(left[0])):
                yield expressions(name)[1], left[1 % len(left)], right[1 % len(right)]
        else:
            for expression, a, b in zip(expressions(name), left, right, strict=True):
                compared()
                if a is not None and b is not None and a != b:
                    yield expression, a, b


@contextmanager
def _mode_kept() -> Iterator[None]:
    """Whatever a history does, the mode is afterwards what it was."""
    with torch.inference_mode(False):
        try:
            yield
        finally:
            torch._C._set_grad_enabled(True)
