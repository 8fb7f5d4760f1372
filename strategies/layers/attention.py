"""Attention, batch first."""

from hypothesis.strategies import DrawFn

from .kinds import WIDE, Arguments, Made, Shape, keeping, kind, maybe, pick


def _heads(draw: DrawFn, width: int) -> int:
    return 2 if width % 2 == 0 and maybe(draw) else 1


@kind("MultiheadAttention", ranks=(3,), dtypes=WIDE)
def attention(draw: DrawFn, shape: Shape) -> Made:
    width = shape.sizes[-1]
    arguments: Arguments = {"embed_dim": width, "num_heads": _heads(draw, width)}
    arguments |= {"dropout": pick(draw, (0.0, 0.5)), "bias": not maybe(draw), "batch_first": True}
    return arguments, keeping(shape)


@kind("TransformerEncoderLayer", ranks=(3,), dtypes=WIDE)
def encoder_layer(draw: DrawFn, shape: Shape) -> Made:
    width = shape.sizes[-1]
    arguments: Arguments = {"d_model": width, "nhead": _heads(draw, width), "dim_feedforward": 3}
    arguments |= {"dropout": pick(draw, (0.0, 0.5)), "batch_first": True}
    return arguments | {"norm_first": maybe(draw)}, keeping(shape)
