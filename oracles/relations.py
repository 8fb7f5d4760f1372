"""The verbs that laws are written with. Each reports a Violation; none returns a verdict.

They compare whole tensors, and exactly. Whoever judges a law is asked of each difference
whether it is known, by the register or as one of rounding: then the law goes on to its next
comparison. Any other difference is raised.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor

from .law import RAISED, NotApplicable, Refused, Term, Violation
from .run import Seen
from .setting import Setting
from .specimen import BACKWARD, Plan
from .subject import Subject
from .traits import Certainty


class _Ledger:
    """What the verbs report to.

    comparisons  how many were made that had something to compare: see `same`. A law that made
                 none has judged nothing
    agreements   how many pairs of runs were compared: with the expression, it names a comparison
    traits       what was claimed of layers, and shown
    explain      whether a difference is known, so that the law goes on; none is where it is None
    rounds       whether a difference is one of rounding; none is where it is None
    compare      is handed each comparison of `agree` and `agree_with`; None for nobody
    """

    comparisons = 0
    agreements = 0
    traits: Traits
    explain: Callable[[Violation], bool] | None = None
    rounds: Callable[[Violation], bool] | None = None
    compare: Callable[[Place, Any, Any], None] | None = None


#: Which comparison of a law: how many pairs of runs came before, and the expression.
Place = tuple[int, str]


@contextmanager
def reporting(
    explain: Callable[[Violation], bool] | None = None,
    rounds: Callable[[Violation], bool] | None = None,
    compare: Callable[[Place, Any, Any], None] | None = None,
) -> Iterator[None]:
    """Let the verbs report to these, and count the comparisons from the start."""
    kept = _Ledger.explain, _Ledger.rounds, _Ledger.compare, _Ledger.agreements
    _Ledger.explain, _Ledger.rounds, _Ledger.compare = explain, rounds, compare
    _Ledger.agreements = 0
    try:
        yield
    finally:
        _Ledger.explain, _Ledger.rounds, _Ledger.compare, _Ledger.agreements = kept


def place_of(violation: Violation) -> Place:
    """Which comparison of the law that is being judged differs."""
    return _Ledger.agreements, violation.observed.expression


@dataclass
class Traits:
    """Which traits were claimed, and which were shown, and how often."""

    claimed: Counter[str] = field(default_factory=Counter)
    shown: Counter[str] = field(default_factory=Counter)


_Ledger.traits = Traits()


def comparisons() -> int:
    """How many comparisons the verbs have made so far."""
    return _Ledger.comparisons


def compared() -> None:
    """Count a comparison that was made elsewhere."""
    _Ledger.comparisons += 1


@contextmanager
def counting_traits(into: Traits) -> Iterator[None]:
    """Note in this what traits are claimed and shown."""
    kept, _Ledger.traits = _Ledger.traits, into
    try:
        yield
    finally:
        _Ledger.traits = kept


_CONTAINERS: Final = (list, tuple, set, frozenset)


def _is_something(value: Any, *, even_none: bool = False) -> bool:
    """Whether there is something in a value to compare: a list has what its items have.

    even_none  None is something as well: where a law says that there is nothing
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, _CONTAINERS):
        return any(_is_something(item, even_none=even_none) for item in value)
    return even_none or value is not None


def same(observed: Any, expected: Any) -> bool:
    """Whether two things are the same: dtype, shape, layout, device, values, NaN where NaN is.

    None is the same as None only. A tensor is the same as a tensor only. It counts as a
    comparison if one of the two is something: two gradients that are None have not been
    compared, nor have two empty lists.
    """
    _Ledger.comparisons += _is_something(observed) or _is_something(expected)
    if observed is expected:
        return True
    if isinstance(observed, Tensor) is not isinstance(expected, Tensor):
        return False
    if not isinstance(observed, Tensor):
        return type(observed) is type(expected) and bool(observed == expected)
    if observed.dtype != expected.dtype or observed.shape != expected.shape:
        return False
    if observed.device != expected.device or observed.layout != expected.layout:
        return False
    if observed.is_sparse:  # the gradients of some embeddings: torch.equal takes none
        observed, expected = observed.to_dense(), expected.to_dense()
    if torch.equal(observed, expected):
        return True
    nan = observed.isnan() & expected.isnan()
    return bool(((observed == expected) | nan).all())


def _is(observed: Any, expected: Any) -> bool:
    """Whether something is what a law says: that may be None, and counts as a comparison then."""
    if not _is_something(observed) and not _is_something(expected):
        _Ledger.comparisons += _is_something(expected, even_none=True)
    return same(observed, expected)


