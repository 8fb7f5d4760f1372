"""Devices: the modes mean the same everywhere."""

from __future__ import annotations

from ..law import NotApplicable, law
from ..preconditions import draws_no_randomness
from ..relations import agree, agree_across_devices
from ..run import Run
from ..setting import Setting
from ..subject import Subject


def _both(subject: Subject, setting: Setting) -> tuple[Run, Run]:
    """The run here, and the same on the CPU."""
    if subject.device == "cpu":
        raise NotApplicable("the CPU is what other devices are compared with")
    return subject.backward(setting), subject.on("cpu").backward(setting)


@law(
    source="notes/autograd; torch.no_grad: neither speaks of devices",
    norms=("B5",),
    everywhere=True,
)
def devices_agree_on_every_fact(subject: Subject, setting: Setting) -> None:
    """The same case shows the same facts on every device as on the CPU, exactly.

    What is recorded, which outputs are inputs, who receives a gradient, flags, hooks, modes.
    """
    here, there = _both(subject, setting)
    agree(here.recording, there.recording)
    agree(here.aliases, there.aliases)
    agree(here.receiving, there.receiving)
    agree(here.flags, there.flags)
    agree(here.requires_grad, there.requires_grad)
    agree(here.calls, there.calls)
    agree(here.mode, there.mode)


@law(
    source="notes/numerical_accuracy",
    norms=("B5",),
    given=draws_no_randomness,
    everywhere=True,
)
def devices_agree_on_every_value(subject: Subject, setting: Setting) -> None:
    """Where no randomness is drawn, values and gradients agree with the CPU's, up to rounding.

    What rounding is, is measured: see oracles/rounding.py.
    """
    here, there = _both(subject, setting)
    agree_across_devices(here.output, there.output)
    agree_across_devices(here.gradients, there.gradients)
