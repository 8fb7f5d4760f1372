"""A subject: a module with its inputs and its randomness, the same for each run.

Runs are remembered, and modules are put back rather than built: that is most of what
makes the suite fast.
"""

from __future__ import annotations

import copy
import gc
import io
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from types import CodeType
from typing import TYPE_CHECKING, Any, Final
from weakref import finalize

import torch
from torch import Tensor, nn

from .law import RAISED, NotApplicable, Refused, Script, Term, Unsupported, Violation
from .pristine import Pristine
from .recipe import Input, Node, execute, identities, uncheckpointed
from .reference import buffers
from .run import GENERATOR_STATES, Run, Seen, in_state
from .setting import ENABLED, Setting
from .specimen import BACKWARD, Plan, Specimen, source_of, statements

if TYPE_CHECKING:
    from typing_extensions import Self


def generators(device: str) -> list[Any]:
    """The global generators that a forward on the device may draw from."""
    found: list[Any] = [torch.default_generator]
    if device == "cuda":
        found.append(torch.cuda.default_generators[torch.cuda.current_device()])
    return found


_CONTEXTS: Final[dict[str, Callable[[], AbstractContextManager[Any]]]] = {
    "torch.no_grad()": torch.no_grad,
    "torch.enable_grad()": torch.enable_grad,
    "torch.set_grad_enabled(False)": partial(torch.set_grad_enabled, False),
    "torch.set_grad_enabled(True)": partial(torch.set_grad_enabled, True),
    "torch.inference_mode()": torch.inference_mode,
    "torch.inference_mode(False)": partial(torch.inference_mode, False),
}


def enter(context: str) -> AbstractContextManager[Any]:
    """The context manager that is written so."""
    return _CONTEXTS[context]()


#: Phrases with which torch says that this build or dtype lacks an operation.
_LACKING: Final = (
    "not implemented for",
    "not support",
    "unsupported dtype",
    "could not create a primitive",
)


def lacking(error: BaseException) -> bool:
    """Whether the error says that this build of torch lacks something, not that a law is broken."""
    text = str(error).lower()
    if isinstance(error, AttributeError):
        return text.startswith("module 'torch") and "has no attribute" in text
    kinds = (RuntimeError, TypeError)
    return isinstance(error, kinds) and any(phrase in text for phrase in _LACKING)


def lacks_option(error: BaseException) -> bool:
    """Whether building a module raised this as an option of its layers is of a later torch.

    Not so of any other code: what a law writes must not be taken for an option.
    """
    return isinstance(error, TypeError) and "got an unexpected keyword argument" in str(error)


#: What steps may use besides torch.
_LIBRARIES: Final = {"copy": copy, "pickle": pickle, "io": io}


def _follow(step: str, scope: dict[str, Any]) -> None:
    if step:
        exec(_compiled(step), scope)


@cache
def _compiled(step: str) -> CodeType:
    return compile(step, "<torchlaws_step>", "exec")