def describe(value: Any) -> str:
    """A value in a message: short, with dtype and shape for tensors."""
    if not isinstance(value, Tensor):
        return repr(value)
    kind = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if value.device.type == "meta":
        return kind
    if value.dtype == torch.uint8:
        # The state of a random generator: thousands of bytes, of which a digest says enough.
        return f"{kind} with checksum {zlib.crc32(bytes(value.tolist())):08x}"
    text = " ".join(str(value.detach().cpu().to_dense().flatten()[:8].tolist()).split())
    return f"{kind} {text}{' ...' if value.numel() > 8 else ''}"


def _violation(observed: Term, expected: Term, what: str = "") -> Violation:
    ulps = None
    if isinstance(observed.value, Tensor) and isinstance(expected.value, Tensor):
        ulps = ulps_between(observed.value, expected.value)
    size = f" (they differ by {ulps:.3g} ulp)" if ulps is not None else ""
    message = (
        f"{what}{observed.expression} was {describe(observed.value)}, "
        f"expected {describe(expected.value)}{size}"
    )
    return Violation(message, observed, expected, ulps)


def _violate(observed: Term, expected: Term, what: str = "") -> None:
    """Raise the difference, unless it is known."""
    violation = _violation(observed, expected, what)
    if _Ledger.explain is None or not _Ledger.explain(violation):
        raise violation


def agree(observed: Seen, expected: Seen) -> None:
    """The same things are seen, and each is the same.

    A run is not compared with itself: a law that finds the run it starts from, where the
    setting is the default one already, say, has judged nothing.
    """
    _Ledger.agreements += 1
    if observed is expected:
        return
    for expression in observed:
        if expression not in expected:
            _violate(observed.term(expression), Term("None", None), "one side lacks it: ")
    for expression in expected:
        if expression not in observed:
            _violate(Term("None", None), expected.term(expression), "one side lacks it: ")
            continue
        left, right = observed[expression], expected[expression]
        if isinstance(left, Tensor) and isinstance(right, Tensor) and left.shape == right.shape:
            _needs_values(left)
        if _Ledger.compare is not None:
            _Ledger.compare((_Ledger.agreements, expression), left, right)
        if not same(left, right):
            _violate(observed.term(expression), expected.term(expression))


def agree_across_devices(observed: Seen, expected: Seen) -> None:
    """The same is seen on two devices: dtype and shape, and values up to rounding."""
    here = {
        e: v.cpu() if isinstance(v, Tensor) and v.device.type != "meta" else v
        for e, v in observed.items()
    }
    agree(Seen(observed.script, here), expected)


def _needs_values(tensor: Tensor) -> None:
    if tensor.device.type == "meta":
        raise NotApplicable("tensors of the meta device have no values")


def agree_with(seen: Seen, expected: dict[str, Any]) -> None:
    """What is seen is what a law says, literally: the same things, and each the same."""
    for expression in seen:
        if expression not in expected:
            _violate(seen.term(expression), Term("None", None), "nothing is known of this: ")
    for expression, value in expected.items():
        if expression not in seen:
            _violate(Term(expression, None), Term(repr(value), value), "it is not there: ")
            continue
        if _Ledger.compare is not None:
            _Ledger.compare((_Ledger.agreements, expression), seen[expression], value)
        if not _is(seen[expression], value):
            _violate(seen.term(expression), Term(repr(value), value))


def every(seen: Seen, value: Any) -> None:
    """Everything that is seen has this one value."""
    agree_with(seen, dict.fromkeys(seen, value))


def shows(trait: str, claimed: Certainty, seen: Seen, otherwise: Any) -> None:
    """A trait shows where something that is seen is not what it is otherwise.

    It must where it is claimed for sure, and must not where it is not claimed.
    """
    for expression, value in seen.items():
        shown = not same(value, otherwise)
        _note(trait, claimed, shown)
        if shown and claimed is Certainty.NEVER:
            expected = Term(repr(otherwise), otherwise)
            _violate(seen.term(expression), expected, f"it {trait}, which its traits deny: ")
        if not shown and claimed is Certainty.ALWAYS:
            expected = Term(repr(not otherwise), not otherwise)
            _violate(seen.term(expression), expected, f"it never {trait}, as its traits claim: ")


def differ(trait: str, claimed: Certainty, observed: Seen, expected: Seen) -> None:
    """A trait shows where two runs differ, which must not be where it is not claimed.

    A difference of rounding does not count.
    """
    _Ledger.agreements += 1
    for expression, left in observed.items():
        right = expected[expression]
        if _Ledger.compare is not None:
            _Ledger.compare((_Ledger.agreements, expression), left, right)
        differs = not same(left, right)
        # Where it is claimed and has shown already, it does not matter any more.
        if differs and (claimed is Certainty.NEVER or not _Ledger.traits.shown[trait]):
            terms = observed.term(expression), expected.term(expression)
            violation = _violation(*terms, f"it {trait}, which its traits deny: ")
            differs = _Ledger.rounds is None or not _Ledger.rounds(violation)
            if differs and claimed is Certainty.NEVER:
                _violate(*terms, f"it {trait}, which its traits deny: ")
        _note(trait, claimed, shown=differs)


