"""The laws, one theory a file, from the general to the special."""

from . import (
    buffers,
    devices,
    evaluation,
    formulas,
    freezing,
    grad_mode,
    gradients,
    histories,
    independence,
    inference_mode,
    layers,
    leaves_and_graphs,
    no_grad,
    optimizers,
    persistence,
    train_and_eval_flags,
)

#: The order in which a reader meets the theories.
THEORIES = (
    independence,
    train_and_eval_flags,
    evaluation,
    buffers,
    grad_mode,
    no_grad,
    inference_mode,
    freezing,
    gradients,
    leaves_and_graphs,
    optimizers,
    persistence,
    histories,
    layers,
    formulas,
    devices,
)
