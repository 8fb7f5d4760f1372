"""Each law on modules that chance seldom draws: it judges them, or does not speak of them.

A law that takes for granted that an output is recorded or floating-point, that there is a
parameter or that an input requires grad raises by itself, or is violated, where that is not so.
"""

from __future__ import annotations

from typing import Final

import pytest

import oracles.laws  # noqa: F401  # defines the laws
from oracles.case import Case
from oracles.deviations import load
from oracles.law import LAWS, Law, Unsupported
from oracles.recipe import Input, Node, Recipe
from oracles.specimen import Specimen
from oracles.subject import Subject
from oracles.trial import Trial

ROWS: Final = Input((2, 3))
NUMBERS: Final = Input((2,), high=3)
LINEAR: Final = Node("Linear", (0,), {"in_features": 3, "out_features": 3})
SCALE: Final = Node("scale", (0,), {"sizes": [3]})
BATCH: Final = Node("BatchNorm1d", (0,), {"num_features": 3, "track_running_stats": True})
TABLE: Final = Node("Embedding", (0,), {"num_embeddings": 3, "embedding_dim": 2})
BLOCK: Final = Recipe((ROWS,), (Node("relu", (0,)),), (1,))
VIEW: Final = Recipe((ROWS,), (LINEAR, Node("unsqueeze", (1,))), (2,))
FULL: Final = Recipe((ROWS,), (LINEAR, Node("positive", (1,))), (2,))


def module(*nodes: Node, given: Input = ROWS, out: int | None = None) -> Recipe:
    """One node after the other; what the last one gives is the output."""
    return Recipe((given,), nodes, (len(nodes) if out is None else out,))


def positive(*nodes: Node, given: Input = ROWS) -> Recipe:
    """What these compute, asked whether it is positive: its only output is boolean."""
    return module(*nodes, Node("positive", (len(nodes),)), given=given)


def changed(node: Node, **fields: object) -> Node:
    """The node with other fields."""
    return Node(**(vars(node) | fields))  # type: ignore[arg-type]


ODD: Final = {
    "hands on its input": module(out=0),
    "a truth value": positive(),
    "a list of parameters": module(Node("ParameterList", (0,), {"sizes": [3]})),
    "an index": module(Node("argmax", (0,))),
    "no parameter": module(Node("Tanh", (0,))),
    "handed on in evaluation": module(Node("Dropout", (0,))),
    "a parameter that nothing uses": module(LINEAR, out=0),
    "a truth value of a layer": positive(LINEAR),
    "a truth value of a parameter": positive(SCALE),
    "a truth value beside a number": Recipe((ROWS,), (LINEAR, Node("positive", (1,))), (1, 2)),
    "an index of a layer": module(LINEAR, Node("argmax", (1,))),
    "an integer input": module(TABLE, given=NUMBERS),
    "a truth value of an integer input": positive(TABLE, given=NUMBERS),
    "an unrecorded layer": module(changed(LINEAR, within="no_grad")),
    "a detached layer": module(LINEAR, Node("detach", (1,))),
    "a truth value of a buffer": positive(Node("shift", (0,), {"sizes": [3]})),
    "a truth value of a normalisation": positive(BATCH),
    "a truth value of a dropout": positive(Node("Dropout", (0,))),
    "a truth value of a random slope": positive(Node("RReLU", (0,))),
    "a truth value of a random function": positive(Node("dropout_by_default", (0,))),
    "a checkpoint of a truth value": module(Node("Block", (0,), body=FULL, checkpointed=True)),
    "a truth value of a checkpoint": positive(Node("Block", (0,), body=BLOCK, checkpointed=True)),
    "a truth value of a hooked layer": positive(changed(LINEAR, hooked="forward")),
    "a truth value of a normed weight": positive(changed(LINEAR, parametrized="weight_norm")),
    "a view recorded by a block": module(Node("Block", (0,), body=VIEW, within="enable_grad")),
    "a parameter recorded by a block": module(
        LINEAR, Node("scale", (1,), {"sizes": [3]}, "enable_grad")
    ),
}


