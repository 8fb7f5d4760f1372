"""A subject: a module with its inputs and its randomness, the same for each run.

Runs are remembered, and a run puts back only what it moved: that is most of what
makes the suite fast. What a run shows is named by expressions of plain torch, so
that a script can show the same.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import product
from types import CodeType
from typing import Any, Final

import torch
from torch import Tensor, nn

from .law import RAISED, NotApplicable, Refused, Script, Term, Unsupported, Violation
from .recipe import DTYPES, Recipe, execute, identities, render, uncheckpointed
from .reference import buffers
from .setting import ENABLED, GRADS, Setting


@dataclass(frozen=True)
class Specimen:
    """What a subject is made from.

    recipe   its module
    dtype    of its parameters, buffers and inputs, by name
    seed     of its parameters, buffers and inputs, and of every forward
    mixture  the setting drawn with it: submodules in different modes, a stack of grad
             modes, some parameters frozen, some inputs requiring grad
    """

    recipe: Recipe
    dtype: str = "float32"
    seed: int = 0
    mixture: Setting = field(default_factory=Setting)


def lattice(specimen: Specimen) -> list[Setting]:
    """Every setting of the specimen: on each axis the pure values and its own mixture."""
    recipe, mixture = specimen.recipe, specimen.mixture
    floating = tuple(i for i, given in enumerate(recipe.inputs) if given.high == 0)
    modes = [(True, ()), (False, ()), (mixture.training, mixture.switched)]
    grads = [*GRADS, mixture.grad]
    frozen = [(), tuple(recipe.parameters()), mixture.frozen]
    inputs = [(), floating, mixture.inputs]
    axes = product(*(dict.fromkeys(axis) for axis in (grads, frozen, inputs)))
    return [
        Setting(told, switched, *rest)
        for (told, switched), rest in product(dict.fromkeys(modes), list(axes))
    ]


@dataclass(frozen=True)
class Plan:
    """How a run goes: set the modes, prepare, forward, between, backward, after.

    The steps are statements of plain torch in a scope that has model, x, out, torch,
    nn, copy, pickle and differentiate; a plan with steps runs on a module of its own.
    """

    setting: Setting
    backward: str = ""
    prepare: str = ""
    between: str = ""
    after: str = ""

    @cached_property
    def _hash(self) -> int:
        return hash((self.setting, self.backward, self.prepare, self.between, self.after))

    def __hash__(self) -> int:
        return self._hash

    @property
    def has_steps(self) -> bool:
        """Whether it does more than forward and the usual backward."""
        usual = self.backward in ("", BACKWARD)
        return not usual or bool(self.prepare or self.between or self.after)


BACKWARD: Final = "differentiate(out)"

#: The grad mode outside of every context.
DEFAULT_MODE: Final = {"torch.is_grad_enabled()": True, "torch.is_inference_mode_enabled()": False}

#: The loss of every backward: each output that requires grad, weighted without randomness.
DIFFERENTIATE: Final = """\
def weights(output):
    ramp = torch.arange(output.numel(), dtype=torch.float64, device=output.device)
    return torch.cos(ramp + 1).reshape(output.shape).to(output.dtype)


def differentiate(out, **options):
    # A view taken while nothing is recorded may say requires_grad, but has no history.
    roots = [o for o in out if o.requires_grad and not (o._is_view() and o.grad_fn is None)]
    if roots:
        torch.autograd.backward(roots, [weights(output) for output in roots], **options)
