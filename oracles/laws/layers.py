"""Layers: what each class of torch.nn does under each mode, measured in both directions.

The traits of a class are claims (oracles/traits.py). A class that shows what its traits deny
breaks the first law, and so does one that never shows what they claim.
"""

from __future__ import annotations

from functools import partial

from ..law import RAISED, Refused, law
from ..reference import predict
from ..relations import agree, agree_with, differ, shows
from ..run import Seen
from ..setting import Setting, fold
from ..specimen import Plan
from ..subject import Layer
from ..traits import Certainty


@law(
    source="nn.Module and the page of each class; measured where it says nothing",
    norms=("G4", "G14", "G20", "H1", "H7", "I4", "I6", "I8", "J10", "J11", "J12"),
)
def a_layer_does_what_its_traits_claim(layer: Layer, setting: Setting) -> None:
    """A layer draws, moves, writes, hands on, differs and refuses just as its traits claim."""
    prediction = predict(layer.specimen.recipe, setting, layer.specimen.dtype)
    training = setting.trains("n0")
    mode = "in training" if training else "in evaluation"
    if setting.switched:
        mode = "with parts in another mode"
    run = layer.run(setting)

    for alias, handed_on in prediction.aliases().items():
        sure = Certainty.ALWAYS if handed_on else Certainty.NEVER
        shows(f"returns its input itself {mode}", sure, run.aliases.named(alias), False)
    agree_with(run.recording, prediction.recording())
    if not layer.has_values:
        return
    draws = Certainty(prediction.draws)
    shows(f"draws randomness {mode}", draws, run.drawing, True)
    again = layer.run(setting, reseed=1)
    differ(f"is random {mode}", min(draws, Certainty.MAYBE), again.output, run.output)
    for unmoved in run.moving:
        name = next((n for n in prediction.moves if repr(n) in unmoved), "")
        what = "writes a parameter" if name in layer.parameters else "moves a buffer"
        sure = Certainty(prediction.moves.get(name, Certainty.NEVER))
        shows(f"{what} {mode}", sure, run.moving.named(unmoved), True)
    _tells_the_modes_apart(layer, setting)
    _is_the_same_unrecorded(layer, setting)
    _refuses_single_values(layer)


def _tells_the_modes_apart(layer: Layer, setting: Setting) -> None:
    """Train and eval, all else the same."""
    if setting.training or setting.switched:
        return  # the two runs are those that are compared in evaluation
    claimed = layer.node.traits.differs(layer.node.arguments)
    train, evaluate = (setting.but(training=mode, switched=()) for mode in (True, False))
    observed, expected = layer.run(train).output, layer.run(evaluate).output
    differ("differs between train and eval", claimed, observed, expected)


def _is_the_same_unrecorded(layer: Layer, setting: Setting) -> None:
    """Nothing recorded, and everything: the values are the same."""
    if fold(setting.grad).recording:
        return
    floating = [i for i, given in enumerate(layer.specimen.recipe.inputs) if not given.high]
    try:
        recorded = layer.run(setting.but(grad=(), frozen=(), inputs=floating)).output
    except Refused:
        return  # it writes into its input, which a leaf that requires grad refuses
    agree(layer.run(setting).output, recorded)


def _refuses_single_values(layer: Layer) -> None:
    """Of inputs of one value, train refuses some that eval takes."""
    claimed = layer.node.traits.batch(layer.node.arguments)
    sure = Certainty.MAYBE if claimed else Certainty.NEVER
    for smaller in layer.smaller():
        try:
            smaller.run(Setting(False))
        except Refused:
            continue
        refused = None
        try:
            smaller.run(Setting(True))
        except Refused as refusal:
            refused = str(refusal)
        raised = Seen(partial(smaller.script, Plan(Setting(True))), {RAISED: refused})
        shows("refuses single values in training alone", sure, raised, None)
