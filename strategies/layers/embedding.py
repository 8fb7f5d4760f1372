"""Embeddings of integer inputs, with and without max_norm."""

from hypothesis.strategies import DrawFn

from .kinds import WIDE, Arguments, Shape, given, kind, maybe, pick, size


def _table(draw: DrawFn, shape: Shape) -> Arguments:
    return given(
        num_embeddings=shape.high,
        embedding_dim=size(draw),
        max_norm=pick(draw, (None, 0.5)),
        padding_idx=pick(draw, (None, 0)),
        scale_grad_by_freq=True if maybe(draw) else None,
    )


@kind("Embedding", ranks=(1, 2, 3), dtypes=WIDE, integer=True)
def embedding(draw: DrawFn, shape: Shape) -> Arguments:
    return _table(draw, shape)


@kind("EmbeddingBag", ranks=(2,), dtypes=WIDE, integer=True)
def embedding_bag(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = _table(draw, shape) | {"mode": pick(draw, ("mean", "sum", "max"))}
    if arguments["mode"] == "max":
        arguments.pop("scale_grad_by_freq", None)  # refused
    return arguments
