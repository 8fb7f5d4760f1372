"""The two ways to run agree, a run leaves nothing behind, and a leak is noticed."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import oracles.laws
from oracles.case import Case
from oracles.deviations import Register, load
from oracles.law import (
    LAWS,
    Law,
    NotApplicable,
    OutOfScope,
    Refused,
    Script,
    Unsupported,
    Violation,
    law,
)
from oracles.pristine import Pristine
from oracles.recipe import Input, Node, Recipe
from oracles.relations import agree, every, holds, same
from oracles.run import Run, Seen
from oracles.sample import Sample
from oracles.setting import (
    CONTEXTS,
    ENABLED,
    INFERENCE,
    NO_GRAD,
    Precondition,
    Setting,
    always,
    covering,
    evaluating,
    grad_enabled,
    partly_frozen,
    plain_grad,
)
from oracles.specimen import BACKWARD, Plan, Specimen, source_of
from oracles.subject import Layer, Subject, enter, lacking
from oracles.trial import Leak, Trial, cells, replay

from .helpers import RICH, outline, runnable, running_specimens

assert oracles.laws.THEORIES
FACETS = (
    "output",
    "recording",
    "aliases",
    "gradients",
    "receiving",
    "state",
    "moving",
    "randomness",
    "drawing",
    "flags",
    "requires_grad",
    "calls",
    "mode",
    "buffers",
)
#: Dropout, BatchNorm and a hook: something moves, something is random, something is counted.
LIVELY = Specimen(
    Recipe(
        (Input((3, 2)),),
        (
            Node("Linear", (0,), {"in_features": 2, "out_features": 2}, hooked="forward"),
            Node("BatchNorm1d", (1,), {"num_features": 2}),
            Node("Dropout", (2,)),
        ),
        (3,),
    ),
    seed=5,
)


@pytest.fixture(scope="module")
def specimens() -> list[Specimen]:
    return [RICH, LIVELY, *running_specimens(60)]


def agreeing(left: Run | Exception, right: Run) -> None:
    """Every facet of two runs is the same."""
    assert isinstance(left, Run), left
    for facet in FACETS:
        agree(getattr(left, facet), getattr(right, facet))


def as_a_script(subject: Subject, plan: Plan) -> Run:
    """The run that the statements of plain torch make."""
    scope = subject.namespace | {}
    exec("\n".join(subject.script(plan).statements), scope)
    return Run(plan, subject, scope)


def test_a_run_shows_what_its_statements_show(specimens: list[Specimen]) -> None:
    for specimen in specimens:
        subject = Subject(specimen)
        for setting in runnable(specimen):
            for backward in ("", BACKWARD):
                plan = Plan(setting, backward)
                try:
                    agreeing(subject.follow(plan), as_a_script(subject, plan))
                except Violation as violation:
                    shown = f"{outline(specimen.recipe)} in {setting}: {violation}"
                    raise AssertionError(shown) from violation


def test_what_has_nothing_to_go_backward_from_runs_once() -> None:
    subject = Subject(LIVELY)
    unrecorded, recorded = Setting(grad=NO_GRAD), Setting()
    assert subject.run(unrecorded) is subject.backward(unrecorded)
    assert subject.run(recorded) is not subject.backward(recorded)
    evaluated = unrecorded.but(training=False)
    assert subject.backward(evaluated) is subject.run(evaluated)
    assert subject.run(unrecorded, reseed=1) is not subject.backward(unrecorded)


def test_a_subject_that_nothing_changes_is_itself() -> None:
    subject = Subject(LIVELY)
    assert subject.unchecked() is subject
    assert subject.on(subject.device) is subject
    assert subject.replacing("RReLU") is subject
    for changed in (subject.in_float64, lambda: subject.replacing("Dropout")):
        assert changed() is not subject
        assert changed() is changed()


def test_every_facet_shows_something() -> None:
    subject = Subject(LIVELY)
    run = subject.backward(Setting(inputs=(0,)))
    for facet in FACETS:
        assert len(getattr(run, facet)) > 0, facet


def test_a_facet_is_seen_again_by_its_script() -> None:
    """Each expression of a run, evaluated after the statements of its script."""
    for specimen in (RICH, LIVELY):
        run = Subject(specimen).backward(specimen.mixture.but(inputs=(0,)))
        for facet in FACETS:
            seen = getattr(run, facet)
            for expression in seen:
                if "cuda" in expression:
                    continue
                term = seen.term(expression)
                assert term.script is not None
                scope = followed(term.script)
                assert same(eval(expression, scope), term.value), f"{facet}: {expression}"


def followed(script: Script) -> dict[str, Any]:
    scope: dict[str, Any] = {}
    exec("\n".join((script.source, *script.statements)), scope)
    return scope


def test_each_item_of_a_list_is_seen_by_itself() -> None:
    """By an expression that its script evaluates; of an empty list nothing is seen."""
    subject = Subject(RICH)
    run = subject.run(Setting(), after="found, none = [p.is_leaf for p in model.parameters()], []")
    seen = run.items("found", "none", "[p.is_leaf for p in model.parameters()]")
    count = len(list(run.model.parameters()))
    assert len(seen) == 2 * count > 0
    every(seen, True)
    term = seen.term(f"([p.is_leaf for p in model.parameters()])[{count - 1}]")
    assert term.script is not None
    scope: dict[str, Any] = {}
    exec("\n".join((term.script.source, *term.script.statements)), scope)
    assert eval(term.expression, scope) is True


# --- a run leaves the module as it was -----------------------------------------------------


def test_a_run_puts_back_what_it_moved(specimens: list[Specimen]) -> None:
    for specimen in specimens:
        subject = Subject(specimen)
        for setting in runnable(specimen):
            subject.backward(setting)
            now = subject.model.state_dict()
            assert list(now) == list(subject.saved)
            assert all(same(now[n], t) for n, t in subject.saved.items()), setting
            assert all(p.grad is None for p in subject.model.parameters())
            assert not any("calls" in vars(m) for m in subject.model.modules())
            for name, module in subject.model.named_modules():
                assert module.training is setting.trains(name)
            for name, parameter in subject.model.named_parameters():
                assert parameter.requires_grad is (name not in setting.frozen)
                assert parameter.is_leaf and not parameter.is_inference()
            assert all(not t.requires_grad and t.grad is None for t in subject.inputs)


def test_what_ran_before_makes_no_difference(specimens: list[Specimen]) -> None:
    for specimen in specimens[:25]:
        settings = runnable(specimen)
        forth, back = Subject(specimen), Subject(specimen)
        first = [forth.backward(s) for s in settings]
        last = [back.backward(s) for s in reversed(settings)]
        for one, other in zip(first, reversed(last), strict=True):
            agreeing(one, other)


def test_a_run_alone_is_a_run_among_others() -> None:
    for specimen in (RICH, LIVELY):
        used = Subject(specimen)
        for setting in runnable(specimen):
            agreeing(used.backward(setting), Subject(specimen).backward(setting))


def test_something_does_move() -> None:
    """Otherwise the tests above would say nothing."""
    subject = Subject(LIVELY)
    run = subject.backward(Setting(inputs=(0,)))
    moved = [e for e, unmoved in run.moving.items() if not unmoved]
    assert len(moved) == 3, moved
    assert run.draws
    assert not same(
        run.state["model.state_dict()['n1.running_mean']"], subject.saved["n1.running_mean"]
    )
    every(run.receiving, False)
    every(run.calls, 1)
    assert not subject.run(Setting(False)).draws
    every(subject.run(Setting(False)).moving, True)


def test_a_subject_is_built_the_same_each_time(specimens: list[Specimen]) -> None:
    for specimen in specimens:
        one, other = Subject(specimen), Subject(specimen)
        agree(one.initial, other.initial)
        torch.rand(3)
        model, inputs = one.build()
        assert all(same(model.state_dict()[n], t) for n, t in one.saved.items())
        assert all(map(same, inputs, other.inputs))
        assert all(map(torch.equal, one.start, other.start))


@pytest.mark.parametrize("fault", ["flips a flag", "freezes"])
def test_flags_that_forward_changed_are_told_again(fault: str) -> None:
    subject = Subject(LIVELY)
    told: list[tuple[bool, bool]] = []

    def noting(module: nn.Module, *_: Any) -> None:
        told.append((module.training, next(module.parameters()).requires_grad))

    def changing(module: nn.Module, *_: Any) -> None:
        module.eval() if fault == "flips a flag" else module.requires_grad_(False)

    subject.model.register_forward_pre_hook(noting)
    subject.model.register_forward_hook(changing)
    for grad in (ENABLED, NO_GRAD, INFERENCE):
        subject.run(Setting(grad=grad))
    assert told == [(True, True)] * 3


def test_flags_are_told_again_after_a_run_that_raised() -> None:
    subject = Subject(LIVELY)
    told: list[bool] = []

    def failing(module: nn.Module, *_: Any) -> None:
        told.append(module.training)
        module.eval()
        if len(told) == 1:
            raise RuntimeError("once")

    subject.model.register_forward_pre_hook(failing)
    # As if it were built with the hook.
    subject._idle[False] = [Pristine(subject.model, subject.inputs)]
    with pytest.raises(Refused, match="once"):
        subject.run(Setting())
    subject.run(Setting(grad=NO_GRAD))
    assert told == [True, True]


def test_what_a_failed_run_moved_is_put_back() -> None:
    subject = Subject(LIVELY)

    def failing(*_: Any) -> None:
        raise RuntimeError("after the statistics moved")

    handle = subject.model.register_forward_hook(failing)
    with pytest.raises(Refused):
        subject.backward(Setting())
    handle.remove()
    subject.run(Setting(False))
    assert all(same(subject.model.state_dict()[n], t) for n, t in subject.saved.items())
    assert "calls" not in vars(subject.model.get_submodule("n0"))
    agreeing(
        subject.backward(Setting(grad=NO_GRAD)), Subject(LIVELY).backward(Setting(grad=NO_GRAD))
    )


ALTERING = {
    "flags": "model.eval(); model.requires_grad_(False)",
    "hooks": "model.register_forward_hook(lambda *_: 1 / 0)",
    "a submodule": "model.n1 = nn.Identity(); model.more = nn.Linear(1, 1)",
    "a parameter": "model.n0.weight = nn.Parameter(torch.zeros(2, 2))",
    "values": "nn.init.zeros_(model.n0.weight); model.n1.running_mean.add_(1)",
    "a dtype": "model.double(); x[:] = [t.double() for t in x]",
    "storage": "model.n0.weight.data = torch.zeros(2, 2)",
    "a hook of a parameter": "model.n0.weight.register_hook(lambda gradient: gradient * 0)",
    "a gradient": "model.n0.weight.grad = torch.ones(2, 2)",
    "a parametrization": "nn.utils.parametrizations.weight_norm(model.n0)",
    "a class": "model.__class__ = type('Other', (type(model),), {'forward': lambda *_: 1 / 0})",
    "an attribute": "model.n1.momentum = 1.0; model.n2.p = 0.9",
    "an input": "x[0].add_(1)",
    "a method": "model.forward = lambda x: x * 0",
    "a gradient of a buffer": "model.n1.running_mean.requires_grad_()",
}


@pytest.mark.parametrize("step", ALTERING.values(), ids=ALTERING)
def test_what_steps_alter_is_put_back(step: str) -> None:
    """Before forward or after it, the next run sees nothing of it."""
    subject = Subject(LIVELY)
    plain = Subject(LIVELY).backward(Setting(inputs=(0,)))
    for steps in ({"prepare": step}, {"after": step}):
        with suppress(Refused, Violation):
            subject.backward(Setting(), **steps)
        agreeing(subject._execute(plain.plan), plain)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("written", ["assigned", "in place"])
def test_what_forward_makes_of_a_buffer_is_seen_and_put_back(graph: bool, written: str) -> None:
    """Another tensor in its place, a graph of its own: no step need do it."""

    def moving(self: nn.BatchNorm1d, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        more = x.sum() if graph else x.sum().detach()
        if written == "assigned":
            self.running_mean = self.running_mean + more
        else:
            self.running_mean += more
        return x

    subject, plain = Subject(LIVELY), Subject(LIVELY).backward(Setting(False, inputs=(0,)))
    for _ in range(2):
        with mock.patch.object(nn.BatchNorm1d, "forward", moving):
            run = subject._execute(Plan(Setting(False, inputs=(0,))))
        assert isinstance(run, Run)
        mean = "model.state_dict()['n1.running_mean']"
        assert not torch.equal(run.state[mean], subject.initial[mean])
        assert run.moving.only(lambda e, same: "running_mean" in e and same) == {}
        assert run.buffers["model.get_buffer('n1.running_mean').requires_grad"] is graph
        agreeing(subject._execute(plain.plan), plain)


def test_recurrent_layers_are_swapped_as_if_nothing_else_knew_of_them() -> None:
    """They keep weak references to their parameters, and swapping refuses any other."""
    recipe = Recipe((Input((2, 2, 3)),), (Node("GRU", (0,), GRU),), (1,))
    subject = Subject(Specimen(recipe))
    subject.backward(Setting())  # remembered, and its graph with it
    for _ in range(2):
        run = subject.run(Setting(), prepare="x[0] = x[0].double()\n" + SWAP)
        every(run.evaluate("model.n0.weight_ih_l0.dtype"), torch.float64)


GRU = {"input_size": 3, "hidden_size": 2, "num_layers": 1, "batch_first": True}
SWAP = """\
torch.__future__.set_swap_module_params_on_conversion(True)
model.double()
torch.__future__.set_swap_module_params_on_conversion(False)
"""


def test_a_graph_that_is_not_collected_hinders_no_swapping() -> None:
    """A run with steps may leave a cycle behind that holds on to the parameters."""
    subject = Subject(LIVELY)
    subject.run(Setting(), after="kept = [model(*x)]\nkept.append(kept)")
    run = subject.run(Setting(), prepare="x[0] = x[0].double()\n" + SWAP)
    every(run.evaluate("model.n0.weight.dtype"), torch.float64)


def test_a_module_is_used_again_when_its_run_is_gone() -> None:
    subject = Subject(LIVELY)
    used = []
    for _ in range(3):
        run = subject.run(Setting(), after="model.eval()")
        every(run.flags, False)
        used.append(id(run.model))
        del run
    assert len(set(used)) == 1
    subject.backward(Setting())  # remembered, and its graph with it
    subject.run(Setting(), prepare="x[0] = x[0].double()\n" + SWAP)
    held = [subject.run(Setting(), after="model.eval()") for _ in range(3)]
    assert len({id(run.model) for run in held}) == 3


# --- runs are remembered -------------------------------------------------------------------


def test_a_run_is_made_once() -> None:
    subject = Subject(LIVELY)
    forwards: list[bool] = []
    subject.model.register_forward_hook(lambda *_: forwards.append(True))
    first = subject.run(Setting())
    assert subject.run(Setting(True, grad=ENABLED)) is first
    assert len(forwards) == 1
    assert subject.backward(Setting()) is not first
    assert subject.backward(Setting()) is subject.backward(Setting())
    assert len(forwards) == 2
    assert subject.run(Setting(False)) is not first


def test_a_refusal_is_remembered() -> None:
    recipe = Recipe((Input((2, 3)),), (Node("relu", (0,)), Node("mul_", (1,))), (2,))
    subject = Subject(Specimen(recipe))
    forwards: list[bool] = []
    subject.model.register_forward_hook(lambda *_: forwards.append(True))
    for _ in range(2):
        with pytest.raises(Refused, match="inplace operation"):
            subject.backward(Setting(inputs=(0,)))
    assert len(forwards) == 1


def test_what_is_remembered_is_not_changed_by_later_runs() -> None:
    subject = Subject(LIVELY)
    settings = LIVELY.lattice
    runs = [subject.backward(s) for s in settings]
    before = pickle.dumps([[dict(getattr(r, f)) for f in FACETS if f != "output"] for r in runs])
    for setting in settings:
        subject.run(setting)
        subject.backward(setting, prepare="model.double(); x[0] = x[0].detach().double()")
    after = pickle.dumps([[dict(getattr(r, f)) for f in FACETS if f != "output"] for r in runs])
    assert pickle.loads(before).__len__() == len(runs)
    for one, other in zip(pickle.loads(before), pickle.loads(after), strict=True):
        for left, right in zip(one, other, strict=True):
            assert left.keys() == right.keys()
            assert all(same(left[e], right[e]) for e in left)


# --- plans with steps ----------------------------------------------------------------------


def test_steps_are_followed_in_their_order() -> None:
    subject = Subject(LIVELY)
    run = subject.backward(
        Setting(False),
        prepare="log = ['prepared']",
        between="log.append(out[0].requires_grad)",
        after="log.append(model.n0.weight.grad is not None)",
    )
    holds(run.evaluate("log")["log"], "log", ["prepared", True, True])


def test_a_step_that_raises_is_a_violation() -> None:
    with pytest.raises(Violation, match="a step raised ZeroDivisionError") as caught:
        Subject(LIVELY).run(Setting(), after="1 / 0")
    assert caught.value.observed.script is not None
    assert "1 / 0" in caught.value.observed.script.statements


def test_a_step_for_which_this_build_lacks_something_is_unsupported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("\"bernoulli_scalar_cpu_\" not implemented for 'Half'")

    dropout = Node("Dropout", (0,), {"p": 0.5})
    subject = Subject(Specimen(Recipe((Input((2, 2)),), (dropout,), (1,))))
    step = "model.train(); model(*x)"
    assert subject.run(Setting(training=False), after=step).out
    # Only where the module lacks it by itself, in some mode: what a step alone raises is told.
    lacking = "raise RuntimeError('it is not supported')"
    with pytest.raises(Violation, match="a step raised"):
        subject.run(Setting(training=False), after=lacking)
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: refuse() if self.training else x)
    subject = Subject(subject.specimen)
    with pytest.raises(Unsupported, match="bernoulli"):
        subject.run(Setting(training=False), after=step)


def test_the_lattice_has_the_extremes_and_the_mixture() -> None:
    for specimen in (RICH, LIVELY, *running_specimens(60)):
        settings = specimen.lattice
        assert len(settings) == len(set(settings))
        assert specimen.mixture in settings
        everything = tuple(specimen.recipe.parameters())
        for training in (True, False):
            for grad in (ENABLED, NO_GRAD, INFERENCE):
                for frozen in ((), everything):
                    assert Setting(training, (), grad, frozen, ()) in settings


def pairs_of(settings: Iterable[Setting | None]) -> set[Any]:
    return set().union(*(setting.pairs for setting in settings if setting))


@pytest.mark.parametrize("when", [always, plain_grad, grad_enabled, partly_frozen, evaluating])
def test_some_settings_cover_all(specimens: list[Specimen], when: Precondition) -> None:
    for specimen in specimens[:20]:
        settings = [setting for setting in specimen.lattice if when(setting)]
        for turn in range(0, 2 * len(settings), 7):
            some = covering(settings, turn)
            assert pairs_of(some) == pairs_of(settings)
            assert some == [setting for setting in settings if setting in some]


def test_settings_that_cover_all_are_few_and_not_always_the_same() -> None:
    plain = [setting for setting in RICH.lattice if plain_grad(setting)]
    for settings, fewest in ((plain, 9), (RICH.lattice, 21)):
        turns = [covering(settings, turn) for turn in range(len(settings))]
        assert {len(some) for some in turns} <= set(range(fewest, fewest * 3 // 2))
        assert {setting for some in turns for setting in some} == set(settings)
    assert (len(plain), len(RICH.lattice)) == (27, 189)
    assert covering([], 3) == []


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_context_is_entered_as_it_is_written(context: str) -> None:
    for outer in CONTEXTS:
        with enter(outer):
            with enter(context):
                entered = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            with eval(context):
                assert entered == (torch.is_grad_enabled(), torch.is_inference_mode_enabled())


def test_what_a_build_lacks_is_told_from_a_bug() -> None:
    assert lacking(RuntimeError("\"rrelu\" not implemented for 'Half'"))
    assert lacking(NotImplementedError("Complex modules are not supported"))
    assert not lacking(RuntimeError("a leaf Variable that requires grad is being used"))
    assert not lacking(ValueError("not implemented for"))
    # Not torch's: a mistake in a law or a verb must not be counted as a lack of torch.
    assert not lacking(AttributeError("'NoneType' object has no attribute 'shape'"))
    assert not lacking(AttributeError("'Run' object has no attribute 'outputs'"))


def test_an_option_of_a_later_torch_is_unsupported() -> None:
    node = Node("Linear", (0,), {"in_features": 2, "out_features": 2, "of_a_later_torch": True})
    with pytest.raises(Unsupported, match="of_a_later_torch"):
        Subject(Specimen(Recipe((Input((1, 2)),), (node,), (1,))))
    missing = replace(node, arguments={"in_features": 2})
    with pytest.raises(TypeError, match="out_features"):
        Subject(Specimen(Recipe((Input((1, 2)),), (missing,), (1,))))


def test_a_subject_on_the_meta_device_shows_no_values() -> None:
    subject = Subject(LIVELY, "meta")
    run = subject.run(Setting())
    assert not subject.has_values
    assert run.out[0].device.type == "meta"
    with pytest.raises(NotApplicable):
        dict(run.state)
    agree(run.recording, Subject(LIVELY).run(Setting()).recording)
    assert source_of(LIVELY, "meta") != source_of(LIVELY)
    assert Subject(LIVELY).on("meta").device == "meta"


# --- trials --------------------------------------------------------------------------------


@pytest.fixture
def define() -> Iterator[Callable[..., Law]]:
    """Defines a law for the time of one test, and puts back the global state of torch."""
    before = dict(LAWS)
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()

    def defined(body: Callable[..., None], **options: Any) -> Law:
        return LAWS[law(source="a test", **options)(body).__name__]

    yield defined
    LAWS.clear()
    LAWS.update(before)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


Define = Callable[..., Law]


def trial(tried: Law) -> Trial:
    return Trial(tried, "cpu", Register((), "2.0"))


LEAKS: dict[str, Callable[[], object]] = {
    "is_grad_enabled": lambda: torch._C._set_grad_enabled(False),
    "get_default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "get_num_threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic_algorithms": lambda: torch.use_deterministic_algorithms(True),
}


@pytest.mark.parametrize("state", LEAKS)
def test_global_state_left_changed_is_noticed(define: Define, state: str) -> None:
    def something_is_left_changed(sample: Sample) -> None:
        """The law's own body leaks."""
        LEAKS[state]()

    tried = trial(define(something_is_left_changed))
    with pytest.raises(Leak, match=state):
        tried.judge(Case("something_is_left_changed", sample=Sample()))
    assert tried.tally.subjects == 0


