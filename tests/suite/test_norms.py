"""Every row of the norms is accounted for, once; what is not well formed is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracles import norms

ROWS = '[rows]\nA1 = { statement = "one", basis = "D" }\nA2 = { statement = "two", basis = "O" }\n'
LATER = '[[later]]\nrows = ["A1"]\nwhere = "layers"\nreason = "Why not."\n'


def written(folder: Path, text: str) -> Path:
    """A norms file with this text."""
    path = folder / "norms.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_row_is_accounted_for() -> None:
    assert norms.unaccounted() == [], "name these rows in a law, or say in norms.toml why not"


def test_no_row_is_accounted_for_twice() -> None:
    assert norms.doubly() == [], "a law states these rows now: take their lines out of norms.toml"


def test_rows_stay_in_their_order() -> None:
    # A letter for the section and a number that grows: a row that is lost or doubled shows.
    ids = list(norms.rows())
    assert ids == sorted(ids, key=lambda row: (row[0], int(row[1:])))
    assert len(ids) == 232


def test_every_reason_is_a_sentence() -> None:
    reasons = [line.reason for line in norms.later().values()]
    reasons += [line.reason for line in norms.never().values()]
    assert [reason for reason in reasons if not reason.endswith(".")] == []


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, LATER + '[[never]]\nrows = ["A2"]\nreason = "No."\n' + ROWS)
    assert norms.rows(path)["A2"] == norms.Norm("A2", "two", "O")
    assert norms.later(path) == {"A1": norms.Later("A1", "layers", "Why not.")}
    assert norms.never(path) == {"A2": norms.Never("A2", "No.")}


def test_gaps_and_double_lines_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "LAWS", {})
    assert norms.unaccounted(written(tmp_path, LATER + ROWS)) == ["A2"]
    assert norms.doubly(tmp_path / "norms.toml") == []
    monkeypatch.setattr(norms, "stated", lambda path: {"A1": ["some_law"]})
    assert norms.doubly(tmp_path / "norms.toml") == ["A1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LATER.replace("A1", "Z9") + ROWS, "Z9"),
        ('[[never]]\nrows = ["Z9"]\nreason = "No."\n' + ROWS, "Z9"),
        (LATER + LATER + ROWS, "A1 stands in two lines"),
        (LATER + '[[never]]\nrows = ["A1"]\nreason = "No."\n' + ROWS, "both.*A1"),
        (LATER.replace("layers", "someday") + ROWS, "layers, histories"),
        (LATER.replace("Why not.", "") + ROWS, "empty fields: reason"),
        (LATER.replace("where", "place") + ROWS, "unknown fields: place, where"),
        (ROWS.replace('"O"', '"X"'), "A2: basis is one of D, V, O"),
        ("[columns]\n" + ROWS, "unknown tables: columns"),
        ("[rows", "cannot read"),
    ],
)
def test_a_file_that_is_not_well_formed_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(norms.NormsError, match=words):
        norms.rows(written(tmp_path, text))


def test_a_law_that_names_an_unknown_row_is_refused(tmp_path: Path) -> None:
    # The laws that exist name rows that this small file does not have.
    with pytest.raises(
        norms.NormsError, match=r"law '.*' names rows that norms.toml does not have"
    ):
        norms.unaccounted(written(tmp_path, ROWS))
