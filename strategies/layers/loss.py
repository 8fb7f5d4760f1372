"""Losses and distances. Targets that are no second input are made of the first."""

from __future__ import annotations

from typing import Any

from hypothesis.strategies import DrawFn

from oracles.traits import NAMED, TENSOR

from .kinds import WIDE, Arguments, Shape, each, given, kind, maybe, pick

_REDUCTIONS = ("mean", "sum", "none")


def _weights(draw: DrawFn, count: int) -> Any:
    """None, or a weight for each of so many classes or elements."""
    return {TENSOR: [0.5 * (n + 1) for n in range(count)]} if maybe(draw) else None


@kind("L1Loss", "MSELoss", dtypes=WIDE, second=True)
@kind("SoftMarginLoss", dtypes=WIDE)
@kind("MultiLabelMarginLoss", ranks=(2,), dtypes=WIDE)
def of_elements(draw: DrawFn, shape: Shape) -> Arguments:
    return each(draw, reduction=_REDUCTIONS)


@kind("SmoothL1Loss", dtypes=WIDE, second=True)
def smooth_l1(draw: DrawFn, shape: Shape) -> Arguments:
    return each(draw, reduction=_REDUCTIONS, beta=(1.0, 0.5, 0.0))


@kind("HuberLoss", dtypes=WIDE, second=True)
def huber(draw: DrawFn, shape: Shape) -> Arguments:
    return each(draw, reduction=_REDUCTIONS, delta=(1.0, 0.5))


@kind("PoissonNLLLoss", dtypes=WIDE, second=True)
def poisson(draw: DrawFn, shape: Shape) -> Arguments:
    options = {"log_input": (True, False), "full": (False, True), "eps": (1e-8, 1e-2)}
    return each(draw, reduction=_REDUCTIONS, **options)


@kind("GaussianNLLLoss", dtypes=WIDE, second=True)
def gaussian(draw: DrawFn, shape: Shape) -> Arguments:
    options = {"full": (False, True), "eps": (1e-6, 2.0), "variance": (None, "differentiated")}
    return each(draw, reduction=_REDUCTIONS, **options)


@kind("MarginRankingLoss", dtypes=WIDE, second=True)
@kind("CosineEmbeddingLoss", ranks=(2,), dtypes=WIDE, second=True)
def of_ranks(draw: DrawFn, shape: Shape) -> Arguments:
    return each(draw, reduction=_REDUCTIONS, margin=(0.5, 0.0))


@kind("HingeEmbeddingLoss", dtypes=WIDE)
def hinge(draw: DrawFn, shape: Shape) -> Arguments:
    return each(draw, reduction=_REDUCTIONS, margin=(1.0, 0.5))


@kind("BCELoss", dtypes=WIDE)
@kind("BCELoss_of_probabilities", dtypes=WIDE, second=True)
@kind("MultiLabelSoftMarginLoss", ranks=(2,), dtypes=WIDE)
def weighted(draw: DrawFn, shape: Shape) -> Arguments:
    return each(draw, reduction=_REDUCTIONS) | given(weight=_weights(draw, shape.sizes[-1]))


@kind("BCEWithLogitsLoss", dtypes=WIDE)
@kind("BCEWithLogitsLoss_of_probabilities", dtypes=WIDE, second=True)
def of_logits(draw: DrawFn, shape: Shape) -> Arguments:
    return weighted(draw, shape) | given(pos_weight=_weights(draw, shape.sizes[-1]))


@kind("KLDivLoss", dtypes=WIDE, second=True)
def divergence(draw: DrawFn, shape: Shape) -> Arguments:
    return each(draw, reduction=("batchmean", "sum", "none", "mean"), log_target=(False, True))


@kind("NLLLoss", dtypes=WIDE)
@kind("NLLLoss2d", ranks=(4,), dtypes=WIDE)
def of_classes(draw: DrawFn, shape: Shape) -> Arguments:
    options = each(draw, reduction=_REDUCTIONS, ignore_index=(None, 0))
    return options | given(weight=_weights(draw, shape.sizes[1]))