@dataclass(frozen=True)
class Variation:
    """Another module beside a subject, that differs in no more than rounding would.

    dtype   what its parameters, buffers and inputs are converted to; None for what they are
    ulps    how far each of their values is moved, up or down, in units in the last place
    number  picks which are moved up and which down
    """

    dtype: torch.dtype | None = None
    ulps: float = 0.0
    number: int = 0

    def apply(self, model: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
        """Vary the module in place, and the inputs in what is returned."""
        if self.dtype is not None:
            model.to(self.dtype)
            inputs = [t.to(self.dtype) if is_inexact(t.dtype) else t for t in inputs]
        if self.ulps:
            generator = torch.Generator().manual_seed(self.number)
            with torch.no_grad():
                # Of a module as it was built: a parametrized weight is computed from its originals.
                for tensor in (*model.parameters(), *model.buffers(), *inputs):
                    if is_inexact(tensor.dtype):
                        self._move(tensor, generator)
        return inputs

    def _move(self, tensor: Tensor, generator: torch.Generator) -> None:
        up = torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1
        step = self.ulps * torch.finfo(tensor.dtype).eps
        tensor.mul_((1 + up.to(torch.float64) * step).to(tensor.device, tensor.dtype))


def is_inexact(dtype: torch.dtype) -> bool:
    """Whether values of this type are rounded."""
    return dtype.is_floating_point or dtype.is_complex


class Subject:
    """A module under test, made from a specimen on a device, and the runs it has made."""

    def __init__(
        self, specimen: Specimen, device: str = "cpu", variation: Variation | None = None
    ) -> None:
        self.specimen = specimen
        self.device = device
        self.variation = variation
        self.generators = generators(device)
        self.module = execute(source_of(specimen, device))
        self.namespace = self.module.__dict__ | _LIBRARIES
        self.built: list[Tensor] = []
        self.start: list[Tensor] = []
        first = Pristine(*self.build())
        self.model, self.inputs, self.saved = first.model, first.inputs, first.saved
        # Backward hooks fire as the graph wants it: their calls are not compared.
        self.counting = [p for p, n in specimen.recipe.paths() if n.hooked.startswith("forward")]
        # Graphs of remembered runs hold the parameters, which steps may not bear: two stacks.
        self._idle: dict[bool, list[Pristine]] = {False: [first], True: []}
        self._runs: dict[Plan, Run | Exception] = {}
        self._kin: dict[str, Self | None] = {}

    @classmethod
    def of(cls, specimen: Specimen, device: str) -> Self:
        """The subject that other laws have been judged on already, with its runs; or a new one."""
        key = (cls, device, specimen.key)
        found = _SHARED.pop(key, None) or cls(specimen, device)
        _SHARED[key] = found  # the last one used is the last one to go
        while len(_SHARED) > SHARED:
            del _SHARED[next(iter(_SHARED))]
        return found  # type: ignore[return-value]  # the class is in the key

    def build(self) -> tuple[nn.Module, list[Tensor]]:
        """The module and its inputs, made afresh: the same each time."""
        try:
            model, inputs = self.namespace["build"]()
        except Exception as error:
            if lacking(error) or lacks_option(error):
                raise Unsupported(str(error)) from error
            raise
        if not self.start:
            self.built = [g.get_state() for g in self.generators]
            for generator in self.generators:
                generator.manual_seed(self.specimen.seed)
            self.start = [g.get_state() for g in self.generators]
        if self.variation is not None:
            inputs = self.variation.apply(model, inputs)
        return model, inputs

    @cached_property
    def initial(self) -> Seen:
        """Parameters and buffers before any run."""
        build = Script(source_of(self.specimen, self.device), ("model, x = build()",))
        return Seen(lambda: build, {in_state(n): t for n, t in self.saved.items()})

    @cached_property
    def untouched_randomness(self) -> Seen:
        """The state of each global random generator before any run."""
        seed = Script("import torch\n", (f"torch.manual_seed({self.specimen.seed})",))
        return Seen(lambda: seed, dict(zip(GENERATOR_STATES, self.start, strict=False)))

    @cached_property
    def parameters(self) -> list[str]:
        """Names of its parameters, as the recipe says."""
        return self.specimen.recipe.parameters()

    @cached_property
    def buffers(self) -> list[str]:
        """Names of its buffers, as the recipe says."""
        return buffers(self.specimen.recipe)

    @cached_property
    def parametrized(self) -> list[str]:
        """Paths of its layers with a parametrized weight."""
        return [path for path, node in self.specimen.recipe.paths() if node.parametrized]

    def unchecked(self) -> Self:
        """The same specimen with no block checkpointed."""
        return self._akin("unchecked", lambda s: replace(s, recipe=uncheckpointed(s.recipe)))

    def in_float64(self) -> Self:
        """The same specimen in double precision."""
        return self._akin("float64", lambda s: replace(s, dtype="float64"))

    def replacing(self, *replaced: str) -> Self:
        """The same specimen with nn.Identity in the place of these kinds of layers."""
        without = f"without {', '.join(replaced)}"
        return self._akin(without, lambda s: replace(s, recipe=identities(s.recipe, replaced)))

    def on(self, device: str) -> Self:
        """The same specimen on another device."""
        return self._akin(device, lambda s: s, device)

    def varied(self, variation: Variation) -> Self:
        """The same specimen, with values that differ in no more than rounding would."""
        return self._akin(repr(variation), lambda s: s, variation=variation)

    def _akin(
        self,
        name: str,
        changed: Callable[[Specimen], Specimen],
        device: str = "",
        variation: Variation | None = None,
    ) -> Self:
        """The subject that differs in this: itself, where nothing does, or else made once.

        Its runs are remembered as well.
        """
        if name not in self._kin:
            specimen, device = changed(self.specimen), device or self.device
            variation = variation or self.variation
            alike = (specimen, device, variation) == (self.specimen, self.device, self.variation)
            self._kin[name] = None if alike else type(self)(specimen, device, variation)
        return self._kin[name] or self

    @property
    def has_values(self) -> bool:
        """Whether its tensors hold values: those of the meta device do not."""
        return self.device != "meta"

    def needs_values(self) -> None:
        """Say that a law needs values: the meta device neither holds nor draws any."""
        if not self.has_values:
            raise NotApplicable("tensors of the meta device have no values")

    def run(
        self,
        setting: Setting,
        *,
        prepare: str = "",
        between: str = "",
        after: str = "",
        reseed: int = 0,
    ) -> Run:
        """Forward in this setting."""
        return self.follow(Plan(setting, "", prepare, between, after, reseed))

    def backward(
        self,
        setting: Setting,
        call: str = BACKWARD,
        *,
        prepare: str = "",
        between: str = "",
        after: str = "",
    ) -> Run:
        """Forward in this setting, and backward outside of its contexts."""
        return self.follow(Plan(setting, call, prepare, between, after))

    def follow(self, plan: Plan) -> Run:
        """The run of this plan: a new one, or the one remembered.

        Raises Unsupported where this build of torch lacks what the module needs, Refused
        where the module raises in this setting, and Violation where only a step raises.
        """
        found = self._runs.get(plan)
        if found is None and plan.has_steps:  # such a run keeps a module for itself while it lasts
            found = self._execute(plan)
        elif found is None:
            found = self._runs[plan] = self._as_good(plan) or self._execute(plan)
        if isinstance(found, Exception):
            raise self._judged(found, plan) from found
        return found

    def _as_good(self, plan: Plan) -> Run | None:
        """The run with or without backward, if there was nothing to go backward from."""
        other = Plan(plan.setting, "" if plan.backward else BACKWARD, reseed=plan.reseed)
        run = self._runs.get(other)
        return run if isinstance(run, Run) and not run.records else None

    def _judged(self, error: Exception, plan: Plan) -> Exception:
        if plan.has_steps:
            if lacking(error) and self._lacks_in_some_mode(plan):
                return Unsupported(str(error))
            self.follow(Plan(plan.setting, BACKWARD if plan.backward else ""))
            observed = Term(RAISED, f"{type(error).__name__}: {error}", self.script(plan))
            expected = Term("None", None)
            return Violation(f"a step raised {observed.value}", observed, expected)
        if lacking(error) and self._lacks(plan):
            return Unsupported(str(error))
        return Refused(f"{type(error).__name__}: {error}")

    def _lacks(self, plan: Plan) -> bool:
        """Whether the plainest run in the same modes raises such an error as well."""
        floating = tuple(i for i, given in enumerate(self.specimen.recipe.inputs) if not given.high)
        plainest = Plan(plan.setting.but(grad=ENABLED, frozen=(), inputs=floating), BACKWARD)
        found = self._execute(plainest)
        return isinstance(found, Exception) and lacking(found)

    def _lacks_in_some_mode(self, plan: Plan) -> bool:
        """Whether it lacks something in training or evaluation: a step may switch to either."""
        setting = plan.setting.but(switched=())
        modes = (Plan(setting.but(training=training)) for training in (True, False))
        return any(self._lacks(mode) for mode in modes)

    def script(self, plan: Plan) -> Script:
        """How to follow a plan with plain torch."""
        return Script(
            source_of(self.specimen, self.device),
            tuple(statements(self.specimen, plan, self.device)),
        )

    def _execute(self, plan: Plan) -> Run | Exception:
        """What `statements` says, without building and compiling anew; or what it raised."""
        idle = self._idle[plan.has_steps]
        lent = self._lend(idle, swappable=plan.has_steps)
        scope = self.namespace | {"model": lent.model, "x": lent.fresh_inputs(plan.setting.inputs)}
        # Pickle looks it up, and since it was made it may have been forgotten.
        sys.modules[self.module.__name__] = self.module
        try:
            lent.tell(plan.setting)
            if plan.prepare:
                self._set_generators(self.built)
                _follow(plan.prepare, scope)
            self._set_generators(self.start)
            if plan.reseed:
                for generator in self.generators:
                    generator.manual_seed(self.specimen.seed + plan.reseed)
            with ExitStack() as stack:
                for context in plan.setting.grad:
                    stack.enter_context(enter(context))
                out = scope["model"](*scope["x"])
            scope["out"] = out if isinstance(out, tuple) else (out,)
            for step in (plan.between, plan.backward, plan.after):
                _follow(step, scope)
        except Exception as error:
            idle.append(lent)
            return error
        if plan.has_steps:
            run = Run(plan, self, scope)
            # Until then it may still be asked what its module shows.
            finalize(run, idle.append, lent).atexit = False
            return run
        seen = lent.look()
        lent.put_back(seen)
        idle.append(lent)
        return Run(plan, self, scope, seen)

    def _lend(self, idle: list[Pristine], *, swappable: bool) -> Pristine:
        """A module as it was built: one that is idle, or else a new one."""
        while idle:
            lent = idle.pop()
            if (lent.is_put_back or lent.put_back()) and not (swappable and lent.is_held):
                return lent
        return Pristine(*self.build())

    def _set_generators(self, states: list[Tensor]) -> None:
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)


