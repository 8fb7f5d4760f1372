"""The register of what torch is known to break: data in deviations.toml, conditions here.

A deviation is a mechanism: where it acts, its condition says at which places of the module it
shows, and its facts say what is seen there. It explains such a fact in every law that looks at
it, and nothing else: the law goes on to its next fact. Each witness of a deviation is a case
that must still show it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, replace
from functools import cache, cached_property, wraps
from pathlib import Path
from typing import Any, Final

import torch
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from . import fast_path
from .case import Case, read
from .flow import Places, Use, parameter
from .law import LAWS, RAISED, Violation
from .machine import ASTRAY
from .play import played
from .recipe import Node
from .reference import Prediction, buffers, predict
from .run import in_state, undrawn, unmoved
from .setting import GradState, Setting, Stack, fold
from .specimen import Specimen
from .traits import FORWARD, REPLACED, class_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE: Final = Path(__file__).parent
CORPUS: Final = HERE.parent / "corpus"
BASES: Final = ("documented", "bug", "undocumented")


class RegisterError(ValueError):
    """An entry of the register is not well formed."""


#: Where a deviation shows in a case; None where its condition does not hold.
Condition = Callable[[Case], Places | None]
CONDITIONS: Final[dict[str, Condition]] = {}
#: Those that say something of the module, and not of the grad modes alone.
OF_MODULES: Final[set[str]] = set()


def condition(decide: Condition) -> Condition:
    """Register a condition on any case under its name, for deviations.toml."""
    CONDITIONS[decide.__name__] = decide
    return decide


def of_modules(decide: Callable[[Specimen, Setting], Places | None]) -> Condition:
    """Register a condition on modules: it never holds of a case without one.

    It is asked of the setting, and also of the grad mode that torch is known to have there:
    one deviation may act inside of another.
    """

    @wraps(decide)
    def decided(case: Case) -> Places | None:
        if case.specimen is None:
            return None
        setting = case.setting or Setting()
        found = decide(case.specimen, setting)
        actual = as_torch_runs(setting.grad)
        if actual != setting.grad:
            other = decide(case.specimen, setting.but(grad=actual))
            found = found | other if found and other else found or other
        return replace(found, seed=case.specimen.seed) if found else None

    OF_MODULES.add(decide.__name__)
    return condition(decided)


#: What the facts of a deviation may speak of: how each of its places is written.
PLACES: Final[dict[str, Callable[[Places], set[str]]]] = {
    "{output}": lambda places: {f"out[{i}]" for i in places.outputs},
    "{alias}": lambda places: {
        f"out[{i}] is x[{k}]" for i in places.outputs for k in places.inputs
    },
    "{leaf}": lambda places: set(places.leaves),
    "{state}": lambda places: {in_state(name) for name in places.states},
    "{unmoved}": lambda places: {unmoved(name) for name in places.states},
    "{undrawn}": lambda places: {undrawn(places.seed)},
}


def _at(fact: str, places: Places) -> set[str]:
    """The expressions that a fact stands for at these places."""
    for name, written in PLACES.items():
        if name in fact:
            return {fact.replace(name, place) for place in written(places)}
    return {fact}


@dataclass(frozen=True)
class Deviation:
    """One way in which torch is known to break laws.

    name       says what torch does, as a sentence
    condition  where: the name of a condition, which says at which places it shows
    facts      what is seen there, as plain torch: `{output}.requires_grad`; see `PLACES`.
               A rule of the reference machine has none: the whole program is compared
    raised     for a fact that is an error, phrases of which it must have one
    devices    on which devices
    torch      in which versions, as a PEP 440 specifier
    basis      documented, bug or undocumented
    reason     why, in one sentence
    link       to PyTorch's documentation or issue; "" where none was found
    wide       why it may explain facts in more than a fifth of the cells of a law; "" if not
    chance     whether its witnesses show it by chance, or on some processors: memory that was never
               written is read
    fatal      whether the process ends there. Such a case is not run but in a process of its own,
               and there are no facts

    Each law on which it has shown has a witness, a stored case which must still show it:
    corpus/NAME/LAW.json.
    """

    name: str
    condition: str
    basis: str
    reason: str
    facts: tuple[str, ...] = ()
    raised: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")
    torch: str = ""
    link: str = ""
    wide: str = ""
    chance: bool = False
    fatal: bool = False

    @cached_property
    def cases(self) -> list[Case]:
        """The witnesses, read."""
        return [read(path) for path in sorted((CORPUS / self.name).glob("*.json"))]

    @cached_property
    def laws(self) -> frozenset[str]:
        """The laws on which it has shown."""
        return frozenset(case.law for case in self.cases)

    def in_force(self, device: str, version: str) -> bool:
        """Whether it speaks of this device and torch version."""
        return device in self.devices and SpecifierSet(self.torch).contains(
            version, prereleases=True
        )

    def explains(self, case: Case, violation: Violation) -> bool:
        """Whether this violation is one that it describes."""
        if case.history is not None:
            rule = self.name in ASTRAY
            return rule and self.name in played(case.history, case.device).departures(astray())
        expression = violation.observed.expression
        if not any(p.fullmatch(expression) for p in self._patterns):
            return False
        if expression == RAISED:
            said = any(phrase in str(violation.observed.value) for phrase in self.raised)
            return said and any(RAISED in self.explainable(c) for c in _in_each_mode(case))
        return expression in self.explainable(case)

    def acts(self, case: Case) -> bool:
        """Whether it shows somewhere in a case."""
        return CONDITIONS[self.condition](case) is not None

    def explainable(self, case: Case) -> set[str]:
        """The expressions that it explains in a case; none where it does not act."""
        places = CONDITIONS[self.condition](case)
        return set[str]().union(*(_at(fact, places) for fact in self.facts)) if places else set()

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        """What its facts look like: asked first, as conditions take longer."""
        places = "|".join(re.escape(re.escape(name)) for name in PLACES)
        return [re.compile(re.sub(places, ".*", re.escape(fact))) for fact in self.facts]


def _in_each_mode(case: Case) -> Iterator[Case]:
    """The case, and as it is in the other mode: a step may switch it before something raises."""
    yield case
    if case.setting is not None:
        yield replace(case, setting=case.setting.but(training=not case.setting.training))


@dataclass(frozen=True)
class Register:
    """All deviations, for one torch version."""

    deviations: tuple[Deviation, ...]
    version: str
    _in_force: dict[str, list[Deviation]] = field(default_factory=dict, compare=False, repr=False)

    def in_force(self, device: str) -> list[Deviation]:
        """Those that speak of a device, on this torch version."""
        if device not in self._in_force:
            found = [d for d in self.deviations if d.in_force(device, self.version)]
            self._in_force[device] = found
        return self._in_force[device]

    def of(self, law: str, device: str) -> Iterator[Deviation]:
        """Those that have shown on a law, as their witnesses say."""
        return (d for d in self.in_force(device) if law in d.laws)

    def explaining(self, case: Case, violation: Violation) -> Deviation | None:
        """The first deviation that describes this violation."""
        found = (d for d in self.in_force(case.device) if d.explains(case, violation))
        return next(found, None)

    def fatal(self, case: Case) -> Deviation | None:
        """The first deviation that ends the process in this case."""
        found = (d for d in self.in_force(case.device) if d.fatal and d.acts(case))
        return next(found, None)

    def explainable(self, case: Case) -> set[str]:
        """The expressions that some deviation explains in this case."""
        return set[str]().union(*(d.explainable(case) for d in self.in_force(case.device)))


def plain_version(version: str) -> str:
    """The release of a torch version: without the build, "2.13.0" for "2.13.0+cpu"."""
    return Version(str(version)).public


def load(path: Path = HERE / "deviations.toml", version: str = "") -> Register:
    """The register, read and checked, for the torch that is imported or for ``version``."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("deviation", [])
    deviations = tuple(_entry(e) for e in entries)
    twice = {d.name for d in deviations if sum(e.name == d.name for e in deviations) > 1}
    if twice:
        raise RegisterError(f"deviations named twice: {', '.join(sorted(twice))}")
    return Register(deviations, version or plain_version(torch.__version__))


