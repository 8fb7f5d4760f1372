"""How the machine plays a history: step by step, and what is to be seen after each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from ..history import History, Step
from ..things import Module, Refusal, Storage, Tensor, Thread, Unsaid

#: Rules on which torch is known to go another way: each is the name of a deviation.
ASTRAY: Final = (
    "inference_mode_false_enables_grad_under_no_grad",
    "a_decorator_leaves_a_coroutine_before_it_runs",
    "tasks_share_the_mode_of_their_thread",
    "a_context_entered_again_forgets_its_first_mode",
    "detaching_in_place_does_nothing_in_inference_mode",
    "nothing_is_recorded_of_inference_tensors_alone",
    "a_refused_write_to_an_inference_tensor_is_done",
    "retained_gradients_are_filled_whatever_is_asked_for",
    "converting_in_another_mode_makes_half_an_inference_tensor",
    "detaching_in_place_does_not_forget_a_retained_gradient",
    "detaching_an_inference_tensor_lets_it_be_written_to",
    "a_deep_copy_of_a_module_has_no_gradients",
    "fused_optimizers_write_to_inference_tensors",
    "fused_optimizers_count_no_version",
    "copies_of_a_parametrized_module_share_their_class",
    "set_grad_enabled_switches_where_it_is_made",
    "loading_resets_a_counter_that_is_not_given",
    "inference_mode_entered_again_is_left_once",
)


@dataclass(frozen=True)
class Moment:
    """What must be seen after one step.

    number   of the step, in the order in which they are written
    refusal  how it was refused; None if it was not
    facts    what must be seen: by name, the facts of each thing
    drawn    whether randomness was drawn
    """

    number: int
    refusal: Refusal | None
    facts: dict[str, Any]
    drawn: bool


@dataclass(frozen=True)
class Pause:
    """A body lets others run: the step that says so."""

    step: Step


#: What a body hands on in between: the moments of its steps, and where it lets others run.
Course = Generator[Moment | Pause, None, None]
GIVEN: Final = "weights"
#: Steps after which nothing is looked at: they are places in a block, and do nothing themselves.
SILENT: Final = ("suspended", "task", "await")


class Unnamed(NameError):
    """Nothing has this name: what should have made it went another way."""


class Names(dict[str, Any]):
    """Things by their names: what was not made has none, as in Python."""

    def __missing__(self, name: str) -> Any:
        raise Unnamed(name)


class Player:
    """Plays a history.

    astray  the rules on which it goes the way that torch is known to go
    fired   those of them that made a difference so far
    bodies  where the steps inside of a block come from: they may be drawn while it runs
    """

    def __init__(
        self,
        astray: frozenset[str] = frozenset(),
        bodies: Callable[[Step], Iterator[Step]] = lambda step: iter(step.body),
    ) -> None:
        self.astray = astray
        self.fired: set[str] = set()
        self.bodies = bodies
        self.names = Names({GIVEN: Tensor()})
        self.thread = Thread()
        self.pool = Thread(number=1)
        self.threads = 1
        self.thread.order = 10**6  # a thread that has recorded before
        self.drawn = False
        self.moved: list[Storage] = []
        #: What was seen inside of hooks while a step was done.
        self.meanwhile: list[Moment] = []
        self.numbers: dict[int, int] = {}
        #: The parameters that were there at the last look, each with its version then; None where
        #: nothing is said of how the step writes to it.
        self.versions: dict[str, tuple[Tensor, int | None]] = {}

    def play(self, history: History) -> Iterator[Moment]:
        """What must be seen after each step, in the order in which they happen."""
        self.numbers = {id(step): number for number, step in enumerate(history.walk())}
        with suppress(Unsaid):
            for moment in self.run(iter(history.steps)):
                assert isinstance(moment, Moment)
                yield moment

    def run(self, steps: Iterator[Step]) -> Course:
        """Do the steps one after the other."""
        for step in steps:
            refusal = None
            block = getattr(self, f"in_{step.kind}", None)
            if block is not None:
                yield from block(step)
            else:
                try:
                    if step.on:
                        self.named(step.on)  # what has no name is no step of a history
                    made = getattr(self, f"do_{step.kind}")(step)
                    if step.makes:
                        self.names[step.makes] = made
                except Refusal as raised:
                    refusal = raised
                yield from self.meanwhile
                self.meanwhile = []
            if step.kind not in SILENT:
                number = self.numbers.get(id(step), -1)
                moment = Moment(number, refusal, self.facts(), self.drawn)
                self._nothing_moved()
                yield moment

    def _nothing_moved(self) -> None:
        self.drawn = False
        for storage in self.moved:
            storage.moved = False
        self.moved.clear()

    def facts(self) -> dict[str, Any]:
        """All that can be seen now."""
        mode = self.thread.mode
        found: dict[str, Any] = {"mode": (mode.grad, mode.inference)}
        versions: dict[str, tuple[Tensor, int | None]] = {}
        for name, value in self.names.items():
            if isinstance(value, Tensor):
                if name != GIVEN:
                    found[name] = value.facts()
            elif isinstance(value, Module):
                for path, module in value.walk():
                    found[f"{name}:{path}"] = (module.training,)
                    if module.counter is not None:
                        found[f"{name}#{path}"] = (module.counted,)
                for path, parameter in value.named_parameters().items():
                    key, told = f"{name}/{path}", parameter.facts()
                    found[key] = (*told, parameter.storage.moved, self.written(key, parameter))
                    versions[key] = parameter, parameter.storage.version
        self.versions = versions
        return found

    def written(self, name: str, parameter: Tensor) -> bool | None:
        """Whether the version of a parameter is another than at the last look."""
        known, version = self.versions.get(name, (parameter, parameter.storage.version))
        if parameter.inference or parameter.versionless or version is None:
            return None
        return known is parameter and version != parameter.storage.version

    def goes_astray(self, rule: str) -> bool:
        """Whether to follow torch where it departs from the rule; to be asked where it matters."""
        if rule in self.astray:
            self.fired.add(rule)
            return True
        return False

    def named(self, name: str) -> Any:
        """What has this name: a tensor, a module, a submodule, a parameter."""
        root, *path = name.split(".")
        value = self.names[root]
        for part in path:
            children = dict(value.named_children()) if isinstance(value, Module) else {}
            value = Names(value.parameters | children)[part]
        return value
