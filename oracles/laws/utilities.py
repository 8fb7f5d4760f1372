"""Utilities that switch modes for their caller: what they put back, and what they leave alone."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils import fusion, parametrize, prune
from torch.optim import swa_utils

from ..law import law
from ..relations import agree, agree_with, holds, refuses
from ..sample import Sample
from ..setting import Setting, plain_grad
from ..subject import Subject
from ..traits import SPARSE


def _batches(sample: Sample) -> list[Tensor]:
    """Batches for a layer with one feature."""
    return [torch.arange(4.0, device=sample.device).reshape(4, 1) * (1 + n) for n in range(2)]


@law(source="torch.optim.swa_utils.update_bn", norms=("L1",))
def update_bn_puts_back_what_it_switches(sample: Sample) -> None:
    """It restores the mode and the momentum, records nothing, and takes batches without labels."""
    for training in (False, True):
        norm = nn.BatchNorm1d(1, momentum=0.3).to(sample.device).train(training)
        model = nn.Sequential(norm)
        model.train(training)
        batches = _batches(sample)
        swa_utils.update_bn(batches, model, device=torch.device(sample.device))
        holds(model.training, "model.training", training)
        holds(norm.momentum, "norm.momentum", 0.3)
        assert norm.running_mean is not None
        holds(norm.running_mean.requires_grad, "norm.running_mean.requires_grad", False)
        holds([p.grad for p in model.parameters()], "the gradients", [None, None])
        if sample.device != "meta":
            mean = torch.stack([b.mean(0) for b in batches]).mean(0)
            close = bool(torch.isclose(norm.running_mean, mean).all())
            holds(close, "whether the running mean is the mean of all batches")


@law(source="torch.optim.swa_utils.update_bn; Module.train", norms=("L2",))
def update_bn_puts_back_the_mode_of_each_submodule(sample: Sample) -> None:
    """A normalisation that was in evaluation inside of a training model still is."""
    norm = nn.BatchNorm1d(1).to(sample.device)
    model = nn.Sequential(norm, nn.Dropout(0.5))
    norm.eval()
    swa_utils.update_bn(_batches(sample), model, device=torch.device(sample.device))
    holds(model.training, "model.training")
    holds(norm.training, "norm.training", False)


_AVERAGED = """\
from torch.optim.swa_utils import AveragedModel
averaged = AveragedModel(model)
averaged.update_parameters(model)
averaged.update_parameters(model)
"""


@law(source="torch.optim.swa_utils.AveragedModel", norms=("L3",), when=plain_grad)
def an_averaged_model_records_nothing(subject: Subject, setting: Setting) -> None:
    """Averaging copies: its parameters are leaves without gradient, and the model stays as it was."""
    plain = subject.run(setting)
    run = subject.run(setting, after=_AVERAGED)
    leaves = "all(p.is_leaf and p.grad is None for p in averaged.parameters())"
    shared = "any(p is q for p in averaged.parameters() for q in model.parameters())"
    agree_with(run.evaluate(leaves, shared), {leaves: True, shared: False})
    agree(run.requires_grad, plain.requires_grad)
    agree(run.flags, plain.flags)
    agree(run.state, plain.state)


@law(source="torch.optim.swa_utils.AveragedModel: 'use_buffers'", norms=("L3",))
def an_averaged_model_averages_buffers_only_if_told(sample: Sample) -> None:
    """Buffers are those of the model, or their average with use_buffers; its mode is copied."""
    sample.needs_values()
    for training in (False, True):
        norm = nn.BatchNorm1d(1, device=sample.device).train(training)
        assert norm.running_mean is not None
        plain, whole = (
            swa_utils.AveragedModel(norm),
            swa_utils.AveragedModel(norm, use_buffers=True),
        )
        for mean in (1.0, 3.0):
            norm.running_mean.fill_(mean)
            for averaged in (plain, whole):
                averaged.update_parameters(norm)
        holds(plain.module.training, "averaged.module.training", training)
        holds(plain.module.running_mean.item(), "averaged.module.running_mean", 3.0)
        holds(whole.module.running_mean.item(), "the same with use_buffers=True", 2.0)


@law(source="torch.nn.utils.fusion.fuse_conv_bn_eval", norms=("L4",))
def fusing_is_for_evaluation(sample: Sample) -> None:
    """Convolution and batch normalisation fuse in evaluation alone, and keep their flags."""
    sample.needs_values()
    conv, norm = nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2)
    assert norm.running_mean is not None
    nn.init.uniform_(norm.running_mean)
    pair = nn.Sequential(conv, norm).to(sample.device)
    refuses(lambda: fusion.fuse_conv_bn_eval(conv, norm), AssertionError)
    pair.eval()
    x = torch.arange(6.0, device=sample.device).reshape(2, 1, 3)
    for trained in (True, False):
        conv.requires_grad_(trained)
        fused = fusion.fuse_conv_bn_eval(conv, norm)
        holds(fused.weight.requires_grad, "fused.weight.requires_grad", trained)
        holds(fused.training, "fused.training", False)
        close = torch.allclose(fused(x), pair(x), rtol=FUSED, atol=FUSED)
        holds(close, f"whether it computes the same up to {FUSED}")


#: How far the fused layer may be from the two: it multiplies by other numbers.
FUSED = 1e-5


@law(source="torch.jit.freeze: 'in eval mode'; torch.jit.script", norms=("L5",))
def scripted_modules_obey_their_mode(sample: Sample) -> None:
    """A scripted module obeys train() and eval(); freezing accepts it in evaluation alone."""
    sample.needs_values()
    x = torch.ones(64, device=sample.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.Dropout(0.5)))
        refuses(lambda: torch.jit.freeze(scripted), RuntimeError, "eval")
        holds(torch.equal(scripted(x), x), "whether it drops nothing in training", False)
        frozen = torch.jit.freeze(scripted.eval())
    holds(torch.equal(scripted(x), x), "whether it drops nothing in evaluation")
    holds(torch.equal(frozen(x), x), "whether it drops nothing when frozen")


_CLIPPED = "nn.utils.clip_grad_norm_(model.parameters(), 0.1)\n"
_CLIPPED_BY_VALUE = "nn.utils.clip_grad_value_(model.parameters(), 0.1)\n"


@law(
    source="nn.utils.clip_grad_norm_; clip_grad_value_",
    norms=("L6",),
    when=plain_grad,
    without=SPARSE,
)
def clipping_leaves_alone_what_has_no_gradient(subject: Subject, setting: Setting) -> None:
    """Clipping makes no gradient, moves no parameter and changes no flag."""
    plain = subject.backward(setting)
    ordered = subject.specimen.dtype != "complex64"  # no value of those is too large
    for clip in (_CLIPPED, _CLIPPED_BY_VALUE) if ordered else (_CLIPPED,):
        run = subject.backward(setting, after=clip)
        agree(run.receiving, plain.receiving)
        agree(run.requires_grad, plain.requires_grad)
        agree(run.state, plain.state)


@law(source="nn.utils.clip_grad_norm_: 'Gradients are modified in-place'; clip_grad_value_")
def clipping_is_not_recorded(sample: Sample) -> None:
    """A gradient that has a graph of its own keeps it when it is clipped; the norm has none."""
    x = torch.ones(3, device=sample.device, requires_grad=True)
    (x.grad,) = torch.autograd.grad((x**3).sum(), [x], create_graph=True)
    node = x.grad.grad_fn
    holds(node is not None, "whether x.grad has a grad_fn")
    total = nn.utils.clip_grad_norm_([x], 0.1)
    holds(total.requires_grad, "clip_grad_norm_([x], 0.1).requires_grad", False)
    holds(x.grad.grad_fn is node, "whether clip_grad_norm_ leaves x.grad.grad_fn as it was")
    nn.utils.clip_grad_value_([x], 0.01)
    holds(x.grad.grad_fn is node, "whether clip_grad_value_ leaves x.grad.grad_fn as it was")
    x.grad = None  # it and its graph hold one another


@law(source="nn.utils.prune; notes/autograd, Setting requires_grad", norms=("L6",))
def pruning_keeps_requires_grad(sample: Sample) -> None:
    """A pruned parameter requires grad as it did before, and so does what is left of it."""
    for trained in (False, True):
        layer = nn.Linear(3, 2, device=sample.device)
        layer.weight.requires_grad_(trained)
        prune.random_unstructured(layer, "weight", amount=2)
        holds(layer.weight_orig.requires_grad, "layer.weight_orig.requires_grad", trained)
        layer(torch.ones(1, 3, device=sample.device))
        holds(layer.weight.requires_grad, "layer.weight.requires_grad", trained)
        prune.remove(layer, "weight")
        holds(layer.weight.requires_grad, "layer.weight.requires_grad after remove", trained)


class _Doubled(nn.Module):
    """Twice the weight."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@law(source="nn.utils.parametrize.cached; torch.no_grad", norms=("J14",))
def a_cached_weight_is_recorded_where_it_is_used(sample: Sample) -> None:
    """A weight that was cached under no_grad requires grad where it is used in grad mode."""
    layer = nn.Linear(2, 2, device=sample.device)
    parametrize.register_parametrization(layer, "weight", _Doubled())
    with parametrize.cached():
        with torch.no_grad():
            holds(layer.weight.requires_grad, "layer.weight.requires_grad under no_grad", False)
        holds(layer.weight.requires_grad, "layer.weight.requires_grad in grad mode")
