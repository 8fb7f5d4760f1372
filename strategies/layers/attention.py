"""Attention and the Transformer classes, with and without padding."""

from hypothesis.strategies import DrawFn

from .kinds import WIDE, Arguments, Shape, kind, maybe, pick


def _heads(draw: DrawFn, width: int) -> int:
    return 2 if width % 2 == 0 and maybe(draw) else 1


def _attention(draw: DrawFn, shape: Shape, *, batch_first: bool) -> Arguments:
    width = shape.sizes[-1]
    arguments: Arguments = {"embed_dim": width, "num_heads": _heads(draw, width)}
    arguments |= {"dropout": pick(draw, (0.0, 0.5)), "bias": not maybe(draw)}
    return arguments | {"batch_first": batch_first}


@kind("MultiheadAttention", ranks=(2, 3), dtypes=WIDE, size=2)
def attention(draw: DrawFn, shape: Shape) -> Arguments:
    return _attention(draw, shape, batch_first=not maybe(draw))


def _several(shape: Shape) -> bool:
    """Some position must not be padding."""
    return shape.sizes[1] > 1


@kind("MultiheadAttention_padded", ranks=(3,), dtypes=WIDE, fits=_several, size=2)
def padded_attention(draw: DrawFn, shape: Shape) -> Arguments:
    return _attention(draw, shape, batch_first=True)


@kind("TransformerEncoderLayer", "TransformerEncoder", ranks=(3,), dtypes=WIDE, size=4)
@kind("TransformerDecoderLayer", "TransformerDecoder", ranks=(3,), dtypes=WIDE, size=6)
@kind("TransformerEncoder_padded", ranks=(3,), dtypes=WIDE, fits=_several, size=4)
def transformer_layer(draw: DrawFn, shape: Shape) -> Arguments:
    width = shape.sizes[-1]
    arguments: Arguments = {"d_model": width, "nhead": _heads(draw, width), "dim_feedforward": 3}
    arguments |= {"dropout": pick(draw, (0.0, 0.5)), "batch_first": True}
    return arguments | {"norm_first": maybe(draw)}


@kind("Transformer", ranks=(3,), dtypes=WIDE, size=8)
def transformer(draw: DrawFn, shape: Shape) -> Arguments:
    layers = {"num_encoder_layers": 1, "num_decoder_layers": 1}
    return transformer_layer(draw, shape) | layers
