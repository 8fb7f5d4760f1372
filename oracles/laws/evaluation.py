"""Evaluation mode: the running statistics are used, nothing is dropped, nothing moves."""

from __future__ import annotations

from typing import Final

from ..law import law
from ..relations import agree
from ..setting import Setting, all_of, evaluating, plain_grad
from ..specimen import seeding
from ..subject import Subject
from ..traits import DROPOUTS, MODE_DEPENDENT

#: Kinds that draw randomness in training: in other modules there is little to stop in evaluation.
_DRAWING: Final = (
    "Dropout",
    "AlphaDropout",
    "FeatureAlphaDropout",
    "RReLU",
    "RNN",
    "GRU",
    "LSTM",
    "MultiheadAttention",
    "MultiheadAttention_padded",
    "TransformerEncoderLayer",
    "TransformerDecoderLayer",
)

#: These, and some with parameters or buffers alone.
_RANDOM_OR_NOT: Final = (*_DRAWING, "BatchNorm1d", "BatchNorm2d", "Linear", "Conv2d")


@law(
    source="nn.BatchNorm1d, running estimates; notes/modules",
    norms=("D16", "G4"),
    when=evaluating,
    everywhere=True,
)
def evaluation_changes_no_state(subject: Subject, setting: Setting) -> None:
    """In evaluation mode a forward changes no parameter and no buffer."""
    agree(subject.run(setting).state, subject.initial)


@law(
    source="nn.Dropout: 'identity function during evaluation'; nn.RReLU",
    norms=("D17", "H1"),
    when=evaluating,
    having=_RANDOM_OR_NOT,
    everywhere=True,
)
def evaluation_draws_no_randomness(subject: Subject, setting: Setting) -> None:
    """In evaluation mode a forward leaves the random generators as they were."""
    agree(subject.run(setting).randomness, subject.untouched_randomness)


@law(
    source="nn.Dropout: 'identity function during evaluation'",
    norms=("D17",),
    when=all_of(evaluating, plain_grad),
    having=_RANDOM_OR_NOT,
)
def evaluation_is_deterministic(subject: Subject, setting: Setting) -> None:
    """In evaluation mode a second forward gives the same, whatever the random generator says."""
    again = f"{seeding(subject.specimen, subject.device, 1)}\nout = model(*x)\n"
    again += "out = out if isinstance(out, tuple) else (out,)"
    agree(subject.run(setting, after=again).output, subject.run(setting).output)


@law(
    source="nn.Dropout: 'identity function during evaluation'",
    norms=("H1",),
    when=evaluating,
    having=DROPOUTS,
)
def dropout_acts_as_the_identity_in_evaluation(subject: Subject, setting: Setting) -> None:
    """In evaluation mode every dropout layer may be replaced by nn.Identity."""
    agree(subject.run(setting).output, subject.replacing(*DROPOUTS).run(setting).output)


@law(
    source="Module.train: 'has an effect only on certain modules'",
    norms=("D11", "G20"),
    without=MODE_DEPENDENT,
)
def the_mode_changes_nothing_where_no_layer_depends_on_it(
    subject: Subject, setting: Setting
) -> None:
    """A module without layers that depend on the mode is the same in train and eval."""
    told, plain = (
        subject.backward(setting),
        subject.backward(setting.but(training=True, switched=())),
    )
    agree(told.output, plain.output)
    agree(told.state, plain.state)
    agree(told.gradients, plain.gradients)
