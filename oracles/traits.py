"""What each kind of node does under each mode: the facts the reference model uses.

A trait is a claim about torch, stated once and without torch. The reference
model predicts whole modules from these claims, and every drawn module tries
them; none is a description of how torch computes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from functools import cache
from typing import Any, Final

Arguments = Mapping[str, Any]

#: An argument {TENSOR: numbers} is a tensor of them, one {NAMED: name} what has this name.
TENSOR: Final = "tensor"
NAMED: Final = "named"
#: The argument of a node that says what forward is given beside its inputs, by name.
FORWARD: Final = "forward"
#: The argument of a node that says which parts of its layer are replaced once it is built.
REPLACED: Final = "replaced"


class Returns(Enum):
    """How the tensor that a node returns comes about."""

    FRESH = "a new tensor"
    ITSELF = "its first input, the very same object"
    VIEW = "a view of its first input"
    DETACHED = "a view of its first input, cut from the graph"
    WRITTEN = "its first input, after writing into it"


class Certainty(IntEnum):
    """Whether something happens: not at all, depending on the values, or for sure."""

    NEVER = 0
    MAYBE = 1
    ALWAYS = 2


def _nothing(args: Arguments) -> tuple[str, ...]:
    return ()


def _never(args: Arguments, training: bool) -> Certainty:
    return Certainty.NEVER


def _no_moves(args: Arguments, training: bool) -> Mapping[str, Certainty]:
    return {}


def _fresh(args: Arguments, training: bool) -> Returns:
    return Returns.FRESH


def _alike(args: Arguments) -> Certainty:
    return Certainty.NEVER


def _not(args: Arguments) -> bool:
    return False


def _itself(args: Arguments) -> tuple[str, ...]:
    return ("",)


def _reached(args: Arguments, output: int) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Traits:
    """The claims about one kind of node, as functions of its arguments and its mode.

    call            the expression that runs it; ``{self}`` is the layer, ``{0}`` an input; or how
                    its arguments tell that expression
    given           which of its arguments that expression uses, and not what makes the layer
    makes           the expression that makes its layer, parameter or buffer; ``{args}``
                    its arguments, ``{first}`` the shape that a lazy layer sees first, ``{norm}``
                    the arguments of a function of nn.utils; empty for a function
    made            the same, where its arguments are not those of one constructor
    parameters      names of its parameters, below its own path
    buffers         names of its buffers
    parts           paths of the modules that it is made of, below its own
    drawing         which of these draw, each in its own mode; "" is the layer itself
    draws           whether it draws from the global random generator
    moves           which of its buffers and parameters a forward changes
    returns         how its first output comes about
    differentiable  for each output, whether gradients flow through it
    several         the same, where it depends on the arguments how many there are
    unreached       names of the parameters that an output does not come from
    saves_output    whether backward needs the output (so that it must not be written to)
    differs         whether train and eval give other values, with the same randomness
    batch           whether training refuses one value a channel or instance, and eval does not
    """

    call: str | Callable[[Arguments], str] = "{self}({0})"
    given: tuple[str, ...] = ()
    makes: str = "nn.{op}({args})"
    made: Callable[[Arguments], str] | None = None
    parameters: Callable[[Arguments], tuple[str, ...]] = _nothing
    buffers: Callable[[Arguments], tuple[str, ...]] = _nothing
    parts: Callable[[Arguments], tuple[str, ...]] = _nothing
    drawing: Callable[[Arguments], tuple[str, ...]] = _itself
    draws: Callable[[Arguments, bool], Certainty] = _never
    moves: Callable[[Arguments, bool], Mapping[str, Certainty]] = _no_moves
    returns: Callable[[Arguments, bool], Returns] = _fresh
    differentiable: tuple[bool, ...] = (True,)
    several: Callable[[Arguments], tuple[bool, ...]] | None = None
    unreached: Callable[[Arguments, int], tuple[str, ...]] = _reached
    saves_output: bool = True
    differs: Callable[[Arguments], Certainty] = _alike
    batch: Callable[[Arguments], bool] = _not

    @property
    def is_layer(self) -> bool:
        """Whether the node is an ``nn.Module`` of its own."""
        return "nn." in self.makes and not self.makes.startswith("nn.Parameter(")

    def called(self, arguments: Arguments) -> str:
        """The expression that runs it, with these arguments."""
        return self.call if isinstance(self.call, str) else self.call(arguments)

    @property
    def is_called(self) -> bool:
        """Whether its layer is called, so that hooks on it fire: a list of parameters is not."""
        return "{self}(" in self.called({})

    @property
    def has_state(self) -> bool:
        """Whether the node owns something that is made in ``__init__``."""
        return bool(self.makes)

    def outputs(self, args: Arguments) -> tuple[bool, ...]:
        """For each output with these arguments, whether gradients flow through it."""
        return self.differentiable if self.several is None else self.several(args)


def _returning(kind: Returns) -> Callable[[Arguments, bool], Returns]:
    return lambda args, training: kind


def _weight_and_bias(args: Arguments) -> tuple[str, ...]:
    return ("weight", "bias") if args.get("bias", True) else ("weight",)


def _transposed_call(args: Arguments) -> str:
    """nn.ConvTranspose2d: the size of its output may be given to forward."""
    wanted = args.get("output_size")
    return f"{{self}}({{0}}, output_size={tuple(wanted)})" if wanted else "{self}({0})"


def _affine(default: bool, key: str = "affine") -> Callable[[Arguments], tuple[str, ...]]:
    return lambda args: _weight_and_bias(args) if args.get(key, default) else ()


_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")


def _batch_norm_moves(args: Arguments, training: bool) -> Mapping[str, Certainty]:
    """nn.BatchNorm1d: estimates and the count move in training; momentum=0 keeps the estimates."""
    if not training or not args.get("track_running_stats", True):
        return {}
    estimates = Certainty.NEVER if args.get("momentum", 0.1) == 0.0 else Certainty.ALWAYS
    return dict(zip(_STATISTICS, (estimates, estimates, Certainty.ALWAYS), strict=True))


def _instance_norm_moves(args: Arguments, training: bool) -> Mapping[str, Certainty]:
    """nn.InstanceNorm1d: as batch norm, but it never counts (undocumented)."""
    if not training or not args.get("track_running_stats", False):
        return {}
    return {"running_mean": Certainty.ALWAYS, "running_var": Certainty.ALWAYS}


def _tracked(default: bool) -> Callable[[Arguments], tuple[str, ...]]:
    return lambda args: _STATISTICS if args.get("track_running_stats", default) else ()


def _if(condition: Callable[[Arguments], bool]) -> Callable[[Arguments], Certainty]:
    """Values may come out alike by chance: a difference is never sure."""
    return lambda args: Certainty.MAYBE if condition(args) else Certainty.NEVER


_BATCH_NORM: Final = Traits(
    parameters=_affine(True),
    buffers=_tracked(True),
    moves=_batch_norm_moves,
    saves_output=False,
    differs=_if(lambda args: args.get("track_running_stats", True)),
    batch=lambda args: args.get("track_running_stats", True),
)
_INSTANCE_NORM: Final = Traits(
    parameters=_affine(False),
    buffers=_tracked(False),
    moves=_instance_norm_moves,
    differs=_if(lambda args: args.get("track_running_stats", False)),
    batch=lambda args: args.get("track_running_stats", False),
)


def _drops(args: Arguments) -> bool:
    """Whether a dropout draws at all: p=0 hands its input on, p=1 multiplies by zeros."""
    return 0.0 < float(args.get("p", 0.5)) < 1.0


def _dropout_draws(args: Arguments, training: bool) -> Certainty:
    return Certainty.ALWAYS if training and _drops(args) else Certainty.NEVER


def _dropout_returns(args: Arguments, training: bool) -> Returns:
    if not training or args.get("p", 0.5) == 0.0:
        return Returns.ITSELF
    return Returns.WRITTEN if args.get("inplace", False) else Returns.FRESH


_DROPOUT: Final = Traits(
    draws=_dropout_draws,
    returns=_dropout_returns,
    saves_output=False,
    differs=_if(lambda args: args.get("p", 0.5) > 0.0),
)


def _unbatched_dropout_returns(args: Arguments, training: bool) -> Returns:
    """F.dropout3d adds a batch dimension to four-dimensional inputs, and takes it off again.

    In place it does so by unsqueeze_ and squeeze_, which write, in evaluation too.
    """
    if args.get("inplace", False):
        return Returns.WRITTEN
    returns = _dropout_returns(args, training)
    return Returns.VIEW if returns is Returns.ITSELF else returns


def _alpha_dropout_returns(args: Arguments, training: bool) -> Returns:
    """nn.AlphaDropout has an option inplace, which its forward does not hand on."""
    return _dropout_returns({"p": args.get("p", 0.5)}, training)


def _always_drops(args: Arguments, training: bool) -> Certainty:
    return Certainty.ALWAYS


def _activation_returns(args: Arguments, training: bool) -> Returns:
    return Returns.WRITTEN if args.get("inplace", False) else Returns.FRESH


_ACTIVATION: Final = Traits(returns=_activation_returns)


def _rrelu_draws(args: Arguments, training: bool) -> Certainty:
    """nn.RReLU: a slope is drawn for negative elements only (measured on CPU)."""
    return Certainty.MAYBE if training else Certainty.NEVER


# --- what a layer is made with, and what forward is given --------------------------------------


def argument(key: str, value: Any) -> str:
    """An argument of a constructor as Python source."""
    return f"*{tuple(value)!r}" if key == "sizes" else f"{key}={written(value)}"


def written(value: Any) -> str:
    """An argument as an expression. Data has no tensors, tuples and names: see `TENSOR`."""
    if isinstance(value, Mapping):
        ((kind, said),) = value.items()
        return f"torch.tensor({written(said)})" if kind == TENSOR else str(said)
    return repr(tuple(value) if isinstance(value, list) else value)


def _given(value: Any) -> str:
    """What forward is given, as source: a mask, a state, several of these, or a plain value.

    {"mask": "bool", "rows": ...}   True where there is a 1; "-inf" and "bias" are floating point
    {"full": value, "sizes": ...}   a tensor of one value
    """
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_given, value))})"
    if not isinstance(value, Mapping):
        return repr(value)
    if "full" in value:
        like = "dtype={0}.dtype, device={0}.device"
        return f"torch.full({tuple(value['sizes'])}, {value['full']}, {like})"
    rows = _rows(value["rows"], _MASKING[value["mask"]])
    dtype = "torch.bool" if value["mask"] == "bool" else "{0}.dtype"
    return f"torch.tensor({rows}, dtype={dtype}, device={{0}}.device)"


#: How a mask is written: what it has where something is masked. -0.5 masks nothing, but is added.
_MASKING: Final = {"bool": "1", "-inf": "-torch.inf", "bias": "-0.5"}


def _rows(rows: Any, masking: str) -> str:
    if isinstance(rows, list | tuple):
        return f"[{', '.join(_rows(row, masking) for row in rows)}]"
    return masking if rows else "0"


def _options(args: Arguments, *but: str) -> str:
    """The options of a call, each after a comma."""
    given = args.get(FORWARD, {})
    return "".join(f", {name}={_given(value)}" for name, value in given.items() if name not in but)


def _made(name: str, args: Arguments, *but: str) -> str:
    """A call of a constructor with these arguments, but for some."""
    given = (argument(k, v) for k, v in args.items() if k not in (FORWARD, REPLACED, *but))
    return f"nn.{name}({', '.join(given)})"


def _drops_some(args: Arguments, default: float) -> bool:
    """Whether a dropout inside draws: 0 hands its input on, 1 multiplies by zeros."""
    return 0.0 < float(args.get("dropout", default)) < 1.0


# --- recurrent layers --------------------------------------------------------------------------


def _recurrent_parameters(args: Arguments) -> tuple[str, ...]:
    directions = ("", "_reverse") if args.get("bidirectional", False) else ("",)
    biases = ("bias_ih", "bias_hh") if args.get("bias", True) else ()
    projected = ("weight_hr",) if args.get("proj_size", 0) else ()
    kinds = ("weight_ih", "weight_hh", *biases, *projected)
    layers = range(args.get("num_layers", 1))
    return tuple(f"{kind}_l{n}{side}" for n in layers for side in directions for kind in kinds)


def _between_layers(args: Arguments) -> bool:
    return bool(args.get("num_layers", 1) > 1)


def _drawing_where(
    condition: Callable[[Arguments], bool],
) -> Callable[[Arguments, bool], Certainty]:
    """In training, with such arguments."""
    return lambda args, training: (
        Certainty.ALWAYS if training and condition(args) else Certainty.NEVER
    )


def _recurrent_call(call: str, states: int) -> Callable[[Arguments], str]:
    """What runs the layer: packed or not, with a state to begin with or not.

    call    what runs it where its arguments say nothing of forward
    states  how many states it returns beside its output, which are seen if "states" says so
    """

    def called(args: Arguments) -> str:
        given = args.get(FORWARD)
        if given is None:
            return call
        if "lengths" in given:
            lengths = list(given["lengths"])
            ran = f"packed({{self}}, {{0}}, {lengths}{_options(args, 'lengths', 'states')})"
        else:
            ran = f"{{self}}({{0}}{_options(args, 'states')})"
        if not given.get("states", False):
            return f"{ran}[0]"
        return ran if states == 1 else f"flat({ran})"

    return called


def _recurrent_outputs(states: int) -> Callable[[Arguments], tuple[bool, ...]]:
    return lambda args: (True,) * (1 + states * args.get(FORWARD, {}).get("states", False))


def _recurrent(
    call: str = "{self}({0})[0]", makes: str = "nn.{op}({args})", states: int = 1
) -> Traits:
    """nn.LSTM: dropout acts on the outputs of each layer except the last, in training."""
    return Traits(
        call=_recurrent_call(call, states),
        given=(FORWARD,),
        makes=makes,
        parameters=_recurrent_parameters,
        draws=_drawing_where(lambda args: _between_layers(args) and _drops_some(args, 0.0)),
        several=_recurrent_outputs(states),
        differs=_if(lambda args: _between_layers(args) and float(args.get("dropout", 0.0)) > 0.0),
    )


def _cell_parameters(args: Arguments) -> tuple[str, ...]:
    weights = ("weight_ih", "weight_hh")
    return (*weights, "bias_ih", "bias_hh") if args.get("bias", True) else weights


def _cell(states: int) -> Traits:
    """A cell; that of an LSTM returns two states, the second where "states" says so."""

    def call(args: Arguments) -> str:
        ran = f"{{self}}({{0}}{_options(args, 'states')})"
        seen = states == 1 or args.get(FORWARD, {}).get("states", False)
        return ran if seen else f"{ran}[0]"

    return Traits(
        call=call,
        given=(FORWARD,),
        parameters=_cell_parameters,
        several=lambda args: (True,) * (states if args.get(FORWARD, {}).get("states") else 1),
    )


# --- attention and transformers ----------------------------------------------------------------


def _one_size(args: Arguments) -> bool:
    """Whether queries, keys and values have the same size, and share a weight for it."""
    width = args.get("embed_dim")
    return all(args.get(size) in (None, width) for size in ("kdim", "vdim"))


def _attention_parameters(args: Arguments) -> tuple[str, ...]:
    separate = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    weights = ("in_proj_weight",) if _one_size(args) else separate
    biases = ("in_proj_bias", "out_proj.bias") if args.get("bias", True) else ()
    more = ("bias_k", "bias_v") if args.get("add_bias_kv", False) else ()
    return (*weights, "out_proj.weight", *biases, *more)


def _attention_call(args: Arguments) -> str:
    """Self-attention; where keys or values are smaller, they are the first features."""
    args = {FORWARD: {"need_weights": False}} | dict(args)
    taken = (f"[..., :{args[size]}]" if args.get(size) else "" for size in ("kdim", "vdim"))
    key, value = (f"{{0}}{part}" for part in taken)
    called = f"{{self}}({{0}}, {key}, {value}{_options(args)})"
    return called if _gives_weights(args) else f"{called}[0]"


def _gives_weights(args: Arguments) -> bool:
    return FORWARD in args and bool(args[FORWARD].get("need_weights", True))


def _not_in_the_weights(args: Arguments, output: int) -> tuple[str, ...]:
    """Attention weights come from queries and keys alone."""
    return ("v_proj_weight", "bias_v", "out_proj.weight", "out_proj.bias") if output == 1 else ()


def _attention(call: str | Callable[[Arguments], str]) -> Traits:
    """nn.MultiheadAttention: the weights are a second output, in training those after dropout."""
    return Traits(
        call=call,
        given=(FORWARD,),
        makes="nn.MultiheadAttention({args})",
        parameters=_attention_parameters,
        parts=lambda args: ("out_proj",),
        draws=_drawing_where(lambda args: _drops_some(args, 0.0)),
        several=lambda args: (True, True) if _gives_weights(args) else (True,),
        unreached=_not_in_the_weights,
        differs=_if(lambda args: float(args.get("dropout", 0.0)) > 0.0),
    )


#: Arguments of a stack of layers; all others are those of its layers.
_OF_STACKS: Final = ("num_layers", "norm", "enable_nested_tensor", "mask_check")


def _within(path: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{path}.{name}" for name in names)


@dataclass(frozen=True)
class _Parts:
    """What a layer is made of, by path: the names of its parameters, its modules, what draws."""

    parameters: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    drawing: tuple[str, ...] = ()

    def at(self, path: str) -> _Parts:
        """The same, of a layer that another one has at this path."""
        modules = (path, *_within(path, self.modules))
        drawing = (f"{path}.{d}" if d else path for d in self.drawing)
        return _Parts(_within(path, self.parameters), modules, tuple(drawing))

    def __add__(self, other: _Parts) -> _Parts:
        return _Parts(
            self.parameters + other.parameters,
            self.modules + other.modules,
            self.drawing + other.drawing,
        )

    def without(self, path: str) -> _Parts:
        """The same but for a part."""

        def others(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(n for n in names if n != path and not n.startswith(f"{path}."))

        return _Parts(others(self.parameters), others(self.modules), others(self.drawing))


def _parts_of_attention(args: Arguments) -> _Parts:
    drawing = ("",) if _drops_some(args, 0.0) else ()
    return _Parts(_attention_parameters(args), ("out_proj",), drawing)


def _parts_of_layer(attentions: tuple[str, ...], norms: int) -> Callable[[Arguments], _Parts]:
    """Of nn.TransformerEncoderLayer and nn.TransformerDecoderLayer."""

    def parts(args: Arguments) -> _Parts:
        affine = ("weight", "bias") if args.get("bias", True) else ("weight",)
        dropping = ("",) if _drops_some(args, 0.1) else ()
        attention = {"bias": args.get("bias", True), "dropout": args.get("dropout", 0.1)}
        found = _Parts()
        for name in attentions:
            found += _parts_of_attention(attention).at(name)
        for name in ("linear1", "linear2", *(f"norm{n + 1}" for n in range(norms))):
            found += _Parts(affine).at(name)
        for name in ("dropout", *(f"dropout{n + 1}" for n in range(norms))):
            found += _Parts(drawing=dropping).at(name)
        activation = args.get("activation")
        if isinstance(activation, Mapping) and activation[NAMED].startswith("nn."):
            found += _part_of_source(activation).at("activation")
        return _replaced(found, args)

    return parts


def _part_of_source(part: Mapping[str, str]) -> _Parts:
    return _Parts(("weight",) if part[NAMED].startswith("nn.PReLU(") else ())


def _replaced(found: _Parts, args: Arguments) -> _Parts:
    """These parts, some of them replaced once the layer was built."""
    for path, part in args.get(REPLACED, {}).items():
        found = found.without(path)
        found += (_part_of_source(part) if NAMED in part else _parts_given(part)).at(path)
    return found


def _parts_given(part: Arguments) -> _Parts:
    """Of a part that is given by its arguments: attention, or a layer of an encoder."""
    return _parts_of_attention(part) if "embed_dim" in part else _ENCODER_LAYER(part)


_ENCODER_LAYER: Final = _parts_of_layer(("self_attn",), 2)
_DECODER_LAYER: Final = _parts_of_layer(("self_attn", "multihead_attn"), 3)


def _parts_of_stack(
    layer: Callable[[Arguments], _Parts], layers: int
) -> Callable[[Arguments], _Parts]:
    """Of nn.TransformerEncoder and nn.TransformerDecoder, by default with so many layers."""

    def parts(args: Arguments) -> _Parts:
        found = _Parts(modules=("layers",))
        inside = {k: v for k, v in args.items() if k not in (FORWARD, REPLACED)}
        if layer is _DECODER_LAYER:
            # A copy of a decoder layer has ReLU in the place of a module that it is given.
            inside["activation"] = "relu"
        for n in range(args.get("num_layers", layers)):
            found += layer(inside).at(f"layers.{n}")
        if args.get("norm"):
            found += _Parts(_norm_parameters(args["norm"][NAMED])).at("norm")
        return _replaced(found, args)

    return parts


def _norm_parameters(source: str) -> tuple[str, ...]:
    return ("weight", "bias") if source.startswith("nn.LayerNorm(") else ("weight",)


def _parts_of_transformer(args: Arguments) -> _Parts:
    """Of nn.Transformer: an encoder and a decoder with a norm each, or custom ones."""
    affine = ("weight", "bias") if args.get("bias", True) else ("weight",)
    inside = {k: v for k, v in args.items() if k not in (FORWARD, REPLACED)}
    found = _Parts()
    for name, layer in (("encoder", _ENCODER_LAYER), ("decoder", _DECODER_LAYER)):
        custom, layers = args.get(f"custom_{name}"), args.get(f"num_{name}_layers", 6)
        if custom is not None:
            found += _parts_of_stack(layer, 1)(custom).at(name)
        else:
            stack = _parts_of_stack(layer, layers)(inside)
            found += (stack + _Parts(affine).at("norm")).at(name)
    return _replaced(found, args)


def _stack_source(name: str, args: Arguments, layers: int) -> str:
    """The constructor of a stack of layers of a transformer."""
    layer = _made(f"{name}Layer", args, *_OF_STACKS)
    given = [argument(k, args[k]) for k in _OF_STACKS if k in args and k != "num_layers"]
    return f"nn.{name}({', '.join([layer, str(args.get('num_layers', layers)), *given])})"


def _transformer_source(args: Arguments) -> str:
    custom = [
        f"{key}={_stack_source(name, args[key], 1)}"
        for key, name in zip(_CUSTOM, ("TransformerEncoder", "TransformerDecoder"), strict=True)
        if args.get(key) is not None
    ]
    made = _made("Transformer", args, *_CUSTOM)
    return f"{made[:-1]}, {', '.join(custom)})" if custom else made


_CUSTOM: Final = ("custom_encoder", "custom_decoder")


def _replacing(source: Callable[[Arguments], str]) -> Callable[[Arguments], str]:
    """The layer as it is built, and then with some parts replaced."""

    def made(args: Arguments) -> str:
        parts = args.get(REPLACED, {})
        if not parts:
            return source(args)
        new = ", ".join(f"{path!r}: {_part_source(part)}" for path, part in parts.items())
        return f"replacing({source(args)}, {{{new}}})"

    return made


def _part_source(part: Arguments) -> str:
    if NAMED in part:
        return written(part)
    if "embed_dim" in part:
        return _made("MultiheadAttention", part)
    return _made("TransformerEncoderLayer", part)


def _drops_somewhere(args: Arguments) -> bool:
    """Whether a dropout in it, or in a custom encoder or decoder, is more than the identity."""
    custom = (args[key] for key in _CUSTOM if args.get(key) is not None)
    return any(float(given.get("dropout", 0.1)) > 0.0 for given in (args, *custom))


def _transformer(
    call: str,
    makes: str,
    made: Callable[[Arguments], str],
    parts: Callable[[Arguments], _Parts],
) -> Traits:
    """nn.TransformerEncoderLayer and its kin: dropout of 0.1 by default, and a fast path."""
    return Traits(
        call=lambda args: f"{call[:-1]}{_options(args)})",
        given=(FORWARD,),
        makes=makes,
        made=_replacing(made),
        parameters=lambda args: parts(args).parameters,
        parts=lambda args: parts(args).modules,
        drawing=lambda args: parts(args).drawing,
        draws=_drawing_where(lambda args: bool(parts(args).drawing)),
        differs=_if(_drops_somewhere),
    )


#: The last position of every sequence is padding.
_PADDING: Final = (
    "torch.arange({0}.shape[1], device={0}.device).expand({0}.shape[:2]) >= {0}.shape[1] - 1"
)


def _bag_call(args: Arguments) -> str:
    """nn.EmbeddingBag: a row is a bag, or where bags begin is told; the last end too, or not."""
    given = "{0}"
    if "bags" in args:
        end = "{0}.numel() + 1" if args.get("include_last_offset", False) else "{0}.numel()"
        starts = f"torch.arange(0, {end}, {{0}}.shape[1], device={{0}}.device)"
        given = "{0}.flatten(), " + (f"offsets={starts}" if args["bags"] == "named" else starts)
    if "weighted" in args:
        of_rows = "{self}.weight[:, 0][{0}]"
        constant = "torch.full({0}.shape, 0.5, dtype={self}.weight.dtype, device={0}.device)"
        weights = of_rows if args["weighted"] == "by rows" else constant
        given += f", per_sample_weights={weights}" + (".flatten()" if "bags" in args else "")
    return f"{{self}}({given})"


def _renormalises(args: Arguments, training: bool) -> Mapping[str, Certainty]:
    """nn.Embedding: rows longer than max_norm are rewritten in forward, in every mode."""
    return {"weight": Certainty.MAYBE} if args.get("max_norm") is not None else {}


_EMBEDDING: Final = Traits(parameters=lambda args: ("weight",), moves=_renormalises)
_EMBEDDING_BAG: Final = replace(_EMBEDDING, call=_bag_call, given=("bags", "weighted"))


def _with_indices(
    *names: str, draws: Callable[[Arguments, bool], Certainty] = _never
) -> dict[str, Traits]:
    """Pooling that returns where it found what it returns, too."""
    return {
        f"{name}_with_indices": Traits(
            makes=f"nn.{name}({{args}}, return_indices=True)",
            draws=draws,
            differentiable=(True, False),
        )
        for name in names
    }


def _unpool_call(n: int) -> Callable[[Arguments], str]:
    """nn.MaxUnpool1d undoes what a pooling of the same window has done to the input."""

    def call(args: Arguments) -> str:
        window = [str(args.get("kernel_size", 2)), str(args.get("stride"))]
        window += [str(args.get("padding", 0)), "return_indices=True"]
        wanted = f", output_size={tuple(args['output_size'])}" if "output_size" in args else ""
        return f"{{self}}(*F.max_pool{n}d({{0}}, {', '.join(window)}){wanted})"

    return call


def _function(
    call: str,
    returns: Returns = Returns.FRESH,
    *,
    differentiable: tuple[bool, ...] = (True,),
    draws: Callable[[Arguments, bool], Certainty] = _never,
    saves_output: bool = False,
) -> Traits:
    return Traits(
        call=call,
        makes="",
        returns=_returning(returns),
        differentiable=differentiable,
        draws=draws,
        saves_output=saves_output,
    )


def _rescaling(args: Arguments) -> tuple[str, ...]:
    """Weights of a loss, which are its buffers."""
    return tuple(name for name in ("weight", "pos_weight") if name in args)


def _loss(call: str | Callable[[Arguments], str], given: tuple[str, ...] = ()) -> Traits:
    return Traits(call=call, given=given, buffers=_rescaling)


def _of_classes_call(args: Arguments) -> str:
    """nn.CrossEntropyLoss: targets are the indices of classes, or the probabilities of each."""
    probable = args.get("target") == "probabilities"
    return "{self}({0}, {0}.softmax(1))" if probable else "{self}({0}, {0}.argmax(1))"


def _poisson_call(args: Arguments) -> str:
    return "{self}({0}, {1})" if args.get("log_input", True) else "{self}({0}.exp(), {1})"


def _gaussian_call(args: Arguments) -> str:
    """nn.GaussianNLLLoss: the variance is one, or it is differentiated as well."""
    variance = "{1}.exp()" if args.get("variance") == "differentiated" else "torch.ones_like({0})"
    return f"{{self}}({{0}}, {{1}}, {variance})"


def _divergence_call(args: Arguments) -> str:
    target = "log_softmax" if args.get("log_target", False) else "softmax"
    return f"{{self}}({{0}}.log_softmax(-1), {{1}}.{target}(-1))"


def _sequences_call(args: Arguments) -> str:
    """nn.CTCLoss: targets of one label each, a row for each sequence or all in one."""
    rows = "{0}.shape[1]" if args.get("target") == "concatenated" else "{0}.shape[1], 1"
    label = "zeros" if args.get("blank", 0) else "ones"
    targets = f"torch.{label}({rows}, dtype=torch.long, device={{0}}.device)"
    lengths = "({0}.shape[0],) * {0}.shape[1], (1,) * {0}.shape[1]"
    return f"{{self}}({{0}}.log_softmax(-1), {targets}, {lengths})"


def _linear_cross_entropy_call(args: Arguments) -> str:
    """nn.LinearCrossEntropyLoss: with out_features of two, a target for each of the two."""
    several = ".unsqueeze(1).expand(-1, 2)" if args.get("out_features") else ""
    return f"{{self}}({{0}}, (torch.arange({{0}}.shape[0], device={{0}}.device) % 2){several})"


def _lazy(initialised: Traits) -> Traits:
    """A lazy layer after its first forward: the layer that it became."""
    return replace(initialised, makes="initialised(nn.{op}({args}), {first})")


def _hooked_norm(function: str, names: tuple[str, ...], state: tuple[str, ...]) -> Traits:
    """A linear layer with nn.utils.spectral_norm or nn.utils.weight_norm, which are hooks."""

    def moves(args: Arguments, training: bool) -> Mapping[str, Certainty]:
        # A vector of one element stays what it is.
        return dict.fromkeys(state, Certainty.MAYBE) if training else {}

    return Traits(
        makes=f"nn.utils.{function}(nn.Linear({{args}}){{norm}})",
        given=("norm",),
        parameters=lambda args: (*(("bias",) if args.get("bias", True) else ()), *names),
        buffers=lambda args: state,
        moves=moves,
        saves_output=False,
        differs=_if(lambda args: True) if state else _alike,
    )


def _flatten_returns(args: Arguments, training: bool) -> Returns:
    """nn.Flatten: of one dimension there is nothing to flatten."""
    rank = args["rank"]
    start, end = (args.get(k, d) % rank for k, d in (("start_dim", 1), ("end_dim", -1)))
    return Returns.ITSELF if rank == 1 or start == end else Returns.VIEW


def _cutoff_parameters(args: Arguments) -> tuple[str, ...]:
    head = ("head.weight", "head.bias") if args.get("head_bias", False) else ("head.weight",)
    clusters = range(len(args.get("cutoffs", [2])))
    return head + tuple(f"tail.{i}.{k}.weight" for i in clusters for k in (0, 1))


def _functional_dropout_returns(args: Arguments, training: bool) -> Returns:
    return Returns.FRESH if training else Returns.ITSELF


DROPOUTS: Final = (
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "Dropout1d_unbatched",
    "Dropout3d_unbatched",
    "AlphaDropout",
    "FeatureAlphaDropout",
)

_UNBATCHED_DROPOUT: Final = replace(_DROPOUT, returns=_unbatched_dropout_returns, saves_output=True)
_ALPHA_DROPOUT: Final = replace(_DROPOUT, returns=_alpha_dropout_returns)
_SIMPLE: Final = Traits()
_LINEAR: Final = Traits(parameters=_weight_and_bias, saves_output=False)
_TRANSPOSED: Final = replace(_LINEAR, call=_transposed_call, given=("output_size",))
_SAME_SHAPE: Final = _loss("{self}({0}, {1})")

LAYERS: Final[dict[str, Traits]] = {
    "Linear": _LINEAR,
    "Bilinear": Traits(call="{self}({0}, {1})", parameters=_weight_and_bias, saves_output=False),
    "Identity": Traits(returns=_returning(Returns.ITSELF), saves_output=False),
    "Flatten": Traits(returns=_flatten_returns, given=("rank",), saves_output=False),
    "Unflatten": Traits(returns=_returning(Returns.VIEW), saves_output=False),
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _LINEAR),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), _TRANSPOSED),
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"), _BATCH_NORM),
    **dict.fromkeys(("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"), _INSTANCE_NORM),
    "GroupNorm": Traits(parameters=_affine(True)),
    "LayerNorm": Traits(parameters=_affine(True, "elementwise_affine")),
    "RMSNorm": Traits(
        parameters=lambda args: ("weight",) if args.get("elementwise_affine", True) else ()
    ),
    "LocalResponseNorm": _SIMPLE,
    "CrossMapLRN2d": _SIMPLE,
    "Dropout": _DROPOUT,
    "Dropout1d": _DROPOUT,
    "Dropout2d": _DROPOUT,
    "Dropout3d": _DROPOUT,
    "Dropout1d_unbatched": replace(_UNBATCHED_DROPOUT, makes="nn.Dropout1d({args})"),
    "Dropout3d_unbatched": replace(_UNBATCHED_DROPOUT, makes="nn.Dropout3d({args})"),
    "AlphaDropout": _ALPHA_DROPOUT,
    "FeatureAlphaDropout": _ALPHA_DROPOUT,
    "RReLU": Traits(
        draws=_rrelu_draws,
        returns=_activation_returns,
        differs=_if(lambda args: args.get("lower", 0.125) < args.get("upper", 1 / 3)),
    ),
    **dict.fromkeys(
        ("ReLU", "ReLU6", "LeakyReLU", "ELU", "CELU", "SELU", "SiLU", "Mish", "Hardtanh"),
        _ACTIVATION,
    ),
    **dict.fromkeys(("Hardswish", "Hardsigmoid", "Threshold"), _ACTIVATION),
    **dict.fromkeys(("GELU", "GLU", "Tanh", "Tanhshrink", "Sigmoid", "LogSigmoid"), _SIMPLE),
    **dict.fromkeys(("Softplus", "Softsign", "Softshrink", "Hardshrink"), _SIMPLE),
    **dict.fromkeys(("Softmax", "Softmin", "LogSoftmax", "Softmax2d"), _SIMPLE),
    "PReLU": Traits(parameters=lambda args: ("weight",)),
    **dict.fromkeys(("MaxPool1d", "MaxPool2d", "MaxPool3d"), _SIMPLE),
    **_with_indices("MaxPool1d", "MaxPool2d", "MaxPool3d"),
    **dict.fromkeys(("AvgPool1d", "AvgPool2d", "AvgPool3d"), _SIMPLE),
    **dict.fromkeys(("LPPool1d", "LPPool2d", "LPPool3d"), _SIMPLE),
    **dict.fromkeys(("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d"), _SIMPLE),
    **dict.fromkeys(("AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d"), _SIMPLE),
    **_with_indices("AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d"),
    **{f"MaxUnpool{n}d": Traits(call=_unpool_call(n), given=("output_size",)) for n in (1, 2, 3)},
    "FractionalMaxPool2d": Traits(draws=_always_drops),
    "FractionalMaxPool3d": Traits(draws=_always_drops),
    **_with_indices("FractionalMaxPool2d", "FractionalMaxPool3d", draws=_always_drops),
    **dict.fromkeys(("ConstantPad1d", "ConstantPad2d", "ConstantPad3d"), _SIMPLE),
    **dict.fromkeys(("ZeroPad1d", "ZeroPad2d", "ZeroPad3d"), _SIMPLE),
    **dict.fromkeys(("CircularPad1d", "CircularPad2d", "CircularPad3d"), _SIMPLE),
    **dict.fromkeys(("ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d"), _SIMPLE),
    **dict.fromkeys(("ReplicationPad1d", "ReplicationPad2d", "ReplicationPad3d"), _SIMPLE),
    **dict.fromkeys(("PixelShuffle", "PixelUnshuffle", "ChannelShuffle"), _SIMPLE),
    **dict.fromkeys(("Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d"), _SIMPLE),
    **dict.fromkeys(("Fold", "Unfold"), _SIMPLE),
    **dict.fromkeys(("CosineSimilarity", "PairwiseDistance"), _SAME_SHAPE),
    "Embedding": _EMBEDDING,
    "EmbeddingBag": _EMBEDDING_BAG,
    **dict.fromkeys(("RNN", "GRU"), _recurrent()),
    "LSTM": _recurrent(states=2),
    "GRU_packed": _recurrent(
        "nn.utils.rnn.pad_packed_sequence({self}(nn.utils.rnn.pack_padded_sequence("
        "{0}, [{0}.shape[1]] + [1] * ({0}.shape[0] - 1), batch_first=True))[0], "
        "batch_first=True)[0]",
        "nn.GRU({args})",
    ),
    **dict.fromkeys(("RNNCell", "GRUCell"), _cell(1)),
    "LSTMCell": _cell(2),
    "MultiheadAttention": _attention(_attention_call),
    "MultiheadAttention_padded": _attention(
        f"{{self}}({{0}}, {{0}}, {{0}}, key_padding_mask={_PADDING})[0]"
    ),
    "TransformerEncoderLayer": _transformer(
        "{self}({0})",
        "nn.TransformerEncoderLayer({args})",
        lambda args: _made("TransformerEncoderLayer", args),
        _ENCODER_LAYER,
    ),
    "TransformerEncoder": _transformer(
        "{self}({0})",
        "nn.TransformerEncoder({args})",
        lambda args: _stack_source("TransformerEncoder", args, 2),
        _parts_of_stack(_ENCODER_LAYER, 2),
    ),
    "TransformerEncoder_padded": _transformer(
        f"{{self}}({{0}}, src_key_padding_mask={_PADDING})",
        "nn.TransformerEncoder({args})",
        lambda args: _stack_source("TransformerEncoder", args, 1),
        _parts_of_stack(_ENCODER_LAYER, 1),
    ),
    "TransformerDecoderLayer": _transformer(
        "{self}({0}, {0})",
        "nn.TransformerDecoderLayer({args})",
        lambda args: _made("TransformerDecoderLayer", args),
        _DECODER_LAYER,
    ),
    "TransformerDecoder": _transformer(
        "{self}({0}, {0})",
        "nn.TransformerDecoder({args})",
        lambda args: _stack_source("TransformerDecoder", args, 1),
        _parts_of_stack(_DECODER_LAYER, 1),
    ),
    "Transformer": _transformer(
        "{self}({0}, {0})",
        "nn.Transformer({args})",
        _transformer_source,
        _parts_of_transformer,
    ),
    **dict.fromkeys(("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss"), _SAME_SHAPE),
    "PoissonNLLLoss": _loss(_poisson_call),
    "KLDivLoss": _loss(_divergence_call),
    "BCELoss": _loss("{self}({0}.sigmoid(), ({0} > 0).to({0}.dtype))"),
    "BCEWithLogitsLoss": _loss("{self}({0}, ({0} > 0).to({0}.dtype))"),
    "BCELoss_of_probabilities": replace(
        _loss("{self}({0}.sigmoid(), {1}.sigmoid())"), makes="nn.BCELoss({args})"
    ),
    "BCEWithLogitsLoss_of_probabilities": replace(
        _loss("{self}({0}, {1}.sigmoid())"), makes="nn.BCEWithLogitsLoss({args})"
    ),
    "MultiLabelSoftMarginLoss": _loss("{self}({0}, ({0} > 0).to({0}.dtype))"),
    "SoftMarginLoss": _loss("{self}({0}, {0}.detach().sign())"),
    "HingeEmbeddingLoss": _loss("{self}({0}, {0}.detach().sign())"),
    "GaussianNLLLoss": _loss(_gaussian_call, ("variance",)),
    "CrossEntropyLoss": _loss(_of_classes_call, ("target",)),
    "NLLLoss": _loss("{self}({0}.log_softmax(1), {0}.argmax(1))"),
    "NLLLoss2d": _loss("{self}({0}.log_softmax(1), {0}.argmax(1))"),
    "MultiMarginLoss": _loss("{self}({0}, {0}.argmax(1))"),
    "MultiLabelMarginLoss": _loss("{self}({0}, torch.zeros_like({0}, dtype=torch.long))"),
    "CosineEmbeddingLoss": _loss("{self}({0}, {1}, {0}.detach()[:, 0].sign())"),
    "MarginRankingLoss": _loss("{self}({0}, {1}, {0}.detach().sign())"),
    "TripletMarginLoss": _loss("{self}({0}, {1}, {1} + 1)"),
    "TripletMarginWithDistanceLoss": _loss("{self}({0}, {1}, {1} + 1)"),
    "CTCLoss": _loss(_sequences_call, ("target",)),
    "AdaptiveLogSoftmaxWithLoss": Traits(
        call="{self}({0}, 3 - torch.arange({0}.shape[0], device={0}.device) % 4).output",
        parameters=_cutoff_parameters,
    ),
    "LinearCrossEntropyLoss": Traits(
        call=_linear_cross_entropy_call,
        parameters=lambda args: _within("linear", _weight_and_bias({"bias": False} | dict(args))),
        buffers=_rescaling,
    ),
    "ParameterList": Traits(
        call="{0} * {self}[0]",
        makes="nn.ParameterList([nn.Parameter(torch.randn({args}))])",
        parameters=lambda args: ("0",),
    ),
    "ParameterDict": Traits(
        call='{0} * {self}["a"]',
        makes='nn.ParameterDict({{"a": nn.Parameter(torch.randn({args}))}})',
        parameters=lambda args: ("a",),
    ),
    "Linear_spectral_norm": _hooked_norm(
        "spectral_norm", ("weight_orig",), ("weight_u", "weight_v")
    ),
    "Linear_weight_norm": _hooked_norm("weight_norm", ("weight_g", "weight_v"), ()),
    "LazyLinear": _lazy(_LINEAR),
    **dict.fromkeys(("LazyConv1d", "LazyConv2d", "LazyConv3d"), _lazy(_LINEAR)),
    **dict.fromkeys(
        ("LazyConvTranspose1d", "LazyConvTranspose2d", "LazyConvTranspose3d"), _lazy(_TRANSPOSED)
    ),
    **dict.fromkeys(("LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d"), _lazy(_BATCH_NORM)),
    **dict.fromkeys(
        ("LazyInstanceNorm1d", "LazyInstanceNorm2d", "LazyInstanceNorm3d"), _lazy(_INSTANCE_NORM)
    ),
}

FUNCTIONS: Final[dict[str, Traits]] = {
    "add": _function("{0} + {1}"),
    "mul": _function("{0} * {1}", saves_output=True),
    "cat": _function("torch.cat([{0}, {1}], dim=-1)"),
    "relu": _function("torch.relu({0})", saves_output=True),
    "softmax": _function("torch.softmax({0}, dim=-1)", saves_output=True),
    "mean": _function("{0}.mean(dim=-1)"),
    "square": _function("{0} ** 2"),
    "detach": _function("{0}.detach()", Returns.DETACHED),
    "unsqueeze": _function("{0}.unsqueeze(1)", Returns.VIEW),
    "transpose": _function("{0}.transpose(1, 2)", Returns.VIEW),
    "select": _function("{0}[:, 0]", Returns.VIEW),
    "chunk": _function("{0}.chunk(2, dim=-1)", Returns.VIEW, differentiable=(True, True)),
    "mul_": _function("{0}.mul_(2)", Returns.WRITTEN),
    "add_": _function("{0}.add_(1)", Returns.WRITTEN),
    "argmax": _function("{0}.argmax(dim=-1)", differentiable=(False,)),
    "positive": _function("{0} > 0", differentiable=(False,)),
    "dropout_in_training": Traits(
        call="F.dropout({0}, 0.5, self.training)",
        makes="",
        draws=lambda args, training: Certainty.ALWAYS if training else Certainty.NEVER,
        returns=_functional_dropout_returns,
        saves_output=False,
        differs=_if(lambda args: True),
    ),
    "dropout_by_default": _function("F.dropout({0}, 0.5)", draws=_always_drops),
    "branch_on_training": replace(
        _function("({0} * 2 if self.training else {0} + 1)"), differs=_if(lambda args: True)
    ),
    "attention": _function(
        "F.scaled_dot_product_attention({0}, {0}, {0}, dropout_p=0.5)",
        draws=_always_drops,
        saves_output=True,
    ),
    "gumbel_softmax": _function("F.gumbel_softmax({0})", draws=_always_drops, saves_output=True),
    "scale": Traits(
        call="{0} * {self}",
        makes="nn.Parameter(torch.randn({args}))",
        parameters=lambda args: ("",),
    ),
    "shift": Traits(call="{0} + {self}", makes="buffer(torch.randn({args}))", saves_output=False),
}

TRAITS: Final[dict[str, Traits]] = LAYERS | FUNCTIONS

#: Kinds of nodes, and parametrizations, that do something else in training than in evaluation.
MODE_DEPENDENT: Final = (
    *(op for op, traits in TRAITS.items() if traits.differs is not _alike),
    "spectral_norm",
)

#: Kinds with parameters that all optimizers and transforms take: laws about parameters share them.
PARAMETRIC: Final = ("Linear", "Conv1d", "PReLU", "scale")
#: What optimizers and clipping do not take: sparse gradients, an option of embeddings.
SPARSE: Final = ("sparse",)
#: Kinds with buffers; all but the last move them.
BUFFERED: Final = ("BatchNorm1d", "BatchNorm2d", "InstanceNorm1d", "InstanceNorm2d", "shift")


def class_of(op: str) -> str:
    """The class of torch.nn whose layer the node is; "" for a function, parameter or buffer.

    A layer to which a function of nn.utils was applied is called by that function.
    """
    traits = TRAITS[op]
    if not traits.is_layer:
        return ""
    made = traits.makes.format(op=op, args="", first="", norm="")
    applied = re.match(r"nn\.(utils\.\w+)\(", made)
    if applied:
        return applied[1]
    return made.removeprefix("initialised(").removeprefix("nn.").partition("(")[0]


@cache
def kinds_of(name: str) -> tuple[str, ...]:
    """The kinds of nodes that are layers of this class of torch.nn."""
    return tuple(op for op in TRAITS if class_of(op) == name)


#: The classes of torch.nn of which there are nodes, in the order of their names.
CLASSES: Final = tuple(sorted({class_of(op) for op in TRAITS} - {""}))