@pytest.mark.parametrize("state", LEAKS)
def test_a_leak_is_noticed_beside_a_violation(define: Define, state: str) -> None:
    """Or the cases that follow are judged in another state, and nobody says so."""

    def something_is_left_changed(sample: Sample) -> None:
        """The law's own body leaks, and does not hold."""
        LEAKS[state]()
        holds(False, "this")

    before = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    tried = trial(define(something_is_left_changed))
    try:
        tried.judge(Case("something_is_left_changed", sample=Sample()))
    except Leak:
        return
    except Violation:
        after = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
        assert after == before, "left changed, and not noticed"
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        return
    pytest.fail("neither a leak nor a violation")


def test_the_global_generator_is_put_back(define: Define) -> None:
    def something_is_drawn(sample: Sample) -> None:
        """Randomness is drawn, and seeded."""
        torch.manual_seed(3)
        holds(torch.rand(2).numel(), "numel", 2)

    tried = trial(define(something_is_drawn))
    before = torch.get_rng_state()
    tried.judge(Case("something_is_drawn", sample=Sample()))
    assert torch.equal(torch.get_rng_state(), before)
    assert (tried.tally.subjects, tried.tally.cells) == (1, 1)


def test_the_global_generator_is_put_back_after_a_violation(define: Define) -> None:
    def something_is_drawn(sample: Sample) -> None:
        """Randomness is drawn, and the law does not hold."""
        torch.rand(2)
        holds(1, "one", 2)

    tried = trial(define(something_is_drawn))
    before = torch.get_rng_state()
    case = Case("something_is_drawn", sample=Sample())
    with pytest.raises(Violation):
        tried.judge(case)
    assert torch.equal(torch.get_rng_state(), before)
    assert tried.violation is not None
    assert tried.violation[0] == case
    assert tried.tally.subjects == 0


