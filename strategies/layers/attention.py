"""Attention and the Transformer classes: what they are made with, and what forward is given."""

from functools import cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from oracles.traits import NAMED

from .kinds import (
    WIDE,
    Arguments,
    Shape,
    forward_takes,
    kind,
    maybe,
    pick,
    size,
    takes,
    torch_has,
    upto,
)

_MASKS = ("bool", "-inf", "bias")
#: What forward is given: nothing half of the time, then padding, a mask, both, and causal masks.
_GIVEN = ("", "", "", "", "padding", "padding", "mask", "both", "causal", "padded causal")


def _heads(draw: DrawFn, width: int) -> int:
    """One head, or more often several: a fast path wants an even number of them."""
    return int(pick(draw, (1, *(n for n in (2, 2, 4) if width % n == 0))))


# --- masks -----------------------------------------------------------------------------------


@cache
def _bits(count: int) -> SearchStrategy[int]:
    return st.integers(0, 2**count - 1)


def _table(bits: int, rows: int, columns: int) -> list[list[int]]:
    return [[bits >> r * columns + c & 1 for c in range(columns)] for r in range(rows)]


def _padding(draw: DrawFn, sequences: int, length: int, mask: str) -> dict[str, Any]:
    """Which positions are padding, in each sequence: some, none or all, mostly at the end."""
    padded = [draw(upto(length)) for _ in range(sequences)]
    rows = [[int(place >= length - n) for place in range(length)] for n in padded]
    if draw(upto(3)) == 3:
        rows = [row[::-1] for row in rows]
    return {"mask": mask, "rows": rows if sequences > 1 else rows[0]}


def _causal(length: int, mask: str) -> dict[str, Any]:
    return {"mask": mask, "rows": [[int(k > q) for k in range(length)] for q in range(length)]}


def _attending(draw: DrawFn, length: int, matrices: int, mask: str) -> dict[str, Any]:
    """A mask of which query must not look at which key, for all or one for each head and sequence.

    Some queries may look at nothing.
    """
    count = length * length
    if matrices * count <= 64 and draw(upto(3)) == 3:
        bits = draw(_bits(matrices * count))
        each = [_table(bits >> m * count, length, length) for m in range(matrices)]
        return {"mask": mask, "rows": each}
    return {"mask": mask, "rows": _table(draw(_bits(count)), length, length)}


def _masks(
    draw: DrawFn, shape: Shape, batch_first: bool, heads: int, names: tuple[str, str, str]
) -> Arguments:
    """Masks for self-attention, by the names of the padding mask, the other, and the hint.

    Both are of one type, as torch asks for; the hint is never wrong, and not without a mask.
    """
    form = pick(draw, _GIVEN)
    if not form:
        return {}
    padding, attending, hint = names
    batch, length = _batch_and_length(shape, batch_first)
    mask = pick(draw, _MASKS)
    given: Arguments = {}
    if form.startswith("pad") or form == "both":
        given[padding] = _padding(draw, batch, length, mask)
        if len(shape.sizes) == 3 and batch == 1:
            given[padding]["rows"] = [given[padding]["rows"]]
    if form in ("mask", "both"):
        given[attending] = _attending(draw, length, batch * heads, mask)
    if form.endswith("causal"):
        mask = "bool" if mask == "bias" else mask
        given |= {attending: _causal(length, mask)}
        if padding in given:
            given[padding]["mask"] = mask
        if maybe(draw):
            given[hint] = True
    return given


def _taken(name: str, given: Arguments) -> Arguments:
    """What forward of this class takes: that of an old torch has fewer hints."""
    return {option: value for option, value in given.items() if forward_takes(name, option)}


def _batch_and_length(shape: Shape, batch_first: bool) -> tuple[int, int]:
    if len(shape.sizes) == 2:
        return 1, shape.sizes[0]
    return (shape.sizes[0], shape.sizes[1]) if batch_first else (shape.sizes[1], shape.sizes[0])


# --- attention -------------------------------------------------------------------------------


def _attention(draw: DrawFn, shape: Shape, *, batch_first: bool) -> Arguments:
    width = shape.sizes[-1]
    arguments: Arguments = {"embed_dim": width, "num_heads": _heads(draw, width)}
    arguments |= {"dropout": pick(draw, (0.0, 0.5, 1.0)), "bias": not maybe(draw)}
    return arguments | {"batch_first": batch_first}


def _of_attention(arguments: Arguments, shape: Shape) -> tuple[Shape, ...]:
    """The output, of the shape of the input; and the weights, if they are asked for."""
    given = arguments.get("forward", {"need_weights": False})
    if not given.get("need_weights", True):
        return (Shape(shape.sizes),)
    batch, length = _batch_and_length(shape, arguments["batch_first"])
    more = arguments.get("add_bias_kv", False) + arguments.get("add_zero_attn", False)
    weights: tuple[int, ...] = (length, length + more)
    if not given.get("average_attn_weights", True):
        weights = (arguments["num_heads"], *weights)
    return Shape(shape.sizes), Shape(weights if len(shape.sizes) == 2 else (batch, *weights))


