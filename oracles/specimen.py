"""A specimen and the plans it is run by, and both as statements of plain torch.

A specimen says what a module is made from, a plan what is done with it. What is
executed and what a script shows are the same source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, Final

from .flow import Flow
from .recipe import DTYPES, Recipe, render
from .setting import GRADS, Setting


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

    @cached_property
    def key(self) -> str:
        """What it is known by: equal for equal specimens."""
        return repr(self)

    @cached_property
    def flow(self) -> Flow:
        """Which results of its layers go where."""
        return Flow(self.recipe)

    @cached_property
    def lattice(self) -> list[Setting]:
        """Every setting it may be judged in: on each axis the pure values and its own mixture."""
        recipe, mixture = self.recipe, self.mixture
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
    nn, copy, pickle, io and differentiate. Forward draws its randomness from the seed of the
    specimen, plus reseed.
    """

    setting: Setting
    backward: str = ""
    prepare: str = ""
    between: str = ""
    after: str = ""
    reseed: int = 0

    @property
    def has_steps(self) -> bool:
        """Whether it does more than forward and the usual backward."""
        usual = self.backward in ("", BACKWARD)
        return not usual or bool(self.prepare or self.between or self.after)


BACKWARD: Final = "differentiate(out)"
#: The step after which ``model`` is the module again, where a step before has wrapped it.
UNWRAP: Final = "model = inner"

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


def source_of(specimen: Specimen, device: str = "cpu") -> str:
    """The module's source with ``build``, which makes it, and ``differentiate``."""
    return f"{render(specimen.recipe)}\n\n{_build(specimen, device)}\n\n{DIFFERENTIATE}"


def _build(specimen: Specimen, device: str) -> str:
    dtype = str(DTYPES[specimen.dtype])
    moves = [] if specimen.dtype == "float32" else [f".to({dtype})"]
    elsewhere = "" if device == "cpu" else f".to({device!r})"
    lines = ["def build():", f"    {seeding(specimen, 'cpu')}"]
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


def seeding(specimen: Specimen, device: str, reseed: int = 0) -> str:
    """The statement that seeds the randomness of a device.

    torch.manual_seed takes a traceback for each device that is not yet in use: it costs
    more than a forward.
    """
    seeds = "torch.default_generator.manual_seed" if device == "cpu" else "torch.manual_seed"
    return f"{seeds}({specimen.seed + reseed})"


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
    lines += [seeding(specimen, device, plan.reseed)]
    call = "model(*x)" if len(specimen.recipe.outputs) > 1 else "(model(*x),)"
    indent = ""
    for context in setting.grad:
        lines += [f"{indent}with {context}:"]
        indent += "    "
    lines += [f"{indent}out = {call}"]
    return lines + [
        line for step in (plan.between, plan.backward, plan.after) for line in step.splitlines()
    ]
