"""The register: what a deviation explains, and that its witnesses must show it still."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from oracles import deviations
from oracles.case import Case, to_json
from oracles.deviations import Deviation, Register, RegisterError, load
from oracles.law import LAWS, Term, Violation
from oracles.recipe import Input, Node, Recipe
from oracles.results import Status
from oracles.setting import Setting
from oracles.specimen import Specimen
from oracles.trial import Trial
from tests.harness.witnesses import mended

LAW = "evaluation_changes_no_state"


def specimen(**arguments: Any) -> Specimen:
    embedding = Node("Embedding", (0,), {"num_embeddings": 3, "embedding_dim": 1} | arguments)
    return Specimen(Recipe((Input((2, 1), 3),), (embedding,), (1,)))


RENORMALISING = Case(LAW, specimen=specimen(max_norm=0.5), setting=Setting(training=False))
RESTING = replace(RENORMALISING, specimen=specimen())
DEVIATION = Deviation(
    name="embeddings_renormalise",
    laws=(LAW,),
    condition="an_embedding_has_max_norm",
    devices=("cpu",),
    torch=">=2.1,<2.13",
    basis="bug",
    reason="It rewrites what it looks up.",
    link="",
    seen=r"model\..*",
    ulps=0.0,
)
OTHER = replace(DEVIATION, name="anything_goes", condition="always")


def violation(expression: str = "model.weight", ulps: float | None = None) -> Violation:
    return Violation("", Term(expression, 1.0), Term("2.0", 2.0), ulps)


@pytest.mark.parametrize(
    ("device", "version", "speaks"),
    [
        ("cpu", "2.1.0", True),
        ("cpu", "2.12.1", True),
        ("cpu", "2.12.0.dev20260101", True),
        ("cpu", "2.13.0", False),
        ("cpu", "2.0.1", False),
        ("cuda", "2.12.1", False),
    ],
)
def test_a_deviation_speaks_of_its_devices_and_versions(
    device: str, version: str, speaks: bool
) -> None:
    assert DEVIATION.in_force(device, version) is speaks
    assert bool(list(Register((DEVIATION,), version).of(LAW, device))) is speaks


def test_a_deviation_explains_what_it_describes_and_nothing_else() -> None:
    assert DEVIATION.explains(RENORMALISING, violation())
    assert not DEVIATION.explains(RESTING, violation())  # its condition does not hold
    assert not DEVIATION.explains(RENORMALISING, violation("out[0]"))  # another kind of fact
    another = replace(RENORMALISING, law="evaluation_draws_no_randomness")
    assert not DEVIATION.explains(another, violation())
    assert replace(DEVIATION, laws=("*",)).explains(another, violation())


def test_rounding_is_explained_up_to_its_size() -> None:
    rounding = replace(DEVIATION, basis="rounding", ulps=4.0)
    assert rounding.explains(RENORMALISING, violation(ulps=4.0))
    assert not rounding.explains(RENORMALISING, violation(ulps=4.5))
    assert not rounding.explains(RENORMALISING, violation())  # a difference, but no rounding


@pytest.mark.parametrize(
    ("observed", "expected", "tipped"),
    [
        (torch.tensor([1, 0]), torch.tensor([0, 1]), True),
        (torch.tensor([1, 0]), torch.tensor([1]), False),
        (torch.tensor([1, 0]), torch.tensor([True, False]), False),
        (torch.tensor([1j]), torch.tensor([torch.nan + 1j]), False),
        (torch.tensor([1.0]), torch.tensor([torch.nan]), False),
    ],
)
def test_rounding_may_tip_a_comparison(
    observed: torch.Tensor, expected: torch.Tensor, tipped: bool
) -> None:
    """Indices and truth values, of the same type and shape: nothing else is tipped by rounding."""
    rounding = replace(DEVIATION, basis="rounding", ulps=4.0)
    terms = Term("model.weight", observed), Term("the other", expected)
    assert rounding.explains(RENORMALISING, Violation("", *terms, None)) is tipped


def entry(**changed: Any) -> str:
    fields = {
        "name": "embeddings_renormalise",
        "laws": [LAW],
        "condition": "an_embedding_has_max_norm",
        "basis": "bug",
        "reason": "It rewrites what it looks up.",
    } | changed
    lines = [f"{name} = {value!r}" for name, value in fields.items() if value is not None]
    return "\n".join(["[[deviation]]", *lines, ""])


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus with the one witness that the entry needs."""
    monkeypatch.setattr(deviations, "CORPUS", tmp_path)
    folder = tmp_path / "embeddings_renormalise"
    folder.mkdir()
    (folder / f"{LAW}.json").write_text(to_json(RENORMALISING), encoding="utf-8")
    return tmp_path


