"""What laws without a module quantify over: a tensor, and a nest of grad-mode contexts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .law import NotApplicable
from .recipe import DTYPES
from .setting import GradState, Stack, fold
from .subject import enter


@dataclass(frozen=True)
class Sample:
    """A random tensor, and the same one each time it is asked for.

    shape   its sizes; at least one element
    dtype   by name, one that can require grad
    seed    of its values
    device  where it lives
    """

    shape: tuple[int, ...] = (2,)
    dtype: str = "float32"
    seed: int = 0
    device: str = "cpu"

    @property
    def source(self) -> str:
        """The expression that makes it, from a seeded ``generator``."""
        made = f"torch.randn({self.shape}, dtype={DTYPES[self.dtype]}, generator=generator)"
        return made if self.device == "cpu" else f"{made}.to({self.device!r})"

    def tensor(self, requires_grad: bool = False) -> Tensor:
        """A new leaf with the sample's values, made in the grad mode in force."""
        generator = torch.Generator().manual_seed(self.seed)
        made: Tensor = eval(self.source, {"torch": torch, "generator": generator})
        return made.requires_grad_() if requires_grad else made

    def needs_values(self) -> None:
        """Say that a law needs the values of the tensor."""
        if self.device == "meta":
            raise NotApplicable("tensors of the meta device have no values")


@dataclass(frozen=True)
class Nesting:
    """Grad-mode contexts, one inside the other, the outermost first."""

    contexts: Stack = ()

    @property
    def state(self) -> GradState:
        """What the reference model says of the innermost block."""
        return fold(self.contexts)

    @property
    def flags(self) -> tuple[bool, bool]:
        """The grad flag and the inference flag inside."""
        return self.state.grad, self.state.inference

    @property
    def recording(self) -> bool:
        """Whether operations are recorded inside."""
        return self.state.recording

    @contextmanager
    def entered(self) -> Iterator[None]:
        """All contexts entered, and left again in reverse order."""
        with ExitStack() as stack:
            for context in self.contexts:
                stack.enter_context(enter(context))
            yield
