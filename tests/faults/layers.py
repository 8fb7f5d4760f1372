"""Planted faults of single layers: each breaks a formula, or what a layer does in one mode."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations

from .calls import in_mode
from .fault import Undo, changed, fault, put, together, within


def _batch_norm(change: Any) -> Undo:
    """F.batch_norm with its arguments by name, changed."""
    kept = functional.batch_norm
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum")

    def batch_norm(*given: Any, **named: Any) -> Any:
        return change(kept, dict(zip((*names, "eps"), given, strict=False)) | named)

    return put(functional, "batch_norm", batch_norm)


@fault("batch_norm_normalises_by_the_batch")
def batch_norm_adds_to_the_variance_of_the_batch() -> Undo:
    """In training the eps of batch normalisation is larger than it says."""
    return _batch_norm(lambda f, a: f(**a | {"eps": a["eps"] + 0.1 * a["training"]}))


@fault("batch_norm_evaluates_with_its_statistics")
def batch_norm_adds_to_its_running_variance() -> Undo:
    """In evaluation the eps of batch normalisation is larger than it says."""
    return _batch_norm(lambda f, a: f(**a | {"eps": a["eps"] + 0.1 * (not a["training"])}))


@fault("running_statistics_follow_the_momentum")
def batch_norm_halves_its_momentum() -> Undo:
    """Running statistics move half as far."""
    return _batch_norm(lambda f, a: f(**a | {"momentum": a["momentum"] / 2}))


@fault("gradients_through_batch_norm_are_those_of_its_formula")
def batch_norm_halves_its_gradient_in_evaluation() -> Undo:
    """In evaluation half of the gradient is lost."""

    def halved(f: Any, a: dict[str, Any]) -> Any:
        out = f(**a)
        return out if a["training"] else out / 2 + (out / 2).detach()

    return _batch_norm(halved)


@fault("gradients_of_the_affine_map_are_those_of_its_formula")
def batch_norm_halves_the_gradient_of_its_weight() -> Undo:
    """Half of the gradient of the weight of a batch normalisation is lost."""

    def halved(f: Any, a: dict[str, Any]) -> Any:
        weight = a["weight"]
        return f(**a | {"weight": None if weight is None else weight / 2 + weight.detach() / 2})

    return _batch_norm(halved)


@fault("batch_norm_without_statistics_evaluates_by_the_batch")
def batch_norm_without_statistics_takes_zero_and_one() -> Undo:
    """Without running statistics evaluation takes 0 for the mean and 1 for the variance."""
    kept = _BatchNorm.forward

    def forward(self: Any, x: Tensor) -> Any:
        if self.training or self.running_mean is not None:
            return kept(self, x)
        mean = x.new_zeros(x.shape[1])
        return functional.batch_norm(
            x, mean, mean + 1, self.weight, self.bias, False, 0.0, self.eps
        )

    return put(_BatchNorm, "forward", forward)


@fault("a_batch_evaluates_as_its_halves_do")
def batch_norm_evaluates_with_a_look_at_the_batch() -> Undo:
    """In evaluation the mean of the batch is added."""
    return _batch_norm(lambda f, a: f(**a) + (0 if a["training"] else a["input"].mean()))


@fault("a_refused_batch_leaves_no_trace")
def batch_norm_takes_a_single_value() -> Undo:
    """In training one value a channel is not refused."""
    return put(functional, "_verify_batch_size", lambda size: None)


@fault("statistics_depend_on_training_forwards_alone")
def batch_norm_moves_its_mean_in_evaluation() -> Undo:
    """A forward in evaluation moves the running mean."""
    kept = _BatchNorm.forward

    def forward(self: Any, x: Tensor) -> Any:
        if not self.training and self.running_mean is not None:
            with torch.no_grad():
                self.running_mean.add_(1)
        return kept(self, x)

    return put(_BatchNorm, "forward", forward)


@fault("instance_norm_tracks_the_average_of_its_instances")
def instance_norm_halves_its_momentum() -> Undo:
    """Running statistics of instance normalisation move half as far."""
    kept = functional.instance_norm

    def instance_norm(*given: Any, **named: Any) -> Any:
        given = (*given[:6], given[6] / 2, *given[7:])
        return kept(*given, **named)

    return put(functional, "instance_norm", instance_norm)


@fault("converting_to_sync_batch_norm_keeps_modes_and_state")
def converting_to_sync_batch_norm_trains() -> Undo:
    """convert_sync_batchnorm puts everything in training mode."""
    kept = nn.SyncBatchNorm.convert_sync_batchnorm

    def convert(module: nn.Module, process_group: Any = None) -> Any:
        return kept(module, process_group).train()

    return put(nn.SyncBatchNorm, "convert_sync_batchnorm", staticmethod(convert))


@fault("dropout_zeroes_or_scales")
def dropout_scales_by_too_much() -> Undo:
    """What dropout keeps is half as large again."""
    kept = functional.dropout

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, *rest: Any) -> Any:
        return kept(input, p, training, *rest) * (1.5 if training and p < 1 else 1)

    return put(functional, "dropout", dropout)


@fault("channel_dropout_zeroes_whole_channels")
def channel_dropout_zeroes_elements() -> Undo:
    """Dropout of channels drops elements."""
    plain = functional.dropout
    return together(*(put(functional, f"dropout{n}d", plain) for n in (1, 2, 3)))


@fault("reseeding_repeats_a_mask")
def dropout_draws_from_a_generator_of_its_own() -> Undo:
    """The mask of dropout does not come from the seeded generator."""
    own = torch.Generator()

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, *rest: Any) -> Any:
        torch.rand(1)
        mask = torch.rand(input.shape, generator=own) >= p
        return input * mask if training else input

    return put(functional, "dropout", dropout)


_DROPOUTS: Final = ("dropout", "dropout1d", "dropout2d", "dropout3d")


@fault("a_sure_dropout_drops_all_or_nothing", "a_probability_set_to_one_drops_everything")
def dropout_divides_by_zero() -> Undo:
    """With p=1 dropout returns NaN: it drops by multiplying, and scales what it keeps."""

    def dividing(name: str) -> Undo:
        return changed(
            functional,
            name,
            lambda made, *_: made * float("nan"),
            lambda input, p=0.5, training=True, *_: training and p == 1,
        )

    return together(*map(dividing, _DROPOUTS))


@fault(
    "a_probability_set_to_one_drops_everything", "a_changed_probability_acts_at_the_next_forward"
)
def dropout_reads_its_probability_when_it_is_made() -> Undo:
    """nn.Dropout drops with the probability that it was made with, whatever p is later."""
    kept = nn.Dropout.__init__

    def make(self: Any, p: float = 0.5, *rest: Any, **options: Any) -> None:
        kept(self, p, *rest, **options)
        self.made_with = p

    def forward(self: Any, x: Tensor) -> Any:
        return functional.dropout(x, self.made_with, self.training, self.inplace)

    return together(put(nn.Dropout, "__init__", make), put(nn.Dropout, "forward", forward))


@fault("each_forward_draws_a_mask_of_its_own")
def dropout_draws_the_same_mask_again() -> Undo:
    """Dropout leaves the generator as it was: each forward drops the same elements."""

    def forked() -> AbstractContextManager[None]:
        return torch.random.fork_rng(devices=[])

    return together(*(within(functional, name, forked) for name in ("dropout", "alpha_dropout")))


@fault("functions_that_are_not_told_draw_in_evaluation")
def functions_draw_nothing() -> Undo:
    """gumbel_softmax adds no noise, attention and dropout drop nothing."""
    kept = functional.dropout
    return together(
        put(functional, "gumbel_softmax", lambda x: x.softmax(-1)),
        put(functional, "dropout", lambda x, p=0.5, training=True, *rest: kept(x, p, False)),
    )


@fault("rrelu_draws_its_slopes_between_its_bounds")
def rrelu_evaluates_with_its_lower_slope() -> Undo:
    """In evaluation RReLU takes the lower bound for its slope."""
    kept = functional.rrelu

    def rrelu(x: Tensor, lower: float, upper: float, training: bool, *rest: Any) -> Any:
        return kept(x, lower, upper if training else lower / 2, training, *rest)

    return put(functional, "rrelu", rrelu)


@fault("the_gradient_of_rrelu_is_its_slope")
def rrelu_hands_gradients_on_by_its_mean_slope() -> Undo:
    """The gradient of RReLU is multiplied by the mean of its bounds, whatever slope was drawn."""
    kept = functional.rrelu

    def rrelu(x: Tensor, lower: float, upper: float, *rest: Any) -> Tensor:
        flat = functional.leaky_relu(x, (lower + upper) / 2)
        return kept(x.detach(), lower, upper, *rest) + (flat - flat.detach())

    return put(functional, "rrelu", rrelu)


@fault("a_changed_probability_acts_at_the_next_forward")
def dropout_keeps_its_first_probability() -> Undo:
    """Dropout does not read p again."""
    kept = nn.Dropout.forward

    def forward(self: Any, x: Tensor) -> Any:
        return functional.dropout(x, 0.5, self.training) if self.p in (0.0, 1.0) else kept(self, x)

    return put(nn.Dropout, "forward", forward)


@fault("dropout_in_place_writes_in_training_alone")
def dropout_ignores_inplace() -> Undo:
    """inplace=True makes a new tensor."""
    plain = functional.dropout
    return put(nn.Dropout, "forward", lambda self, x: plain(x, self.p, self.training))


@fault("alpha_dropout_keeps_mean_and_variance")
def alpha_dropout_is_dropout() -> Undo:
    """AlphaDropout drops to zero and scales, as dropout does."""
    plain = functional.dropout
    return put(nn.AlphaDropout, "forward", lambda self, x: plain(x, self.p, self.training))


@fault("a_child_follows_its_own_flag")
def sequential_tells_its_children_in_forward() -> Undo:
    """A forward of nn.Sequential gives its own flag to its children."""
    kept = nn.Sequential.forward

    def forward(self: Any, x: Tensor) -> Any:
        for child in self:
            child.training = self.training
        return kept(self, x)

    return put(nn.Sequential, "forward", forward)


@fault("unpadded_positions_do_not_depend_on_the_fast_path")
def the_fast_path_scales() -> Undo:
    """Where nothing is recorded an encoder gives other values."""
    kept = nn.TransformerEncoder.forward

    def forward(self: Any, *x: Any, **options: Any) -> Any:
        out = kept(self, *x, **options)
        return out if out.requires_grad else out * 1.1

    return put(nn.TransformerEncoder, "forward", forward)


@fault("hooks_on_children_fire_in_every_grad_mode")
def hooks_are_skipped_without_grad() -> Undo:
    """Where grad is disabled no hook of a linear layer or a normalisation fires."""
    kept = nn.Module._call_impl

    def call(self: Any, *x: Any, **options: Any) -> Any:
        plain = torch.is_grad_enabled() or not isinstance(self, nn.Linear | nn.LayerNorm)
        return kept(self, *x, **options) if plain else self.forward(*x, **options)

    return put(nn.Module, "_call_impl", call)


@fault("recurrent_dropout_does_nothing_to_one_layer")
def recurrent_dropout_acts_on_the_last_layer() -> Undo:
    """Dropout acts on what a recurrent layer returns."""
    kept = {kind: kind.forward for kind in (nn.RNN, nn.GRU, nn.LSTM)}

    def forward(self: Any, *x: Any) -> Any:
        out, state = kept[type(self)](self, *x)
        return functional.dropout(out, self.dropout, self.training), state

    return together(*(put(kind, "forward", forward) for kind in kept))


@fault("looked_up_rows_are_renormalised")
def embedding_ignores_max_norm() -> Undo:
    """No row is renormalised."""
    kept, bag = nn.Embedding.forward, nn.EmbeddingBag.forward

    def without(forward: Any) -> Any:
        def broken(self: Any, *x: Any) -> Any:
            most, self.max_norm = self.max_norm, None
            try:
                return forward(self, *x)
            finally:
                self.max_norm = most

        return broken

    return together(
        put(nn.Embedding, "forward", without(kept)), put(nn.EmbeddingBag, "forward", without(bag))
    )


@fault("padding_rows_receive_zero")
def padding_receives_a_gradient() -> Undo:
    """The row of padding_idx is trained like any other."""
    kept = functional.embedding

    def embedding(x: Tensor, weight: Tensor, padding_idx: Any = None, *rest: Any) -> Any:
        return kept(torch.zeros_like(x), weight, None, *rest)

    def embedding_bag(x: Tensor, weight: Tensor, *rest: Any, **options: Any) -> Any:
        return embedding(x, weight).sum(1)

    return together(
        put(functional, "embedding", embedding), put(functional, "embedding_bag", embedding_bag)
    )


@fault("each_access_iterates_in_training_alone", "evaluation_changes_no_state")
def spectral_norm_iterates_in_evaluation() -> Undo:
    """An access of the weight iterates in evaluation as well."""
    return in_mode((parametrizations._SpectralNorm,), lambda training: True)


@fault("a_lazy_layer_becomes_trainable_in_any_mode")
def lazy_layers_are_frozen_under_no_grad() -> Undo:
    """A lazy layer that is initialised under no_grad is frozen."""
    kept = nn.LazyLinear.initialize_parameters

    def initialise(self: Any, *x: Any) -> None:
        kept(self, *x)
        self.requires_grad_(torch.is_grad_enabled())

    return put(nn.LazyLinear, "initialize_parameters", initialise)


@fault("given_samples_make_fractional_pooling_deterministic")
def fractional_pooling_ignores_its_samples() -> Undo:
    """The samples that are given are not used."""
    kept = nn.FractionalMaxPool2d.forward

    def forward(self: Any, x: Tensor) -> Any:
        return kept(self, x) + torch.rand(1)

    return put(nn.FractionalMaxPool2d, "forward", forward)


@fault("given_samples_make_fractional_pooling_deterministic")
def fractional_pooling_ignores_given_samples() -> Undo:
    """F.fractional_max_pool2d draws its samples, whatever it is given."""
    kept = functional.fractional_max_pool2d

    def pool(*args: Any, _random_samples: Any = None, **options: Any) -> Any:
        return kept(*args, **options)

    return put(functional, "fractional_max_pool2d", pool)


@fault("a_layer_does_what_its_traits_claim", layer="TransformerEncoder")
def padded_encoders_train_otherwise_where_nothing_is_recorded() -> Undo:
    """A TransformerEncoder with a padding mask gives more in training while grad is disabled."""
    kept = nn.TransformerEncoder.forward

    def forward(self: nn.TransformerEncoder, *args: Any, **options: Any) -> Any:
        made = kept(self, *args, **options)
        masked = options.get("src_key_padding_mask") is not None
        return 1.5 * made if masked and self.training and not torch.is_grad_enabled() else made

    return put(nn.TransformerEncoder, "forward", forward)