def test_every_setting_of_the_lattice_is_judged(define: Define) -> None:
    judged: list[Setting] = []

    def every_setting_is_seen(subject: Subject, setting: Setting) -> None:
        """A law is judged in every setting."""
        holds(subject.specimen is LIVELY, "the specimen is the one given")
        judged.append(setting)

    tried = trial(define(every_setting_is_seen, everywhere=True))
    case = Case("every_setting_is_seen", specimen=LIVELY)
    tried.judge(case)
    assert judged == LIVELY.lattice
    assert (tried.tally.subjects, tried.tally.cells) == (1, len(judged))
    assert [setting for setting, _ in cells(tried.law, case, ())] == judged
    judged.clear()
    assert replay(Case("every_setting_is_seen", specimen=LIVELY, setting=Setting(False))) is None
    assert judged == [Setting(False)]


def test_a_law_is_judged_in_some_settings_that_cover_all(define: Define) -> None:
    left_out: list[Setting] = []

    def one_setting_is_avoided(subject: Subject, setting: Setting) -> None:
        """Only three values together break it, and they do not meet."""
        holds(setting not in left_out, "the setting is another")

    tried = trial(define(one_setting_is_avoided))
    case = Case("one_setting_is_avoided", specimen=LIVELY)
    some = [setting for setting, _ in cells(tried.law, case, LIVELY.lattice)]
    assert pairs_of(some) == pairs_of(LIVELY.lattice)
    left_out += [setting for setting in LIVELY.lattice if setting not in some][:1]
    tried.judge(case)
    assert tried.tally.cells == len(some) < len(LIVELY.lattice) / 2
    # To make a violation small, and where a case is judged again, every setting is tried.
    assert replay(case) is not None
    with pytest.raises(Violation):
        replace(tried, everywhere=True).judge(case)


