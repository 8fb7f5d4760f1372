"""Utilities that switch modes for their caller: what they put back, and what they leave alone."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils import fusion, prune
from torch.optim import swa_utils

from ..law import law
from ..preconditions import is_a_real_sample, is_of_single_or_double_precision, is_real
from ..relations import agree, equal, every, holds, refuses
from ..sample import Sample
from ..setting import Setting, plain_grad
from ..subject import Subject
from ..traits import SPARSE


def _batches(sample: Sample) -> list[Tensor]:
    """Batches for a layer with a feature for each element."""
    x = sample.tensor().reshape(1, -1)
    return [torch.cat([x, x + 1, x * 2]) * (1 + n) for n in range(2)]


@law(
    source="torch.optim.swa_utils.update_bn",
    norms=("L1",),
    given=is_of_single_or_double_precision,
)
def update_bn_puts_back_what_it_switches(sample: Sample) -> None:
    """It restores the mode and the momentum, records nothing, and takes batches without labels."""
    sample.needs_values()
    for training in (False, True):
        batches = _batches(sample)
        width, dtype = batches[0].shape[1], batches[0].dtype
        norm = nn.BatchNorm1d(width, momentum=0.3).to(sample.device, dtype)
        model = nn.Sequential(norm)
        model.train(training)
        swa_utils.update_bn(batches, model, device=torch.device(sample.device))
        holds(model.training, "model.training", training)
        holds(norm.training, "norm.training", training)
        holds(norm.momentum, "norm.momentum", 0.3)
        assert norm.running_mean is not None
        holds(norm.running_mean.requires_grad, "norm.running_mean.requires_grad", False)
        holds([p.grad for p in model.parameters()], "the gradients", [None, None])
        mean = torch.stack([b.mean(0) for b in batches]).mean(0)
        close = torch.allclose(norm.running_mean, mean, rtol=1e-5, atol=1e-5)
        holds(close, "whether the running mean is the mean of all batches")


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
    every(run.items("[p.is_leaf and p.grad is None for p in averaged.parameters()]"), True)
    shared = "[any(p is q for q in model.parameters()) for p in averaged.parameters()]"
    every(run.items(shared), False)
    agree(run.requires_grad, plain.requires_grad)
    agree(run.flags, plain.flags)
    agree(run.state, plain.state)


@law(
    source="torch.optim.swa_utils.AveragedModel: 'use_buffers'",
    norms=("L3",),
    given=is_a_real_sample,
)
def an_averaged_model_averages_buffers_only_if_told(sample: Sample) -> None:
    """Buffers are those of the model, or their average with use_buffers; its mode is copied."""
    sample.needs_values()
    x = sample.tensor().flatten()
    for training in (False, True):
        norm = nn.BatchNorm1d(x.numel(), device=x.device, dtype=x.dtype).train(training)
        assert norm.running_mean is not None
        plain = swa_utils.AveragedModel(norm)
        whole = swa_utils.AveragedModel(norm, use_buffers=True)
        for mean in (torch.zeros_like(x), x):
            norm.running_mean.copy_(mean)
            for averaged in (plain, whole):
                averaged.update_parameters(norm)
        holds(plain.module.training, "averaged.module.training", training)
        equal(plain.module.running_mean, x, "averaged.module.running_mean")
        equal(whole.module.running_mean, x / 2, "the same with use_buffers=True")


@law(
    source="torch.nn.utils.fusion.fuse_conv_bn_eval",
    norms=("L4",),
    given=is_of_single_or_double_precision,
)
def fusing_is_for_evaluation(sample: Sample) -> None:
    """Convolution and batch normalisation fuse in evaluation alone, and keep their flags."""
    sample.needs_values()
    torch.manual_seed(sample.seed)
    x = sample.tensor().reshape(1, 1, -1)
    conv, norm = nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2)
    assert norm.running_mean is not None
    nn.init.uniform_(norm.running_mean)
    pair = nn.Sequential(conv, norm).to(x.device, x.dtype)
    refuses(lambda: fusion.fuse_conv_bn_eval(conv, norm), AssertionError)
    pair.eval()
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
    x = sample.tensor()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.Dropout(1.0)))
        refuses(lambda: torch.jit.freeze(scripted), RuntimeError, "eval")
        equal(scripted(x), torch.zeros_like(x), "scripted(x) in training")
        frozen = torch.jit.freeze(scripted.eval())
    equal(scripted(x), x, "scripted(x) in evaluation")
    equal(frozen(x), x, "frozen(x)")
    scripted.train()
    equal(scripted(x), torch.zeros_like(x), "scripted(x) in training again")


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
    for clip in (_CLIPPED, _CLIPPED_BY_VALUE) if is_real(subject) else (_CLIPPED,):
        run = subject.backward(setting, after=clip)
        agree(run.receiving, plain.receiving)
        agree(run.requires_grad, plain.requires_grad)
        agree(run.state, plain.state)


@law(
    source="nn.utils.clip_grad_norm_: 'Gradients are modified in-place'; clip_grad_value_",
    given=is_a_real_sample,
)
def clipping_is_not_recorded(sample: Sample) -> None:
    """A gradient that has a graph of its own keeps it when it is clipped; the norm has none."""
    x = sample.tensor(requires_grad=True)
    (x.grad,) = torch.autograd.grad((x**3).sum(), [x], create_graph=True)
    node = x.grad.grad_fn
    holds(node is not None, "whether x.grad has a grad_fn")
    total = nn.utils.clip_grad_norm_([x], 0.1)
    holds(total.requires_grad, "clip_grad_norm_([x], 0.1).requires_grad", False)
    holds(x.grad.grad_fn is node, "whether clip_grad_norm_ leaves x.grad.grad_fn as it was")
    nn.utils.clip_grad_value_([x], 0.01)
    holds(x.grad.grad_fn is node, "whether clip_grad_value_ leaves x.grad.grad_fn as it was")
    x.grad = None  # it and its graph hold one another


@law(
    source="nn.utils.prune; notes/autograd, Setting requires_grad",
    norms=("L6",),
    given=is_a_real_sample,
)
def pruning_keeps_requires_grad(sample: Sample) -> None:
    """A pruned parameter requires grad as it did before, and so does what is left of it."""
    x = sample.tensor()
    for trained in (False, True):
        layer = nn.Linear(x.shape[-1], 2, device=x.device, dtype=x.dtype)
        layer.weight.requires_grad_(trained)
        prune.random_unstructured(layer, "weight", amount=1)
        holds(layer.weight_orig.requires_grad, "layer.weight_orig.requires_grad", trained)
        layer(x)
        holds(layer.weight.requires_grad, "layer.weight.requires_grad", trained)
        prune.remove(layer, "weight")
        holds(layer.weight.requires_grad, "layer.weight.requires_grad after remove", trained)
        holds(layer.weight.is_leaf, "layer.weight.is_leaf after remove")