#: How many subjects are kept, for the next law to be judged on: laws of one scope are judged on
#: the same ones, and the runs they remember are most of what such a law needs.
SHARED: Final = 128
_SHARED: Final[dict[tuple[type, str, str], Subject]] = {}


def forget() -> None:
    """Keep no subject: what they remember is not of the torch that is there now."""
    _SHARED.clear()


class Layer(Subject):
    """A subject that is one layer of torch.nn, alone."""

    @property
    def node(self) -> Node:
        """The layer, as the recipe says."""
        return self.specimen.recipe.nodes[0]

    def smaller(self) -> Iterator[Layer]:
        """The same layer with inputs of one value a batch, a channel or an instance."""
        for kept in (None, 0, 1):
            yield self._akin(f"smaller but for {kept}", partial(_smaller, kept=kept))


def _smaller(specimen: Specimen, kept: int | None) -> Specimen:
    """Inputs with one sample, or with sizes of 1 in all dimensions but the one that is kept."""

    def smaller(given: Input) -> Input:
        if kept is None:
            return replace(given, shape=(1, *given.shape[1:]))
        return replace(given, shape=tuple(n if d == kept else 1 for d, n in enumerate(given.shape)))

    inputs = tuple(smaller(given) for given in specimen.recipe.inputs)
    return replace(specimen, recipe=replace(specimen.recipe, inputs=inputs))


def quiet() -> None:
    """Silence what torch says of features that the drawn modules use on purpose."""
    for text in (
        "Complex modules are a new feature",
        "dropout option adds dropout after all but last",
    ):
        warnings.filterwarnings("ignore", message=text)


def collect_rarely() -> None:
    """Leave what is there now, imports for the most part, out of each garbage collection to come.

    Going through all of torch, and through all runs that are remembered, again and again took
    a tenth of the time of the suite.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