def unchecked(data: dict[str, Any]) -> Deviation:
    """A deviation as its entry says, before its condition and witnesses are looked at."""
    known = Deviation.__dataclass_fields__
    required = {n for n, f in known.items() if f.default is MISSING}
    wrong = sorted((set(data) - set(known)) | (required - set(data)))
    if wrong:
        raise RegisterError(
            f"deviation {data.get('name')!r}: missing or unknown fields: {', '.join(wrong)}"
        )
    typed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return Deviation(**typed)


def _entry(data: dict[str, Any]) -> Deviation:
    made = unchecked(data)
    name = made.name
    if made.condition not in CONDITIONS:
        known = ", ".join(sorted(CONDITIONS))
        raise RegisterError(f"deviation {name!r}: no condition {made.condition!r}; known: {known}")
    if made.facts and made.fatal:
        raise RegisterError(f"deviation {name!r}: where the process ends, no fact is seen")
    if not made.facts and not made.fatal and name not in ASTRAY:
        raise RegisterError(f"deviation {name!r}: say which facts it explains; {_FACTS}")
    for fact in made.facts:
        for place in re.findall(r"{.*?}", fact):
            if place not in PLACES:
                raise RegisterError(f"deviation {name!r}: no place {place}; {_FACTS}")
    if (RAISED in made.facts) is not bool(made.raised):
        raise RegisterError(f"deviation {name!r}: the fact {RAISED!r} and phrases go together")
    if not made.cases:
        raise RegisterError(f"deviation {name!r} has no witness: a case in {CORPUS / name}")
    if made.basis not in BASES:
        raise RegisterError(f"deviation {name!r}: basis is one of {', '.join(BASES)}")
    try:
        SpecifierSet(made.torch)
    except InvalidSpecifier:
        raise RegisterError(f"deviation {name!r}: torch is a PEP 440 specifier") from None
    return made


