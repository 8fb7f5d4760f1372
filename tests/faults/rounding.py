"""Planted faults that look like rounding, and are none: no bound on rounding may excuse them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .fault import Undo, fault, put, together

Linear = Callable[..., Tensor]


def _linear(change: Callable[[Linear, Tensor, Tensor, Tensor | None], Tensor]) -> Undo:
    """functional.linear does this: it is given the function as it was, and its arguments."""
    kept = functional.linear

    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return change(kept, input, weight, bias)

    return put(functional, "linear", linear)


@fault("values_depend_on_train_and_eval_alone", "freezing_changes_no_value")
def linear_is_off_by_a_thousandth_where_nothing_is_recorded() -> Undo:
    """functional.linear returns more by a thousandth where its result does not require grad."""

    def change(kept: Linear, *given: Any) -> Tensor:
        made = kept(*given)
        return made if made.requires_grad else made * 1.001

    return _linear(change)


#: The bits of a float32 that TF32 keeps: sign, exponent, and 10 of 23 bits of the mantissa.
_TF32 = -1 << 13


def _truncated(t: Tensor) -> Tensor:
    if t.dtype != torch.float32:
        return t
    return (t.contiguous().view(torch.int32) & _TF32).view(torch.float32)


@fault("values_depend_on_train_and_eval_alone")
def sums_of_products_take_ten_bits_without_grad() -> Undo:
    """functional.linear and convolutions multiply in TF32 while grad is disabled."""

    def truncating(name: str) -> Undo:
        kept: Linear = getattr(functional, name)

        def computed(input: Tensor, weight: Tensor, *rest: Any, **options: Any) -> Tensor:
            if torch.is_grad_enabled():
                return kept(input, weight, *rest, **options)
            return kept(_truncated(input), _truncated(weight), *rest, **options)

        return put(functional, name, computed)

    return together(*map(truncating, ("linear", "conv1d", "conv2d", "conv3d")))


@fault("unpadded_positions_do_not_depend_on_the_fast_path")
def the_fast_path_drops_a_row() -> Undo:
    """Where nothing is recorded an encoder returns zeros for the first position, in evaluation."""
    kept = nn.TransformerEncoder.forward

    def forward(self: Any, *args: Any, **options: Any) -> Tensor:
        made = kept(self, *args, **options)
        if self.training or made.requires_grad:
            return made
        first = torch.arange(made.shape[1]).reshape(1, -1, 1) == 0
        return made.masked_fill(first, 0)

    return put(nn.TransformerEncoder, "forward", forward)


_WIDE = (torch.float32, torch.float64)


@fault("freezing_changes_no_value", "values_depend_on_train_and_eval_alone")
def frozen_layers_accumulate_in_float16() -> Undo:
    """functional.linear and layer_norm compute in float16 where the weight is frozen."""

    def accumulating(name: str, at: int) -> Undo:
        kept: Callable[..., Tensor] = getattr(functional, name)

        def computed(*args: Any) -> Tensor:
            weight = args[at]
            if weight is None or weight.requires_grad or weight.dtype not in _WIDE:
                return kept(*args)
            halves = (a.half() if isinstance(a, Tensor) else a for a in args)
            return kept(*halves).to(weight.dtype)

        return put(functional, name, computed)

    return together(accumulating("linear", 1), accumulating("layer_norm", 2))


@fault("freezing_changes_no_value", "values_depend_on_train_and_eval_alone")
def tiny_linear_layers_add_their_bias_twice_when_frozen() -> Undo:
    """functional.linear has tiny weights, and adds its bias twice where they are frozen."""
    tiny = 2.0**-20  # a power of two: what is multiplied by it is not rounded

    def change(kept: Linear, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        made = kept(input, weight * tiny, None if bias is None else bias * tiny)
        return made if bias is None or weight.requires_grad else made + bias * tiny

    return _linear(change)
