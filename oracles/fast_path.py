"""When torch takes the fast path of an encoder, by the data of a layer and its setting.

No torch here. In evaluation, where nothing is recorded, nn.TransformerEncoderLayer and
nn.MultiheadAttention run one fused function in the place of their parts. What it does differently
is in the register. Source: torch/nn/modules/transformer.py and activation.py, `why_not_...`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .flow import Use
from .setting import Setting
from .traits import FORWARD, NAMED, REPLACED

Arguments = Mapping[str, Any]

#: Activations that the fused function has, by how they are written.
_FUSED: Final = ("relu", "gelu", "F.relu", "F.gelu")
_FUSED_MODULES: Final = ("nn.ReLU(", "nn.GELU(")
#: Parts of an encoder layer that draw in training.
_DRAWING: Final = ("self_attn", "dropout", "dropout1", "dropout2")


@dataclass(frozen=True)
class EncoderLayer:
    """One nn.TransformerEncoderLayer of a call.

    path      where it is
    given     what it is made with
    replaced  parts that were replaced once it was made, by name
    """

    path: str
    given: Arguments
    replaced: Arguments = field(default_factory=dict)

    @property
    def is_fit(self) -> bool:
        """Whether what it is made with fits the fast path."""
        given = self.given
        whole = given.get("batch_first", False) and given.get("bias", True)
        return bool(whole) and given.get("nhead", 1) % 2 == 0 and self.is_fused

    @property
    def is_fused(self) -> bool:
        """Whether the fused function has its activation, or takes it for one that it has."""
        activation = _written(self.given.get("activation", "relu"))
        return activation in _FUSED or activation.startswith(_FUSED_MODULES)

    def may_be_fast(self, setting: Setting) -> bool:
        """Whether it takes the fast path where nothing is recorded."""
        return self.is_fit and not setting.trains(self.path)

    def trains_in_part(self, setting: Setting) -> bool:
        """Whether some of its parts would draw."""
        drops = self.given.get("dropout", 0.1) > 0
        return drops and any(setting.trains(f"{self.path}.{part}") for part in _DRAWING)


def _written(value: Any) -> str:
    return str(value[NAMED]) if isinstance(value, Mapping) else str(value)


def encoder_layers(use: Use) -> list[EncoderLayer]:
    """The encoder layers of a call, in order; none for other kinds of layers."""
    args, op = use.node.arguments, use.node.op
    if op == "TransformerEncoderLayer":
        return [EncoderLayer(use.path, args, args.get(REPLACED, {}))]
    if op in ("TransformerEncoder", "TransformerEncoder_padded"):
        count = args.get("num_layers", 2 if op == "TransformerEncoder" else 1)
        return list(_stacked(use.path, args, count, args.get(REPLACED, {})))
    if op == "Transformer":
        path, custom = f"{use.path}.encoder", args.get("custom_encoder")
        if custom is not None:
            return list(_stacked(path, custom, custom.get("num_layers", 1), {}))
        return list(_stacked(path, args, args.get("num_encoder_layers", 6), {}))
    return []


def _stacked(path: str, args: Arguments, count: int, replaced: Arguments) -> Iterator[EncoderLayer]:
    for n in range(count):
        own, inside = args, f"layers.{n}"
        if inside in replaced:
            own = replaced[inside]
        parts = {
            name.removeprefix(f"{inside}."): part
            for name, part in replaced.items()
            if name.startswith(f"{inside}.")
        }
        yield EncoderLayer(f"{path}.{inside}", own, parts)


def stack_arguments(use: Use) -> Arguments:
    """What the stack of encoder layers of a call is made with; nothing where there is none."""
    args = use.node.arguments
    if use.node.op == "Transformer":
        return args.get("custom_encoder") or args
    return args if use.node.op.startswith("TransformerEncoder") else {}


# --- masks -------------------------------------------------------------------------------------

#: How forward names its masks: of padding, of queries and keys.
_PADDING: Final = ("src_key_padding_mask", "key_padding_mask")
_ATTENDING: Final = ("src_mask", "mask", "attn_mask")
#: The same, of what a decoder attends to in itself.
_DECODED_PADDING: Final = ("tgt_key_padding_mask",)
_DECODED: Final = ("tgt_mask",)


def _masks(use: Use, names: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    forward = use.node.arguments.get(FORWARD, {})
    return (forward[name] for name in names if name in forward)


def _tables(rows: Any) -> list[list[list[int]]]:
    """The rows of a mask as a list of tables: one of padding, one or several of attention."""
    if not isinstance(rows[0], list):
        return [[rows]]
    return rows if isinstance(rows[0][0], list) else [rows]


def _some(mask: Mapping[str, Any]) -> bool:
    return any(any(row) for table in _tables(mask["rows"]) for row in table)


def has_a_bias(use: Use, names: tuple[str, ...] = _PADDING + _ATTENDING) -> bool:
    """Whether a mask of these, or of what is encoded, is floating point, with a finite value."""
    masks = _masks(use, names)
    return any(mask["mask"] == "bias" and _some(mask) for mask in masks)


def is_padded(use: Use) -> bool:
    """Whether some position is padding, and no other mask is given."""
    if use.node.op == "TransformerEncoder_padded":
        return True
    return any(map(_some, _masks(use, _PADDING))) and not any(_masks(use, _ATTENDING))


def is_padding_alone(use: Use) -> bool:
    """Whether every position of every sequence is padding."""
    masks = _masks(use, _PADDING)
    return any(all(all(row) for table in _tables(m["rows"]) for row in table) for m in masks)


def some_query_sees_nothing(
    use: Use, padded: tuple[str, ...] = _PADDING, attended: tuple[str, ...] = _ATTENDING
) -> bool:
    """Whether every key of some query is masked, by one mask or by both together."""
    padding = [row for m in _masks(use, padded) for table in _tables(m["rows"]) for row in table]
    attending = [row for m in _masks(use, attended) for t in _tables(m["rows"]) for row in t]
    if any(map(all, (*padding, *attending))):
        return True
    return any(
        all(a or p for a, p in zip(query, sequence, strict=False))
        for query in attending
        for sequence in padding
    )


# --- what is different on the fast path --------------------------------------------------------


def may_be_fast(use: Use, setting: Setting) -> bool:
    """Whether some encoder layer of the call takes the fast path where nothing is recorded."""
    return any(layer.may_be_fast(setting) for layer in encoder_layers(use))


def attention_may_be_fast(use: Use, setting: Setting) -> bool:
    """Whether nn.MultiheadAttention takes a fast path of its own where nothing is recorded."""
    args = use.node.arguments
    others = ("add_bias_kv", "add_zero_attn", "kdim", "vdim")
    return (
        use.node.op.startswith("MultiheadAttention")
        and not setting.trains(use.path)
        and bool(args.get("batch_first", False))
        and bool(args.get("bias", True))
        and args["num_heads"] % 2 == 0
        and not any(args.get(option) for option in others)
    )


def _attends_to_itself(use: Use) -> Iterator[tuple[str, Arguments]]:
    """The encoder and decoder layers of a call, each with its path and what it is made with."""
    args = use.node.arguments
    yield from ((layer.path, layer.given) for layer in encoder_layers(use))
    if use.node.op == "TransformerDecoderLayer":
        yield use.path, args
    elif use.node.op == "TransformerDecoder":
        yield from ((f"{use.path}.layers.{n}", args) for n in range(args.get("num_layers", 2)))
    elif use.node.op == "Transformer":
        made = args.get("custom_decoder") or args
        count = made.get("num_layers", args.get("num_decoder_layers", 6))
        yield from ((f"{use.path}.decoder.layers.{n}", made) for n in range(count))


def inner_attention_may_be_fast(
    use: Use, setting: Setting, where: Callable[[str], bool] = lambda path: True
) -> bool:
    """Whether the self-attention of some layer of the call takes its own fast path.

    where  of which layers, by path
    """
    return any(
        given.get("batch_first", False)
        and given.get("bias", True)
        and given.get("nhead", 1) % 2 == 0
        and not setting.trains(f"{path}.self_attn")
        and where(path)
        for path, given in _attends_to_itself(use)
    )


def attends_to_itself_with_a_bias(use: Use, setting: Setting) -> bool:
    """Whether attention to itself adds a finite value of a mask, in evaluation.

    Before torch 2.1 it then took its fast path with an odd number of heads as well.
    """

    def is_evaluated(path: str, batch_first: bool) -> bool:
        return batch_first and not setting.trains(path)

    args = use.node.arguments
    if use.node.op.startswith("MultiheadAttention"):
        return has_a_bias(use) and is_evaluated(use.path, args.get("batch_first", False))
    if not has_a_bias(use, _PADDING + _ATTENDING + _DECODED_PADDING + _DECODED):
        return False
    return any(
        is_evaluated(f"{path}.self_attn", given.get("batch_first", False))
        for path, given in _attends_to_itself(use)
    )


def decodes_queries_that_see_nothing(use: Use, setting: Setting) -> bool:
    """Whether self-attention of a decoder layer has such queries, by a mask that is bool."""
    masks = [*_masks(use, _DECODED), *_masks(use, _DECODED_PADDING)]
    return (
        any(mask["mask"] == "bool" for mask in masks)
        and some_query_sees_nothing(use, _DECODED_PADDING, _DECODED)
        and inner_attention_may_be_fast(use, setting)
    )


def drops_after_attention(use: Use, setting: Setting) -> bool:
    """Whether a layer drops what its own attention returns, which may be fast."""
    return inner_attention_may_be_fast(
        use, setting, lambda path: setting.trains(f"{path}.dropout1")
    )


def makes_nested_tensors(use: Use, setting: Setting) -> bool:
    """Whether the encoder takes padding out where nothing is recorded, by its first layer."""
    layers, args = encoder_layers(use), stack_arguments(use)
    if use.node.op == "TransformerEncoderLayer" or not layers or not is_padded(use):
        return False
    made_with = EncoderLayer(layers[0].path, args)
    fit = made_with.is_fit and not args.get("norm_first", False)
    enabled = args.get("enable_nested_tensor", True)
    return fit and bool(enabled) and not setting.trains(layers[0].path)