def test_other_settings_are_judged_for_those_that_turn_out_of_scope(define: Define) -> None:
    judged: list[Setting] = []

    def half_of_it_is_out_of_scope(subject: Subject, setting: Setting) -> None:
        """It does not speak of inputs that require grad while parameters do."""
        if setting.inputs and not setting.frozen:
            raise OutOfScope("out of scope")
        judged.append(setting)
        holds(True, "it holds")

    tried = trial(define(half_of_it_is_out_of_scope))
    tried.judge(Case("half_of_it_is_out_of_scope", specimen=RICH))
    spoken_of = [s for s in RICH.lattice if s.frozen or not s.inputs]
    assert pairs_of(judged) == pairs_of(spoken_of)
    assert tried.tally.cells == len(judged) < len(spoken_of) / 2


def test_a_law_that_compares_nothing_judges_nothing(define: Define) -> None:
    def nothing_is_compared(subject: Subject, setting: Setting) -> None:
        """There is nothing to compare in training."""
        every(Subject(LIVELY).run(setting).output if not setting.training else Seen(None, {}), None)

    tried = trial(define(nothing_is_compared))
    case = Case("nothing_is_compared", specimen=LIVELY, setting=Setting(True))
    tried.judge(case)
    assert (tried.tally.subjects, tried.tally.cells, tried.tally.out_of_scope) == (0, 0, 1)
    with pytest.raises(OutOfScope):
        replay(case)
    with pytest.raises(Violation):
        tried.judge(Case("nothing_is_compared", specimen=LIVELY, setting=Setting(False)))


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("values_depend_on_train_and_eval_alone", Setting(False)),
        ("recording_depends_on_grad_mode_and_requires_grad_alone", Setting(True, grad=NO_GRAD)),
        ("backward_changes_no_state", Setting(True, frozen=tuple(LIVELY.recipe.parameters()))),
    ],
)
def test_a_run_beside_itself_judges_nothing(name: str, start: Setting) -> None:
    """The setting is what the law would change it to, or there is nothing to go backward from."""
    with pytest.raises(OutOfScope):
        replay(Case(name, specimen=LIVELY, setting=start))