def _note(trait: str, claimed: Certainty, shown: bool) -> None:
    noted = _Ledger.traits
    noted.claimed[trait] += claimed is not Certainty.NEVER
    noted.shown[trait] += shown


def _facts(output: Seen, wanted: Callable[[Tensor], dict[str, bool]]) -> None:
    """Each tensor has the attributes that are wanted of it."""
    for expression, tensor in output.items():
        for attribute, value in wanted(tensor).items():
            _Ledger.comparisons += 1
            found = eval(f"tensor.{attribute}", {"tensor": tensor})
            if found is not value:
                observed = replace(output.term(expression), expression=f"{expression}.{attribute}")
                _violate(replace(observed, value=found), Term(repr(value), value))


def unrecorded(output: Seen) -> None:
    """No tensor requires grad, has a grad_fn, or is not a leaf."""
    _facts(output, lambda t: {"requires_grad": False, "grad_fn is None": True, "is_leaf": True})


def leaf_iff_no_grad_fn(output: Seen) -> None:
    """A tensor with a grad_fn requires grad and is no leaf; one without is a leaf."""

    def wanted(tensor: Tensor) -> dict[str, bool]:
        if tensor.grad_fn is None:
            return {"is_leaf": True}
        return {"is_leaf": False, "requires_grad": True}

    _facts(output, wanted)


def runs(subject: Subject, setting: Setting) -> None:
    """Neither forward nor backward raises."""
    _Ledger.comparisons += 1
    try:
        subject.backward(setting)
    except Refused as refusal:
        script = subject.script(Plan(setting, BACKWARD))
        _violate(Term(RAISED, str(refusal), script), Term("None", None))


def absent(gradients: Seen) -> None:
    """Every gradient is None."""
    every(gradients, None)


def holds(value: object, what: str, expected: object = True) -> None:
    """A plain fact about tensors: ``what`` says it, and its value must be the expected one."""
    if not _is(value, expected):
        _violate(Term(what, value), Term(repr(expected), expected))


def equal(observed: Any, expected: Any, what: str) -> None:
    """Two tensors or values are the same."""
    if not same(observed, expected):
        _violate(Term(what, observed), Term("the other", expected))


def refuses(action: Callable[[], object], error: type[Exception], *words: str) -> None:
    """The action raises this type of error, and its message has these words.

    Only a few words are compared: torch rewords its messages between versions.
    """
    wanted = f"{error.__name__} with {' and '.join(map(repr, words)) or 'any message'}"
    _Ledger.comparisons += 1
    try:
        action()
    except Exception as raised:
        text = str(raised)
        if isinstance(raised, error) and all(word in text for word in words):
            return
        found = f"{type(raised).__name__}: {text.partition(chr(10))[0]}"
        _violate(Term("what was raised", found), Term("what is to be raised", wanted))
    else:
        _violate(Term("what was raised", "nothing"), Term("what is to be raised", wanted))


def allows(action: Callable[[], object], what: str) -> None:
    """The action raises nothing: ``what`` says what it does."""
    _Ledger.comparisons += 1
    try:
        action()
    except Exception as raised:
        text = f"{type(raised).__name__}: {raised}".partition("\n")[0]
        _violate(Term(f"what {what} raised", text), Term("what is to be raised", "nothing"))


def ulps_between(observed: Tensor, expected: Tensor) -> float | None:
    """The largest difference, in units in the last place of the largest value, or of 1.

    None where they differ in more than rounding: in kind, shape or what is not finite.
    """
    if not expected.dtype.is_floating_point and not expected.dtype.is_complex:
        return None
    kinds = [(t.shape, t.dtype, t.layout) for t in (observed, expected)]
    if kinds[0] != kinds[1]:
        return None
    if "meta" in (observed.device.type, expected.device.type):
        return None
    a, b = observed.detach().cpu().to_dense(), expected.detach().cpu().to_dense()
    wide = torch.complex128 if b.dtype.is_complex else torch.float64
    a, b = a.to(wide), b.to(wide)
    finite = a.isfinite() & b.isfinite()
    if not ((a == b) | (a.isnan() & b.isnan()) | finite).all():
        return None
    a, b = a[finite], b[finite]
    difference = (a - b).abs().max().item() if a.numel() else 0.0
    largest = b.abs().max().item() if b.numel() else 0.0
    return difference / (torch.finfo(expected.dtype).eps * max(largest, 1.0))
