"""Layers: what each class of torch.nn does under each mode, measured in both directions.

The traits of a class are claims (oracles/traits.py). A class that shows what its traits deny
breaks the first law, and so does one that never shows what they claim.
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Final

from ..law import RAISED, Refused, law
from ..reference import predict
from ..relations import agree_with, differ, shows
from ..run import Seen
from ..setting import Setting, fold
from ..specimen import Plan
from ..subject import Layer
from ..traits import Certainty

#: Beyond this, a difference between two kernels is not one of rounding, in units in the last place.
ROUNDING: Final = 64.0

KERNEL: Final = "takes another kernel where nothing is recorded"


@law(
    source="nn.Module and the page of each class; measured where it says nothing",
    norms=("G4", "G14", "G20", "H1", "H7", "I4", "I6", "I8", "J10", "J11", "J12"),
    everywhere=True,
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
    _takes_another_kernel(layer, setting)
    _refuses_single_values(layer, setting)


def _tells_the_modes_apart(layer: Layer, setting: Setting) -> None:
    """Train and eval, all else the same; where kernels differ too, more than rounding counts."""
    if setting.trains("n0"):
        return  # the two runs are those that are compared in evaluation
    traits, arguments = layer.node.traits, layer.node.arguments
    train, evaluate = (setting.but(training=mode, switched=()) for mode in (True, False))
    claimed = traits.differs(arguments)
    beyond = ROUNDING if traits.kernel(arguments) else 0.0
    observed, expected = layer.run(train).output, layer.run(evaluate).output
    differ("differs between train and eval", claimed, observed, expected, beyond=beyond)


def _takes_another_kernel(layer: Layer, setting: Setting) -> None:
    """Nothing recorded, and everything: the values differ in rounding at the most."""
    if fold(setting.grad).recording:
        return
    floating = [i for i, given in enumerate(layer.specimen.recipe.inputs) if not given.high]
    try:
        recorded = layer.run(setting.but(grad=(), frozen=(), inputs=floating)).output
    except Refused:
        return  # it writes into its input, which a leaf that requires grad refuses
    kernel = layer.node.traits.kernel(layer.node.arguments)
    claimed = Certainty.MAYBE if kernel else Certainty.NEVER
    unrecorded = layer.run(setting).output
    differ(KERNEL, claimed, unrecorded, recorded, upto=ROUNDING if kernel else inf)


def _refuses_single_values(layer: Layer, setting: Setting) -> None:
    """Inputs of one value are tried once for each layer: train raises where eval does not."""
    if setting != Setting():
        return
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