_FACTS: Final = f"places are {', '.join(PLACES)}"


@cache
def astray(version: str = "") -> frozenset[str]:
    """The rules of the machine on which this torch is known to go another way."""
    version = version or plain_version(torch.__version__)
    entries = tomllib.loads((HERE / "deviations.toml").read_text(encoding="utf-8"))["deviation"]
    known = (unchecked(e) for e in entries if e["name"] in ASTRAY)
    return frozenset(d.name for d in known if d.in_force(d.devices[0], version))


# --- conditions: where, no wider than it must be -------------------------------------------------


def as_torch_runs(stack: Stack) -> Stack:
    """A stack with the grad mode that torch really has inside of this one.

    See inference_mode_false_enables_grad_under_no_grad.
    """
    state = GradState()
    for context in stack:
        state = state.enter(context)
        if context == "torch.inference_mode(False)":
            state = GradState(grad=True)
    if state == fold(stack):
        return stack
    if state.inference:
        return ("torch.inference_mode()", *(("torch.enable_grad()",) if state.grad else ()))
    return () if state.grad else ("torch.no_grad()",)


def _stacks(case: Case) -> Iterator[Stack]:
    if case.setting is not None:
        yield case.setting.grad
    if case.nesting is not None:
        yield case.nesting.contexts


def _everywhere(case: Case) -> Places:
    return case.specimen.flow.everywhere if case.specimen is not None else Places()


@condition
def inference_mode_is_switched_off_while_grad_is_disabled(case: Case) -> Places | None:
    """Somewhere in the stack stands inference_mode(False) where grad is disabled."""
    differs = any(as_torch_runs(stack) != stack for stack in _stacks(case))
    return _everywhere(case) if differs else None


@condition
def grad_is_enabled_inside_of_inference_mode(case: Case) -> Places | None:
    """Both flags are on: nothing is recorded, but is_grad_enabled() says True."""
    states = [fold(as_torch_runs(stack)) for stack in _stacks(case)]
    return _everywhere(case) if any(s.grad and s.inference for s in states) else None


@condition
def a_transform_runs_in_inference_mode(case: Case) -> Places | None:
    """A law of torch.func has inference mode on at the end of the stack."""
    if LAWS[case.law].theory != "functional":
        return None
    inference = any(fold(stack).inference for stack in _stacks(case))
    return _everywhere(case) if inference else None


@condition
def set_grad_enabled_decorates_where_grad_is_enabled(case: Case) -> Places | None:
    """Grad is enabled at the end of the stack; or a history goes another way there."""
    if case.history is not None:
        return Places()
    return _if(case.nesting is not None and fold(as_torch_runs(case.nesting.contexts)).grad)


@condition
def a_module_is_compiled(case: Case) -> Places | None:
    """The law calls torch.compile on the module."""
    return Places() if LAWS[case.law].theory == "compiled" else None


