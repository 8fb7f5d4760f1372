"""What is drawn: what it reaches, what it shrinks to, and that nothing is rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice, pairwise, product
from typing import Any

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.control import current_build_context
from hypothesis.errors import StopTest, UnsatisfiedAssumption
from hypothesis.strategies import DrawFn, SearchStrategy

import oracles.laws
from oracles.case import Case
from oracles.deviations import load
from oracles.law import LAWS, RAISED, Refused, Term, Unsupported, Violation, by_scope
from oracles.recipe import (
    BLOCKS,
    CONTAINERS,
    DTYPES,
    HOOKS,
    PARAMETRIZATIONS,
    WITHIN,
    Input,
    Node,
    Recipe,
    names_of_values,
    node_parameters,
)
from oracles.reference import predict
from oracles.relations import agree_with
from oracles.run import Run
from oracles.sample import Nesting
from oracles.setting import CONTEXTS, Setting, fold
from oracles.specimen import Plan, Specimen
from oracles.subject import Subject, forget
from oracles.traits import CLASSES, DROPOUTS, MODE_DEPENDENT, SPARSE, TRAITS, Returns, class_of
from oracles.trial import Trial
from strategies import cases, drawn_for, layers, nestings, parts, recipes, samples, specimens
from strategies.layers import KINDS, Shape
from strategies.layers.kinds import torch_has
from strategies.recipes import BUDGET, CHECKPOINT, FEATURES, _Draft

from .helpers import drawn, drawn_specimens, examples, outline, runnable, simplest

assert oracles.laws.THEORIES
#: Different specimens among these many draws are looked at.
DRAWS = 4000
#: The kinds of nodes that this torch has.
HERE = sorted(op for op in TRAITS if torch_has(class_of(op)))


def test_every_kind_of_node_has_traits_and_a_strategy() -> None:
    assert set(KINDS) == set(HERE)
    assert set(MODE_DEPENDENT) <= set(TRAITS) | set(PARAMETRIZATIONS)
    assert set(DROPOUTS) <= set(TRAITS)


@pytest.mark.parametrize("op", HERE)
def test_a_kind_of_node_takes_dtypes_and_ranks(op: str) -> None:
    kind = KINDS[op]
    assert kind.op == op
    assert set(kind.dtypes) <= set(DTYPES)
    assert kind.dtypes and kind.ranks
    assert kind.second is ("{1}" in TRAITS[op].called({}))


# --- what is reached -----------------------------------------------------------------------


def _reached(specimen: Specimen) -> Iterator[str]:
    """Everything about a specimen that has to be drawn now and then."""
    recipe, mixture = specimen.recipe, specimen.mixture
    yield f"dtype {specimen.dtype}"
    yield f"container {recipe.container}"
    yield f"{len(recipe.inputs)} inputs"
    yield f"{min(len(recipe.outputs), 2)} outputs"
    yield from ("transposed input" for i in recipe.inputs if i.transposed)
    yield from ("integer input" for i in recipe.inputs if i.high)
    yield from (f"rank {len(i.shape)}" for i in recipe.inputs)
    nodes = list(recipe.walk())
    yield f"{min(len(nodes), BUDGET)} nodes"
    for node in nodes:
        yield f"op {node.op}"
        yield f"within {node.within}"
        yield f"hooked {node.hooked}"
        yield f"parametrized {node.parametrized}"
        yield from (["shared"] if node.shared is not None else [])
        yield from (["shared block"] if node.shared is not None and node.body else [])
        yield from (["tied"] if node.tied is not None else [])
        yield from ([f"checkpointed {node.checkpointed}"] if node.op == "Block" else [])
        if node.body is not None:
            yield f"container {node.body.container}"
            yield from ("block in a block" for n in node.body.nodes if n.body is not None)
    yield f"training {mixture.training}"
    yield f"depth {len(mixture.grad)}"
    yield from (f"context {context}" for context in mixture.grad)
    modules, names = recipe.modules(), recipe.parameters()
    floating = [i for i, given in enumerate(recipe.inputs) if not given.high]
    parts = recipe.parts()
    yield from _part("switched", sum(path not in parts for path in mixture.switched), len(modules))
    yield from ("a part is switched" for path in mixture.switched if path in parts)
    yield from ("a layer is partly frozen" for _ in _partly_frozen(specimen))
    yield from _part("frozen", len(mixture.frozen), len(names))
    yield from _part("inputs that require grad", len(mixture.inputs), len(floating))


def _partly_frozen(specimen: Specimen) -> Iterator[str]:
    """Paths of layers with several parameters of which some are frozen."""
    for path, node in specimen.recipe.paths():
        if node.body is None:
            names = set(node_parameters(node, path))
            if set() < names & set(specimen.mixture.frozen) < names:
                yield path


def _part(what: str, some: int, all_of_them: int) -> Iterator[str]:
    if all_of_them:
        yield f"{what}: {'none' if not some else 'all' if some == all_of_them else 'some'}"


WANTED = (
    *(f"op {op}" for op in (*HERE, *BLOCKS)),
    *(f"dtype {name}" for name in DTYPES),
    *(f"container {name}" for name in CONTAINERS),
    *(f"within {name}" for name in ("", *WITHIN)),
    *(f"hooked {name}" for name in ("", *HOOKS)),
    *(f"parametrized {name}" for name in ("", *PARAMETRIZATIONS)),
    *(f"context {context}" for context in CONTEXTS),
    *(f"depth {n}" for n in range(5)),
    *(f"rank {n}" for n in (2, 3, 4, 5)),
    *(f"{n} nodes" for n in range(1, BUDGET + 1)),
    *(f"{n} {what}" for n in (1, 2) for what in ("inputs", "outputs")),
    *(f"training {mode}" for mode in (True, False)),
    *(f"checkpointed {called}" for called in (True, False)),
    *("shared", "shared block", "tied", "block in a block"),
    *("transposed input", "integer input"),
    *("a part is switched", "a layer is partly frozen"),
    *(
        f"{what}: {part}"
        for what in ("switched", "frozen", "inputs that require grad")
        for part in ("none", "some", "all")
    ),
)


def test_specimens_reach_everything() -> None:
    counts = Counter(fact for s in drawn_specimens(DRAWS) for fact in set(_reached(s)))
    missing = [fact for fact in WANTED if not counts[fact]]
    # With this many kinds, chance leaves out one or the other that fits few shapes and dtypes.
    rare = [fact for fact in missing if fact.startswith("op ")]
    assert len(rare) <= 0.03 * len(TRAITS), f"never drawn: {rare}"
    assert missing == rare, f"never drawn: {missing}; drawn: {sorted(counts.items())}"
    unlisted = set(counts) - set(WANTED)
    assert not unlisted, f"not expected at all: {unlisted}"


def test_most_specimens_differ() -> None:
    """A strategy that repeats itself wastes the time of every law."""
    assert len(drawn_specimens(DRAWS)) > DRAWS * 0.6


def test_specimens_stay_within_the_budget() -> None:
    for specimen in drawn_specimens(DRAWS):
        counted = sum(node.op not in BLOCKS for node in specimen.recipe.walk())
        shared = sum(
            len(list(n.body.walk())) - 1
            for n in specimen.recipe.walk()
            if n.body is not None and n.shared is not None
        )
        assert 1 <= counted - shared <= BUDGET, outline(specimen.recipe)


def test_nestings_reach_every_context_and_depth() -> None:
    made = drawn(nestings(), 300)
    counts = Counter(c for n in made for c in n.contexts)
    assert set(counts) == set(CONTEXTS), counts
    assert {len(n.contexts) for n in made} == set(range(7))
    states = {(fold(n.contexts).grad, fold(n.contexts).inference) for n in made}
    assert len(states) == 4, states
    assert {Nesting(s.mixture.grad).recording for s in drawn_specimens(DRAWS)} == {True, False}


def test_samples_reach_every_dtype_and_have_elements() -> None:
    made = drawn(samples(), 200)
    assert {s.dtype for s in made} == set(DTYPES)
    assert {len(s.shape) for s in made} == {1, 2, 3}
    assert min(min(s.shape) for s in made) == 1


@pytest.mark.parametrize("op", sorted(op for op, kind in KINDS.items() if kind.returns))
def test_a_kind_returns_what_it_says(op: str) -> None:
    """Shapes that are told without asking torch are those of torch, with every option."""
    for specimen in drawn(layers(class_of(op)), 30):
        (node,) = specimen.recipe.nodes
        if node.op == op:
            found = KINDS[op].outputs(node.arguments, Shape(specimen.recipe.inputs[0].shape))
            run = Subject(specimen).run(Setting())
            assert [tuple(out.shape) for out in run.output.values()] == [o.sizes for o in found]


# --- what it shrinks to --------------------------------------------------------------------

SHRINKING: dict[str, tuple[Callable[[Specimen], bool], int]] = {
    "anything": (lambda s: True, 1),
    "a Dropout": (lambda s: "Dropout" in s.recipe.ops(), 2),
    "two inputs": (lambda s: len(s.recipe.inputs) == 2, 2),
    "a checkpointed block": (lambda s: any(n.checkpointed for n in s.recipe.walk()), 3),
    "a Sequential": (lambda s: "Sequential" in s.recipe.ops(), 3),
}


@pytest.mark.parametrize(("wanted", "most"), SHRINKING.values(), ids=SHRINKING)
def test_a_specimen_shrinks_to_few_nodes(wanted: Callable[[Specimen], bool], most: int) -> None:
    """In two of three searches: the shrinker is greedy, and sometimes ends elsewhere."""
    found = [simplest(specimens(), wanted, seed).recipe for seed in range(3)]
    sizes = sorted(len(list(recipe.walk())) for recipe in found)
    assert sizes[1] <= most, [outline(recipe) for recipe in found]


def test_the_simplest_specimen_is_plain() -> None:
    found = simplest(specimens(), lambda s: True)
    assert (found.dtype, found.seed) == ("float32", 0)
    assert found.mixture == Specimen(found.recipe).mixture
    assert found.recipe.container == "attributes"
    assert not any(i.transposed for i in found.recipe.inputs)
    (node,) = found.recipe.nodes
    assert not (node.within or node.hooked or node.parametrized)


def test_nestings_shrink_to_few_contexts() -> None:
    assert simplest(nestings(), lambda n: True) == Nesting()
    inference = simplest(nestings(), lambda n: "torch.inference_mode()" in n.contexts)
    assert inference == Nesting(("torch.inference_mode()",))


# --- what is asked for, and what is rejected -----------------------------------------------


@pytest.mark.parametrize("op", [op for op in HERE if not KINDS[op].writes])
def test_one_of_the_kinds_asked_for_is_there(op: str) -> None:
    for specimen in drawn(specimens(having=(op,)), 4):
        assert op in specimen.recipe.ops()
        assert specimen.dtype in KINDS[op].dtypes


def test_kinds_not_asked_for_are_not_there() -> None:
    made = drawn(specimens(without=MODE_DEPENDENT), 300)
    for specimen in made:
        assert specimen.recipe.ops().isdisjoint(MODE_DEPENDENT)
        assert "spectral_norm" not in {n.parametrized for n in specimen.recipe.walk()}
    left = set().union(*(s.recipe.ops() for s in made))
    assert len(left) > 30, "not everything else is gone as well"


def test_kinds_are_asked_for_and_not_asked_for_at_once() -> None:
    wanted, unwanted = ("Linear", "Dropout"), ("ReLU", "Block", "Sequential")
    seen = set()
    for specimen in drawn(specimens(having=wanted, without=unwanted), 150):
        seen |= specimen.recipe.ops()
        assert not specimen.recipe.ops().isdisjoint(wanted)
        assert "ReLU" not in specimen.recipe.ops()
    assert seen >= set(wanted)


#: What a law may ask for, or not ask for, beside kinds of nodes.
EXTRAS = {*WITHIN, *HOOKS, *PARAMETRIZATIONS, *FEATURES, CHECKPOINT, *SPARSE}


@pytest.mark.parametrize("law", [n for n in sorted(LAWS) if LAWS[n].having or LAWS[n].without])
def test_a_law_is_given_what_it_asks_for(law: str) -> None:
    asked = LAWS[law]
    known = {*CLASSES} if asked.over_layers else {*KINDS, *EXTRAS}
    assert {*asked.having, *asked.without} <= known, "there is nothing of this name"
    for fields in drawn(drawn_for(asked), 12):
        present: set[str] = set()
        for node in fields["specimen"].recipe.walk():
            done = {node.within, node.hooked, node.parametrized}
            # A law of layers asks for a class, of which there may be several kinds.
            present |= {class_of(node.op) if asked.over_layers else node.op} | done
            present |= {name for name, ways in FEATURES.items() if not done.isdisjoint(ways)}
            present |= {CHECKPOINT} if node.checkpointed else set()
            present |= {"sparse"} if node.arguments.get("sparse") else set()
        assert present.isdisjoint(asked.without)
        assert not asked.having or not present.isdisjoint(asked.having), fields["specimen"]


def test_every_law_can_be_drawn_for() -> None:
    for law in LAWS.values():
        (first, *_) = drawn(drawn_for(law), 2)
        assert first, law.name


REJECTING: dict[str, SearchStrategy[object]] = {
    "specimens": specimens(),
    "specimens without": specimens(without=MODE_DEPENDENT),
    "specimens having": specimens(having=("BatchNorm1d", "FractionalMaxPool2d", "chunk")),
    "recipes": recipes("complex64"),
    "nestings": nestings(),
    "samples": samples(),
}


@pytest.mark.parametrize("strategy", REJECTING.values(), ids=REJECTING)
def test_nothing_is_rejected(strategy: SearchStrategy[object]) -> None:
    """No filter and no assumption fails; what is begun is finished.

    Hypothesis itself cuts some examples off, of any strategy, to keep the first ones small.
    """
    ends: Counter[str] = Counter()

    @st.composite
    def counted(draw: DrawFn) -> object:
        try:
            made = draw(strategy)
        except UnsatisfiedAssumption:
            ends["REJECTED"] += 1
            raise
        except StopTest:
            ends[current_build_context().data.status.name] += 1
            raise
        ends["FINISHED"] += 1
        return made

    @examples(400, Phase.generate)
    @given(counted())
    def count(made: object) -> None:
        assert made is not None

    count()
    assert set(ends) <= {"FINISHED", "OVERRUN"}, ends
    assert ends["FINISHED"] >= 100, ends
    # Hypothesis begins with small examples, and cuts off what grows beyond: not a rejection.
    assert ends["OVERRUN"] <= 0.5 * ends["FINISHED"], ends


def test_a_rejection_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="INVALID"):
        test_nothing_is_rejected(st.integers(0, 9999).filter(lambda n: n % 7 == 6))


# --- what may be done to a value, and to a layer ------------------------------------------


#: A layer that hands on a new tensor, whatever is done to it.
_DENSE = {"in_features": 4, "out_features": 4}


@pytest.mark.parametrize("hooked", ["", *HOOKS])
def test_what_a_layer_used_again_returns_is_free_as_it_was_the_first_time(hooked: str) -> None:
    """A full backward hook hands on a view, which may not be written into, each time."""
    draft = _Draft("float32", (Shape((2, 4)),))
    draft.add(Node("Linear", (0,), _DENSE, hooked=hooked), (Shape((2, 4)),))
    first = set(draft.free)
    draft.add(Node("Linear", (0,), _DENSE, shared=0), (Shape((2, 4)),))
    assert first == ({1} if hooked != "full_backward" else set())
    assert draft.free == first | {value + 1 for value in first}


def _written(recipe: Recipe) -> Iterator[tuple[Recipe, Node, int]]:
    """Each node that writes into its input, and that input, with the module it is in."""
    for node in recipe.nodes:
        if node.body is not None:
            yield from _written(node.body)
        elif KINDS[node.op].writes or node.arguments.get("inplace"):
            yield recipe, node, node.inputs[0]


def test_only_what_is_new_in_every_mode_and_not_needed_by_backward_is_written_into() -> None:
    seen = set()
    for specimen in drawn_specimens(DRAWS):
        for recipe, node, value in _written(specimen.recipe):
            makers = [
                maker
                for maker, names in zip(recipe.nodes, names_of_values(recipe)[1], strict=True)
                for _ in names
            ]
            assert value >= len(recipe.inputs), outline(recipe)
            maker = makers[value - len(recipe.inputs)]
            maker = maker if maker.shared is None else recipe.nodes[maker.shared]
            assert maker.body is None and maker.hooked != "full_backward"
            returns = {maker.traits.returns(maker.arguments, mode) for mode in (True, False)}
            assert returns == {Returns.FRESH} and not maker.traits.saves_output
            assert node.hooked != "full_backward"
            seen.add(node.op)
    assert seen >= {"mul_", "add_", "ReLU", "Dropout"}


def test_a_layer_that_nothing_calls_has_no_hook() -> None:
    """Nothing would fire it, and the reference model counts no calls of one that has."""
    for specimen in drawn_specimens(DRAWS):
        assert all(n.body or n.traits.is_called for n in specimen.recipe.walk() if n.hooked)
    uncalled = [op for op, t in TRAITS.items() if t.is_layer and not t.is_called]
    assert uncalled
    for op, hook in product(uncalled, ("forward", "forward_pre")):
        node = Node(op, (0,), {"sizes": [4]}, hooked=hook)
        specimen = Specimen(Recipe((Input((2, 4)),), (node,), (1,)))
        calls = predict(specimen.recipe, specimen.mixture).hook_calls()
        assert set(calls.values()) == {0}
        agree_with(Subject(specimen).run(specimen.mixture).calls, calls)


# --- whether it runs -----------------------------------------------------------------------


def test_every_specimen_runs_in_every_setting() -> None:
    """Nothing that is drawn fails to be built or to run: a law would have nothing to judge.

    Where torch refuses a setting all the same, a deviation is registered.
    """
    register = load()
    refused: Counter[str] = Counter()
    unsupported: Counter[str] = Counter()
    cells = 0
    for specimen in drawn_specimens(DRAWS)[:250]:
        try:
            subject = Subject(specimen)
            for setting in specimen.lattice:
                cells += 1
                predict(specimen.recipe, setting, specimen.dtype)
                try:
                    subject.backward(setting)
                except Refused as refusal:
                    case = Case("every_module_runs_in_every_setting", "cpu", specimen, setting)
                    raised = Term(RAISED, str(refusal))
                    found = Violation(str(refusal), raised, Term("None", None))
                    refused[str(refusal)[:120]] += register.explaining(case, found) is None
        except Unsupported as lack:
            unsupported[str(lack)[:120]] += 1
    assert cells > 3000
    assert sum(refused.values()) == 0, refused
    assert sum(unsupported.values()) <= 250 * 0.1, unsupported


def test_a_kind_that_writes_cannot_come_first() -> None:
    with pytest.raises(ValueError, match="nothing is there yet to write into"):
        drawn(specimens(having=("mul_",)), 1)


def test_every_kind_runs_where_it_is_asked_for() -> None:
    failing: Counter[str] = Counter()
    running = set()
    asked = [op for op in HERE if not KINDS[op].writes]
    for op in asked:
        for specimen in drawn(specimens(having=(op,), budget=1), 3):
            try:
                Subject(specimen).backward(runnable(specimen)[-1])
                running.add(op)
            except Refused as refusal:
                failing[f"{op}: {str(refusal)[:120]}"] += 1
            except Unsupported:  # not in this dtype
                continue
    assert not failing
    assert set(asked) - running == set()


def test_laws_of_one_scope_are_judged_on_the_same_cases() -> None:
    first, second = LAWS["freezing_changes_no_value"], LAWS["values_depend_on_train_and_eval_alone"]
    assert cases(first, "", "seed", 5) is cases(second, "", "seed", 5)
    other = LAWS["optimizers_refuse_tensors_that_are_no_leaves"]
    assert other.scope != first.scope
    assert cases(first, "", "seed", 5) != cases(other, "", "seed", 5)
    assert cases(first, "", "seed", 5) != cases(first, "", "another seed", 5)


@pytest.mark.parametrize("name", ["evaluation_changes_no_state", "evaluation_is_deterministic"])
def test_few_of_the_modules_that_a_law_is_judged_on_are_the_same(name: str) -> None:
    made = (case for _, part in parts(LAWS[name], "", 1, "cpu", 100) for case in part)
    assert len({repr(case["specimen"].recipe) for case in islice(made, 100)}) >= 90


def test_a_property_with_the_same_seed_is_tried_on_the_same_cases() -> None:
    law, found = LAWS["freezing_changes_no_value"], []

    @seed("seed")
    @settings(examples(5, Phase.generate), derandomize=False)
    @given(drawn_for(law))
    def keep(drawn: dict[str, Any]) -> None:
        found.append(drawn)

    keep()
    assert tuple(found) == cases(law, "", "seed", 5)


def test_laws_that_share_cases_are_judged_one_after_the_other() -> None:
    scopes = [(law.scope, layer) for law, layer in by_scope(LAWS.values())]
    starts = [scope for before, scope in pairwise([None, *scopes]) if scope != before]
    assert len(starts) == len(set(starts))


#: Their runs serve no other law, but what they look for is rare: what a device does.
EVERYWHERE_ALL_THE_SAME = {
    "devices_agree_on_every_fact",
    "devices_agree_on_every_value",
}


def test_a_law_is_tried_everywhere_iff_its_runs_are_those_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    laws = [
        law
        for law in LAWS.values()
        if law.over_settings and law.name not in EVERYWHERE_ALL_THE_SAME
    ]
    scopes, own = Counter(law.scope for law in LAWS.values()), set[str]()
    unnoted, judged = Subject._execute, Case("")

    def noted(subject: Subject, plan: Plan) -> Run | Exception:
        if plan.has_steps or subject.specimen != judged.specimen:
            own.add(judged.law)
        return unnoted(subject, plan)

    monkeypatch.setattr(Subject, "_execute", noted)
    for law in laws:
        forget()  # what other laws have run would not be run again
        trial = Trial(replace(law, everywhere=False), "cpu", load())
        for found in cases(law, "", "whose runs", 5):
            judged = Case(law.name, **found)
            with suppress(Violation, Unsupported):
                trial.judge(judged)
            if trial.tally.subjects:
                break
    forget()
    alone = {law.name for law in laws if scopes[law.scope] == 1}
    assert {law.name for law in laws if not law.everywhere} == own | alone
    assert all(LAWS[name].everywhere for name in EVERYWHERE_ALL_THE_SAME)
