"""Losses and distances. Targets that are no second input are made of the first."""

from hypothesis.strategies import DrawFn

from .kinds import WIDE, Arguments, Shape, kind, maybe, pick


def _reduction(draw: DrawFn) -> Arguments:
    return {"reduction": pick(draw, ("mean", "sum", "none"))}


@kind("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss", dtypes=WIDE, second=True)
@kind("PoissonNLLLoss", "GaussianNLLLoss", "MarginRankingLoss", dtypes=WIDE, second=True)
@kind("BCELoss", "BCEWithLogitsLoss", "SoftMarginLoss", "HingeEmbeddingLoss", dtypes=WIDE)
def of_elements(draw: DrawFn, shape: Shape) -> Arguments:
    return _reduction(draw)


@kind("KLDivLoss", dtypes=WIDE, second=True)
def divergence(draw: DrawFn, shape: Shape) -> Arguments:
    return {"reduction": pick(draw, ("batchmean", "sum", "none"))}


@kind("CrossEntropyLoss", dtypes=WIDE)
def cross_entropy(draw: DrawFn, shape: Shape) -> Arguments:
    return _reduction(draw) | {"label_smoothing": pick(draw, (0.0, 0.2))}


@kind("NLLLoss", dtypes=WIDE)
@kind("NLLLoss2d", ranks=(4,), dtypes=WIDE)
@kind("MultiMarginLoss", "MultiLabelMarginLoss", ranks=(2,), dtypes=WIDE)
@kind("MultiLabelSoftMarginLoss", ranks=(2,), dtypes=WIDE)
def of_classes(draw: DrawFn, shape: Shape) -> Arguments:
    return _reduction(draw)


@kind("CosineEmbeddingLoss", ranks=(2,), dtypes=WIDE, second=True)
@kind("TripletMarginLoss", "TripletMarginWithDistanceLoss", dtypes=WIDE, second=True)
def of_pairs(draw: DrawFn, shape: Shape) -> Arguments:
    return _reduction(draw) | {"margin": 0.5}


@kind("CTCLoss", ranks=(3,), dtypes=WIDE, fits=lambda shape: shape.sizes[-1] > 1)
def of_sequences(draw: DrawFn, shape: Shape) -> Arguments:
    return _reduction(draw)


@kind("AdaptiveLogSoftmaxWithLoss", ranks=(2,), dtypes=WIDE)
def adaptive(draw: DrawFn, shape: Shape) -> Arguments:
    return {"in_features": shape.sizes[-1], "n_classes": 4, "cutoffs": [2], "div_value": 1.0}


@kind("LinearCrossEntropyLoss", ranks=(2,), dtypes=WIDE)
def linear_cross_entropy(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = {"in_features": shape.sizes[-1], "num_classes": 3, "bias": maybe(draw)}
    return arguments | _reduction(draw)


@kind("CosineSimilarity", "PairwiseDistance", dtypes=WIDE, second=True)
def distance(draw: DrawFn, shape: Shape) -> Arguments:
    return {}
