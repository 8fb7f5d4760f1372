"""Embeddings of integer inputs, with and without max_norm."""

from hypothesis.strategies import DrawFn

from .kinds import WIDE, Arguments, Made, Shape, given, kind, pick, size


def _table(draw: DrawFn, shape: Shape) -> Arguments:
    return given(
        num_embeddings=shape.high, embedding_dim=size(draw), max_norm=pick(draw, (None, 0.5))
    )


@kind("Embedding", ranks=(1, 2, 3), dtypes=WIDE, integer=True)
def embedding(draw: DrawFn, shape: Shape) -> Made:
    arguments = _table(draw, shape)
    return arguments, (Shape((*shape.sizes, arguments["embedding_dim"])),)


@kind("EmbeddingBag", ranks=(2,), dtypes=WIDE, integer=True)
def embedding_bag(draw: DrawFn, shape: Shape) -> Made:
    arguments = _table(draw, shape) | {"mode": pick(draw, ("mean", "sum", "max"))}
    return arguments, (Shape((shape.sizes[0], arguments["embedding_dim"])),)
