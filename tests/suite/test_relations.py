"""The verbs, against planted differences: they raise when they must, and only then."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from oracles.law import RAISED, NotApplicable, Violation
from oracles.recipe import Input, Node, Recipe
from oracles.relations import (
    Traits,
    absent,
    agree,
    agree_across_devices,
    agree_with,
    allows,
    comparisons,
    counting_traits,
    describe,
    differ,
    equal,
    every,
    holds,
    leaf_iff_no_grad_fn,
    refuses,
    reporting,
    runs,
    same,
    ulps_between,
    unrecorded,
)
from oracles.run import Seen
from oracles.setting import ENABLED, Setting
from oracles.specimen import Specimen
from oracles.subject import Subject
from oracles.traits import Certainty

NAN = math.nan


def seen(**values: Any) -> Seen:
    return Seen(None, values)


def violated(verb: Callable[..., None], *arguments: Any) -> Violation:
    """The violation that the verb raises."""
    with pytest.raises(Violation) as caught:
        verb(*arguments)
    assert str(caught.value) == caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


def tensor(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype)


ALIKE: dict[str, tuple[Any, Any]] = {
    "none": (None, None),
    "numbers": (1, 1),
    "flags": (True, True),
    "values": (tensor(1, 2), tensor(1, 2)),
    "NaN in the same places": (tensor(NAN, 1, NAN), tensor(NAN, 1, NAN)),
    "infinities": (tensor(math.inf, -math.inf), tensor(math.inf, -math.inf)),
    "no elements": (torch.empty(0, 3), torch.empty(0, 3)),
    "half": (tensor(1, dtype=torch.float16), tensor(1, dtype=torch.float16)),
    "complex": (tensor(1, dtype=torch.complex64), tensor(1, dtype=torch.complex64)),
    "complex NaN": (torch.tensor([complex(NAN, 1)]), torch.tensor([complex(NAN, 1)])),
    "integers": (torch.tensor([1]), torch.tensor([1])),
    "strides": (torch.ones(2, 3), torch.ones(3, 2).t()),
    "recorded": (tensor(1).requires_grad_() * 1, tensor(1)),
}

UNLIKE: dict[str, tuple[Any, Any]] = {
    "none and tensor": (None, tensor(1)),
    "tensor and none": (tensor(1), None),
    "none and zero": (None, 0),
    "flag and number": (True, 1),
    "number and flag": (0, False),
    "number and tensor": (1.0, torch.tensor(1.0)),
    "tensor and number": (torch.tensor(1.0), 1.0),
    "one value": (tensor(1, 2), tensor(1, 3)),
    "one ulp": (tensor(1), tensor(1 + 2**-23)),
    "dtype": (tensor(1), tensor(1, dtype=torch.float64)),
    "integer dtype": (torch.tensor([1]), torch.tensor([1], dtype=torch.int32)),
    "bool and integer": (torch.tensor([True]), torch.tensor([1])),
    "shape": (torch.ones(2), torch.ones(1, 2)),
    "shape that broadcasts": (torch.ones(1), torch.ones(3)),
    "number of dimensions": (torch.tensor(1.0), tensor(1)),
    "device": (torch.ones(2), torch.ones(2, device="meta")),
    "other device": (torch.ones(2, device="meta"), torch.ones(2)),
    "NaN on one side": (tensor(NAN, 1), tensor(0, 1)),
    "NaN on the other side": (tensor(0, 1), tensor(NAN, 1)),
    "NaN in other places": (tensor(NAN, 1), tensor(1, NAN)),
    "NaN in the same place and a value": (tensor(NAN, 1), tensor(NAN, 2)),
    "sign of infinity": (tensor(math.inf), tensor(-math.inf)),
    "imaginary part": (torch.tensor([1 + 1j]), torch.tensor([1 + 2j])),
}


@pytest.mark.parametrize("pair", ALIKE.values(), ids=ALIKE)
def test_what_is_alike_is_the_same(pair: tuple[Any, Any]) -> None:
    observed, expected = pair
    assert same(observed, expected) is True
    assert same(expected, observed) is True
    agree(seen(a=observed), seen(a=expected))
    agree_with(seen(a=observed), {"a": expected})
    every(seen(a=observed, b=observed), expected)
    equal(observed, expected, "a")
    holds(observed, "a", expected)


@pytest.mark.parametrize("pair", UNLIKE.values(), ids=UNLIKE)
def test_what_is_unlike_is_a_violation(pair: tuple[Any, Any]) -> None:
    observed, expected = pair
    assert same(observed, expected) is False
    for violation in (
        violated(equal, observed, expected, "a"),
        violated(holds, observed, "a", expected),
        violated(agree_with, seen(a=observed), {"a": expected}),
        violated(every, seen(a=observed), expected),
    ):
        assert violation.observed.expression == "a"
        assert violation.observed.value is observed
        assert violation.expected.value is expected
        assert describe(observed) in violation.message
        assert describe(expected) in violation.message


@pytest.mark.parametrize("name", [n for n in UNLIKE if n != "other device"])
def test_sides_that_differ_do_not_agree(name: str) -> None:
    observed, expected = UNLIKE[name]
    violation = violated(agree, seen(a=observed), seen(a=expected))
    assert violation.observed.value is observed
    assert violation.expected.value is expected
    assert violation.observed.expression == violation.expected.expression == "a"


def test_a_tensor_is_the_same_as_itself_even_with_nan() -> None:
    whole = tensor(NAN)
    agree(seen(a=whole), seen(a=whole))


def test_agreement_needs_every_expression_on_both_sides() -> None:
    one = tensor(1)
    lacking = violated(agree, seen(a=one, b=one), seen(a=one))
    assert (lacking.observed.expression, lacking.expected.value) == ("b", None)
    lacking = violated(agree, seen(a=one), seen(a=one, b=one))
    assert (lacking.observed.value, lacking.expected.expression) == (None, "b")
    # None is a value, not an absence.
    violated(agree, seen(a=None), seen())
    violated(agree, seen(), seen(a=None))
    agree(seen(), seen())


def test_a_literal_needs_every_expression_on_both_sides() -> None:
    violated(agree_with, seen(a=1, b=1), {"a": 1})
    violated(agree_with, seen(a=1), {"a": 1, "b": 1})
    violated(agree_with, seen(a=None), {})
    violated(agree_with, seen(), {"a": None})
    agree_with(seen(), {})
    agree_with(seen(a=1, b=2), {"b": 2, "a": 1})


def test_a_comparison_goes_on_after_the_first_none() -> None:
    """A comparator that stops there was found in a well-known project."""
    one, two = tensor(1), tensor(2)
    assert violated(agree, seen(a=None, b=one), seen(a=None, b=two)).observed.expression == "b"
    assert violated(agree_with, seen(a=None, b=1), {"a": None, "b": 2}).observed.value == 1
    assert violated(every, seen(a=None, b=1), None).observed.expression == "b"
    assert violated(absent, seen(a=None, b=one)).observed.expression == "b"


def test_every_expression_is_compared() -> None:
    violation = violated(agree, seen(a=1, b=2, c=3), seen(a=1, b=2, c=4))
    assert (violation.observed.expression, violation.observed.value) == ("c", 3)
    assert violated(every, seen(a=True, b=True, c=False), True).observed.expression == "c"


def test_an_alias_is_told_from_a_copy() -> None:
    subject = Subject(Specimen(Recipe((Input((2, 3)),), (Node("Dropout", (0,)),), (1,))))
    evaluating, training = subject.run(Setting(False)), subject.run(Setting(True))
    every(evaluating.aliases, True)
    every(training.aliases, False)
    violation = violated(agree, training.aliases, evaluating.aliases)
    assert violation.observed.expression == "out[0] is x[0]"
    assert (violation.observed.value, violation.expected.value) == (False, True)


def test_tensors_without_values_are_out_of_scope_and_no_success() -> None:
    with pytest.raises(NotApplicable):
        agree(seen(a=torch.ones(2, device="meta")), seen(a=torch.ones(2, device="meta")))
    violated(agree, seen(a=torch.ones(2, device="meta")), seen(a=torch.ones(3, device="meta")))


def test_a_tensor_without_values_differs_from_none() -> None:
    meta = torch.ones(2, device="meta")
    violated(agree, seen(a=None), seen(a=meta))
    violated(agree, seen(a=meta), seen(a=None))


def test_a_violation_tells_its_terms_and_its_size() -> None:
    expected = tensor(1, 2)
    observed = expected * (1 + 2**-23)
    violation = violated(agree, seen(a=observed), seen(a=expected))
    assert violation.ulps == 1.0
    assert "1 ulp" in violation.message
    assert violation.observed.script is None
    assert violated(equal, tensor(1), None, "a").ulps is None
    assert violated(equal, 1, 2, "a").ulps is None


def test_a_violation_of_a_run_carries_its_script() -> None:
    subject = Subject(Specimen(Recipe((Input((2, 3)),), (Node("Dropout", (0,)),), (1,)), seed=3))
    observed, expected = subject.run(Setting(True)), subject.run(Setting(False))
    violation = violated(agree, observed.output, expected.output)
    for term, mode in ((violation.observed, "train"), (violation.expected, "eval")):
        assert term.script is not None
        assert f"model.{mode}()" in term.script.statements
        scope: dict[str, Any] = {}
        exec("\n".join((term.script.source, *term.script.statements)), scope)
        assert same(eval(term.expression, scope), term.value)


# --- two devices ---------------------------------------------------------------------------

FAR = [n for n in UNLIKE if n not in ("one ulp", "device", "other device")]


def test_devices_are_compared_by_their_values_on_the_cpu() -> None:
    one, two = tensor(1), tensor(2)
    agree_across_devices(seen(a=one, b=None), seen(a=one, b=None))
    violated(agree_across_devices, seen(a=one, b=one), seen(a=one))
    violated(agree_across_devices, seen(a=one), seen(a=one, b=one))
    assert violated(agree_across_devices, seen(a=None, b=one), seen(a=None, b=two)).ulps is not None
    with pytest.raises(NotApplicable):
        agree_across_devices(seen(a=torch.ones(1, device="meta")), seen(a=one))


# --- what is known -------------------------------------------------------------------------


def test_a_law_goes_on_after_a_difference_that_is_known() -> None:
    found: list[str] = []

    def explain(violation: Violation) -> bool:
        found.append(violation.observed.expression)
        return violation.observed.expression != "c"

    left = seen(a=tensor(1), b=tensor(1), c=tensor(1), d=tensor(1), more=1)
    right = seen(a=tensor(1), b=tensor(2), c=tensor(2), d=tensor(2), less=1)
    with reporting(explain), pytest.raises(Violation) as raised:
        agree(left, right)
    assert found == ["more", "b", "c"]
    assert raised.value.observed.expression == "c"
    with reporting(lambda violation: True):  # each verb goes on
        agree(left, right)
        agree_with(left, {"a": 1, "none": 2})
        every(left, 3)
        unrecorded(seen(a=tensor(1).requires_grad_()))
        holds(False, "it")
        equal(1, 2, "it")
        refuses(lambda: None, RuntimeError)
        refuses(_raising(ValueError()), RuntimeError)
    violated(agree, left, right)


def test_each_comparison_of_a_law_has_a_place_of_its_own() -> None:
    places: list[tuple[int, str]] = []
    with reporting(compare=lambda place, observed, expected: places.append(place)):
        agree(seen(a=1, b=2), seen(a=1, b=2))
        one = seen(a=1)
        agree(one, one)  # compares nothing, and is counted
        agree(seen(a=1), seen(a=1))
    assert places == [(1, "a"), (1, "b"), (3, "a")]


def test_a_difference_of_rounding_is_none_between_modes() -> None:
    traits, one, two = Traits(), seen(a=tensor(1)), seen(a=tensor(2))
    with counting_traits(traits):
        with reporting(rounds=lambda violation: True):
            differ("differs", Certainty.NEVER, one, two)
            differ("differs", Certainty.MAYBE, one, two)
        assert dict(traits.shown) == {"differs": 0}
        with reporting(rounds=lambda violation: False):
            differ("differs", Certainty.MAYBE, one, two)
            violated(differ, "differs", Certainty.NEVER, one, two)
        assert dict(traits.shown) == {"differs": 1}


# --- what is recorded ----------------------------------------------------------------------


def test_unrecorded_is_a_leaf_that_requires_no_grad() -> None:
    unrecorded(seen(a=tensor(1), b=tensor(2)))
    leaf = tensor(1).requires_grad_()
    violation = violated(unrecorded, seen(a=tensor(1), b=leaf))
    assert (violation.observed.expression, violation.observed.value) == ("b.requires_grad", True)
    violated(unrecorded, seen(a=leaf * 2))


@pytest.mark.parametrize(
    ("attribute", "facts"),
    [
        ("requires_grad", {"requires_grad": True, "grad_fn": None, "is_leaf": True}),
        ("grad_fn is None", {"requires_grad": False, "grad_fn": object(), "is_leaf": True}),
        ("is_leaf", {"requires_grad": False, "grad_fn": None, "is_leaf": False}),
    ],
)
def test_unrecorded_looks_at_each_attribute(attribute: str, facts: dict[str, Any]) -> None:
    violation = violated(unrecorded, seen(a=SimpleNamespace(**facts)))
    assert violation.observed.expression == f"a.{attribute}"


def test_a_leaf_has_no_grad_fn() -> None:
    leaf = tensor(1).requires_grad_()
    leaf_iff_no_grad_fn(seen(a=tensor(1), b=leaf, c=leaf * 2))


@pytest.mark.parametrize(
    ("attribute", "facts"),
    [
        ("is_leaf", {"requires_grad": True, "grad_fn": None, "is_leaf": False}),
        ("is_leaf", {"requires_grad": True, "grad_fn": object(), "is_leaf": True}),
        ("requires_grad", {"requires_grad": False, "grad_fn": object(), "is_leaf": False}),
    ],
)
def test_what_is_no_leaf_has_a_grad_fn(attribute: str, facts: dict[str, Any]) -> None:
    violation = violated(leaf_iff_no_grad_fn, seen(a=tensor(1), b=SimpleNamespace(**facts)))
    assert violation.observed.expression == f"b.{attribute}"


def test_absent_gradients_are_none_and_not_zero() -> None:
    absent(seen(a=None, b=None))
    violated(absent, seen(a=tensor(0)))
    violated(absent, seen(a=False))


def test_a_subject_that_raises_does_not_run() -> None:
    """Writing into the output of relu, which its backward needs."""
    recipe = Recipe((Input((2, 3)),), (Node("relu", (0,)), Node("mul_", (1,))), (2,))
    subject = Subject(Specimen(recipe))
    runs(subject, Setting(inputs=()))
    runs(subject, Setting(grad=("torch.no_grad()",), inputs=(0,)))
    violation = violated(runs, subject, Setting(grad=ENABLED, inputs=(0,)))
    assert violation.observed.expression == RAISED
    assert "RuntimeError" in violation.observed.value
    assert violation.observed.script is not None


# --- what is refused -----------------------------------------------------------------------


def _raising(error: BaseException) -> Callable[[], object]:
    def action() -> object:
        raise error

    return action


def test_a_refusal_has_its_type_and_its_words() -> None:
    error = RuntimeError("Inference tensors cannot be saved")
    refuses(_raising(error), RuntimeError)
    refuses(_raising(error), RuntimeError, "Inference", "saved")
    refuses(_raising(NotImplementedError("saved")), RuntimeError, "saved")
    refuses(lambda: torch.autograd.backward(torch.ones(1)), RuntimeError, "does not require grad")


def test_a_refusal_of_another_type_or_in_other_words_is_none() -> None:
    error = RuntimeError("Inference tensors cannot be saved\nmore")
    wrong = violated(refuses, _raising(error), ValueError)
    assert "RuntimeError: Inference tensors cannot be saved" in wrong.observed.value
    assert "ValueError" in wrong.expected.value
    assert "other" in violated(refuses, _raising(error), RuntimeError, "other").expected.value
    violated(refuses, _raising(error), RuntimeError, "Inference", "other")
    violated(refuses, _raising(RuntimeError("saved")), NotImplementedError, "saved")


def test_an_action_that_raises_nothing_is_no_refusal() -> None:
    assert violated(refuses, lambda: None, RuntimeError).observed.value == "nothing"
    violated(refuses, lambda: RuntimeError("returned"), RuntimeError, "returned")


def test_an_interrupt_is_no_refusal() -> None:
    with pytest.raises(KeyboardInterrupt):
        refuses(_raising(KeyboardInterrupt()), Exception)


def test_what_is_allowed_raises_nothing() -> None:
    allows(lambda: None, "a()")
    wrong = violated(allows, _raising(RuntimeError("saved\nmore")), "a()")
    assert wrong.observed.value == "RuntimeError: saved"
    assert "a()" in wrong.observed.expression
    with pytest.raises(KeyboardInterrupt):
        allows(_raising(KeyboardInterrupt()), "a()")


# --- sizes of differences ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_an_ulp_is_one_step_of_the_largest_value(dtype: torch.dtype) -> None:
    step = torch.finfo(dtype).eps
    assert ulps_between(tensor(1 + step, dtype=dtype), tensor(1, dtype=dtype)) == 1.0
    assert ulps_between(tensor(1, dtype=dtype), tensor(1, dtype=dtype)) == 0.0
    # A small value beside a large one is measured by the large one.
    assert ulps_between(tensor(1, step, dtype=dtype), tensor(1, 0, dtype=dtype)) == 1.0


def test_ulps_of_complex_numbers_are_of_their_size() -> None:
    step = torch.finfo(torch.float32).eps
    observed, expected = torch.tensor([1 + step * 1j]), torch.tensor([1 + 0j])
    assert ulps_between(observed, expected) == pytest.approx(1.0)


def test_ulps_are_finite_only_where_a_difference_is_one_of_rounding() -> None:
    assert ulps_between(tensor(0), tensor(0)) == 0.0
    # Where all is smaller than 1, by the last place of 1: sums that cancel have no scale.
    assert ulps_between(tensor(1), tensor(0)) == 1 / torch.finfo(torch.float32).eps
    assert ulps_between(torch.empty(0), torch.empty(0)) == 0.0
    for name in ("dtype", "shape", "integer dtype", "NaN on one side", "NaN in other places"):
        assert ulps_between(*UNLIKE[name]) is None, name
    assert ulps_between(tensor(math.inf), tensor(1)) is None
    assert ulps_between(tensor(NAN, 1), tensor(NAN, 1)) == 0.0


def test_infinities_of_other_signs_are_not_a_difference_of_rounding() -> None:
    assert ulps_between(tensor(math.inf), tensor(-math.inf)) in (None, math.inf)


# --- what was compared ---------------------------------------------------------------------

SEEN: Final = seen(a=1, b=None)
COMPARING: dict[str, tuple[Callable[[], None], int]] = {
    "agree": (lambda: agree(seen(a=1, b=2), seen(a=1, b=2)), 2),
    "agree, on None": (lambda: agree(SEEN, seen(a=1, b=None)), 1),
    "agree, on nothing but None": (lambda: agree(seen(a=None), seen(a=None)), 0),
    "agree, on an empty list": (lambda: agree(seen(a=[]), seen(a=[])), 0),
    "agree, on a list of None": (lambda: agree(seen(a=[None]), seen(a=[None])), 0),
    "agree, on a list": (lambda: agree(seen(a=[None, 1]), seen(a=[None, 1])), 1),
    "agree, on a mapping": (lambda: agree(seen(a={"b": 1}), seen(a={"b": 1})), 1),
    "agree, with itself": (lambda: agree(SEEN, SEEN), 0),
    "agree, with nothing": (lambda: agree(seen(), seen()), 0),
    "agree_with": (lambda: agree_with(seen(a=1), {"a": 1}), 1),
    "agree_with, on None": (lambda: agree_with(seen(a=None), {"a": None}), 1),
    "agree_with, on an empty list": (lambda: agree_with(seen(a=[]), {"a": []}), 0),
    "every": (lambda: every(seen(a=1, b=1), 1), 2),
    "every, of empty lists": (lambda: every(seen(a=[]), []), 0),
    "every, of nothing": (lambda: every(seen(), True), 0),
    "absent": (lambda: absent(seen(a=None)), 1),
    "unrecorded": (lambda: unrecorded(seen(a=tensor(1))), 3),
    "unrecorded, of nothing": (lambda: unrecorded(seen()), 0),
    "leaf_iff_no_grad_fn": (lambda: leaf_iff_no_grad_fn(seen(a=tensor(1))), 1),
    "holds": (lambda: holds(True, "a"), 1),
    "holds, of None": (lambda: holds(None, "a", None), 1),
    "holds, of a list of None": (lambda: holds([None], "a", [None]), 1),
    "holds, of an empty list": (lambda: holds([], "a", []), 0),
    "equal": (lambda: equal(1, 1, "a"), 1),
    "equal, of None": (lambda: equal(None, None, "a"), 0),
    "agree_across_devices": (lambda: agree_across_devices(seen(a=tensor(1)), seen(a=tensor(1))), 1),
    "agree_across_devices, on None": (
        lambda: agree_across_devices(seen(a=None), seen(a=None)),
        0,
    ),
    "refuses": (lambda: refuses(_raising(ValueError()), ValueError), 1),
    "allows": (lambda: allows(lambda: None, "a()"), 1),
}


@pytest.mark.parametrize(("action", "count"), COMPARING.values(), ids=COMPARING)
def test_comparisons_are_counted(action: Callable[[], None], count: int) -> None:
    """A law that made none has judged nothing."""
    before = comparisons()
    action()
    assert comparisons() - before == count