@kind("MultiheadAttention", ranks=(2, 3), dtypes=WIDE, size=2, returns=_of_attention)
def attention(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = _attention(draw, shape, batch_first=not maybe(draw))
    extra = draw(upto(7))
    if extra in (5, 7):
        arguments["add_bias_kv"] = True
    if extra in (6, 7):
        arguments["add_zero_attn"] = True
    if extra in (3, 4) and shape.sizes[-1] > 1:
        less = size(draw, most=shape.sizes[-1] - 1)
        arguments |= dict.fromkeys(pick(draw, (("kdim",), ("vdim",), ("kdim", "vdim"))), less)
    names = ("key_padding_mask", "attn_mask", "is_causal")
    heads = arguments["num_heads"]
    given = _masks(draw, shape, arguments["batch_first"], heads, names)
    weights = draw(upto(3))
    if weights < 2:
        given["need_weights"] = False
    elif weights == 3:
        given["average_attn_weights"] = False
    return arguments | {"forward": given}


def _several(shape: Shape) -> bool:
    """Some position must not be padding."""
    return shape.sizes[1] > 1


def _same(arguments: Arguments, shape: Shape) -> tuple[Shape, ...]:
    return (Shape(shape.sizes),)


@kind("MultiheadAttention_padded", ranks=(3,), dtypes=WIDE, fits=_several, size=2)
def padded_attention(draw: DrawFn, shape: Shape) -> Arguments:
    return _attention(draw, shape, batch_first=True)


# --- transformers ----------------------------------------------------------------------------

#: Names of functions, functions, and modules; some of which a fast path takes for others.
_ACTIVATIONS: tuple[Any, ...] = (
    *("relu", "gelu"),
    *({NAMED: name} for name in ("F.relu", "F.gelu", "torch.tanh")),
    *(
        {NAMED: f"nn.{made}"}
        for made in ("ReLU()", "GELU()", "GELU(approximate='tanh')", "PReLU()")
    ),
)
#: Norms after the layers of a stack.
_NORMS = tuple(name for name in ("LayerNorm", "RMSNorm") if torch_has(name))
_ENCODER_MASKS = {
    "TransformerEncoderLayer": ("src_key_padding_mask", "src_mask", "is_causal"),
    "TransformerEncoder": ("src_key_padding_mask", "mask", "is_causal"),
}
_TGT = ("tgt_key_padding_mask", "tgt_mask", "tgt_is_causal")
_MEMORY = ("memory_key_padding_mask", "memory_mask", "memory_is_causal")
_SRC = ("src_key_padding_mask", "src_mask", "src_is_causal")


def _layer(draw: DrawFn, shape: Shape) -> Arguments:
    width = shape.sizes[-1]
    arguments: Arguments = {"d_model": width, "nhead": _heads(draw, width)}
    arguments["dim_feedforward"] = 3 - maybe(draw)
    arguments |= {"dropout": pick(draw, (0.0, 0.5, 1.0)), "batch_first": True}
    arguments["norm_first"] = maybe(draw)
    # One option beside these at a time, half of the time none.
    match draw(upto(9)):
        case 5 | 6:
            arguments["activation"] = pick(draw, _ACTIVATIONS)
        case 7:
            arguments["layer_norm_eps"] = 0.1
        case 8 if takes("TransformerEncoderLayer", "bias"):
            arguments["bias"] = False
        case 9:
            arguments["batch_first"] = False
    return arguments


def _replacements(draw: DrawFn, arguments: Arguments, *, encodes: bool) -> dict[str, Any]:
    """A part of a layer, and what stands in its place."""
    width, heads, first = (arguments[key] for key in ("d_model", "nhead", "batch_first"))
    parts: tuple[tuple[str, Any], ...] = (
        *(("dropout1", {NAMED: new}) for new in ("nn.Identity()", "nn.Tanh()")),
        *(("activation", {NAMED: new}) for new in ("nn.Tanh()", "nn.GELU()")),
        ("norm1", {NAMED: "nn.Identity()"}),
    )
    if encodes:
        attention = {"embed_dim": width, "num_heads": heads, "batch_first": first}
        more = ({"add_zero_attn": True}, {"add_bias_kv": True})
        parts += tuple(("self_attn", attention | option) for option in more)
    return dict([pick(draw, parts)])


def _with_replacements(
    draw: DrawFn, arguments: Arguments, *, encodes: bool, path: str = ""
) -> Arguments:
    """The arguments, now and then with a part replaced that lies at this path."""
    if draw(upto(7)) < 7:
        return arguments
    parts = _replacements(draw, arguments, encodes=encodes)
    return arguments | {"replaced": {path + name: new for name, new in parts.items()}}


@kind("TransformerEncoderLayer", ranks=(3, 2), dtypes=WIDE, size=4, returns=_same)
def encoder_layer(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = _with_replacements(draw, _layer(draw, shape), encodes=True)
    names = _ENCODER_MASKS["TransformerEncoderLayer"]
    given = _masks(draw, shape, arguments["batch_first"], arguments["nhead"], names)
    return arguments | {"forward": given}


def _without_prelu(arguments: Arguments) -> Arguments:
    """Copies of a decoder layer lose a module that is their activation, but not its parameters.

    They are registered then, and neither used nor found by their names.
    """
    lost = arguments.get("activation") == {NAMED: "nn.PReLU()"}
    return arguments | {"activation": {NAMED: "nn.ReLU()"}} if lost else arguments


def _stack(draw: DrawFn, shape: Shape) -> Arguments:
    """Layers and, now and then, a norm after them."""
    arguments = _layer(draw, shape) | {"num_layers": size(draw, most=2)}
    if maybe(draw):
        arguments["norm"] = {NAMED: f"nn.{pick(draw, _NORMS)}({shape.sizes[-1]})"}
    return arguments


def _encoder(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = _stack(draw, shape)
    match draw(upto(3)):
        case 2:
            arguments["mask_check"] = False
        case 3:
            arguments["enable_nested_tensor"] = False
    return arguments


def _unlike(draw: DrawFn, arguments: Arguments) -> Arguments:
    """A layer for an encoder that differs from its others."""
    names = ("d_model", "nhead", "dim_feedforward", "dropout", "batch_first", "norm_first")
    layer = {key: arguments[key] for key in names}
    options: tuple[tuple[str, Any], ...] = (
        ("norm_first", not layer["norm_first"]),
        ("nhead", 1),
        ("activation", {NAMED: "torch.tanh"}),
    )
    return layer | dict([pick(draw, options)])


@kind("TransformerEncoder", ranks=(3, 2), dtypes=WIDE, size=4, returns=_same)
def encoder(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = _encoder(draw, shape)
    if arguments["num_layers"] == 2 and draw(upto(3)) == 3:
        arguments["replaced"] = {"layers.1": _unlike(draw, arguments)}
    else:
        last = arguments["num_layers"] - 1
        arguments = _with_replacements(draw, arguments, encodes=True, path=f"layers.{last}.")
    names = _ENCODER_MASKS["TransformerEncoder"]
    given = _masks(draw, shape, arguments["batch_first"], arguments["nhead"], names)
    if not arguments.get("mask_check", True):
        given = _left_aligned(given)
    return arguments | {"forward": given}


def _left_aligned(given: Arguments) -> Arguments:
    """With mask_check=False the user sees to it that padding is at the end."""
    mask = given.get("src_key_padding_mask")
    if mask is None:
        return given
    rows = mask["rows"]
    rows = [sorted(row) for row in rows] if isinstance(rows[0], list) else sorted(rows)
    return given | {"src_key_padding_mask": mask | {"rows": rows}}


@kind("TransformerEncoder_padded", ranks=(3,), dtypes=WIDE, fits=_several, size=4, returns=_same)
def padded_encoder(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = _layer(draw, shape)
    return arguments | {"batch_first": True}


@kind("TransformerDecoderLayer", ranks=(3, 2), dtypes=WIDE, size=6, returns=_same)
def decoder_layer(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = _with_replacements(draw, _layer(draw, shape), encodes=False)
    return arguments | {"forward": _for_decoder(draw, shape, arguments)}


@kind("TransformerDecoder", ranks=(3, 2), dtypes=WIDE, size=6, returns=_same)
def decoder(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = _without_prelu(_stack(draw, shape))
    last = arguments["num_layers"] - 1
    arguments = _with_replacements(draw, arguments, encodes=False, path=f"layers.{last}.")
    given = _for_decoder(draw, shape, arguments)
    return arguments | {"forward": _taken("TransformerDecoder", given)}


def _for_decoder(draw: DrawFn, shape: Shape, arguments: Arguments) -> Arguments:
    first, heads = arguments["batch_first"], arguments["nhead"]
    given = _masks(draw, shape, first, heads, _TGT)
    return given | _masks(draw, shape, first, heads, _MEMORY)


@kind("Transformer", ranks=(3, 2), dtypes=WIDE, size=8, returns=_same)
def transformer(draw: DrawFn, shape: Shape) -> Arguments:
    arguments = _without_prelu(_layer(draw, shape))
    first, heads = arguments["batch_first"], arguments["nhead"]
    sides = ("encoder", "decoder")
    counts = draw(upto(3))
    layers = {f"num_{side}_layers": 1 + (counts == 2 + k) for k, side in enumerate(sides)}
    custom = draw(upto(7))
    for k, side in enumerate(sides):
        if custom == 6 + k:
            made = _without_prelu(_stack(draw, shape)) | {"batch_first": first}
            arguments[f"custom_{side}"] = made
            heads = 0  # masks that are not the same for all heads must fit both sides
    given: Arguments = {}
    for names in (_SRC, _TGT, _MEMORY):
        given |= _masks(draw, shape, first, heads or 99, names)
    return arguments | layers | {"forward": _taken("Transformer", given)}