def test_a_good_entry_is_read(corpus: Path) -> None:
    (corpus / "register.toml").write_text(entry(), encoding="utf-8")
    (read,) = load(corpus / "register.toml").deviations
    assert (read.name, read.laws, read.devices) == (DEVIATION.name, (LAW,), ("cpu", "cuda"))
    assert read.cases == [RENORMALISING]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (entry(laws=["no_such_law"]), "does not exist"),
        (entry(laws=[LAW, "evaluation_is_deterministic"]), "laws and witnesses do not match"),
        (entry(name="without_a_witness"), "laws and witnesses do not match"),
        (entry(condition="no_such_condition"), "known: "),
        (entry(basis="rumour"), "basis is one of documented, bug"),
        (entry(basis="rounding"), "go together"),
        (entry(ulps=2.0), "go together"),
        (entry(torch="two"), "PEP 440"),
        (entry(reason=None), "missing or unknown fields: reason"),
        (entry(since="2.1"), "missing or unknown fields: since"),
        (entry() + entry(), "named twice"),
    ],
)
def test_an_entry_that_is_not_well_formed_is_refused(corpus: Path, text: str, says: str) -> None:
    (corpus / "register.toml").write_text(text, encoding="utf-8")
    with pytest.raises(RegisterError, match=says):
        load(corpus / "register.toml")


def told(*register: tuple[Deviation, Case]) -> tuple[str, dict[str, int]]:
    """What is said of these deviations with their witnesses, and what is counted."""
    for deviation, case in register:
        vars(deviation)["cases"] = [case]
    known = Register(tuple(deviation for deviation, _ in register), "2.12.0")
    trial = Trial(LAWS[LAW], "cpu", known)
    return mended(trial), dict(trial.tally.deviating)


def test_a_witness_that_shows_its_deviation_is_counted() -> None:
    assert told((replace(DEVIATION), RENORMALISING)) == ("", {DEVIATION.name: 1})


def test_a_witness_that_breaks_its_law_no_longer_is_told() -> None:
    assert told((replace(DEVIATION), RESTING)) == (
        "embeddings_renormalise: its witness no longer shows it",
        {},
    )
    assert Status.MENDED.fails


def test_a_witness_that_breaks_its_law_in_another_way_is_told() -> None:
    elsewhere = replace(DEVIATION, seen=r"out\[\d\]")
    assert told((elsewhere, RENORMALISING))[0].endswith("no longer shows it")


def test_a_witness_that_another_deviation_hides_is_not_mended() -> None:
    elsewhere = replace(DEVIATION, seen=r"out\[\d\]")
    assert told((elsewhere, RENORMALISING), (replace(OTHER), RENORMALISING)) == (
        "",
        {OTHER.name: 2},
    )


def test_a_witness_that_a_deviation_of_all_versions_hides_is_told() -> None:
    elsewhere = replace(DEVIATION, seen=r"out\[\d\]")
    always = replace(OTHER, torch="")
    assert told((elsewhere, RENORMALISING), (always, RENORMALISING))[0].endswith("shows it")


def test_rounding_need_not_be_seen_on_this_processor() -> None:
    rounding = replace(DEVIATION, basis="rounding", ulps=4.0)
    assert told((rounding, RESTING)) == ("", {})
