"""A law: one promise, stated once, whose parameters are its quantifiers."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final

from .setting import Precondition, Setting, always
from .traits import CLASSES

Body = Callable[..., None]
#: A precondition on what a law quantifies over: its parameters are some of those of the law.
Given = Callable[..., bool]


def anything() -> bool:
    """Whatever is drawn."""
    return True


class LawError(TypeError):
    """A law is not well formed. Raised where it is defined."""


class OutOfScope(Exception):  # not an error: a third outcome beside holding and not
    """The law does not speak of this case. Counted, and never a success."""


class NotApplicable(OutOfScope):
    """The law does not speak of this device at all."""


class Unsupported(Exception):  # an outcome as well
    """This build of torch lacks what the case needs."""


class Refused(OutOfScope):
    """The subject raises in this setting. There is a law against that; others cannot be judged."""


@dataclass(frozen=True)
class Script:
    """How something can be seen again with plain torch.

    source      the module, how it is built and how it is differentiated
    statements  what is then done; an expression is evaluated after them
    """

    source: str
    statements: tuple[str, ...]


#: The expression of a term whose value is the type of the error that the statements raise.
RAISED: Final = "raised"


@dataclass(frozen=True)
class Term:
    """One thing that was seen, and how to see it again.

    expression  plain torch, evaluated after the statements of the script; or RAISED
    value       what it was
    script      None where the value is a literal of the law, or the law's own body shows it
    """

    expression: str
    value: Any
    script: Script | None = None


class Violation(AssertionError):
    """A law does not hold: what was observed, and what was expected instead.

    ulps is the size of a difference between values, in units in the last place of
    the largest of them; None where the difference is not one of rounding.
    """

    def __init__(
        self, message: str, observed: Term, expected: Term, ulps: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.observed = observed
        self.expected = expected
        self.ulps = ulps
        self.asked = False  # whether the judge of the law was asked if it is known


@dataclass(frozen=True)
class Law:
    """A promise of PyTorch about its modes.

    name         a sentence in the present tense
    sentence     the same in PyTorch's own terms
    theory       the file it stands in
    body         raises Violation where it does not hold
    source       who promised it
    quantifiers  parameter name to type
    norms        the rows of the norms it accounts for
    when         the settings it speaks of
    given        what must be true of a module or tensor, and may be of a setting, for the law to
                 speak of it: it takes those parameters of the law that it names. Looked at before
                 each cell, which is out of scope where it is false
    having       kinds of nodes of which the module must have at least one; empty for any module.
                 For a law of layers, the classes that it speaks of
    without      kinds of nodes and parametrizations that the module must not have
    since        the first torch version it speaks of, "" for all
    everywhere   whether it is tried in every setting of which it speaks. A law whose runs serve no
                 other is tried in some that cover them (see `covering`), but for the laws of
                 devices: what those look for is rare
    costly       whether it is judged on a quarter of the cases: each begins a process, compiles,
                 or plays a program a second time
    """

    name: str
    sentence: str
    theory: str
    body: Body = field(repr=False)
    source: str
    quantifiers: dict[str, type]
    norms: tuple[str, ...] = ()
    when: Precondition = always
    given: Given = anything
    having: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    since: str = ""
    everywhere: bool = False
    costly: bool = False

    def judge(self, **quantities: Any) -> None:
        """Raise Violation where it does not hold of these, OutOfScope where it is not given."""
        if not self.given(**{name: quantities[name] for name in _parameters(self.given)}):
            raise OutOfScope(f"not given: {inspect.cleandoc(self.given.__doc__ or '')}")
        self.body(**quantities)

    @property
    def formula(self) -> str:
        """The body as it is written, without the docstring and the decorator."""
        text = inspect.getsource(self.body)
        start = text.index('"""', text.index('"""') + 3) + 3
        return inspect.cleandoc("\n" + text[start:].strip("\n"))

    @property
    def explanation(self) -> str:
        """What the docstring says beyond its first line."""
        return inspect.cleandoc(self.body.__doc__ or "").partition("\n")[2].strip()

    @property
    def over_settings(self) -> bool:
        """Whether it speaks of settings."""
        return Setting in self.quantifiers.values()

    @property
    def scope(self) -> tuple[Any, ...]:
        """What must be drawn to judge it: laws of one scope are judged on the same cases."""
        kinds = sorted({k.__name__ for k in self.quantifiers.values() if k is not Setting})
        return (*kinds, self.having, self.without)

    @property
    def over_layers(self) -> bool:
        """Whether it is judged on each class of torch.nn by itself."""
        return any(kind.__name__ == "Layer" for kind in self.quantifiers.values())

    @property
    def layers(self) -> tuple[str, ...]:
        """The classes of torch.nn that it is judged on one by one; none if it is not of layers."""
        return (self.having or CLASSES) if self.over_layers else ()


@cache
def _parameters(given: Given) -> tuple[str, ...]:
    """The names of what a precondition looks at."""
    return tuple(inspect.signature(given).parameters)


LAWS: Final[dict[str, Law]] = {}


def by_scope(laws: Iterable[Law]) -> list[tuple[Law, str]]:
    """Laws, each with the layers that it is tried on, so that those that share cases are together.

    "" stands for no layer.
    """
    pairs = [(law, layer) for law in laws for layer in law.layers or ("",)]
    places: dict[Any, int] = {}
    for law, layer in pairs:
        places.setdefault((law.scope, layer), len(places))
    return sorted(pairs, key=lambda pair: places[pair[0].scope, pair[1]])


_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")
_FORBIDDEN: Final = ("check", "should", "test", "utils")


def law(
    *,
    source: str,
    norms: tuple[str, ...] = (),
    when: Precondition = always,
    given: Given = anything,
    having: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    since: str = "",
    everywhere: bool = False,
    costly: bool = False,
) -> Callable[[Body], Body]:
    """Define a law. Every mistake in its form is an error here, not when it runs."""

    def define(body: Body) -> Body:
        made = replace(
            _define(body, source),
            norms=norms,
            when=when,
            given=given,
            having=having,
            without=without,
            since=since,
            everywhere=everywhere,
            costly=costly,
        )
        if when is not always and not made.over_settings:
            raise LawError(f"law {made.name!r} has a precondition on settings but no Setting")
        if everywhere and not made.over_settings:
            raise LawError(f"law {made.name!r} is to be tried everywhere but has no Setting")
        unknown = [name for name in _parameters(given) if name not in made.quantifiers]
        if unknown:
            raise LawError(
                f"law {made.name!r} has a precondition on {', '.join(unknown)}, "
                f"but quantifies over {', '.join(made.quantifiers)}"
            )
        if not given.__doc__:
            raise LawError(f"law {made.name!r} has a precondition without a docstring")
        LAWS[made.name] = made
        return body

    return define


def _define(body: Body, source: str) -> Law:
    name = body.__name__
    sentence = inspect.cleandoc(body.__doc__ or "").partition("\n")[0].strip()
    hints = typing.get_type_hints(body)
    if not _NAME.fullmatch(name) or any(word in name.split("_") for word in _FORBIDDEN):
        raise LawError(f"the name of law {name!r} is not a sentence_in_the_present_tense")
    if name in LAWS:
        raise LawError(f"two laws are named {name!r}: one is in {LAWS[name].theory}")
    if not sentence:
        raise LawError(f"law {name!r} has no sentence: give it a docstring")
    if not source:
        raise LawError(f"law {name!r} has no source: say who promised it")
    if hints.pop("return", object) is not type(None):
        raise LawError(
            f"law {name!r} must be annotated '-> None': it raises, it returns no verdict"
        )
    unquantified = [p for p in inspect.signature(body).parameters if p not in hints]
    if unquantified or not hints:
        raise LawError(
            f"law {name!r} quantifies over nothing: annotate {unquantified or 'a parameter'}"
        )
    return Law(
        name=name,
        sentence=sentence,
        theory=body.__module__.rpartition(".")[2],
        body=body,
        source=source,
        quantifiers=hints,
    )
