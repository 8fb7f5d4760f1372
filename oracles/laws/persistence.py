"""Persistence: which switches survive a copy, a file, a state_dict, a conversion."""

from __future__ import annotations

import torch

from ..law import law
from ..preconditions import has_a_wider_type
from ..relations import absent, agree, every, holds
from ..sample import Sample
from ..setting import Setting, all_of, partly_frozen, plain_grad
from ..subject import Subject
from ..traits import PARAMETRIC

_AGAIN = {
    "copy.deepcopy": "model = copy.deepcopy(model)",
    "pickle": "model = pickle.loads(pickle.dumps(model))",
}
_FILE = "file = io.BytesIO()\ntorch.save(model, file)\nfile.seek(0)\n"
_FILE += "model = torch.load(file, weights_only=False)"


def _survives(subject: Subject, setting: Setting, prepare: str) -> None:
    made, plain = subject.backward(setting, prepare=prepare), subject.backward(setting)
    agree(made.flags, plain.flags)
    agree(made.requires_grad, plain.requires_grad)
    agree(made.output, plain.output)
    agree(made.gradients, plain.gradients)
    agree(made.state, plain.state)


@law(source="copy.deepcopy of a module", norms=("D15", "E17"), when=plain_grad)
def a_deep_copy_keeps_every_flag(subject: Subject, setting: Setting) -> None:
    """deepcopy keeps each training flag and each requires_grad, and behaves as the original."""
    _survives(subject, setting, _AGAIN["copy.deepcopy"])


@law(source="notes/serialization: pickling a module", norms=("D15",), when=plain_grad)
def pickling_keeps_every_flag(subject: Subject, setting: Setting) -> None:
    """pickle keeps each training flag and each requires_grad, and behaves as the original."""
    _survives(subject, setting, _AGAIN["pickle"])


@law(source="torch.save; torch.load", norms=("D15",), when=plain_grad)
def saving_a_module_keeps_every_flag(subject: Subject, setting: Setting) -> None:
    """torch.save and torch.load of a whole module keep each flag."""
    _survives(subject, setting, _FILE)


@law(source="copy.deepcopy of a Parameter", norms=("E17",), when=plain_grad)
def a_deep_copy_is_independent(subject: Subject, setting: Setting) -> None:
    """Freezing, switching and changing the copy leaves the original untouched."""
    twin = (
        "twin = copy.deepcopy(model)\ntwin.requires_grad_(False)\ntwin.train(not model.training)\n"
    )
    twin += "with torch.no_grad():\n    for t in [*twin.parameters(), *twin.buffers()]: t.zero_()"
    _survives(subject, setting, twin)


@law(source="Module.load_state_dict", norms=("E14", "D10"), when=plain_grad)
def loading_a_state_dict_keeps_every_flag(subject: Subject, setting: Setting) -> None:
    """load_state_dict alters neither requires_grad nor training flags."""
    _survives(subject, setting, "model.load_state_dict(build()[0].state_dict())")


@law(source="Module.load_state_dict, assign", norms=("E14",), when=plain_grad, since="2.1")
def assigning_a_state_dict_keeps_every_flag(subject: Subject, setting: Setting) -> None:
    """load_state_dict(assign=True) keeps the requires_grad flags of the module."""
    _survives(subject, setting, "model.load_state_dict(build()[0].state_dict(), assign=True)")


@law(source="Module.state_dict, keep_vars", norms=("E15",), when=plain_grad, having=PARAMETRIC)
def loading_records_nothing(subject: Subject, setting: Setting) -> None:
    """Loading a state_dict of variables that require grad records nothing on the target."""
    load = "model.load_state_dict(build()[0].state_dict(keep_vars=True))"
    run = subject.run(setting, prepare=load)
    every(run.items("[p.is_leaf and p.grad_fn is None for p in model.parameters()]"), True)
    absent(run.gradients)


@law(source="Module.state_dict", norms=("E16",), when=plain_grad, having=PARAMETRIC)
def a_state_dict_is_a_detached_alias(subject: Subject, setting: Setting) -> None:
    """state_dict() gives detached tensors on the module's memory; keep_vars the parameters."""
    prepare = "state = model.state_dict()\nvariables = model.state_dict(keep_vars=True)"
    run = subject.run(setting, prepare=prepare)
    every(run.items("[v.requires_grad for v in state.values()]"), False)
    every(
        run.items(
            "[p.data_ptr() == state[n].data_ptr() for n, p in model.named_parameters()]",
            "[variables[n] is p for n, p in model.named_parameters()]",
        ),
        True,
    )


def _wider(dtype: str) -> str:
    """A type that holds all values of this one, and others as well."""
    return "complex128" if dtype == "complex64" else "float64"


@law(
    source="Module.to: 'modifies the module in-place'",
    norms=("E12",),
    when=plain_grad,
    given=has_a_wider_type,
    having=PARAMETRIC,
)
def converting_keeps_every_flag(subject: Subject, setting: Setting) -> None:
    """Module.to(dtype) keeps each requires_grad, each training flag, and leaves as leaves."""
    dtype = subject.specimen.dtype
    wide = _wider(dtype)
    _survives(subject, setting, f"model.to(torch.{wide})\nmodel = model.to(torch.{dtype})")


@law(
    source="torch.__future__.set_swap_module_params_on_conversion",
    norms=("E13",),
    when=plain_grad,
    given=has_a_wider_type,
    having=PARAMETRIC,
    since="2.3",
)
def converting_by_swapping_keeps_every_flag(subject: Subject, setting: Setting) -> None:
    """With swapped parameters Module.to keeps each requires_grad and each training flag too."""
    dtype = subject.specimen.dtype
    wide = _wider(dtype)
    swap = "torch.__future__.set_swap_module_params_on_conversion({})\n"
    convert = f"try: model.to(torch.{wide}).to(torch.{dtype})\nfinally: "
    _survives(subject, setting, swap.format(True) + convert + swap.format(False))


@law(
    source="nn.utils.parametrize.register_parametrization; Module.requires_grad_",
    norms=("E21", "J18"),
    when=all_of(plain_grad, partly_frozen),
    having=("parametrized",),
)
def freezing_the_original_freezes_the_parametrized_weight(
    subject: Subject, setting: Setting
) -> None:
    """A weight computed from frozen originals does not require grad; from trainable ones it does."""
    for path in subject.parametrized:
        run = subject.run(setting, after="pass")
        names = [n for n in subject.parameters if n.startswith(f"{path}.parametrizations.")]
        trainable = any(n not in setting.frozen for n in names)
        every(run.evaluate(f"model.get_submodule({path!r}).weight.requires_grad"), trainable)


@law(source="nn.Embedding.from_pretrained, freeze", norms=("E18",))
def a_pretrained_embedding_is_frozen(sample: Sample) -> None:
    """Embedding.from_pretrained freezes its weight by default."""
    rows = sample.tensor().reshape(-1, 1)
    frozen = torch.nn.Embedding.from_pretrained(rows)
    free = torch.nn.Embedding.from_pretrained(rows, freeze=False)
    holds(frozen.weight.requires_grad, "from_pretrained(rows).weight.requires_grad", False)
    holds(free.weight.requires_grad, "from_pretrained(rows, freeze=False).weight.requires_grad")
