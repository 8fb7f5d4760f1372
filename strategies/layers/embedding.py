"""Embeddings of integer inputs, with and without max_norm, with dense and sparse gradients."""

from hypothesis.strategies import DrawFn

from .kinds import WIDE, Arguments, Shape, each, kind, pick, size

_OF_TABLES = {
    "max_norm": (None, 0.5),
    "padding_idx": (None, 0, -1),
    "norm_type": (2.0, 1.0),
}


@kind("Embedding", ranks=(1, 2, 3), dtypes=WIDE, integer=True)
def embedding(draw: DrawFn, shape: Shape) -> Arguments:
    return _table(draw, shape) | each(draw, **_OF_TABLES) | _gradient(draw)


def _table(draw: DrawFn, shape: Shape) -> Arguments:
    return {"num_embeddings": shape.high, "embedding_dim": size(draw)}


def _gradient(draw: DrawFn) -> Arguments:
    """Sparse gradients are not scaled by frequency: backward refuses."""
    ways: tuple[Arguments, ...] = ({}, {"sparse": True}, {"scale_grad_by_freq": True})
    return dict(pick(draw, ways))


@kind("EmbeddingBag", ranks=(2,), dtypes=WIDE, integer=True)
def embedding_bag(draw: DrawFn, shape: Shape) -> Arguments:
    """Of the mode max, gradients are neither sparse nor scaled; only sums are weighted."""
    arguments = _table(draw, shape) | each(draw, mode=("mean", "sum", "max"), **_OF_TABLES)
    if arguments["mode"] != "max":
        arguments |= _gradient(draw)
    if arguments["mode"] == "sum":
        arguments |= each(draw, weighted=(None, "by a constant", "by rows"))
    bags: tuple[Arguments, ...] = (
        {},
        {"bags": "by position"},
        {"bags": "named", "include_last_offset": True},
    )
    return {**arguments, **pick(draw, bags)}