def test_a_crash_of_a_law_is_no_verdict(define: Define) -> None:
    """A mistake in a law is reported as that: neither a violation nor a lack of torch."""

    def something_is_missing(sample: Sample) -> None:
        """The body of the law is wrong."""
        sample.missing  # type: ignore[attr-defined]  # noqa: B018

    tried = trial(define(something_is_missing))
    with pytest.raises(AttributeError, match="missing"):
        tried.judge(Case("something_is_missing", sample=Sample()))
    assert tried.tally.unsupported == 0


def test_what_this_build_lacks_is_unsupported(define: Define) -> None:
    def something_is_lacking(sample: Sample) -> None:
        """Torch lacks a kernel."""
        raise NotImplementedError("\"it\" not implemented for 'Half'")

    tried = trial(define(something_is_lacking))
    with pytest.raises(Unsupported):
        tried.judge(Case("something_is_lacking", sample=Sample()))
    assert (tried.tally.unsupported, tried.tally.subjects) == (1, 0)


# --- subjects are shared between laws -----------------------------------------------------------


def test_laws_are_judged_on_the_same_subject() -> None:
    assert Subject.of(LIVELY, "cpu") is Subject.of(LIVELY, "cpu")
    assert Subject.of(LIVELY, "cpu") is not Subject.of(LIVELY, "meta")
    assert Layer.of(LIVELY, "cpu") is not Subject.of(LIVELY, "cpu")


