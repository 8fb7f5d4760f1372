"""What a layer's result reaches: outputs, gradients and state, and nothing beside it."""

from __future__ import annotations

from typing import Any

from oracles.flow import Flow, Places, Use
from oracles.recipe import Input, Node, Recipe
from oracles.setting import Setting


def linear(source: int, **more: Any) -> Node:
    return Node("Linear", (source,), {"in_features": 4, "out_features": 4}, **more)


def norm(source: int) -> Node:
    return Node("BatchNorm1d", (source,), {"num_features": 4})


def reach(op: str, *nodes: Node, outputs: tuple[int, ...], inputs: int = 1) -> Places:
    recipe = Recipe(tuple(Input((3, 4)) for _ in range(inputs)), nodes, outputs)
    return Flow(recipe).of(lambda use: use.node.op == op)


def parameters(*names: str) -> set[str]:
    return {f"model.get_parameter({n!r})" for n in names}


def test_a_result_reaches_what_comes_after_it_alone() -> None:
    """x0 > linear > dropout > norm > out 0; x1 > norm > out 1."""
    nodes = (linear(0), Node("Dropout", (2,), {"p": 0.5}), norm(3), norm(1))
    found = reach("Dropout", *nodes, outputs=(4, 5), inputs=2)
    assert found.outputs == {0}
    assert found.inputs == {0}
    before_and_after = parameters("n0.weight", "n0.bias", "n2.weight", "n2.bias")
    assert found.leaves == before_and_after | {"x[0]"}
    statistics = {"running_mean", "running_var", "num_batches_tracked"}
    assert found.states == {f"n2.{name}" for name in statistics}


def test_a_branch_that_does_not_take_it_is_not_reached() -> None:
    """The gradient of the other branch does not pass through it, though both are added."""
    nodes = (linear(0), Node("Dropout", (0,), {"p": 0.5}), Node("add", (1, 2)))
    found = reach("Dropout", *nodes, outputs=(3, 1))
    assert found.outputs == {0}
    # Addition takes both: its gradient is the same for either, but that is its own affair.
    assert found.leaves >= {"x[0]"}


def test_blocks_and_shared_and_tied_layers_are_followed() -> None:
    inner = Recipe((Input((3, 4)),), (Node("Dropout", (0,), {"p": 0.5}), norm(1)), (2,))
    nodes = (
        linear(0),
        Node("Block", (1,), body=inner, checkpointed=True),
        linear(2, shared=0),
        linear(3, tied=0),
    )
    recipe = Recipe((Input((3, 4)),), nodes, (1, 4))
    flow = Flow(recipe)
    found = flow.of(lambda use: use.node.op == "Dropout")
    assert found.outputs == {1}
    assert "n1.n1.running_mean" in found.states
    assert found.leaves >= parameters("n0.weight", "n1.n1.weight", "n3.bias")
    assert parameters("n3.weight").isdisjoint(found.leaves)  # it is n0.weight by another name
    assert [use.path for use in flow.uses] == ["n0", "n1.n0", "n1.n1", "n0", "n3"]
    assert [use.checkpointed for use in flow.uses] == [False, True, True, False, False]


def test_what_is_written_into_is_followed_under_its_old_name() -> None:
    nodes = (Node("dropout_by_default", (0,)), Node("mul_", (1,)))
    assert reach("mul_", *nodes, outputs=(1, 2)).outputs == {0, 1}


def test_nothing_is_reached_where_there_is_no_such_call() -> None:
    assert reach("Dropout", linear(0), outputs=(1,)) == Places()


def test_a_function_has_the_mode_of_its_module() -> None:
    inner = Recipe((Input((3, 4)),), (Node("dropout_in_training", (0,)),), (1,))
    (use,) = Flow(Recipe((Input((3, 4)),), (Node("Block", (0,), body=inner),), (1,))).uses
    assert isinstance(use, Use)
    assert use.trains(Setting(training=False, switched=("n0",)))
    assert not use.trains(Setting(training=False))
