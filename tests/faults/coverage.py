"""Planted faults that show where a layer is frozen in part."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .fault import Undo, fault, put


@fault("a_layer_frozen_in_part_keeps_its_other_gradients", "freezing_changes_no_other_gradient")
def layers_frozen_in_part_halve_gradients() -> Undo:
    """A layer halves all gradients where some, but not all, of its own parameters are frozen."""
    kept = nn.Module.__call__

    def call(self: nn.Module, *given: Any, **named: Any) -> Any:
        out = kept(self, *given, **named)
        flags = {parameter.requires_grad for parameter in self.parameters(recurse=False)}
        if len(flags) > 1 and isinstance(out, Tensor) and out.requires_grad:
            return out / 2 + (out / 2).detach()
        return out

    return put(nn.Module, "__call__", call)
