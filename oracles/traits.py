"""What each kind of node does under each mode: the facts the reference model uses.

A trait is a claim about torch, stated once and without torch. The reference
model predicts whole modules from these claims, and every drawn module tries
them; none is a description of how torch computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
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
    differs: Callable[[Arguments], Certainty] = lambda args: Certainty.NEVER
    kernel: Callable[[Arguments], bool] = lambda args: False
    batch: Callable[[Arguments], bool] = lambda args: False

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


_BATCH_NORM: Final = Traits(
    parameters=_affine(True), buffers=_tracked(True), moves=_batch_norm_moves, saves_output=False
)
_INSTANCE_NORM: Final = Traits(
    parameters=_affine(False), buffers=_tracked(False), moves=_instance_norm_moves
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


_DROPOUT: Final = Traits(draws=_dropout_draws, returns=_dropout_returns, saves_output=False)


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


def _recurrent_draws(args: Arguments, training: bool) -> Certainty:
    """nn.LSTM: dropout acts on the outputs of each layer except the last, in training."""
    several = args.get("num_layers", 1) > 1
    return Certainty.ALWAYS if training and several and args.get("dropout", 0.0) > 0.0 else _NEVER


_NEVER: Final = Certainty.NEVER
_RECURRENT: Final = Traits(
    call="{self}({0})[0]", parameters=_recurrent_parameters, draws=_recurrent_draws
)


def _attention_parameters(args: Arguments) -> tuple[str, ...]:
    weights, biases = ("in_proj_weight", "out_proj.weight"), ("in_proj_bias", "out_proj.bias")
    return weights + biases if args.get("bias", True) else weights


def _encoder_parameters(args: Arguments) -> tuple[str, ...]:
    attention = tuple(f"self_attn.{name}" for name in _attention_parameters({}))
    rest = ("linear1", "linear2", "norm1", "norm2")
    return attention + tuple(f"{name}.{p}" for name in rest for p in ("weight", "bias"))


def _attends_randomly(key: str, default: float) -> Callable[[Arguments, bool], Certainty]:
    def draws(args: Arguments, training: bool) -> Certainty:
        return Certainty.ALWAYS if training and args.get(key, default) > 0.0 else Certainty.NEVER

    return draws


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


def _functional_dropout_returns(args: Arguments, training: bool) -> Returns:
    return Returns.FRESH if training else Returns.ITSELF


DROPOUTS: Final = (
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "AlphaDropout",
    "FeatureAlphaDropout",
)

LAYERS: Final[dict[str, Traits]] = {
    "Linear": Traits(parameters=_weight_and_bias, saves_output=False),
    "Bilinear": Traits(call="{self}({0}, {1})", parameters=_weight_and_bias, saves_output=False),
    "Identity": Traits(returns=_returning(Returns.ITSELF), saves_output=False),
    "Flatten": Traits(
        returns=lambda args, training: Returns.ITSELF if args["rank"] <= 2 else Returns.VIEW,
        makes="nn.Flatten()",
        saves_output=False,
    ),
    "Conv1d": Traits(parameters=_weight_and_bias, saves_output=False),
    "Conv2d": Traits(parameters=_weight_and_bias, saves_output=False),
    "ConvTranspose1d": Traits(parameters=_weight_and_bias, saves_output=False),
    "BatchNorm1d": _BATCH_NORM,
    "BatchNorm2d": _BATCH_NORM,
    "InstanceNorm1d": _INSTANCE_NORM,
    "InstanceNorm2d": _INSTANCE_NORM,
    "GroupNorm": Traits(parameters=_affine(True)),
    "LayerNorm": Traits(parameters=_affine(True, "elementwise_affine")),
    "RMSNorm": Traits(
        parameters=lambda args: ("weight",) if args.get("elementwise_affine", True) else ()
    ),
    "LocalResponseNorm": Traits(),
    "Dropout": _DROPOUT,
    "Dropout1d": _DROPOUT,
    "Dropout2d": _DROPOUT,
    "Dropout3d": replace(_DROPOUT, returns=_unbatched_dropout_returns, saves_output=True),
    "AlphaDropout": _DROPOUT,
    "FeatureAlphaDropout": _DROPOUT,
    "RReLU": Traits(draws=_rrelu_draws, returns=_activation_returns),
    "ReLU": _ACTIVATION,
    "LeakyReLU": _ACTIVATION,
    "ELU": _ACTIVATION,
    "SiLU": _ACTIVATION,
    "Hardtanh": _ACTIVATION,
    "GELU": Traits(),
    "Tanh": Traits(),
    "Sigmoid": Traits(),
    "Softplus": Traits(),
    "Softmax": Traits(),
    "PReLU": Traits(parameters=lambda args: ("weight",)),
    "MaxPool1d": Traits(),
    "MaxPool2d": Traits(),
    "MaxPool2d_with_indices": Traits(
        makes="nn.MaxPool2d({args}, return_indices=True)", differentiable=(True, False)
    ),
    "AvgPool1d": Traits(),
    "AvgPool2d": Traits(),
    "AdaptiveAvgPool1d": Traits(),
    "FractionalMaxPool2d": Traits(draws=_always_drops),
    "Embedding": _EMBEDDING,
    "EmbeddingBag": _EMBEDDING,
    "RNN": _RECURRENT,
    "GRU": _RECURRENT,
    "LSTM": _RECURRENT,
    "MultiheadAttention": Traits(
        call="{self}({0}, {0}, {0}, need_weights=False)[0]",
        parameters=_attention_parameters,
        draws=_attends_randomly("dropout", 0.0),
    ),
    "TransformerEncoderLayer": Traits(
        parameters=_encoder_parameters, draws=_attends_randomly("dropout", 0.1)
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
    ),
    "dropout_by_default": _function("F.dropout({0}, 0.5)", draws=_always_drops),
    "branch_on_training": _function("({0} * 2 if self.training else {0} + 1)"),
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
    *DROPOUTS,
    "BatchNorm1d",
    "BatchNorm2d",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "RReLU",
    "RNN",
    "GRU",
    "LSTM",
    "MultiheadAttention",
    "TransformerEncoderLayer",
    "dropout_in_training",
    "branch_on_training",
    "spectral_norm",
)