"""


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

    def only(self, wanted: Callable[[str, Any], bool]) -> Seen:
        """Those expressions and values that are wanted."""
        return Seen(self.script, {k: v for k, v in self.items() if wanted(k, v)})


_GENERATOR_STATES: Final = ("torch.get_rng_state()", "torch.cuda.get_rng_state()")


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


class Run:
    """One run and all that it shows."""

    def __init__(
        self, plan: Plan, subject: Subject, scope: Mapping[str, Any], own: Parts | None = None
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
        if own is not None:
            # So it does with the module that all runs share; one of its own waits to be asked.
            self._own = own
            self._note()

    def _note(self) -> None:
        """Look at the module now."""
        own, parameters = self._own, self._own.parameters.values()
        # Into the dictionary itself: a cached property takes a lock each time, on Python 3.11.
        vars(self).update(
            _grads=[p.grad for p in parameters],
            requiring=[p.requires_grad for p in parameters],
            training=[m.training for m in own.modules.values()],
            _state=own.state() if self.subject.has_values else {},
        )
        if self.subject.hooked:
            _ = self._calls

    @cached_property
    def _own(self) -> Parts:
        return Parts.of(self.model)

    @cached_property
    def _grads(self) -> list[Tensor | None]:
        return [p.grad for p in self._own.parameters.values()]

    @cached_property
    def requiring(self) -> list[bool]:
        """Whether each parameter requires grad."""
        return [p.requires_grad for p in self._own.parameters.values()]

    @cached_property
    def training(self) -> list[bool]:
        """The training flag of each submodule."""
        return [m.training for m in self._own.modules.values()]

    @cached_property
    def _calls(self) -> dict[str, int]:
        modules = self._own.modules
        return {path: vars(modules[path]).get("calls", 0) for path in self.subject.hooked}

    @cached_property
    def _state(self) -> dict[str, Tensor]:
        return self._own.state() if self.subject.has_values else {}

    def _seen(self, values: dict[str, Any]) -> Seen:
        return Seen(lambda: self.subject.script(self.plan), values)

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
        names = [f"model.get_parameter({n!r}).grad" for n in self._own.parameters]
        inputs = {f"x[{i}].grad": t.grad for i, t in enumerate(self.inputs)}
        return self._seen(dict(zip(names, self._grads, strict=True)) | inputs)

    @cached_property
    def receiving(self) -> Seen:
        """Whether each parameter and input was left without a gradient."""
        return self._seen({f"{e} is None": g is None for e, g in self.gradients.items()})

    @property
    def paths(self) -> list[str]:
        """Where its submodules are, the root included."""
        return list(self._own.modules)

    @cached_property
    def moving(self) -> Seen:
        """Whether each parameter and buffer is what it was before."""
        saved = self.subject.saved
        return self._seen(
            {
                _unmoved(n): t is saved[n] or torch.equal(t, saved[n])
                for n, t in self._state.items()
                if n in saved
            }
        )

    @cached_property
    def drawing(self) -> Seen:
        """Whether some global random generator is no longer in the state it was in."""
        unmoved = (
            f"torch.equal(torch.get_rng_state(), {_SEEDED.format(self.subject.specimen.seed)})"
        )
        return self._seen({unmoved: not self.draws})

    @cached_property
    def state(self) -> Seen:
        """Parameters and buffers afterwards."""
        self.subject.needs_values()
        return self._seen({_in_state(n): t for n, t in self._state.items()})

    @cached_property
    def flags(self) -> Seen:
        """The training flag of every submodule afterwards."""
        names = [f"model.get_submodule({n!r}).training" for n in self._own.modules]
        return self._seen(dict(zip(names, self.training, strict=True)))

    @cached_property
    def requires_grad(self) -> Seen:
        """The requires_grad flag of every parameter afterwards."""
        names = [f"model.get_parameter({n!r}).requires_grad" for n in self._own.parameters]
        return self._seen(dict(zip(names, self.requiring, strict=True)))

    @cached_property
    def calls(self) -> Seen:
        """How often each counting hook fired."""
        return self._seen(
            {
                f"getattr(model.get_submodule({n!r}), 'calls', 0)": self._calls[n]
                for n in self.subject.counting
            }
        )

    @cached_property
    def randomness(self) -> Seen:
        """The state of each global random generator afterwards."""
        self.subject.needs_values()
        return self._seen(dict(zip(_GENERATOR_STATES, self.random_states, strict=False)))

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
    def draws(self) -> bool:
        """Whether it drew from a global random generator."""
        return not all(map(torch.equal, self.random_states, self.subject.start))

    def evaluate(self, *expressions: str) -> Seen:
        """More that it shows: expressions in its scope, for runs with steps."""
        try:
            return self._seen({e: eval(e, dict(self.scope)) for e in expressions})
        except NotImplementedError:
            if self.subject.has_values:
                raise
            raise NotApplicable("tensors of the meta device have no values") from None


@dataclass(frozen=True)
class Parts:
    """What a module consists of, by name, and how its state is read."""

    parameters: dict[str, nn.Parameter]
    modules: dict[str, nn.Module]
    state: Callable[[], dict[str, Tensor]]

    @classmethod
    def of(cls, model: nn.Module) -> Parts:
        """The parts of any module; its state is copied."""

        def state() -> dict[str, Tensor]:
            return {n: t.clone() for n, t in model.state_dict().items()}

        return cls(dict(model.named_parameters()), dict(model.named_modules()), state)


@cache
def _compiled(step: str) -> CodeType:
    return compile(step, "<torchlaws_step>", "exec")


def _in_state(name: str) -> str:
    return f"model.state_dict()[{name!r}]"


def _unmoved(name: str) -> str:
    return f"torch.equal({_in_state(name)}, build()[0].state_dict()[{name!r}])"


_SEEDED: Final = "torch.Generator().manual_seed({}).get_state()"


class Subject:
    """A module under test, made from a specimen on a device, and the runs it has made."""

    def __init__(self, specimen: Specimen, device: str = "cpu") -> None:
        self.specimen = specimen
        self.device = device
        self.generators = generators(device)
        self.namespace = execute(source_of(specimen, device)).__dict__
        self.start: list[Tensor] = []
        self.model, self.inputs = self.build()
        self.hooked = [p for p, n in specimen.recipe.paths() if n.hooked]
        # Backward hooks fire as the graph wants it: their calls are not compared.
        self.counting = [p for p, n in specimen.recipe.paths() if n.hooked.startswith("forward")]
        self._state = {n: t.detach() for n, t in self.model.state_dict(keep_vars=True).items()}
        self.saved = {n: t.clone() for n, t in self._state.items()}
        self._parts = replace(Parts.of(self.model), state=self._current_state)
        self._moved: dict[str, Tensor] | None = None
        self._frozen: tuple[str, ...] | None = None
        self._told: tuple[list[bool], list[bool]] = ([], [])
        self._modes: tuple[bool, tuple[str, ...]] | None = None
        self._runs: dict[Plan, Run | Exception] = {}

    def build(self) -> tuple[nn.Module, list[Tensor]]:
        """The module and its inputs, made afresh: the same each time."""
        try:
            model, inputs = self.namespace["build"]()
        except Exception as error:
            if lacking(error):
                raise Unsupported(str(error)) from error
            raise
        if not self.start:
            for generator in self.generators:
                generator.manual_seed(self.specimen.seed)
            self.start = [g.get_state() for g in self.generators]
        return model, inputs

    @cached_property
    def initial(self) -> Seen:
        """Parameters and buffers before any run."""
        build = Script(source_of(self.specimen, self.device), ("model, x = build()",))
        return Seen(lambda: build, {_in_state(n): t for n, t in self.saved.items()})

    @cached_property
    def untouched_randomness(self) -> Seen:
        """The state of each global random generator before any run."""
        seed = Script("import torch\n", (f"torch.manual_seed({self.specimen.seed})",))
        return Seen(lambda: seed, dict(zip(_GENERATOR_STATES, self.start, strict=False)))

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

    def unchecked(self) -> Subject:
        """The same specimen with no block checkpointed."""
        recipe = uncheckpointed(self.specimen.recipe)
        return Subject(replace(self.specimen, recipe=recipe), self.device)

    def replacing(self, *replaced: str) -> Subject:
        """The same specimen with nn.Identity in the place of these kinds of layers."""
        recipe = identities(self.specimen.recipe, replaced)
        return Subject(replace(self.specimen, recipe=recipe), self.device)

    @property
    def has_values(self) -> bool:
        """Whether its tensors hold values: those of the meta device do not."""
        return self.device != "meta"

    def needs_values(self) -> None:
        """Say that a law needs values: the meta device neither holds nor draws any."""
        if not self.has_values:
            raise NotApplicable("tensors of the meta device have no values")

    def run(
        self, setting: Setting, *, prepare: str = "", between: str = "", after: str = ""
    ) -> Run:
        """Forward in this setting."""
        return self.follow(Plan(setting, "", prepare, between, after))

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
        if found is None:
            try:
                found = self._by_steps(plan) if plan.has_steps else self._directly(plan)
            except Exception as error:
                found = error
            self._runs[plan] = found
        if isinstance(found, Exception):
            raise self._judged(found, plan) from found
        return found

    def _judged(self, error: Exception, plan: Plan) -> Exception:
        if plan.has_steps:
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
        try:
            self._directly(plainest)
        except Exception as error:
            return lacking(error)
        return False

    def script(self, plan: Plan) -> Script:
        """How to follow a plan with plain torch."""
        return Script(
            source_of(self.specimen, self.device),
            tuple(statements(self.specimen, plan, self.device)),
        )

    # --- the two ways to run: directly, and as the rendered statements ---------------------

    def _directly(self, plan: Plan) -> Run:
        setting = plan.setting
        self._switch(setting)
        x = [
            t.clone().requires_grad_() if i in setting.inputs else t.clone()
            for i, t in enumerate(self.inputs)
        ]
        for generator, state in zip(self.generators, self.start, strict=True):
            generator.set_state(state)
        try:
            with ExitStack() as stack:
                for context in setting.grad:
                    stack.enter_context(enter(context))
                out = self.model(*x)
            out = out if isinstance(out, tuple) else (out,)
            if plan.backward:
                self.namespace["differentiate"](out)
            run = Run(plan, self, {"model": self.model, "x": x, "out": out}, self._parts)
            if (run.training, run.requiring) != self._told:
                self._modes = self._frozen = None  # the run changed flags: tell them again
            return run
        except Exception:
            self._modes = self._frozen = None  # it may have changed flags before it raised
            raise
        finally:
            self._restore()

    def _switch(self, setting: Setting) -> None:
        modes = (setting.training, setting.switched)
        if self._modes != modes:
            self.model.train(setting.training)
            for path in setting.switched:
                self.model.get_submodule(path).train(not setting.training)
            self._modes = modes
        if self._frozen != setting.frozen:
            for name, parameter in self._parts.parameters.items():
                parameter.requires_grad_(name not in setting.frozen)
            self._frozen = setting.frozen
        self._told = (
            [m.training for m in self._parts.modules.values()],
            [p.requires_grad for p in self._parts.parameters.values()],
        )

    def _current_state(self) -> dict[str, Tensor]:
        """Parameters and buffers as they are: copies of those that moved, the saved others."""
        saved = self.saved
        # By value: batch norm writes its statistics without counting a version.
        self._moved = {n: t.clone() for n, t in self._state.items() if not torch.equal(t, saved[n])}
        return saved | self._moved

    def _restore(self) -> None:
        if self._moved is None and self.has_values:
            self._current_state()
        if self._moved:
            with torch.no_grad():
                for name in self._moved:
                    self._state[name].copy_(self.saved[name])
        self._moved = None
        for parameter in self._parts.parameters.values():
            parameter.grad = None
        for path in self.hooked:
            vars(self._parts.modules[path]).pop("calls", None)

    def _by_steps(self, plan: Plan) -> Run:
        """What `statements` says, without compiling it anew for each setting."""
        setting = plan.setting
        scope = dict(self.namespace) | {"copy": copy, "pickle": pickle, "io": io}
        model, x = scope["model"], scope["x"] = self.build()
        model.train(setting.training)
        for path in setting.switched:
            model.get_submodule(path).train(not setting.training)
        for name in setting.frozen:
            model.get_parameter(name).requires_grad_(False)
        for i in setting.inputs:
            x[i].requires_grad_()
        exec(_compiled(plan.prepare), scope)
        for generator, state in zip(self.generators, self.start, strict=True):
            generator.set_state(state)
        with ExitStack() as stack:
            for context in setting.grad:
                stack.enter_context(enter(context))
            out = scope["model"](*scope["x"])
        scope["out"] = out if isinstance(out, tuple) else (out,)
        for step in (plan.between, plan.backward, plan.after):
            exec(_compiled(step), scope)
        return Run(plan, self, scope)

    def on(self, device: str) -> Subject:
        """The same specimen on another device."""
        twin = self._twins.get(device)
        if twin is None:
            twin = self._twins[device] = Subject(self.specimen, device)
        return twin

    @cached_property
    def _twins(self) -> dict[str, Subject]:
        return {self.device: self}


# --- the source of a subject ------------------------------------------------------------------


def source_of(specimen: Specimen, device: str = "cpu") -> str:
    """The module's source with ``build``, which makes it, and ``differentiate``."""
    return f"{render(specimen.recipe)}\n\n{_build(specimen, device)}\n\n{DIFFERENTIATE}"


