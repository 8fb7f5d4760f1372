"""docs/laws.md is what the laws say, and leaves none of them out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from oracles import document
from oracles.deviations import CONDITIONS, Deviation, Register, load
from oracles.law import LAWS, anything

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "laws.md"
AGAIN = "docs/laws.md is not what the laws say: regenerate it with `python -m oracles docs`"


def recorded() -> list[dict[str, Any]]:
    """The results that are stored, in the order of their files."""
    files = sorted((ROOT / "results").glob("*.json"), key=lambda path: path.name)
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def section(text: str, law: str) -> str:
    """What the page says of one law."""
    rest = text.partition(f"({document.anchor(law)})=\n")[2]
    return re.split(r"^\([a-z0-9-]+\)=$|^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.fixture(scope="module")
def page() -> str:
    """The page as it is generated now, with the stored results."""
    return document.laws_markdown(recorded())


def test_the_page_on_disk_is_up_to_date(page: str) -> None:
    found = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    # Not "found == page": the difference of two long texts would hide the command.
    if found != page:
        pytest.fail(AGAIN)


def test_the_page_is_the_same_each_time(page: str) -> None:
    assert document.laws_markdown(recorded()) == page


def test_every_law_is_on_the_page(page: str) -> None:
    for law in LAWS.values():
        heading = f"({document.anchor(law.name)})=\n### {document.spoken(law.name)}\n"
        assert page.count(heading) == 1, law.name
        assert page.count(f"](#{document.anchor(law.name)})") == 1, law.name
        text = section(page, law.name)
        assert document.escaped(law.sentence) in text
        assert f"```python\n{law.formula}\n```" in text
        assert all(f"- {row}: " in text for row in law.norms), law.name


def test_preconditions_are_told(page: str) -> None:
    """Of the setting, and of what else is given."""
    text = section(page, "running_statistics_follow_the_momentum")
    assert "- in settings where: Every submodule is in training mode." in text
    assert "- only where: The layer has running statistics." in text
    asked = [law for law in LAWS.values() if law.given is not anything]
    assert page.count("\n- only where: ") == len(asked) > 10


def test_every_deviation_is_on_the_page(page: str) -> None:
    for deviation in load().deviations:
        for law in deviation.laws:
            text = section(page, law)
            assert document.escaped(document.spoken(deviation.name)) in text, (deviation.name, law)


def test_a_deviation_is_told_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    law = "freezing_changes_no_value"
    deviation = Deviation(
        name="torch_does_it_differently",
        condition=next(name for name, decide in sorted(CONDITIONS.items()) if decide.__doc__),
        facts=("{output}",),
        torch="<2.4",
        basis="bug",
        reason="Another kernel runs.",
        link="https://pytorch.org/docs/stable/notes/autograd.html",
    )
    vars(deviation)["laws"] = frozenset({law})
    monkeypatch.setattr(document, "load", lambda: Register((deviation,), "2.13.0"))
    text = section(document.laws_markdown([]), law)
    told = ("torch does it differently", "bug", r"torch \<2.4", "cpu, cuda")
    assert all(word in text for word in (*told, deviation.reason, f"<{deviation.link}>"))
    assert "none known" not in text


def test_what_was_measured_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "load", lambda: Register((), "2.13.0"))
    law = "freezing_changes_no_value"
    entry = {"name": law, "status": "HOLDS", "subjects": 100, "cells": 5400}
    result = {"torch": "2.13.0", "device": "cpu", "profile": "default", "laws": [entry]}
    page = document.laws_markdown([result])
    measured = "- torch 2.13.0, cpu, profile default: "
    assert f"{measured}HOLDS, 100 subjects, 5,400 cells" in section(page, law)
    assert page.count(f"{measured}not recorded") == len(LAWS) - 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a * b < c_d", r"a \* b \< c\_d"),
        ("`a_b` and c_d", r"`a_b` and c\_d"),
        ("one ` and c_d", r"one \` and c\_d"),
    ],
)
def test_prose_is_shown_as_it_is(text: str, shown: str) -> None:
    assert document.escaped(text) == shown
