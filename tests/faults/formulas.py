"""Planted faults of what layers compute in one mode, of a kind that layers.py has not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from .fault import Undo, fault, put, together


@fault("batch_norm_without_statistics_evaluates_by_the_batch")
def batch_norm_without_statistics_rests_in_evaluation() -> Undo:
    """Batch norm that tracks no statistics returns its input as it is in evaluation."""
    kept = _BatchNorm.forward

    def forward(self: Any, input: Tensor) -> Tensor:
        rests = self.running_mean is None and not self.training
        return input * 1 if rests else kept(self, input)

    return put(_BatchNorm, "forward", forward)


@fault("gradients_of_the_affine_map_are_those_of_its_formula")
def batch_norm_halves_the_gradient_of_its_weight() -> Undo:
    """The weight of batch norm receives half of its gradient."""
    kept = functional.batch_norm

    def batch_norm(input: Tensor, mean: Any, var: Any, weight: Any, *rest: Any) -> Tensor:
        if weight is not None:
            weight = weight / 2 + weight.detach() / 2
        return kept(input, mean, var, weight, *rest)

    return put(functional, "batch_norm", batch_norm)


def _dropout(
    does: Callable[[Callable[..., Tensor], Tensor, float, Any], Tensor], *names: str
) -> Undo:
    """Such a dropout of functional does this: it is given itself as it was, and its arguments."""

    def put_one(name: str) -> Undo:
        kept = getattr(functional, name)

        def dropout(input: Tensor, p: float = 0.5, *rest: Any) -> Tensor:
            return does(kept, input, p, rest)

        return put(functional, name, dropout)

    return together(*map(put_one, names or ("dropout",)))


@fault("a_sure_dropout_drops_all_or_nothing")
def sure_dropout_drops_nothing() -> Undo:
    """Dropout with probability 1 returns its input as it is, that of whole channels as well."""
    return _dropout(
        lambda kept, input, p, rest: input * 1 if p == 1 else kept(input, p, *rest),
        *("dropout", "dropout1d", "dropout2d", "dropout3d"),
    )


@fault("a_probability_set_to_one_drops_everything")
def dropout_drops_a_half_at_the_most() -> Undo:
    """Dropout takes a probability above one half for one half."""
    return _dropout(lambda kept, input, p, rest: kept(input, min(p, 0.5), *rest))


@fault("each_forward_draws_a_mask_of_its_own")
def dropout_repeats_its_mask() -> Undo:
    """Dropout leaves the random generator as it was: the next forward draws the same mask."""

    def repeat(kept: Callable[..., Tensor], input: Tensor, p: float, rest: Any) -> Tensor:
        state = torch.get_rng_state()
        made = kept(input, p, *rest)
        torch.set_rng_state(state)
        return made

    return _dropout(repeat)


@fault("the_gradient_of_rrelu_is_its_slope")
def rrelu_is_the_identity_in_backward() -> Undo:
    """functional.rrelu hands on gradients as they are."""
    kept = functional.rrelu

    def rrelu(input: Tensor, *args: Any, **options: Any) -> Tensor:
        return kept(input.detach(), *args, **options) + (input - input.detach())

    return put(functional, "rrelu", rrelu)