def _build(specimen: Specimen, device: str) -> str:
    dtype = str(DTYPES[specimen.dtype])
    moves = [] if specimen.dtype == "float32" else [f".to({dtype})"]
    elsewhere = "" if device == "cpu" else f".to({device!r})"
    lines = ["def build():", f"    {_seeding(specimen, 'cpu')}"]
    lines += [f"    model = Model(){''.join(moves)}"]
    lines += [
        "    with torch.no_grad():  # away from 0 and 1: normalisation is no identity, sums no 0",
        "        for t in [*model.parameters(), *model.buffers()]:",
        "            if t.is_floating_point() and t.dim() == 1:",
        "                t.add_(torch.rand_like(t) / 2 + 0.25)",
    ]
    lines += [
        "    x = [",
        *(f"        {_input(i, dtype)}{elsewhere}," for i in specimen.recipe.inputs),
    ]
    lines += ["    ]", f"    return model{elsewhere}, x"]
    return "\n".join(lines) + "\n"


def _seeding(specimen: Specimen, device: str) -> str:
    """The statement that seeds the randomness of a device.

    torch.manual_seed takes a traceback for each device that is not yet in use: it costs
    more than a forward.
    """
    seeds = "torch.default_generator.manual_seed" if device == "cpu" else "torch.manual_seed"
    return f"{seeds}({specimen.seed})"