def test_no_more_subjects_are_shared_than_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracles.subject, "SHARED", 1)
    first = Subject.of(LIVELY, "cpu")
    assert Subject.of(replace(LIVELY, seed=LIVELY.seed + 1), "cpu") is not first
    assert Subject.of(LIVELY, "cpu") is not first


def test_a_violation_is_tried_again_on_a_new_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Subject] = []

    def body(subject: Subject, setting: Setting) -> None:
        seen.append(subject)
        holds(False, "False")

    broken = replace(LAWS["evaluation_changes_no_state"], name="broken", body=body)
    # The conditions of deviations look up the law of a case.
    monkeypatch.setitem(LAWS, "broken", broken)
    case = Case("broken", "cpu", LIVELY)
    trial = Trial(broken, "cpu", load())
    for _ in range(2):
        with pytest.raises(Violation):
            trial.judge(case)
    assert seen[0] is not seen[1]


def test_laws_leave_remembered_runs_as_they_were() -> None:
    subject, told = Subject.of(RICH, "cpu"), runnable(RICH)[::5]
    before = [shown(subject.backward(setting)) for setting in told]
    anywhere = [x for x in LAWS.values() if x.over_settings and not (x.having or x.without)]
    for promise in anywhere:
        if Subject in promise.quantifiers.values() and promise.theory != "devices":
            tried = Trial(promise, "cpu", load(), everywhere=True)
            tried.judge(Case(promise.name, "cpu", RICH))
    assert Subject.of(RICH, "cpu") is subject
    for setting, values in zip(told, before, strict=True):
        for expression, value in shown(subject.backward(setting)).items():
            assert same(value, values[expression]), expression


def shown(run: Run) -> dict[str, Any]:
    """All that a run shows, in copies."""
    seen = {e: v for facet in FACETS for e, v in getattr(run, facet).items()}
    return {e: v.detach().clone() if isinstance(v, torch.Tensor) else v for e, v in seen.items()}
