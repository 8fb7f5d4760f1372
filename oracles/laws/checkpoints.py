"""Checkpoints: a function that runs once more in backward, in the modes that are there then."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from ..law import law
from ..preconditions import an_output_requires_grad, is_a_real_sample
from ..relations import absent, agree, every, holds, refuses, unrecorded
from ..sample import Sample
from ..setting import (
    Setting,
    all_of,
    any_of,
    grad_disabled,
    in_inference_mode,
    no_input_requires_grad,
    plain_grad,
)
from ..specimen import UNWRAP
from ..subject import Subject

#: The whole module called through a checkpoint, and how often it was called.
_CHECKPOINTED = """\
import warnings
from torch.utils.checkpoint import checkpoint
inner, calls = model, []
def called(*x):
    calls.append(torch.is_grad_enabled())
    return inner(*x)
def model(*x):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
        return checkpoint(called, *x, use_reentrant={})
"""


@law(
    source="torch.utils.checkpoint; notes/autograd, Locally disabling gradient computation",
    norms=("K4",),
    when=any_of(grad_disabled, in_inference_mode),
    without=("enable_grad",),
)
def a_checkpoint_is_a_plain_call_where_nothing_is_recorded(
    subject: Subject, setting: Setting
) -> None:
    """Where nothing is recorded a checkpoint calls its function once, with the plain result."""
    subject = subject.unchecked()
    plain = subject.run(setting)
    for reentrant in (False, True):
        run = subject.run(setting, prepare=_CHECKPOINTED.format(reentrant), after=UNWRAP)
        agree(run.output, plain.output)
        if not reentrant:  # a reentrant one returns no tensor that it was given
            agree(run.recording, plain.recording)
        every(run.evaluate("len(calls)"), 1)


@law(
    source="torch.utils.checkpoint, use_reentrant: 'at least one of the inputs' must require grad",
    norms=("K2",),
    when=all_of(plain_grad, no_input_requires_grad),
    given=an_output_requires_grad,
    without=("enable_grad",),
)
def a_reentrant_checkpoint_loses_gradients_where_no_input_requires_grad(
    subject: Subject, setting: Setting
) -> None:
    """With use_reentrant=True and no input that requires grad, no parameter has a gradient."""
    run = subject.backward(setting, prepare=_CHECKPOINTED.format(True), after=UNWRAP)
    absent(run.gradients)
    unrecorded(run.output)


def _modes(sample: Sample, *, reentrant: bool) -> list[bool]:
    """The grad mode in each call of a function that is checkpointed and differentiated."""
    modes: list[bool] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        modes.append(torch.is_grad_enabled())
        return x.tanh()

    x = sample.tensor(requires_grad=True)
    checkpoint(function, x, use_reentrant=reentrant).backward(torch.ones_like(x))
    return modes


@law(source="torch.utils.checkpoint, on both variants", norms=("K3",))
def a_checkpoint_computes_again_with_grad_enabled(sample: Sample) -> None:
    """The forward of a reentrant checkpoint runs with grad disabled; all else with it enabled."""
    holds(_modes(sample, reentrant=True), "the grad modes, reentrant", [False, True])
    holds(_modes(sample, reentrant=False), "the grad modes, not reentrant", [True, True])


@law(
    source="torch.utils.checkpoint, warning: 'differs from the forward pass'",
    norms=("K5",),
    given=is_a_real_sample,
)
def a_checkpointed_batch_norm_counts_its_batch_twice(sample: Sample) -> None:
    """Forward runs again in backward: running statistics move twice for one batch."""
    sample.needs_values()
    x = sample.tensor().abs().reshape(1, -1)
    batch = torch.cat([x, x + 1, x + 2]).requires_grad_()
    norm = torch.nn.BatchNorm1d(x.numel(), device=x.device, dtype=x.dtype)
    out = checkpoint(norm, batch, use_reentrant=False)
    once = {n: t.clone() for n, t in norm.named_buffers()}
    holds(once["num_batches_tracked"].item(), "norm.num_batches_tracked after forward", 1)
    out.backward(torch.ones_like(out))
    twice = dict(norm.named_buffers())
    holds(twice["num_batches_tracked"].item(), "norm.num_batches_tracked after backward", 2)
    moved = not torch.equal(once["running_mean"], twice["running_mean"])
    holds(moved, "whether norm.running_mean moved in backward")


@law(source="torch.utils.checkpoint, warning: 'differs from the forward pass'", norms=("K6",))
def a_checkpoint_computes_again_in_the_mode_of_backward(sample: Sample) -> None:
    """eval() between a checkpointed forward and its backward is not what forward has seen."""
    layers = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Tanh())
    x = sample.tensor(requires_grad=True)
    out = checkpoint(layers, x, use_reentrant=False)
    layers.eval()
    refuses(lambda: out.backward(torch.ones_like(out)), RuntimeError, "checkpoint", "saved")


class _Shortening(torch.nn.Module):
    """Evaluates the first row alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x if self.training else x[:1]).exp()


@law(
    source="torch.utils.checkpoint, determinism_check: 'the shapes, dtypes, and devices'",
    norms=("K6",),
    since="2.1",
)
def a_checkpoint_notices_that_another_shape_is_computed(sample: Sample) -> None:
    """What backward computes in another mode is refused where its metadata tell it apart."""
    layer = _Shortening()
    x = torch.stack([sample.tensor(), sample.tensor()]).requires_grad_()
    out = checkpoint(layer, x, use_reentrant=False)
    layer.eval()
    refuses(lambda: out.backward(torch.ones_like(out)), RuntimeError, "checkpoint", "metadata")
    holds(x.grad, "x.grad after the refusal", None)