@condition
def the_machine_goes_astray_there(case: Case) -> Places | None:
    """A history reaches the rule on which torch goes another way than the reference machine."""
    return Places() if case.history is not None else None


def _of(specimen: Specimen, sources: Callable[[Use], bool]) -> Places | None:
    """Where the results of these calls go; None where there is none."""
    flow = specimen.flow
    return flow.of(sources) if any(map(sources, flow.uses)) else None


def _if(holds: bool, places: Places | None = None) -> Places | None:
    return (places or Places()) if holds else None


def _predicted(specimen: Specimen, setting: Setting) -> Prediction:
    return predict(specimen.recipe, setting, specimen.dtype)


@of_modules
def no_parameter_has_a_gradient(specimen: Specimen, setting: Setting) -> Places | None:
    """Backward gives no parameter a gradient, or there is no parameter."""
    return _if(all(leaf.startswith("x[") for leaf in _predicted(specimen, setting).receives))


@of_modules
def a_module_without_parameters_has_buffers(specimen: Specimen, setting: Setting) -> Places | None:
    """The module has no parameter, and some buffer."""
    return _if(not specimen.recipe.parameters() and bool(buffers(specimen.recipe)))


@of_modules
def a_layer_has_sparse_gradients(specimen: Specimen, setting: Setting) -> Places | None:
    """Some embedding has sparse=True."""
    return _if(any(node.arguments.get("sparse", False) for node in specimen.recipe.walk()))


@of_modules
def a_block_is_checkpointed(specimen: Specimen, setting: Setting) -> Places | None:
    """Some block is called through torch.utils.checkpoint: the state of its layers."""
    if not any(node.checkpointed for node in specimen.recipe.walk()):
        return None
    inside = [use for use in specimen.flow.uses if use.checkpointed]
    return Places(states=frozenset(name for use in inside for name in use.moves()))


def _enabled_in_inference_mode(use: Use, setting: Setting) -> bool:
    state = fold(setting.grad)
    for within in use.within:
        state = state.enter(f"torch.{within}()")
    return state.inference and state.grad