def _input(given: Any, dtype: str) -> str:
    shape = given.shape
    if given.high:
        return f"torch.randint(0, {given.high}, {shape})"
    if given.transposed:
        shape = (*shape[:-2], shape[-1], shape[-2])
    made = f"torch.randn({shape}, dtype={dtype})"
    # A clone keeps the layout in memory, and is no view: inputs are ordinary leaves.
    return f"{made}.transpose(-1, -2).clone()" if given.transposed else made


def statements(specimen: Specimen, plan: Plan, device: str = "cpu") -> list[str]:
    """The run as statements of plain torch: what a script shows is this."""
    setting = plan.setting
    lines = ["model, x = build()", f"model.{'train' if setting.training else 'eval'}()"]
    told = "eval" if setting.training else "train"
    lines += [f"model.get_submodule({path!r}).{told}()" for path in setting.switched]
    names = specimen.recipe.parameters()
    if names and set(setting.frozen) == set(names):
        lines += ["model.requires_grad_(False)"]
    else:
        lines += [f"model.get_parameter({n!r}).requires_grad_(False)" for n in setting.frozen]
    lines += [f"x[{i}].requires_grad_()" for i in setting.inputs]
    lines += plan.prepare.splitlines()
    lines += [_seeding(specimen, device)]
    call = "model(*x)" if len(specimen.recipe.outputs) > 1 else "(model(*x),)"
    indent = ""
    for context in setting.grad:
        lines += [f"{indent}with {context}:"]
        indent += "    "
    lines += [f"{indent}out = {call}"]
    return lines + [
        line for step in (plan.between, plan.backward, plan.after) for line in step.splitlines()
    ]