@kind("CrossEntropyLoss", dtypes=WIDE)
def cross_entropy(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = of_classes(draw, shape)
    arguments |= each(draw, label_smoothing=(0.0, 0.2), target=(None, "probabilities"))
    if "target" in arguments:
        arguments.pop("ignore_index", None)  # refused
    return arguments


@kind("MultiMarginLoss", ranks=(2,), dtypes=WIDE)
def of_margins(draw: DrawFn, shape: Shape) -> Arguments:
    options = each(draw, reduction=_REDUCTIONS, p=(1, 2), margin=(1.0, 0.5))
    return options | given(weight=_weights(draw, shape.sizes[1]))


@kind("TripletMarginLoss", dtypes=WIDE, second=True)
def of_triplets(draw: DrawFn, shape: Shape) -> Arguments:
    options = {"margin": (0.5, 1.0), "p": (2.0, 1.0), "eps": (1e-6, 1e-2), "swap": (False, True)}
    return each(draw, reduction=_REDUCTIONS, **options)


@kind("TripletMarginWithDistanceLoss", dtypes=WIDE, second=True)
def of_distances(draw: DrawFn, shape: Shape) -> Arguments:
    distances = (None, {NAMED: "F.cosine_similarity"})
    options = {"margin": (0.5, 1.0), "swap": (False, True), "distance_function": distances}
    return each(draw, reduction=_REDUCTIONS, **options)


@kind("CTCLoss", ranks=(3,), dtypes=WIDE, fits=lambda shape: shape.sizes[-1] > 1)
def of_sequences(draw: DrawFn, shape: Shape) -> Arguments:
    options = {"blank": (0, 1), "zero_infinity": (False, True), "target": (None, "concatenated")}
    return each(draw, reduction=_REDUCTIONS, **options)


# With one row its targets are in one cluster, and the parameters of another get no gradient.
@kind("AdaptiveLogSoftmaxWithLoss", ranks=(2,), dtypes=WIDE, fits=lambda shape: shape.sizes[0] > 1)
def adaptive(draw: DrawFn, shape: Shape) -> Arguments:
    width = shape.sizes[-1]
    # Each cluster is so many times smaller than the one before, and none is empty.
    division = {"div_value": (1.0, 2.0) if width > 3 else (1.0, 1.5) if width > 2 else (1.0,)}
    options = each(
        draw, n_classes=(4, 5), cutoffs=([2], [1, 3]), head_bias=(False, True), **division
    )
    return {"in_features": width} | options


@kind("LinearCrossEntropyLoss", ranks=(2,), dtypes=WIDE)
def linear_cross_entropy(draw: DrawFn, shape: Shape) -> Arguments:
    sizes = {"in_features": shape.sizes[-1], "num_classes": pick(draw, (3, 2))}
    options = each(
        draw,
        reduction=_REDUCTIONS,
        bias=(False, True),
        out_features=(None, [2]),
        ignore_index=(None, 0),
        label_smoothing=(0.0, 0.2),
    )
    if options["label_smoothing"] == 0.0 and "out_features" not in options:
        options |= each(draw, options=(None, _CHUNKED))  # otherwise they are passed over
    return sizes | options | given(weight=_weights(draw, sizes["num_classes"]))


#: It computes gradients in forward, those of what requires grad there.
_CHUNKED = {NAMED: "nn.LinearCrossEntropyOptions(allow_retain_graph=True)"}


@kind("CosineSimilarity", dtypes=WIDE, second=True)
def similarity(draw: DrawFn, shape: Shape) -> Arguments:
    return each(draw, dim=(None, -1, 0), eps=(1e-8, 1e-2))


@kind("PairwiseDistance", dtypes=WIDE, second=True)
def distance(draw: DrawFn, shape: Shape) -> Arguments:
    return each(draw, p=(2.0, 1.0), eps=(1e-6, 1e-2), keepdim=(False, True))
