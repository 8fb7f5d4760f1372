"""Buffers: state that is no parameter. Forward may move it, autograd never touches it."""

from __future__ import annotations

from ..law import law
from ..relations import agree, agree_with
from ..setting import Setting, grad_enabled, partly_frozen
from ..subject import Subject
from ..traits import BUFFERED


@law(
    source="Module.register_buffer: 'should not be considered a model parameter'",
    norms=("E19", "G9"),
    having=BUFFERED,
    everywhere=True,
)
def buffers_never_require_grad(subject: Subject, setting: Setting) -> None:
    """After forward and backward, in any mode, every buffer is a leaf that does not require grad."""
    told = {"requires_grad": False, "is_leaf": True}
    expected = {f"model.get_buffer({n!r}).{k}": v for n in subject.buffers for k, v in told.items()}
    agree_with(subject.backward(setting).buffers, expected)


@law(source="nn.BatchNorm1d", norms=("G13",), when=grad_enabled, having=BUFFERED, everywhere=True)
def backward_changes_no_state(subject: Subject, setting: Setting) -> None:
    """Only forward moves parameters and buffers: backward leaves them as they are."""
    agree(subject.backward(setting).state, subject.run(setting).state)


@law(
    source="nn.BatchNorm1d; Module.requires_grad_",
    norms=("E4", "G12"),
    when=partly_frozen,
    having=BUFFERED,
    everywhere=True,
)
def frozen_layers_gather_the_same_statistics(subject: Subject, setting: Setting) -> None:
    """Freezing does not stop running statistics: they move as without it."""
    agree(subject.run(setting).state, subject.run(setting.but(frozen=())).state)