def quiet() -> None:
    """Silence what torch says of features that the drawn modules use on purpose."""
    for text in (
        "Complex modules are a new feature",
        "dropout option adds dropout after all but last",
    ):
        warnings.filterwarnings("ignore", message=text)


def ulps_between(observed: Tensor, expected: Tensor) -> float | None:
    """The largest difference, in units in the last place of the largest value, or of 1.

    None where they differ in more than rounding: in kind, shape or what is not finite.
    """
    if not expected.dtype.is_floating_point and not expected.dtype.is_complex:
        return None
    if observed.shape != expected.shape or observed.dtype != expected.dtype:
        return None
    if "meta" in (observed.device.type, expected.device.type):
        return None
    a, b = observed.detach().cpu(), expected.detach().cpu()
    wide = torch.complex128 if b.dtype.is_complex else torch.float64
    a, b = a.to(wide), b.to(wide)
    finite = a.isfinite() & b.isfinite()
    if not ((a == b) | (a.isnan() & b.isnan()) | finite).all():
        return None
    a, b = a[finite], b[finite]
    difference = (a - b).abs().max().item() if a.numel() else 0.0
    largest = b.abs().max().item() if b.numel() else 0.0
    return difference / (torch.finfo(expected.dtype).eps * max(largest, 1.0))
