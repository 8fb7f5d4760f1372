"""The laws as a page for readers: docs/laws.md, generated from the laws themselves."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, Final

from . import norms
from .deviations import CONDITIONS, Deviation, load
from .law import LAWS, Law, anything
from .laws import THEORIES
from .play import Played
from .sample import Nesting, Sample
from .setting import Setting, always
from .subject import Layer, Subject

INTRO: Final = """\
Each law is one promise of PyTorch about its modes: a sentence, and a formula that is the very
code with which it is tried. The parameters of a formula are its quantifiers: what it holds for.
Its scope says whether a law is tried in each of these settings or in some that cover them, as
are laws whose runs serve no other: then any two values of the switches are tried together on
each subject, and three on some of the subjects.
This page is generated: `python -m oracles docs` writes it."""


_QUANTIFIERS: Final[dict[type, str]] = {
    Subject: "every module with its inputs",
    Layer: "every layer, alone",
    Setting: "every setting of the three switches",
    Sample: "every tensor that can require grad",
    Nesting: "every nest of grad-mode contexts",
    Played: "every program",
}


def laws_markdown(results: list[dict[str, Any]]) -> str:
    """The page docs/laws.md as Markdown: the same text for the same laws and results.

    results  what was measured, one mapping for each results file: torch, device, profile
             and laws, a list of mappings with name, status, subjects and cells
    """
    deviations = load().deviations
    lines = ["# The laws", "", *INTRO.splitlines(), "", "## Contents", ""]
    for theory in THEORIES:
        lines += _contents(theory)
    for theory in THEORIES:
        title, text = _introduction(theory)
        lines += ["", f"## {title}", *(["", *text] if text else [])]
        for law in _laws_of(theory):
            known = [d for d in deviations if law.name in d.laws]
            lines += ["", *_section(law, known, results)]
    return "\n".join(lines) + "\n"


def anchor(name: str) -> str:
    """The anchor of a law on the page; the same that GitHub gives to its heading."""
    return name.replace("_", "-")


def spoken(name: str) -> str:
    """A name as words: the heading of a law."""
    return name.replace("_", " ")


def escaped(text: str) -> str:
    """Prose as Markdown that shows it as it is; what stands in backticks is code and stays."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return re.sub(r"([\\*_<`])", r"\\\1", text)
    parts[::2] = [re.sub(r"([\\*_<])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


# --- the parts of the page -----------------------------------------------------------------


def _laws_of(theory: ModuleType) -> list[Law]:
    name = theory.__name__.rpartition(".")[2]
    return [law for law in LAWS.values() if law.theory == name]


def _introduction(theory: ModuleType) -> tuple[str, list[str]]:
    """The title of a theory, and its docstring as the text below it."""
    title = spoken(theory.__name__.rpartition(".")[2]).capitalize()
    text = inspect.cleandoc(theory.__doc__ or "")
    return title, [escaped(line) for line in text.splitlines()]


def _contents(theory: ModuleType) -> Iterator[str]:
    laws = _laws_of(theory)
    count = "1 law" if len(laws) == 1 else f"{len(laws)} laws"
    yield f"- {_introduction(theory)[0]} ({count})"
    for law in laws:
        yield f"  - [{spoken(law.name)}](#{anchor(law.name)})"


def _section(law: Law, known: list[Deviation], results: list[dict[str, Any]]) -> Iterator[str]:
    yield f"({anchor(law.name)})="
    yield f"### {spoken(law.name)}"
    yield from ("", escaped(law.sentence))
    if law.explanation:
        yield from ("", *(escaped(line) for line in law.explanation.splitlines()))
    yield from ("", f"**Says who**: {escaped(law.source)}")
    yield from ("", *_block("Norms", [_norm(row) for row in law.norms], "none"))
    yield from ("", *_block("Scope", list(_scope(law)), "everything"))
    yield from ("", "```python", *law.formula.splitlines(), "```")
    yield from ("", *_block("Deviations", [_deviation(d) for d in known], "none known"))
    measured = [_measured(law, result) for result in results]
    yield from ("", *_block("Measured", measured, "nothing is recorded yet"))


def _block(title: str, items: list[str], otherwise: str) -> Iterator[str]:
    """A title with its list, or with one word where there is nothing to list."""
    if not items:
        yield f"**{title}**: {otherwise}"
        return
    yield from (f"**{title}**", "")
    yield from (f"- {item}" for item in items)


def _norm(row: str) -> str:
    norm = norms.rows()[row]
    return f"{row}: {escaped(norm.statement)} ({norms.BASES[norm.basis]})"


def _scope(law: Law) -> Iterator[str]:
    words = [_QUANTIFIERS.get(k, f"every {k.__name__.lower()}") for k in law.quantifiers.values()]
    yield f"for {' and '.join(words)}"
    if law.when is not always:
        yield f"in settings where: {escaped(' '.join((law.when.__doc__ or '').split()))}"
    if law.given is not anything:
        yield f"only where: {escaped(' '.join((law.given.__doc__ or '').split()))}"
    if law.over_settings:
        yield f"tried in {'each' if law.everywhere else 'some that cover all'} of these settings"
    if law.having and law.over_layers:
        yield f"the classes {_codes(law.having)}"
    elif law.having:
        yield f"modules that have at least one of: {_codes(law.having)}"
    if law.without:
        yield f"modules that have none of: {_codes(law.without)}"
    if law.since:
        yield f"from torch {law.since} on"


def _codes(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _deviation(deviation: Deviation) -> str:
    where = " ".join((CONDITIONS[deviation.condition].__doc__ or "").split())
    versions = f"torch {deviation.torch}" if deviation.torch else "every torch"
    text = f"*{escaped(spoken(deviation.name))}* ({deviation.basis}; {escaped(versions)}; "
    text += f"{', '.join(deviation.devices)}): {escaped(' '.join(deviation.reason.split()))}"
    text += f" Where: {escaped(where)}" if where else ""
    return f"{text} {_see(deviation.link)}".rstrip()


def _see(link: str) -> str:
    """A link that can be followed, where it is an address; the words themselves otherwise."""
    if not link:
        return ""
    return f"See <{link}>." if link.startswith("https://") else f"See {escaped(link)}."


def _measured(law: Law, result: Mapping[str, Any]) -> str:
    where = f"torch {result['torch']}, {result['device']}, profile {result['profile']}"
    found = [entry for entry in result["laws"] if entry["name"] == law.name]
    if not found:
        return f"{where}: not recorded"
    judged = (
        f"{sum(e['subjects'] for e in found):,} subjects, {sum(e['cells'] for e in found):,} cells"
    )
    excused, rounded = (sum(e.get(k, 0) for e in found) for k in ("excused", "rounded"))
    judged += f", {excused:,} of them with a known deviation" if excused else ""
    judged += f", {rounded:,} with a difference of rounding" if rounded else ""
    if len(found) == 1:
        return f"{where}: {spoken(found[0]['status'])}, {judged}"
    statuses = Counter(entry["status"] for entry in found)
    classes = ", ".join(f"{spoken(s)} for {n} classes" for s, n in sorted(statuses.items()))
    return f"{where}: {classes}, {judged}"
