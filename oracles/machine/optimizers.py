"""What optimizers move, clear and keep."""

from __future__ import annotations

from ..history import Step
from ..optimizers import STATELESS
from ..things import Optimizer, Refusal, Tensor, Unsaid
from .modules import Modules
from .tensors import unwritable


class Optimizers(Modules):
    """What optimizers do."""

    def do_optimizer(self, step: Step) -> Optimizer:
        """Frozen parameters may be given; no parameter at all may not. Source: E, Optimizer."""
        parameters = list(self.named(step.on).named_parameters().values())
        if not parameters:
            raise Refusal("ValueError", "optimizer got an empty parameter list")
        optimizer = Optimizer(step.words[0], parameters)
        if optimizer.kind == "Adagrad":  # it keeps something of each from the start
            optimizer.kept = dict.fromkeys(parameters, self.thread.mode.inference)
        return optimizer

    def do_step(self, step: Step) -> None:
        """It moves what has a gradient, frozen or not, and nothing else. Source: E, zero_grad."""
        optimizer: Optimizer = self.names[step.on]
        graded = [p for p in optimizer.parameters if p.grad != "none"]
        stale = self.stale(optimizer, graded)
        for parameter in graded:
            if parameter in stale:
                raise unwritable()
            fused = optimizer.kind.endswith("_fused")
            refused = not self.may_write(parameter)
            rule = "fused_optimizers_write_to_inference_tensors"
            if not (fused and refused and self.goes_astray(rule)):
                self.writable_here(parameter)
            surely = False if parameter.grad == "zero" and optimizer.kind == "SGD" else None
            if not (fused and self.goes_astray("fused_optimizers_count_no_version")):
                if parameter.inference and parameter.writable:
                    raise Unsaid  # it counts where its gradient is no inference tensor
                self.count(parameter)
            parameter.storage.counted = False
            self.move(parameter, surely)

    def stale(self, optimizer: Optimizer, graded: list[Tensor]) -> list[Tensor]:
        """The parameters of which it cannot write to what it keeps: momentum, counts, averages.

        That is made in the mode of the first step, and written to at each. Source: torch.optim; C.
        """
        if optimizer.kind in STATELESS:
            return []
        inference, kept = self.thread.mode.inference, optimizer.kept
        stale = [p for p in graded if kept.get(p) and not inference]
        new = [p for p in graded if p not in kept]
        together = optimizer.kind.endswith(("_foreach", "_fused"))
        if stale and (new or (together and len(stale) < len(graded))):
            raise Unsaid  # what becomes of the others is a matter of each optimizer
        kept.update(dict.fromkeys(new, inference))
        return stale

    def do_step_with_closure(self, step: Step) -> None:
        """As without; the closure runs with grad enabled. Source: E, closure."""
        self.do_step(step)

    def do_add_param_group(self, step: Step) -> None:
        """No parameter may be in two groups. Source: E, add_param_group."""
        optimizer, given = self.names[step.on], self.named(step.words[0])
        if given.history() is not None and not given.retains:
            raise Refusal("ValueError", "can't optimize a non-leaf Tensor")
        if any(p is given for p in optimizer.parameters):
            raise Refusal("ValueError", "appear in more than one parameter group")
        optimizer.parameters.append(given)

    def do_optimizer_zero_grad(self, step: Step) -> None:
        """zero_grad() takes every gradient away. Source: E, zero_grad."""
        self.cleared(self.names[step.on].parameters, to_none=True)

    def do_optimizer_zero_grad_to_zero(self, step: Step) -> None:
        """With set_to_none=False, gradients that are there become zero."""
        self.cleared(self.names[step.on].parameters, to_none=False)
