"""The decorator: every mistake in the form of a law is an error where it is defined."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import oracles.laws  # noqa: F401  # the registry as it is used
from oracles.case import Case
from oracles.deviations import Register
from oracles.law import LAWS, LawError, OutOfScope, law
from oracles.play import Played
from oracles.relations import holds
from oracles.sample import Nesting, Sample
from oracles.setting import Setting, evaluating
from oracles.subject import Layer, Subject
from oracles.trial import Trial


@pytest.fixture(autouse=True)
def registry() -> Iterator[dict[str, Any]]:
    """What was registered before; put back afterwards."""
    before = dict(LAWS)
    yield before
    LAWS.clear()
    LAWS.update(before)


def promise(**changes: Any) -> Callable[..., None]:
    """The body of a law, with some of its attributes replaced."""

    def tensors_are_kept(subject: Subject, setting: Setting) -> None:
        """A tensor is kept.

        It is not lost.
        """

    for name, value in changes.items():
        setattr(tensors_are_kept, name, value)
    return tensors_are_kept


def without(annotation: str) -> dict[str, Any]:
    hints: dict[str, Any] = {"subject": Subject, "setting": Setting, "return": None}
    del hints[annotation]
    return hints


def test_a_law_is_registered_with_what_it_says() -> None:
    body = promise()
    assert law(source="notes", norms=("A1",), when=evaluating, having=("Dropout",))(body) is body
    made = LAWS["tensors_are_kept"]
    assert made.sentence == "A tensor is kept."
    assert made.explanation == "It is not lost."
    assert made.theory == "test_law"
    assert made.quantifiers == {"subject": Subject, "setting": Setting}
    assert (made.source, made.norms, made.when) == ("notes", ("A1",), evaluating)
    assert (made.having, made.without, made.over_settings) == (("Dropout",), (), True)


def test_a_formula_is_the_body_as_it_is_written() -> None:
    @law(source="notes")
    def sums_are_sums(sample: Sample) -> None:
        """A sum is a sum."""
        assert sample

    assert LAWS["sums_are_sums"].formula == "assert sample"
    assert not LAWS["sums_are_sums"].over_settings


REFUSED: dict[str, tuple[Callable[..., None], dict[str, Any], str]] = {
    "no docstring": (promise(__doc__=None), {}, "no sentence"),
    "an empty sentence": (promise(__doc__="\n   "), {}, "no sentence"),
    "no source": (promise(), {"source": ""}, "no source"),
    "no return annotation": (promise(__annotations__=without("return")), {}, "-> None"),
    "a returned verdict": (
        promise(__annotations__=without("return") | {"return": bool}),
        {},
        "-> None",
    ),
    "an unannotated parameter": (promise(__annotations__=without("subject")), {}, "subject"),
    "one word": (promise(__name__="keeps"), {}, "sentence_in_the_present_tense"),
    "a capital": (promise(__name__="Tensors_are_kept"), {}, "sentence_in_the_present_tense"),
    "a leading underscore": (promise(__name__="_tensors_kept"), {}, "present_tense"),
    "two underscores": (promise(__name__="tensors__kept"), {}, "present_tense"),
    "check": (promise(__name__="check_tensors"), {}, "sentence_in_the_present_tense"),
    "should": (promise(__name__="tensors_should_be_kept"), {}, "sentence_in_the_present_tense"),
    "test": (promise(__name__="test_tensors_are_kept"), {}, "sentence_in_the_present_tense"),
    "utils": (promise(__name__="tensor_utils"), {}, "sentence_in_the_present_tense"),
}


@pytest.mark.parametrize(("body", "arguments", "words"), REFUSED.values(), ids=REFUSED)
def test_a_law_of_a_wrong_form_is_refused(
    body: Callable[..., None],
    arguments: dict[str, Any],
    words: str,
    registry: dict[str, Any],
) -> None:
    with pytest.raises(LawError) as caught:
        law(**({"source": "notes"} | arguments))(body)
    assert words in str(caught.value)
    assert body.__name__ in str(caught.value)
    assert registry == LAWS


def test_a_law_that_quantifies_over_nothing_is_refused(registry: dict[str, Any]) -> None:
    def tensors_are_kept() -> None:
        """A tensor is kept."""

    with pytest.raises(LawError, match="quantifies over nothing"):
        law(source="notes")(tensors_are_kept)
    assert registry == LAWS


def test_a_precondition_needs_a_setting(registry: dict[str, Any]) -> None:
    def nests_are_nested(nesting: Nesting) -> None:
        """A nest is nested."""

    with pytest.raises(LawError, match="precondition on settings but no Setting"):
        law(source="notes", when=evaluating)(nests_are_nested)
    with pytest.raises(LawError, match="everywhere but has no Setting"):
        law(source="notes", everywhere=True)(nests_are_nested)
    assert registry == LAWS
    law(source="notes")(nests_are_nested)
    assert set(LAWS) - set(registry) == {"nests_are_nested"}


def is_single(sample: Sample) -> bool:
    """The sample has single precision."""
    return sample.dtype == "float32"


def is_deep(nesting: Nesting) -> bool:
    """There are several contexts."""
    return len(nesting.contexts) > 1


def test_a_precondition_is_looked_at_before_the_body() -> None:
    judged = []

    @law(source="notes", given=is_single)
    def samples_are_kept(nesting: Nesting, sample: Sample) -> None:
        """A sample is kept."""
        judged.append(sample.dtype)

    made = LAWS["samples_are_kept"]
    assert made.given is is_single
    made.judge(sample=Sample(), nesting=Nesting())
    with pytest.raises(OutOfScope, match="The sample has single precision"):
        made.judge(sample=Sample(dtype="float64"), nesting=Nesting())
    assert judged == ["float32"]


def test_what_is_not_given_is_counted_as_out_of_scope() -> None:
    @law(source="notes", given=is_single)
    def samples_are_kept(sample: Sample) -> None:
        """A sample is kept."""
        holds(sample.dtype, "its dtype", "float32")

    trial = Trial(LAWS["samples_are_kept"], "cpu", Register((), "2.13.0"))
    for dtype in ("float32", "float64"):
        trial.judge(Case("samples_are_kept", sample=Sample(dtype=dtype)))
    assert (trial.tally.subjects, trial.tally.cells, trial.tally.out_of_scope) == (1, 1, 1)


def test_a_precondition_looks_at_what_the_law_quantifies_over(registry: dict[str, Any]) -> None:
    def samples_are_kept(sample: Sample) -> None:
        """A sample is kept."""

    with pytest.raises(LawError, match="on nesting, but quantifies over sample"):
        law(source="notes", given=is_deep)(samples_are_kept)
    with pytest.raises(LawError, match="without a docstring"):
        law(source="notes", given=lambda sample: True)(samples_are_kept)
    assert registry == LAWS


def test_two_laws_of_one_name_are_refused() -> None:
    law(source="notes")(promise())
    first = LAWS["tensors_are_kept"]
    with pytest.raises(LawError, match=r"two laws are named 'tensors_are_kept'.*test_law"):
        law(source="elsewhere")(promise())
    assert LAWS["tensors_are_kept"] is first


def test_the_laws_there_are_have_their_parts() -> None:
    assert LAWS
    for name, made in LAWS.items():
        assert name == made.name
        assert made.sentence.endswith("."), name
        assert made.formula, name
        kinds = {Subject, Layer, Setting, Sample, Nesting, Played}
        assert set(made.quantifiers.values()) <= kinds, name
