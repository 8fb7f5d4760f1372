"""Planted faults that show where a layer is frozen in part."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from .fault import Undo, fault, put


@fault("a_layer_frozen_in_part_keeps_its_other_gradients", "freezing_changes_no_other_gradient")
def layers_frozen_in_part_halve_gradients() -> Undo:
    """A convolution or normalisation that is frozen, but not as a whole, halves its gradients."""
    kept = nn.Module.__call__

    def call(self: nn.Module, *given: Any, **named: Any) -> Any:
        out = kept(self, *given, **named)
        if not isinstance(self, _ConvNd | _NormBase) or not isinstance(out, Tensor):
            return out
        flags = {parameter.requires_grad for parameter in self.parameters()}
        partly = len(flags) > 1 and out.requires_grad
        return out / 2 + (out / 2).detach() if partly else out

    return put(nn.Module, "__call__", call)
