"""The reference machine: what each step of a history does, in plain Python.

This is the definition of the semantics, written to be read, from playing.py to optimizers.py. It
imports no torch. It knows what the grad mode is in each thread, which tensors require grad, which
are leaves, what was recorded and saved, who has a gradient, which modules train, what moved,
whether randomness was drawn, and which steps are refused and why.

It says what the documentation promises, or what follows from it. Where torch is known to do
something else, the other rule stands beside it under the name of a deviation in the register;
the machine follows it if it is told to go astray there.

Sources: A notes/autograd (Locally disabling gradient computation; In-place operations);
B torch.no_grad, enable_grad, set_grad_enabled, inference_mode; C C++ notes/inference_mode;
D nn.Module; E torch.optim; F torch.autograd.backward and grad.
"""

from .optimizers import Optimizers
from .playing import ASTRAY, GIVEN, SILENT, Moment

__all__ = ["ASTRAY", "GIVEN", "SILENT", "Machine", "Moment"]


class Machine(Optimizers):
    """Plays a history, step by step: all that is said of a step, from Player to Optimizers."""
