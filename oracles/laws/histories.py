"""Histories: modes as programs, in which one step follows another.

Mistakes with modes happen over time. Each law is tried on drawn programs: they build modules,
enter and leave modes in every way, in threads, tasks and generators, freeze, run forward and
backward, step optimizers, and copy. The reference machine (oracles/machine) says in plain
Python what must be seen after each step; where torch is known to do something else, the other
rule stands there beside it, under the name of a deviation.
"""

from __future__ import annotations

from dataclasses import replace

from ..deviations import astray
from ..history import Step
from ..law import law
from ..play import Played, goes_alike, goes_as_the_machine_says, played


@law(
    source="notes/autograd; torch.no_grad; torch.inference_mode; C++ notes/inference_mode",
    norms=("B9", "B10", "B13", "B15", "C1", "C5", "C7", "D12", "D13", "D15", "E7", "E8", "E11"),
)
def torch_agrees_with_the_reference_machine(history: Played) -> None:
    """After every step of a program, torch shows what the reference machine says."""
    goes_as_the_machine_says(history, astray())


@law(
    source="torch.no_grad: 'This context manager is thread local'",
    norms=("B17", "B18"),
    costly=True,
)
def a_program_goes_in_a_new_thread_as_it_does_here(history: Played) -> None:
    """A new thread begins in the default mode: all that a program does there is the same.

    Until a backward is refused, which may have filled some gradients by then.
    """
    program = history.history
    elsewhere = replace(program, steps=(Step("thread", body=program.steps),))
    goes_alike(history, played(elsewhere, history.device), lambda number: number + 1)


@law(source="torch.enable_grad: 'if it has been disabled'", norms=("B9",), costly=True)
def enabling_grad_where_it_is_enabled_changes_nothing(history: Played) -> None:
    """A program inside of enable_grad does what it does without, in the default mode.

    Until a backward is refused, which may have filled some gradients by then.
    """
    program = history.history
    inside = Step("with", words=("torch.enable_grad()", "end"), body=program.steps)
    other = played(replace(program, steps=(inside,)), history.device)
    goes_alike(history, other, lambda number: number + 1)