#: Those that complex numbers can go through.
COMPLEX: Final = (
    "hands on its input",
    "a parameter that nothing uses",
    "an unrecorded layer",
    "a detached layer",
    "a view recorded by a block",
    "a parameter recorded by a block",
)


def kinds(recipe: Recipe) -> set[str]:
    """What laws may ask for or keep away from by name."""
    marks = {
        mark
        for node in recipe.walk()
        for mark in (
            node.within,
            node.parametrized,
            node.parametrized and "parametrized",
            node.hooked and "hooked",
            node.checkpointed and "checkpoint",
        )
        if mark
    }
    return recipe.ops() | marks


def spoken_of(law: Law, recipe: Recipe) -> bool:
    """Whether the law may be given this module."""
    there = kinds(recipe)
    return (not law.having or not there.isdisjoint(law.having)) and there.isdisjoint(law.without)


OF_MODULES: Final = sorted(n for n, law in LAWS.items() if Subject in law.quantifiers.values())


@pytest.mark.parametrize("name", OF_MODULES)
def test_no_law_fails_on_an_odd_module(name: str) -> None:
    law = LAWS[name]
    trial = Trial(law, "cpu", load())
    found = [(kind, "float32") for kind, recipe in ODD.items() if spoken_of(law, recipe)]
    assert found, "add an odd module of which this law speaks"
    found += [(kind, "complex64") for kind in COMPLEX if spoken_of(law, ODD[kind])]
    for kind, dtype in found:
        try:
            trial.judge(Case(name, specimen=Specimen(ODD[kind], dtype, 3)))
        except Unsupported as reason:
            pytest.fail(f"torch lacks what it needs: {reason}")


#: They compare gradients, or look at those that are there, or say what keeps them away.
OF_GRADIENTS: Final = (
    "a_frozen_parameter_receives_no_gradient",
    "a_fully_frozen_module_records_nothing",
    "a_gradient_is_none_iff_none_was_received",
    "a_reentrant_checkpoint_loses_gradients_where_no_input_requires_grad",
    "a_step_in_inference_mode_keeps_parameters_trainable",
    "a_step_moves_a_frozen_parameter_that_still_has_a_gradient",
    "a_step_records_nothing",
    "a_step_restores_the_grad_mode",
    "a_zero_gradient_does_not_protect_from_weight_decay",
    "autograd_grad_touches_no_grad_field",
    "backward_changes_no_flag",
    "backward_runs_under_no_grad",
    "disabling_grad_records_nothing",
    "freezing_after_forward_stops_the_gradient",
    "freezing_and_unfreezing_is_a_round_trip",
    "freezing_changes_no_other_gradient",
    "freezing_keeps_a_gradient_that_is_there",
    "gradients_accumulate",
    "gradients_are_slopes",
    "gradients_do_not_require_grad_themselves",
    "inference_mode_records_nothing",
    "nothing_is_saved_of_what_is_frozen",
    "nothing_is_saved_where_nothing_is_recorded",
    "saving_is_not_recorded_itself",
    "the_flag_is_read_at_forward_time",
    "the_graph_ends_in_the_leaves_that_receive_a_gradient",
    "unfreezing_after_forward_gives_no_gradient",
    "zero_grad_clears_every_gradient",
)


@pytest.mark.parametrize("name", OF_GRADIENTS)
def test_a_law_of_gradients_judges_nothing_where_there_is_none(name: str) -> None:
    """Nothing is recorded of a truth value: there is no gradient to be compared."""
    trial = Trial(LAWS[name], "cpu", load())
    trial.judge(Case(name, specimen=Specimen(ODD["a truth value of a layer"])))
    assert (trial.tally.cells, trial.tally.subjects) == (0, 0)
    assert trial.tally.out_of_scope