@of_modules
def a_backward_hook_runs_with_grad_enabled_in_inference_mode(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """Grad mode was switched on again inside inference mode, around a layer with such a hook."""
    return _of(
        specimen,
        lambda use: use.node.hooked == "full_backward" and _enabled_in_inference_mode(use, setting),
    )


@of_modules
def cross_map_lrn_runs_with_grad_enabled_in_inference_mode(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """Grad mode was switched on again inside inference mode, around a CrossMapLRN2d."""
    return _of(
        specimen,
        lambda use: use.node.op == "CrossMapLRN2d" and _enabled_in_inference_mode(use, setting),
    )


@of_modules
def a_cross_map_lrn_is_there(specimen: Specimen, setting: Setting) -> Places | None:
    """Some layer is a CrossMapLRN2d."""
    return _if("CrossMapLRN2d" in specimen.recipe.ops())


@of_modules
def a_poisson_nll_loss_is_full(specimen: Specimen, setting: Setting) -> Places | None:
    """Some layer is a PoissonNLLLoss with full=True."""
    return _if(
        any(
            node.op == "PoissonNLLLoss" and node.arguments.get("full", False)
            for node in specimen.recipe.walk()
        )
    )


@of_modules
def an_old_autograd_function_is_used(specimen: Specimen, setting: Setting) -> Places | None:
    """Some layer has a full backward hook, is a CrossMapLRN2d, or a loss that works in chunks."""

    def is_old(node: Node) -> bool:
        chunked = node.op == "LinearCrossEntropyLoss" and "options" in node.arguments
        return node.op == "CrossMapLRN2d" or node.hooked == "full_backward" or chunked

    return _if(any(map(is_old, specimen.recipe.walk())))


@of_modules
def memory_of_lengths_is_read(specimen: Specimen, setting: Setting) -> Places | None:
    """A recurrent layer is given a packed sequence, or some layer is a CTCLoss."""
    return _if(
        any(
            node.op in ("GRU_packed", "CTCLoss") or "lengths" in node.arguments.get(FORWARD, {})
            for node in specimen.recipe.walk()
        )
    )


@of_modules
def an_output_is_an_input_itself(specimen: Specimen, setting: Setting) -> Places | None:
    """Nothing is recorded, and an output is one of the inputs, the very object: those outputs."""
    inputs = len(specimen.recipe.inputs)
    return _outputs(i for i, v in _requiring_unrecorded(specimen, setting) if v < inputs)


@of_modules
def an_output_is_a_view_of_a_requiring_tensor(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """An output requires grad though nothing was recorded: it is a view of a tensor that does."""
    inputs = len(specimen.recipe.inputs)
    return _outputs(i for i, v in _requiring_unrecorded(specimen, setting) if v >= inputs)


def _requiring_unrecorded(specimen: Specimen, setting: Setting) -> Iterator[tuple[int, int]]:
    """Positions of such outputs, where nothing is recorded, each with which object it is."""
    if fold(setting.grad).recording:
        return
    for i, value in enumerate(_predicted(specimen, setting).outputs):
        if value.requires_grad and not value.recorded:
            yield i, value.identity


def _outputs(positions: Iterator[int]) -> Places | None:
    found = frozenset(positions)
    return Places(outputs=found) if found else None


@of_modules
def a_layer_hands_on_its_input_in_one_mode_only(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """By the reference model, train and eval record other things: dropout in eval is its input."""
    here = _predicted(specimen, setting)
    there = _predicted(specimen, setting.but(training=True, switched=()))
    pairs = zip(here.recording().items(), there.recording().values(), strict=True)
    outputs = {fact.partition("]")[0][4:] for (fact, value), other in pairs if value != other}
    leaves = here.receives ^ there.receives
    if not outputs and not leaves:
        return None
    written = frozenset(n if n.startswith("x[") else parameter(n) for n in leaves)
    return Places(outputs=frozenset(map(int, outputs)), leaves=written)


@of_modules
def an_embedding_has_max_norm(specimen: Specimen, setting: Setting) -> Places | None:
    """Some embedding renormalises the rows that it looks up: its weight, under all its names."""
    found = set[str]()
    uses = specimen.flow.uses
    weights = {
        name
        for use in uses
        if use.node.arguments.get("max_norm") is not None
        for name in use.parameters
    }
    for use in uses:
        if weights.intersection(use.parameters):
            found |= {f"{use.path}.weight"}
    return Places(states=frozenset(found)) if found else None


@of_modules
def a_layer_draws_randomness_in_evaluation(specimen: Specimen, setting: Setting) -> Places | None:
    """Fractional pooling draws in every mode: what comes after it."""
    pooling = {"FractionalMaxPool2d", "FractionalMaxPool3d"}
    return _of(specimen, lambda use: class_of(use.node.op) in pooling)


@of_modules
def functional_dropout_is_not_told_the_mode(specimen: Specimen, setting: Setting) -> Places | None:
    """F.dropout is not given training=self.training; other functions take no such flag."""
    untold = {"dropout_by_default", "attention", "gumbel_softmax"}
    return _of(specimen, lambda use: use.node.op in untold)


@of_modules
def a_weight_is_tied(specimen: Specimen, setting: Setting) -> Places | None:
    """Two layers share one parameter: the gradients and flags of both names."""
    uses = specimen.flow.uses
    tied = {name for use in uses if use.node.tied is not None for name in use.parameters}
    names = {parameter(n) for n in tied if n.endswith(".weight")}
    for use in uses:
        if use.node.tied is not None:
            names.add(parameter(f"{use.path}.weight"))
    return Places(leaves=frozenset(names)) if names else None


@of_modules
def a_weight_is_parametrized(specimen: Specimen, setting: Setting) -> Places | None:
    """Some weight has a parametrization."""
    return _if(any(node.parametrized for node in specimen.recipe.walk()))


@of_modules
def an_rrelu_is_checkpointed(specimen: Specimen, setting: Setting) -> Places | None:
    """An RReLU runs inside a checkpointed block: the gradients of all before it."""
    return _of(specimen, lambda use: use.checkpointed and use.node.op == "RReLU")


def iterates(node: Node) -> bool:
    """Whether a forward of the layer in training takes a step of the power iteration."""
    return node.parametrized == "spectral_norm" or node.op == "Linear_spectral_norm"


@of_modules
def a_spectral_norm_is_checkpointed_in_training(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """A layer with spectral_norm runs in training mode inside a checkpointed block."""
    return _of(
        specimen,
        lambda use: use.checkpointed and iterates(use.node) and setting.trains(use.path),
    )


@of_modules
def a_batch_norm_is_there(specimen: Specimen, setting: Setting) -> Places | None:
    """Some layer is batch normalisation."""
    return _if(any("BatchNorm" in op for op in specimen.recipe.ops()))


@of_modules
def an_instance_norm_evaluates_by_its_statistics(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """Some instance norm has running statistics and is in evaluation mode."""
    return _of(
        specimen,
        lambda use: (
            "InstanceNorm" in use.node.op
            and use.node.arguments.get("track_running_stats", False)
            and not setting.trains(use.path)
        ),
    )


@of_modules
def a_hook_computes_a_weight(specimen: Specimen, setting: Setting) -> Places | None:
    """Some layer has nn.utils.weight_norm or nn.utils.spectral_norm, which are hooks."""
    hooks = {"Linear_weight_norm", "Linear_spectral_norm"}
    return _if(not hooks.isdisjoint(specimen.recipe.ops()))


@of_modules
def an_encoder_makes_nested_tensors(specimen: Specimen, setting: Setting) -> Places | None:
    """An encoder is given padding, and its first layer may take the fast path in evaluation."""
    return _of(specimen, lambda use: fast_path.makes_nested_tensors(use, setting))


@of_modules
def an_encoder_that_makes_nested_tensors_has_other_layers(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """After such a first layer comes one that may not take the fast path, as its weights decide."""
    return _of(
        specimen,
        lambda use: (
            fast_path.makes_nested_tensors(use, setting) and len(fast_path.encoder_layers(use)) > 1
        ),
    )


@of_modules
def a_convolution_dilates_and_pads_in_half_precision(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """In float16 or bfloat16, a convolution has a dilation and padding."""
    if specimen.dtype not in ("float16", "bfloat16"):
        return None

    def skips(node: Node) -> bool:
        if "Conv" not in node.op:
            return False
        args = node.arguments
        return bool(args.get("dilation", 1) > 1 and args.get("padding", 0) != 0)

    return _if(any(map(skips, specimen.recipe.walk())))


@of_modules
def a_three_dimensional_convolution_pads_in_bfloat16(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """In bfloat16, a Conv3d has padding, or a ConvTranspose3d has a stride and output_padding."""
    if specimen.dtype != "bfloat16":
        return None

    def pads(use: Use) -> bool:
        args = use.node.arguments
        if use.node.op.endswith("Conv3d"):
            return bool(args.get("padding", 0) != 0)
        added = args.get("output_padding", 0) != 0 or "output_size" in args
        return use.node.op.endswith("ConvTranspose3d") and args.get("stride", 1) > 1 and added

    return _of(specimen, pads)


@of_modules
def a_strided_convolution_pads_in_bfloat16(specimen: Specimen, setting: Setting) -> Places | None:
    """In bfloat16, a convolution has a stride and padding: its weight may meet padding alone."""
    if specimen.dtype != "bfloat16":
        return None
    names = [
        parameter(name)
        for use in specimen.flow.uses
        if "Conv" in use.node.op
        and use.node.arguments.get("stride", 1) > 1
        and use.node.arguments.get("padding", 0) != 0
        for name in use.parameters
        if not name.endswith(".bias")
    ]
    return Places(leaves=frozenset(names)) if names else None


@of_modules
def an_encoder_is_given_padding_alone(specimen: Specimen, setting: Setting) -> Places | None:
    """An encoder makes nested tensors of a batch in which every position is padding."""
    return _of(
        specimen,
        lambda use: (
            fast_path.makes_nested_tensors(use, setting) and fast_path.is_padding_alone(use)
        ),
    )


@of_modules
def a_layer_that_may_be_fast_has_a_bias_for_a_mask(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """An encoder layer is given a floating-point mask with finite values, in evaluation."""
    return _of(
        specimen,
        lambda use: fast_path.has_a_bias(use) and fast_path.may_be_fast(use, setting),
    )


@of_modules
def attention_that_may_be_fast_has_a_bias_for_a_mask(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """Attention to itself is given a floating-point mask with finite values, in evaluation.

    That is nn.MultiheadAttention, or part of an encoder or decoder layer.
    """
    return _of(specimen, lambda use: fast_path.attends_to_itself_with_a_bias(use, setting))


@of_modules
def attention_with_batch_first_has_no_bias(specimen: Specimen, setting: Setting) -> Places | None:
    """Some nn.MultiheadAttention with batch_first has no bias: steps of a law may evaluate it."""

    def acts(use: Use) -> bool:
        args = use.node.arguments
        attends = use.node.op.startswith("MultiheadAttention")
        return bool(attends and args.get("batch_first", False) and not args.get("bias", True))

    return _of(specimen, acts)


@of_modules
def a_query_sees_nothing_where_a_layer_may_be_fast(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """Every key of some query is masked, in an encoder layer or attention, in evaluation."""

    def acts(use: Use) -> bool:
        fast = fast_path.may_be_fast(use, setting) or fast_path.attention_may_be_fast(use, setting)
        return fast_path.decodes_queries_that_see_nothing(use, setting) or (
            fast and fast_path.some_query_sees_nothing(use)
        )

    return _of(specimen, acts)


def _fast_layers(
    specimen: Specimen, setting: Setting, sources: Callable[[fast_path.EncoderLayer], bool]
) -> Places | None:
    """Where the results of encoder layers go that may be fast, and are such."""
    return _of(
        specimen,
        lambda use: any(
            layer.may_be_fast(setting) and sources(layer) for layer in fast_path.encoder_layers(use)
        ),
    )


@of_modules
def a_layer_that_may_be_fast_approximates_gelu(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """An encoder layer has nn.GELU(approximate="tanh"), in evaluation."""
    return _fast_layers(
        specimen, setting, lambda layer: "tanh" in str(layer.given.get("activation", ""))
    )


@of_modules
def a_layer_that_may_be_fast_has_parts_in_training(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """An encoder layer is in evaluation, and a part of it that drops is in training."""
    return _fast_layers(specimen, setting, lambda layer: layer.trains_in_part(setting))


@of_modules
def a_layer_that_may_be_fast_has_replaced_parts(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """A part of an encoder layer was replaced once it was built, in evaluation."""
    return _fast_layers(specimen, setting, lambda layer: bool(layer.replaced))


@of_modules
def an_encoder_layer_evaluates_with_another_norm(
    specimen: Specimen, setting: Setting
) -> Places | None:
    """The first norm of an encoder layer was replaced by a layer without eps, in evaluation."""

    def acts(use: Use) -> bool:
        layers = fast_path.encoder_layers(use)
        return any("norm1" in one.replaced and not setting.trains(one.path) for one in layers)

    return _of(specimen, acts)


@of_modules
def a_dropout_takes_what_attention_returns(specimen: Specimen, setting: Setting) -> Places | None:
    """Attention that may be fast is followed by something that draws, in it or after it."""
    flow = specimen.flow
    after, _ = flow.touched(lambda use: fast_path.attention_may_be_fast(use, setting))
    return _of(
        specimen,
        lambda use: (
            fast_path.drops_after_attention(use, setting)
            or (use.path, use.makes) in {(u.path, u.makes) for u in after if _draws(u, setting)}
        ),
    )


def _draws(use: Use, setting: Setting) -> bool:
    return bool(use.node.traits.draws(use.node.arguments, use.trains(setting)))


@condition
def a_decoder_layer_with_a_module_for_an_activation_is_copied(case: Case) -> Places | None:
    """A law of persistence copies a decoder layer whose activation is a module."""
    if case.specimen is None or LAWS[case.law].theory != "persistence":
        return None

    def acts(use: Use) -> bool:
        args = use.node.arguments
        replaced = any(path.endswith("activation") for path in args.get(REPLACED, {}))
        own = use.node.op == "TransformerDecoderLayer" and isinstance(args.get("activation"), dict)
        return (own or replaced) and "Decoder" in use.node.op

    return _of(case.specimen, acts)


@of_modules
def channels_are_shuffled(specimen: Specimen, setting: Setting) -> Places | None:
    """Some layer is a ChannelShuffle."""
    return _if("ChannelShuffle" in specimen.recipe.ops())


@of_modules
def a_recurrent_layer_evaluates(specimen: Specimen, setting: Setting) -> Places | None:
    """Some recurrent layer is in evaluation mode."""
    kinds = {"RNN", "GRU", "LSTM", "GRU_packed"}
    return _if(any(n.op in kinds and not setting.trains(p) for p, n in specimen.recipe.paths()))
