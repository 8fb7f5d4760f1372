"""Coverage: how layers are called is counted, what cannot occur is not demanded, and aims reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis.strategies import SearchStrategy

from oracles import coverage
from oracles.case import Case
from oracles.coverage import (
    ALL,
    ALONE,
    NONE,
    SOME,
    WITH,
    WITHIN,
    WITHOUT,
    Combination,
    covered,
    from_text,
    met,
    met_by,
    most_parameters,
    occurring,
    to_text,
)
from oracles.deviations import load
from oracles.law import LAWS, Unsupported
from oracles.recipe import Input, Node, Recipe
from oracles.results import LawResult, Status
from oracles.setting import Setting
from oracles.specimen import Specimen
from oracles.subject import Subject
from oracles.traits import CLASSES
from oracles.trial import Trial
from strategies import aims, layers, modules_with, specimens
from tests import report
from tests.floor import Floor

from .helpers import RICH, drawn

Drawing = Callable[[str], SearchStrategy[Specimen]]

LINEAR = Node("Linear", (0,), {"in_features": 4, "out_features": 4})


def alone(node: Node) -> Specimen:
    return Specimen(Recipe((Input((2, 4)),), (node,), (1,)))


# --- counting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "combination"),
    [
        (Setting(), (NONE, "train", "recording", WITHOUT)),
        (Setting(False, frozen=("n0.weight",)), (SOME, "eval", "recording", WITHOUT)),
        (Setting(switched=("n0",), inputs=(0,)), (NONE, "eval", "recording", WITH)),
        (Setting(frozen=("n0.weight", "n0.bias")), (ALL, "train", "recording", WITHOUT)),
        (Setting(grad=("torch.no_grad()",)), (NONE, "train", "no grad", WITHOUT)),
        (
            Setting(grad=("torch.inference_mode()", "torch.enable_grad()"), inputs=(0,)),
            (NONE, "train", "inference mode", WITH),
        ),
    ],
)
def test_a_layer_alone_is_met_in_one_combination(
    setting: Setting, combination: tuple[str, str, str, str]
) -> None:
    assert met(alone(LINEAR), setting) == {Combination("Linear", *combination, ALONE)}


def test_a_layer_within_a_module_is_met_with_what_it_is_given() -> None:
    nodes = (LINEAR, Node("Tanh", (1,), within="no_grad"), Node("Dropout", (2,)))
    found = met(Specimen(Recipe((Input((2, 4)),), nodes, (3,))), Setting(switched=("n2",)))
    assert found == {
        Combination("Linear", NONE, "train", "recording", WITHOUT, WITHIN),
        Combination("Tanh", NONE, "train", "no grad", WITH, WITHIN),
        Combination("Dropout", NONE, "eval", "recording", WITHOUT, WITHIN),
    }


def test_layers_of_blocks_are_met_and_blocks_are_not() -> None:
    body = Recipe((Input((2, 4)),), (LINEAR,), (1,))
    found = met(alone(Node("Block", (0,), body=body)), Setting(frozen=("n0.n0.bias",)))
    assert found == {Combination("Linear", SOME, "train", "recording", WITHOUT, WITHIN)}


def test_parameters_that_are_shared_tied_or_parametrized_are_the_layer_s_own() -> None:
    """RICH has a parametrized layer, one that is used twice, and one whose weight is tied to it."""
    linear = {
        frozen: {c.frozen for c in met(RICH, Setting(frozen=frozen)) if c.layer == "Linear"}
        for frozen in (
            (),
            tuple(RICH.recipe.parameters()),
            ("layers.n1.weight",),
            ("layers.n0.parametrizations.weight.original0",),
        )
    }
    assert list(linear.values()) == [{NONE}, {ALL}, {NONE, SOME}, {NONE, SOME}]


def test_what_was_met_is_remembered_with_its_subject() -> None:
    subject = Subject(alone(LINEAR))
    assert met_by(subject, Setting()) is met_by(subject, Setting())
    assert met_by(subject, Setting()) == met(subject.specimen, Setting())


def test_combinations_go_to_text_and_back() -> None:
    found = met(RICH, Setting()) | met(RICH, RICH.mixture)
    assert from_text(to_text(found)) == found
    assert from_text(to_text(())) == frozenset()


def test_a_trial_counts_what_was_judged_alone() -> None:
    specimen = alone(LINEAR)
    for name, judged in (
        ("freezing_changes_no_value", True),
        ("torch_agrees_with_the_reference", 0),
    ):
        trial = Trial(LAWS[name], "cpu", load())
        setting = Setting(frozen=("n0.bias",))
        trial.judge(Case(name, specimen=specimen, setting=setting if judged else Setting()))
        assert trial.tally.met == met(specimen, setting if judged else Setting())
    out_of_scope = Trial(LAWS["freezing_changes_no_value"], "cpu", load())
    out_of_scope.judge(Case(out_of_scope.law.name, specimen=specimen, setting=Setting()))
    assert out_of_scope.tally.met == set()


# --- what can occur -----------------------------------------------------------------------------


def test_what_cannot_occur_is_not_demanded() -> None:
    def values(layer: str, axis: str, integers: bool = False) -> set[str]:
        return {getattr(combination, axis) for combination in occurring(layer, integers)}

    assert values("Linear", "frozen") == {NONE, SOME, ALL}
    assert values("PReLU", "frozen") == {NONE, ALL}
    assert values("Dropout", "frozen") == {NONE}
    assert values("Linear", "given") == {WITH, WITHOUT}
    assert values("Embedding", "given", integers=True) == {WITHOUT}
    taking_integers = {n for n, c in aims.can_occur().items() if all(x.given == WITHOUT for x in c)}
    assert taking_integers == {"Embedding", "EmbeddingBag"}


def test_nothing_is_met_that_is_said_not_to_occur() -> None:
    possible = {c for those in aims.can_occur().values() for c in those}
    assert {layer for layer in CLASSES if not most_parameters(layer)} >= {"Dropout", "Tanh"}
    for specimen in drawn(specimens(), 150):
        for setting in (Setting(), specimen.mixture, Setting(frozen=specimen.mixture.frozen)):
            assert met(specimen, setting) <= possible


@pytest.mark.parametrize("layer", CLASSES)
def test_a_class_is_drawn_with_as_many_parameters_as_it_can_have(layer: str) -> None:
    made = drawn(layers(layer), 30)
    most = max(len(specimen.recipe.parameters()) for specimen in made)
    assert min(most, 2) == min(most_parameters(layer), 2)
    frozen = {c.frozen for s in made for c in met(s, Setting(frozen=s.mixture.frozen))}
    assert (SOME in frozen) is (most > 1)
    assert ALL not in frozen  # the lattice has it anyway


@pytest.mark.parametrize("layer", ["Linear", "Embedding", "Transformer", "MaxPool2d", "CTCLoss"])
def test_a_layer_is_drawn_within_a_module(layer: str) -> None:
    for specimen in drawn(modules_with(layer), 10):
        found = [c for c in met(specimen, Setting(inputs=(0,))) if c.layer == layer]
        assert found
        assert {c.place for c in found} == {WITHIN}


# --- the floor ----------------------------------------------------------------------------------


def test_a_run_that_reaches_everything_says_so() -> None:
    possible = occurring("Linear", False)
    found = covered(possible, possible)
    assert str(found) == "coverage: 69 of 69 pairs, 191 of 191 triples"
    assert found.short == []
    assert found.as_data() == {
        "pairs": 69,
        "pairs that can occur": 69,
        "triples": 191,
        "triples that can occur": 191,
    }


def test_a_run_below_its_floor_names_what_is_missing() -> None:
    possible = occurring("Linear", False) | occurring("PReLU", False)
    found = covered((c for c in possible if c.frozen != SOME), possible)
    pairs, triples = found.short
    assert pairs.startswith("100% of the pairs must be reached; missing: ")
    assert "Linear, some parameters frozen" in pairs
    assert triples.startswith("95% of the triples must be reached; missing: ")
    assert triples.endswith(" more")


def test_some_triples_may_be_missing() -> None:
    possible = occurring("Linear", False)
    few = {c for c in possible if c[1:] != (SOME, "eval", "no grad", WITH, WITHIN)}
    for combination in sorted(few):  # as long as all pairs and most triples are there
        if not covered(few - {combination}, possible).short:
            few -= {combination}
    found = covered(few, possible)
    assert found.counts[1].missing
    assert found.short == []


def test_what_was_said_not_to_occur_fails_a_run() -> None:
    possible = occurring("PReLU", False)
    impossible = Combination("PReLU", SOME, "train", "recording", WITH, ALONE)
    found = covered(possible | {impossible}, possible)
    assert found.short == [
        "met, though said not to occur: PReLU, some parameters frozen, train, recording, "
        "an input that requires grad, alone"
    ]


def test_the_tests_of_a_run_are_taken_together() -> None:
    floor = Floor()
    assert floor.coverage() is None
    for layer in ("Tanh", "Linear"):
        made = pytest.TestReport("test", ("", 0, ""), {}, "passed", None, "call")
        made.user_properties = [("torchlaws-met", to_text(occurring(layer, False)))]
        floor.take(made)
    assert floor.met == occurring("Tanh", False) | occurring("Linear", False)
    found = floor.coverage()
    assert found is not None
    assert found.short


def test_a_run_on_meta_alone_is_not_asked_to_reach_its_floor() -> None:
    floor = Floor()
    floor.met = set(occurring("Tanh", False))
    assert floor.short(["meta"]) == []
    assert floor.short(["meta", "cpu"])


@pytest.mark.parametrize(
    ("large", "status", "met", "fails"),
    [
        (True, Status.HOLDS, "no parameter frozen", True),
        (True, Status.HOLDS, "", False),
        (True, Status.NOT_RUN, "no parameter frozen", False),
        (False, Status.HOLDS, "no parameter frozen", False),
    ],
    ids=["below the floor", "nothing missing", "stopped before its end", "a small profile"],
)
def test_a_run_of_all_laws_fails_below_its_floor(
    large: bool,
    status: Status,
    met: str,
    fails: bool,
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    name = "freezing_changes_no_value"
    monkeypatch.setattr(report, "tried", lambda config: [(name, "", "cpu")])
    monkeypatch.setattr(report, "is_large", lambda: large)
    monkeypatch.setattr(report, "log_folder", lambda config: tmp_path / "running")
    everything = {c for those in aims.can_occur().values() for c in those}
    reporter = report.Reporter(pytestconfig)
    reporter.is_worker = False  # though this test may run in a worker of xdist
    reporter.floor.met = {c for c in everything if met in ("", c.frozen)}
    law = LAWS[name]
    told = (law.name, law.theory, law.sentence, law.norms, "cpu", status.value)
    reporter.results = {"test_law": LawResult(*told)}
    session = cast(pytest.Session, SimpleNamespace(exitstatus=pytest.ExitCode.OK))
    reporter.pytest_sessionfinish(session)
    assert session.exitstatus == (pytest.ExitCode.TESTS_FAILED if fails else pytest.ExitCode.OK)
    assert bool(reporter.short()) is fails


# --- aims ---------------------------------------------------------------------------------------

#: With several parameters, one, none; integers; made of layers.
SOME_CLASSES = ("BatchNorm1d", "PReLU", "Dropout", "Embedding", "TransformerEncoderLayer")


def aimed_at(monkeypatch: pytest.MonkeyPatch, classes: tuple[str, ...]) -> coverage.Coverage:
    """What aims at these classes reach, from nothing."""
    possible = {name: those for name, those in aims.can_occur().items() if name in classes}
    monkeypatch.setattr(aims, "can_occur", lambda: possible)
    trial = Trial(LAWS[aims.LAW], "cpu", load())
    for aim in aims.aimed(trial.law, 1, "cpu", trial.tally.met):
        for case in aim.cases:
            try:
                trial.judge(Case(aims.LAW, **case))
            except Unsupported:
                continue
    wanted = {c for those in possible.values() for c in those}
    return covered((c for c in trial.tally.met if c.layer in classes), wanted)


def test_aims_reach_what_can_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    found = aimed_at(monkeypatch, SOME_CLASSES)
    assert [count.missing for count in found.counts] == [(), ()]


def test_aims_reach_nothing_that_was_met_before() -> None:
    everything = {c for those in aims.can_occur().values() for c in those}
    assert list(aims.aimed(LAWS[aims.LAW], 1, "cpu", everything)) == []
    assert list(aims.aimed(LAWS["freezing_changes_no_value"], 1, "cpu", set())) == []
    assert list(aims.aimed(LAWS[aims.LAW], 1, "meta", set())) == []


def test_the_floor_fails_where_a_strategy_stops_drawing_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A layer is frozen as a whole, or not at all."""

    def unmixed(strategy: Drawing) -> Drawing:
        return lambda name: strategy(name).map(lambda s: replace(s, mixture=Setting()))

    monkeypatch.setattr(aims, "layers", unmixed(layers))
    monkeypatch.setattr(aims, "modules_with", unmixed(modules_with))
    monkeypatch.setattr(aims, "TRIED", 2)
    pairs, triples = aimed_at(monkeypatch, ("BatchNorm1d", "Dropout")).short
    assert "BatchNorm1d, some parameters frozen" in pairs
    assert "BatchNorm1d, some parameters frozen, train" in triples


def test_the_floor_fails_where_no_layer_is_drawn_within_a_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aims, "modules_with", layers)
    monkeypatch.setattr(aims, "TRIED", 2)
    found = aimed_at(monkeypatch, ("Dropout",))
    assert "Dropout, within a module" in found.short[0]
