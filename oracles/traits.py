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


@dataclass(frozen=True)
class Traits:
    """The claims about one kind of node, as functions of its arguments and its mode.

    call            the expression that runs it; ``{self}`` is the layer, ``{0}`` an input
    makes           the expression that makes its layer, parameter or buffer; ``{args}``
                    its arguments; empty for a function
    parameters      names of its parameters, below its own path
    buffers         names of its buffers
    draws           whether it draws from the global random generator
    moves           which of its buffers and parameters a forward changes
    returns         how its first output comes about
    differentiable  for each output, whether gradients flow through it
    saves_output    whether backward needs the output (so that it must not be written to)
    differs         whether train and eval give other values, with the same randomness
    kernel          whether another kernel runs where nothing is recorded, so that rounding differs
    batch           whether training refuses one value a channel or instance, and eval does not
    """

    call: str = "{self}({0})"
    makes: str = "nn.{op}({args})"
    parameters: Callable[[Arguments], tuple[str, ...]] = _nothing
    buffers: Callable[[Arguments], tuple[str, ...]] = _nothing
    draws: Callable[[Arguments, bool], Certainty] = _never
    moves: Callable[[Arguments, bool], Mapping[str, Certainty]] = _no_moves
    returns: Callable[[Arguments, bool], Returns] = _fresh
    differentiable: tuple[bool, ...] = (True,)
    saves_output: bool = True
    differs: Callable[[Arguments], Certainty] = _alike
    kernel: Callable[[Arguments], bool] = _not
    batch: Callable[[Arguments], bool] = _not

    @property
    def is_layer(self) -> bool:
        """Whether the node is an ``nn.Module`` of its own."""
        return "nn." in self.makes and not self.makes.startswith("nn.Parameter(")

    @property
    def has_state(self) -> bool:
        """Whether the node owns something that is made in ``__init__``."""
        return bool(self.makes)


def _returning(kind: Returns) -> Callable[[Arguments, bool], Returns]:
    return lambda args, training: kind


def _weight_and_bias(args: Arguments) -> tuple[str, ...]:
    return ("weight", "bias") if args.get("bias", True) else ("weight",)


def _affine(default: bool, key: str = "affine") -> Callable[[Arguments], tuple[str, ...]]:
    return lambda args: ("weight", "bias") if args.get(key, default) else ()


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
    """F.dropout3d adds a batch dimension to four-dimensional inputs, and takes it off again."""
    returns = _dropout_returns(args, training)
    return Returns.VIEW if returns is Returns.ITSELF else returns


def _always_drops(args: Arguments, training: bool) -> Certainty:
    return Certainty.ALWAYS


def _activation_returns(args: Arguments, training: bool) -> Returns:
    return Returns.WRITTEN if args.get("inplace", False) else Returns.FRESH


_ACTIVATION: Final = Traits(returns=_activation_returns)


def _rrelu_draws(args: Arguments, training: bool) -> Certainty:
    """nn.RReLU: a slope is drawn for negative elements only (measured on CPU)."""
    return Certainty.MAYBE if training else Certainty.NEVER


def _recurrent_parameters(args: Arguments) -> tuple[str, ...]:
    directions = ("", "_reverse") if args.get("bidirectional", False) else ("",)
    biases = ("bias_ih", "bias_hh") if args.get("bias", True) else ()
    kinds = ("weight_ih", "weight_hh", *biases)
    layers = range(args.get("num_layers", 1))
    return tuple(f"{kind}_l{n}{side}" for n in layers for side in directions for kind in kinds)


def _drops_between_layers(args: Arguments) -> bool:
    return args.get("num_layers", 1) > 1 and float(args.get("dropout", 0.0)) > 0.0


def _drawing_where(
    condition: Callable[[Arguments], bool],
) -> Callable[[Arguments, bool], Certainty]:
    """In training, with such arguments."""
    return lambda args, training: (
        Certainty.ALWAYS if training and condition(args) else Certainty.NEVER
    )


