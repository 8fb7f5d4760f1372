"""Independence: which switch decides what.

The value of an output and which state moves depend on train/eval and on nothing else.
What is recorded depends on the grad mode and on requires_grad and on nothing else.
Whoever mixes up the three switches mixes up these sentences.
"""

from __future__ import annotations

from ..law import law
from ..reference import predict
from ..relations import agree, agree_with, every, runs
from ..setting import ENABLED, Setting, core_grad, grad_enabled
from ..specimen import DEFAULT_MODE
from ..subject import Subject


def grad_free(setting: Setting) -> Setting:
    """The setting with the same modes of the submodules and everything else at its default."""
    return setting.but(grad=ENABLED, frozen=(), inputs=())


def mode_free(setting: Setting) -> Setting:
    """The same grad mode and the same leaves, but every submodule in training mode."""
    return setting.but(training=True, switched=())


@law(
    source="notes/autograd, Locally disabling gradient computation; nn.Module; torch.no_grad",
    norms=(
        "A2",
        "A5",
        "A13",
        "B7",
        "B8",
        "C2",
        "C3",
        "D16",
        "D17",
        "F1",
        "F13",
        "G16",
        "I3",
        "I11",
    ),
    everywhere=True,
)
def torch_agrees_with_the_reference(subject: Subject, setting: Setting) -> None:
    """Every fact of a run is what the reference model predicts.

    Recording, aliasing, gradients, randomness, moved state, flags, hooks and the grad mode,
    absolutely: a fault on both sides of a comparison is seen here as well.
    """
    specimen = subject.specimen
    prediction = predict(specimen.recipe, setting, specimen.dtype)
    run = subject.backward(setting)
    agree_with(run.recording, prediction.recording())
    agree_with(run.aliases, prediction.aliases())
    agree_with(run.receiving, prediction.receiving())
    agree_with(
        run.flags, {f"model.get_submodule({p!r}).training": setting.trains(p) for p in run.paths}
    )
    agree_with(run.mode, DEFAULT_MODE)
    if subject.has_values:
        forward = subject.run(setting)
        agree_with(forward.drawing, prediction.drawing(forward.drawing))
        agree_with(forward.calls, prediction.hook_calls())
        agree_with(forward.moving, prediction.moving(forward.moving))


@law(
    source="notes/autograd, Locally disabling gradient computation: the modes are orthogonal",
    everywhere=True,
)
def every_module_runs_in_every_setting(subject: Subject, setting: Setting) -> None:
    """No combination of the switches makes a forward or its backward fail."""
    runs(subject, setting)


@law(
    source="notes/autograd, No-grad Mode: 'behave as if none of the inputs require grad'",
    norms=("B5", "A9", "C23", "J9", "I1", "I2"),
    everywhere=True,
)
def values_depend_on_train_and_eval_alone(subject: Subject, setting: Setting) -> None:
    """Neither the grad mode nor what requires grad changes the value of an output."""
    agree(subject.run(setting).output, subject.run(grad_free(setting)).output)


@law(
    source="notes/autograd, Evaluation Mode: 'orthogonal to no-grad mode and inference mode'",
    norms=("D9",),
    everywhere=True,
)
def recording_depends_on_grad_mode_and_requires_grad_alone(
    subject: Subject, setting: Setting
) -> None:
    """Train and eval record the same: requires_grad, leaves, grad_fn, inference tensors."""
    agree(subject.run(setting).recording, subject.run(mode_free(setting)).recording)


@law(source="notes/autograd, Evaluation Mode", norms=("D9",), when=grad_enabled, everywhere=True)
def gradients_reach_the_same_leaves_in_train_and_eval(subject: Subject, setting: Setting) -> None:
    """eval() does not disable autograd: the same leaves receive a gradient as in training."""
    agree(subject.backward(setting).receiving, subject.backward(mode_free(setting)).receiving)


@law(
    source="nn.BatchNorm1d; notes/autograd, Evaluation Mode",
    norms=("B7", "E4", "G5", "G12"),
    everywhere=True,
)
def which_state_moves_depends_on_train_and_eval_alone(subject: Subject, setting: Setting) -> None:
    """Forward leaves the same parameters and buffers behind in every grad mode, frozen or not."""
    agree(subject.run(setting).state, subject.run(grad_free(setting)).state)


@law(
    source="notes/autograd, No-grad Mode; torch.inference_mode",
    norms=("B8", "E5", "H7"),
    everywhere=True,
)
def randomness_depends_on_train_and_eval_alone(subject: Subject, setting: Setting) -> None:
    """Forward leaves the random generator in the same state in every grad mode, frozen or not."""
    agree(subject.run(setting).randomness, subject.run(grad_free(setting)).randomness)


@law(
    source="Module.register_forward_hook: 'every time after forward'",
    norms=("K11",),
    having=("hooked",),
)
def forward_hooks_fire_in_every_setting(subject: Subject, setting: Setting) -> None:
    """A forward hook fires as often in every mode as in the default one."""
    agree(subject.run(setting).calls, subject.run(grad_free(mode_free(setting))).calls)


@law(
    source="Module.register_forward_hook: 'every time after forward'",
    norms=("K11",),
    when=core_grad,
    having=("ParameterList", "ParameterDict"),
)
def a_hook_on_what_is_never_called_never_fires(subject: Subject, setting: Setting) -> None:
    """Hooks on lists and dictionaries of parameters or modules fire in no mode: they are not called."""
    hook = "held = (nn.ParameterList, nn.ParameterDict, nn.ModuleList, nn.ModuleDict)\nfired = []\n"
    hook += "note = lambda module, *_: fired.append(type(module).__name__)\n"
    hook += "for module in model.modules():\n    if type(module) in held:\n"
    hook += "        module.register_forward_hook(note)\n"
    hook += "        module.register_forward_pre_hook(note)"
    every(subject.run(setting, prepare=hook).evaluate("len(fired)"), 0)
