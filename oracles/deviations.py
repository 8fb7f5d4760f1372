"""The register of what torch is known to break: data in deviations.toml, conditions here.

A deviation explains a violation where its condition holds, on its devices and torch
versions, and up to its size. Nothing is kept out of a law's domain beforehand: such
cases are judged and counted, and the witnesses of a deviation must still break the law.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, wraps
from pathlib import Path
from typing import Any, Final

import torch
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from .case import Case, read
from .law import LAWS, Violation
from .machine import ASTRAY
from .play import played
from .recipe import Node
from .reference import Value, predict
from .setting import Setting, Stack, fold
from .specimen import Specimen
from .traits import TRAITS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE: Final = Path(__file__).parent
CORPUS: Final = HERE.parent / "corpus"
BASES: Final = ("documented", "bug", "undocumented", "rounding")


class RegisterError(ValueError):
    """An entry of the register is not well formed."""


Condition = Callable[[Case], bool]
CONDITIONS: Final[dict[str, Condition]] = {}
#: Those that say something of the module, and not of the grad modes alone.
OF_MODULES: Final[set[str]] = set()


def condition(decide: Condition) -> Condition:
    """Register a condition on any case under its name, for deviations.toml."""
    CONDITIONS[decide.__name__] = decide
    return decide


def of_modules(decide: Callable[[Specimen, Setting], bool]) -> Condition:
    """Register a condition on modules: it never holds of a case without one."""

    @wraps(decide)
    def decided(case: Case) -> bool:
        return case.specimen is not None and decide(case.specimen, case.setting or Setting())

    OF_MODULES.add(decide.__name__)
    return condition(decided)


@dataclass(frozen=True)
class Deviation:
    """One way in which torch is known to break laws.

    name       says what torch does, as a sentence
    laws       which laws it breaks; "*" beside them where it spoils whatever is compared
    condition  of which cases: the name of a condition
    devices    on which devices
    torch      in which versions, as a PEP 440 specifier
    basis      documented, bug, undocumented or rounding
    reason     why, in one sentence
    link       to PyTorch's documentation or issue; "" where none was found
    seen       a regular expression for the one kind of fact that differs; "" for any
    ulps       for rounding, the largest difference it explains, in units in the last place;
               an integer or boolean output may differ as well, where rounding tips a comparison

    For each law it has a witness, a stored case which must still break it:
    corpus/NAME/LAW.json.
    """

    name: str
    laws: tuple[str, ...]
    condition: str
    devices: tuple[str, ...]
    torch: str
    basis: str
    reason: str
    link: str
    seen: str
    ulps: float

    @cached_property
    def cases(self) -> list[Case]:
        """The witnesses, read."""
        return [read(path) for path in sorted((CORPUS / self.name).glob("*.json"))]

    def in_force(self, device: str, version: str) -> bool:
        """Whether it speaks of this device and torch version."""
        return device in self.devices and SpecifierSet(self.torch).contains(
            version, prereleases=True
        )

    def explains(self, case: Case, violation: Violation) -> bool:
        """Whether this violation is one that it describes."""
        if case.law not in self.laws and "*" not in self.laws:
            return False
        if self.seen and not re.fullmatch(self.seen, violation.observed.expression):
            return False
        if self.ulps and not self._is_rounding(violation):
            return False
        if case.history is not None:
            return self.name in played(case.history, case.device).departures(astray())
        return CONDITIONS[self.condition](case)

    def _is_rounding(self, violation: Violation) -> bool:
        """Whether the difference is as small as it says, or a comparison that rounding tipped."""
        if violation.ulps is not None:
            return violation.ulps <= self.ulps
        a, b = violation.observed.value, violation.expected.value
        if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
            return False
        tipped = not a.is_floating_point() and not a.is_complex()
        return tipped and (a.dtype, a.shape) == (b.dtype, b.shape)


@dataclass(frozen=True)
class Register:
    """All deviations, for one torch version."""

    deviations: tuple[Deviation, ...]
    version: str

    def of(self, law: str, device: str) -> Iterator[Deviation]:
        """Those in force for a law on a device."""
        for deviation in self.deviations:
            if {law, "*"} & set(deviation.laws) and deviation.in_force(device, self.version):
                yield deviation

    def explaining(self, case: Case, violation: Violation) -> Deviation | None:
        """The first deviation that describes this violation."""
        found = (d for d in self.of(case.law, case.device) if d.explains(case, violation))
        return next(found, None)


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
    """A deviation as its entry says, before its laws, condition and witnesses are looked at."""
    given = {"devices": ["cpu", "cuda"], "torch": "", "link": "", "seen": "", "ulps": 0.0} | data
    fields = set(Deviation.__dataclass_fields__)
    if set(given) != fields:
        wrong = ", ".join(sorted(set(given) ^ fields))
        raise RegisterError(f"deviation {data.get('name')!r}: missing or unknown fields: {wrong}")
    typed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return Deviation(**typed)


def _entry(data: dict[str, Any]) -> Deviation:
    made = unchecked(data)
    name = made.name
    for law in made.laws:
        if law not in LAWS and law != "*":
            raise RegisterError(f"deviation {name!r} names law {law!r}, which does not exist")
    if made.condition not in CONDITIONS:
        known = ", ".join(sorted(CONDITIONS))
        raise RegisterError(f"deviation {name!r}: no condition {made.condition!r}; known: {known}")
    witnessed = {case.law for case in made.cases}
    if witnessed != set(made.laws) - {"*"}:
        wrong = ", ".join(sorted(witnessed ^ (set(made.laws) - {"*"})))
        raise RegisterError(f"deviation {name!r}: laws and witnesses do not match: {wrong}")
    if made.basis not in BASES:
        raise RegisterError(f"deviation {name!r}: basis is one of {', '.join(BASES)}")
    if (made.basis == "rounding") is not bool(made.ulps):
        raise RegisterError(f"deviation {name!r}: basis rounding and a size in ulps go together")
    try:
        SpecifierSet(made.torch)
    except InvalidSpecifier:
        raise RegisterError(f"deviation {name!r}: torch is a PEP 440 specifier") from None
    return made


@cache
def astray(version: str = "") -> frozenset[str]:
    """The rules of the machine on which this torch is known to go another way."""
    version = version or plain_version(torch.__version__)
    entries = tomllib.loads((HERE / "deviations.toml").read_text(encoding="utf-8"))["deviation"]
    known = (unchecked(e) for e in entries if e["name"] in ASTRAY)
    return frozenset(d.name for d in known if d.in_force(d.devices[0], version))


# --- conditions: which cases, no wider than it must be ------------------------------------------


@condition
def always(case: Case) -> bool:
    """Every case: the deviation is of the law itself."""
    return True


def _stacks(case: Case) -> Iterator[Stack]:
    if case.setting is not None:
        yield case.setting.grad
    if case.nesting is not None:
        yield case.nesting.contexts


@condition
def inference_mode_is_switched_off_while_grad_is_disabled(case: Case) -> bool:
    """Somewhere in the stack stands inference_mode(False) where grad is disabled."""
    for stack in _stacks(case):
        for depth, context in enumerate(stack):
            if context == "torch.inference_mode(False)" and not fold(stack[: depth + 1]).grad:
                return True
    return False


@condition
def grad_is_enabled_inside_of_inference_mode(case: Case) -> bool:
    """Both flags are on: nothing is recorded, but is_grad_enabled() says True."""
    return any(fold(stack).grad and fold(stack).inference for stack in _stacks(case))


@condition
def it_runs_in_inference_mode(case: Case) -> bool:
    """Inference mode is on at the end of the stack."""
    return any(fold(stack).inference for stack in _stacks(case))


@of_modules
def no_parameter_has_a_gradient(specimen: Specimen, setting: Setting) -> bool:
    """Backward gives no parameter a gradient, or there is no parameter."""
    receives = predict(specimen.recipe, setting, specimen.dtype).receives
    return all(leaf.startswith("x[") for leaf in receives)


@of_modules
def there_is_no_parameter(specimen: Specimen, setting: Setting) -> bool:
    """The module has no parameter at all."""
    return not specimen.recipe.parameters()


@condition
def the_machine_goes_astray_there(case: Case) -> bool:
    """A history reaches the rule on which torch goes another way than the reference machine."""
    return case.history is not None


@of_modules
def a_block_is_checkpointed(specimen: Specimen, setting: Setting) -> bool:
    """Some block is called through torch.utils.checkpoint."""
    return any(node.checkpointed for node in specimen.recipe.walk())


@of_modules
def a_backward_hook_runs_with_grad_enabled_in_inference_mode(
    specimen: Specimen, setting: Setting
) -> bool:
    """Grad mode was switched on again inside inference mode, around a layer with such a hook."""
    hooked = any(node.hooked == "full_backward" for node in specimen.recipe.walk())
    return hooked and _enabled_in_inference_mode(specimen, setting)


@of_modules
def cross_map_lrn_runs_with_grad_enabled_in_inference_mode(
    specimen: Specimen, setting: Setting
) -> bool:
    """Grad mode was switched on again inside inference mode, around a CrossMapLRN2d."""
    there = "CrossMapLRN2d" in specimen.recipe.ops()
    return there and _enabled_in_inference_mode(specimen, setting)


def _enabled_in_inference_mode(specimen: Specimen, setting: Setting) -> bool:
    state = fold(setting.grad)
    enabled = state.grad or any(n.within == "enable_grad" for n in specimen.recipe.walk())
    return state.inference and enabled


@of_modules
def an_old_autograd_function_is_used(specimen: Specimen, setting: Setting) -> bool:
    """Some layer has a full backward hook, or is a CrossMapLRN2d."""
    old = "CrossMapLRN2d" in specimen.recipe.ops()
    return old or any(node.hooked == "full_backward" for node in specimen.recipe.walk())


@of_modules
def a_packed_sequence_is_run(specimen: Specimen, setting: Setting) -> bool:
    """A recurrent layer is given a packed sequence."""
    return "GRU_packed" in specimen.recipe.ops()


@of_modules
def an_output_is_an_input_itself(specimen: Specimen, setting: Setting) -> bool:
    """An output is one of the inputs, the very object, handed on through the module."""
    inputs = len(specimen.recipe.inputs)
    return any(v.identity < inputs for v in _requiring_unrecorded(specimen, setting))


@of_modules
def an_output_is_a_view_of_a_requiring_tensor(specimen: Specimen, setting: Setting) -> bool:
    """An output requires grad though nothing was recorded: it is a view of a tensor that does."""
    inputs = len(specimen.recipe.inputs)
    return any(v.identity >= inputs for v in _requiring_unrecorded(specimen, setting))


def _requiring_unrecorded(specimen: Specimen, setting: Setting) -> list[Value]:
    outputs = predict(specimen.recipe, setting, specimen.dtype).outputs
    return [v for v in outputs if v.requires_grad and not v.recorded]


@of_modules
def a_layer_hands_on_its_input_in_one_mode_only(specimen: Specimen, setting: Setting) -> bool:
    """By the reference model, train and eval hand on other tensors: dropout in eval its input."""
    here = predict(specimen.recipe, setting, specimen.dtype)
    there = predict(specimen.recipe, setting.but(training=True, switched=()), specimen.dtype)
    return (here.recording(), here.receives) != (there.recording(), there.receives)


@of_modules
def an_embedding_has_max_norm(specimen: Specimen, setting: Setting) -> bool:
    """Some embedding renormalises the rows that it looks up."""
    return any(node.arguments.get("max_norm") is not None for node in specimen.recipe.walk())


@of_modules
def a_layer_draws_randomness_in_evaluation(specimen: Specimen, setting: Setting) -> bool:
    """Fractional pooling draws in every mode."""
    return not {"FractionalMaxPool2d", "FractionalMaxPool3d"}.isdisjoint(specimen.recipe.ops())


@of_modules
def functional_dropout_is_not_told_the_mode(specimen: Specimen, setting: Setting) -> bool:
    """F.dropout is not told training=self.training, or a function draws that cannot be told."""
    untold = {"dropout_by_default", "attention", "gumbel_softmax"}
    return not untold.isdisjoint(specimen.recipe.ops())


@of_modules
def a_weight_is_tied(specimen: Specimen, setting: Setting) -> bool:
    """Two layers share one parameter."""
    return any(node.tied is not None for node in specimen.recipe.walk())


@of_modules
def a_weight_is_parametrized(specimen: Specimen, setting: Setting) -> bool:
    """Some weight has a parametrization."""
    return any(node.parametrized for node in specimen.recipe.walk())


@of_modules
def an_rrelu_is_checkpointed(specimen: Specimen, setting: Setting) -> bool:
    """An RReLU runs inside a checkpointed block."""
    blocks = (node.body for node in specimen.recipe.walk() if node.checkpointed)
    return any(body is not None and "RReLU" in body.ops() for body in blocks)


def _iterates(node: Node) -> bool:
    return node.parametrized == "spectral_norm" or node.op == "Linear_spectral_norm"


@of_modules
def a_spectral_norm_is_checkpointed_in_training(specimen: Specimen, setting: Setting) -> bool:
    """A layer with spectral_norm runs in training mode inside a checkpointed block."""
    for path, node in specimen.recipe.paths():
        if node.checkpointed and node.body is not None:
            inner = [(f"{path}.{p}", n) for p, n in node.body.paths()]
            if any(_iterates(n) and setting.trains(p) for p, n in inner):
                return True
    return False


@of_modules
def a_layer_has_other_kernels_for_gradients(specimen: Specimen, setting: Setting) -> bool:
    """A layer whose traits say so, or a linear one, complex or without bias: it uses matmul."""

    def chooses(node: Node) -> bool:
        if node.op == "Linear":
            return specimen.dtype == "complex64" or not node.arguments.get("bias", True)
        return node.op in TRAITS and node.traits.kernel(node.arguments)

    return any(chooses(node) for node in specimen.recipe.walk())


@of_modules
def a_normalisation_amplifies_the_rounding_of_another(specimen: Specimen, setting: Setting) -> bool:
    """Such a layer and a normalisation, which divides by as little as the root of its eps."""
    norms = {op for op in specimen.recipe.ops() if "Norm" in op or "Transformer" in op}
    kernels = CONDITIONS["a_layer_has_other_kernels_for_gradients"]
    return bool(norms) and kernels(Case("", specimen=specimen, setting=setting))


@of_modules
def a_batch_norm_is_there(specimen: Specimen, setting: Setting) -> bool:
    """Some layer is batch normalisation."""
    return any("BatchNorm" in op for op in specimen.recipe.ops())


@of_modules
def an_instance_norm_evaluates_by_its_statistics(specimen: Specimen, setting: Setting) -> bool:
    """Some instance norm has running statistics and is in evaluation mode."""
    return any(
        "InstanceNorm" in node.op
        and node.arguments.get("track_running_stats", False)
        and not setting.trains(path)
        for path, node in specimen.recipe.paths()
    )


@of_modules
def a_hook_computes_a_weight(specimen: Specimen, setting: Setting) -> bool:
    """Some layer has nn.utils.weight_norm or nn.utils.spectral_norm, which are hooks."""
    return not {"Linear_weight_norm", "Linear_spectral_norm"}.isdisjoint(specimen.recipe.ops())


@of_modules
def a_padded_encoder_evaluates(specimen: Specimen, setting: Setting) -> bool:
    """A TransformerEncoder is given a padding mask: in evaluation it may take the fast path."""
    return any(
        node.op == "TransformerEncoder_padded" and not setting.trains(path)
        for path, node in specimen.recipe.paths()
    )


@of_modules
def a_strided_convolution_pads_in_bfloat16(specimen: Specimen, setting: Setting) -> bool:
    """In bfloat16, a convolution has a stride and padding: some tap may see padding alone."""
    return specimen.dtype == "bfloat16" and any(
        node.arguments.get("stride", 1) > 1 and node.arguments.get("padding", 0) != 0
        for node in specimen.recipe.walk()
        if "Conv" in node.op
    )


@of_modules
def channels_are_shuffled(specimen: Specimen, setting: Setting) -> bool:
    """Some layer is a ChannelShuffle."""
    return "ChannelShuffle" in specimen.recipe.ops()


@of_modules
def a_recurrent_layer_evaluates(specimen: Specimen, setting: Setting) -> bool:
    """Some recurrent layer is in evaluation mode."""
    kinds = {"RNN", "GRU", "LSTM", "GRU_packed"}
    return any(
        node.op in kinds and not setting.trains(path) for path, node in specimen.recipe.paths()
    )