def _recurrent(call: str = "{self}({0})[0]", makes: str = "nn.{op}({args})") -> Traits:
    """nn.LSTM: dropout acts on the outputs of each layer except the last, in training."""
    return Traits(
        call=call,
        makes=makes,
        parameters=_recurrent_parameters,
        draws=_drawing_where(_drops_between_layers),
        differs=_if(_drops_between_layers),
        kernel=lambda args: True,
    )


def _cell_parameters(args: Arguments) -> tuple[str, ...]:
    weights = ("weight_ih", "weight_hh")
    return (*weights, "bias_ih", "bias_hh") if args.get("bias", True) else weights


def _attention_parameters(args: Arguments) -> tuple[str, ...]:
    weights, biases = ("in_proj_weight", "out_proj.weight"), ("in_proj_bias", "out_proj.bias")
    return weights + biases if args.get("bias", True) else weights


def _within(path: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{path}.{name}" for name in names)


def _weight_bias_of(*layers: str) -> tuple[str, ...]:
    return tuple(f"{layer}.{p}" for layer in layers for p in ("weight", "bias"))


_ENCODER_LAYER: Final = (
    *_within("self_attn", _attention_parameters({})),
    *_weight_bias_of("linear1", "linear2", "norm1", "norm2"),
)
_DECODER_LAYER: Final = (
    *_within("self_attn", _attention_parameters({})),
    *_within("multihead_attn", _attention_parameters({})),
    *_weight_bias_of("linear1", "linear2", "norm1", "norm2", "norm3"),
)


def _transformer(
    call: str, makes: str = "nn.{op}({args})", *, names: tuple[str, ...], kernel: bool = True
) -> Traits:
    """nn.TransformerEncoderLayer and its kin: dropout of 0.1 by default, and a fast path."""
    return Traits(
        call=call,
        makes=makes,
        parameters=lambda args: names,
        draws=_drawing_where(lambda args: float(args.get("dropout", 0.1)) > 0.0),
        differs=_if(lambda args: float(args.get("dropout", 0.1)) > 0.0),
        kernel=lambda args: kernel,
    )


def _attention(call: str) -> Traits:
    return Traits(
        call=call,
        makes="nn.MultiheadAttention({args})",
        parameters=_attention_parameters,
        draws=_drawing_where(lambda args: float(args.get("dropout", 0.0)) > 0.0),
        differs=_if(lambda args: float(args.get("dropout", 0.0)) > 0.0),
        kernel=lambda args: True,
    )


#: The last position of every sequence is padding.
_PADDING: Final = (
    "torch.arange({0}.shape[1], device={0}.device).expand({0}.shape[:2]) >= {0}.shape[1] - 1"
)


def _renormalises(args: Arguments, training: bool) -> Mapping[str, Certainty]:
    """nn.Embedding: rows longer than max_norm are rewritten in forward, in every mode."""
    return {"weight": Certainty.MAYBE} if args.get("max_norm") is not None else {}


_EMBEDDING: Final = Traits(parameters=lambda args: ("weight",), moves=_renormalises)


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


def _loss(call: str) -> Traits:
    return Traits(call=call)


def _lazy(initialised: Traits) -> Traits:
    """A lazy layer after its first forward: the layer that it became."""
    return replace(initialised, makes="initialised(nn.{op}({args}), {first})")


def _hooked_norm(function: str, names: tuple[str, ...], state: tuple[str, ...]) -> Traits:
    """A linear layer with nn.utils.spectral_norm or nn.utils.weight_norm, which are hooks."""

    def moves(args: Arguments, training: bool) -> Mapping[str, Certainty]:
        # A vector of one element stays what it is.
        return dict.fromkeys(state, Certainty.MAYBE) if training else {}

    return Traits(
        makes=f"nn.utils.{function}(nn.Linear({{args}}))",
        parameters=lambda args: (*(("bias",) if args.get("bias", True) else ()), *names),
        buffers=lambda args: state,
        moves=moves,
        saves_output=False,
        differs=_if(lambda args: True) if state else _alike,
    )


def _cutoff_parameters(args: Arguments) -> tuple[str, ...]:
    return ("head.weight", "tail.0.0.weight", "tail.0.1.weight")


def _functional_dropout_returns(args: Arguments, training: bool) -> Returns:
    return Returns.FRESH if training else Returns.ITSELF


DROPOUTS: Final = (
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "Dropout3d_unbatched",
    "AlphaDropout",
    "FeatureAlphaDropout",
)

_SIMPLE: Final = Traits()
_LINEAR: Final = Traits(parameters=_weight_and_bias, saves_output=False)
_SAME_SHAPE: Final = _loss("{self}({0}, {1})")

LAYERS: Final[dict[str, Traits]] = {
    "Linear": _LINEAR,
    "Bilinear": Traits(call="{self}({0}, {1})", parameters=_weight_and_bias, saves_output=False),
    "Identity": Traits(returns=_returning(Returns.ITSELF), saves_output=False),
    "Flatten": Traits(
        returns=lambda args, training: Returns.ITSELF if args["rank"] <= 2 else Returns.VIEW,
        makes="nn.Flatten()",
        saves_output=False,
    ),
    "Unflatten": Traits(returns=_returning(Returns.VIEW), saves_output=False),
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _LINEAR),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), _LINEAR),
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
    "Dropout3d_unbatched": replace(
        _DROPOUT,
        makes="nn.Dropout3d({args})",
        returns=_unbatched_dropout_returns,
        saves_output=True,
    ),
    "AlphaDropout": _DROPOUT,
    "FeatureAlphaDropout": _DROPOUT,
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
    "MaxPool2d_with_indices": Traits(
        makes="nn.MaxPool2d({args}, return_indices=True)", differentiable=(True, False)
    ),
    **dict.fromkeys(("AvgPool1d", "AvgPool2d", "AvgPool3d"), _SIMPLE),
    **dict.fromkeys(("LPPool1d", "LPPool2d", "LPPool3d"), _SIMPLE),
    **dict.fromkeys(("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d"), _SIMPLE),
    **dict.fromkeys(("AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d"), _SIMPLE),
    "MaxUnpool1d": Traits(call="{self}(*F.max_pool1d({0}, 2, return_indices=True))"),
    "MaxUnpool2d": Traits(call="{self}(*F.max_pool2d({0}, 2, return_indices=True))"),
    "MaxUnpool3d": Traits(call="{self}(*F.max_pool3d({0}, 2, return_indices=True))"),
    "FractionalMaxPool2d": Traits(draws=_always_drops),
    "FractionalMaxPool3d": Traits(draws=_always_drops),
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
    "EmbeddingBag": _EMBEDDING,
    **dict.fromkeys(("RNN", "GRU", "LSTM"), _recurrent()),
    "GRU_packed": _recurrent(
        "nn.utils.rnn.pad_packed_sequence({self}(nn.utils.rnn.pack_padded_sequence("
        "{0}, [{0}.shape[1]] + [1] * ({0}.shape[0] - 1), batch_first=True))[0], "
        "batch_first=True)[0]",
        "nn.GRU({args})",
    ),
    **dict.fromkeys(("RNNCell", "GRUCell"), Traits(parameters=_cell_parameters)),
    "LSTMCell": Traits(call="{self}({0})[0]", parameters=_cell_parameters),
    "MultiheadAttention": _attention("{self}({0}, {0}, {0}, need_weights=False)[0]"),
    "MultiheadAttention_padded": _attention(
        f"{{self}}({{0}}, {{0}}, {{0}}, key_padding_mask={_PADDING})[0]"
    ),
    "TransformerEncoderLayer": _transformer("{self}({0})", names=_ENCODER_LAYER),
    "TransformerEncoder": _transformer(
        "{self}({0})",
        "nn.TransformerEncoder(nn.TransformerEncoderLayer({args}), 2)",
        names=_within("layers.0", _ENCODER_LAYER) + _within("layers.1", _ENCODER_LAYER),
    ),
    "TransformerEncoder_padded": _transformer(
        f"{{self}}({{0}}, src_key_padding_mask={_PADDING})",
        "nn.TransformerEncoder(nn.TransformerEncoderLayer({args}), 1)",
        names=_within("layers.0", _ENCODER_LAYER),
    ),
    "TransformerDecoderLayer": _transformer("{self}({0}, {0})", names=_DECODER_LAYER),
    "TransformerDecoder": _transformer(
        "{self}({0}, {0})",
        "nn.TransformerDecoder(nn.TransformerDecoderLayer({args}), 1)",
        names=_within("layers.0", _DECODER_LAYER),
    ),
    "Transformer": _transformer(
        "{self}({0}, {0})",
        names=_within("encoder.layers.0", _ENCODER_LAYER)
        + _weight_bias_of("encoder.norm")
        + _within("decoder.layers.0", _DECODER_LAYER)
        + _weight_bias_of("decoder.norm"),
    ),
    **dict.fromkeys(("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss"), _SAME_SHAPE),
    "PoissonNLLLoss": _SAME_SHAPE,
    "KLDivLoss": _loss("{self}({0}.log_softmax(-1), {1}.softmax(-1))"),
    "BCELoss": _loss("{self}({0}.sigmoid(), ({0} > 0).to({0}.dtype))"),
    "BCEWithLogitsLoss": _loss("{self}({0}, ({0} > 0).to({0}.dtype))"),
    "MultiLabelSoftMarginLoss": _loss("{self}({0}, ({0} > 0).to({0}.dtype))"),
    "SoftMarginLoss": _loss("{self}({0}, {0}.detach().sign())"),
    "HingeEmbeddingLoss": _loss("{self}({0}, {0}.detach().sign())"),
    "GaussianNLLLoss": _loss("{self}({0}, {1}, torch.ones_like({0}))"),
    "CrossEntropyLoss": _loss("{self}({0}, {0}.argmax(1))"),
    "NLLLoss": _loss("{self}({0}.log_softmax(1), {0}.argmax(1))"),
    "NLLLoss2d": _loss("{self}({0}.log_softmax(1), {0}.argmax(1))"),
    "MultiMarginLoss": _loss("{self}({0}, {0}.argmax(1))"),
    "MultiLabelMarginLoss": _loss("{self}({0}, torch.zeros_like({0}, dtype=torch.long))"),
    "CosineEmbeddingLoss": _loss("{self}({0}, {1}, torch.ones_like({0}[:, 0]))"),
    "MarginRankingLoss": _loss("{self}({0}, {1}, torch.ones_like({0}))"),
    "TripletMarginLoss": _loss("{self}({0}, {1}, {1} + 1)"),
    "TripletMarginWithDistanceLoss": _loss("{self}({0}, {1}, {1} + 1)"),
    "CTCLoss": _loss(
        "{self}({0}.log_softmax(-1), "
        "torch.ones({0}.shape[1], 1, dtype=torch.long, device={0}.device), "
        "({0}.shape[0],) * {0}.shape[1], (1,) * {0}.shape[1])"
    ),
    "AdaptiveLogSoftmaxWithLoss": Traits(
        call="{self}({0}, 3 - torch.arange({0}.shape[0], device={0}.device) % 4).output",
        parameters=_cutoff_parameters,
    ),
    "LinearCrossEntropyLoss": Traits(
        call="{self}({0}, torch.arange({0}.shape[0], device={0}.device) % 2)",
        parameters=lambda args: _within("linear", _weight_and_bias({"bias": False} | dict(args))),
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
        ("LazyConvTranspose1d", "LazyConvTranspose2d", "LazyConvTranspose3d"), _lazy(_LINEAR)
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
#: Kinds with buffers; all but the last move them.
BUFFERED: Final = ("BatchNorm1d", "BatchNorm2d", "InstanceNorm1d", "InstanceNorm2d", "shift")


def class_of(op: str) -> str:
    """The class of torch.nn whose layer the node is; "" for a function, parameter or buffer.

    A layer to which a function of nn.utils was applied is called by that function.
    """
    traits = TRAITS[op]
    if not traits.is_layer:
        return ""
    made = traits.makes.format(op=op, args="", first="")
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
