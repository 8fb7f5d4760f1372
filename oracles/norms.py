"""The norms: what PyTorch promises about its modes, and which law states each promise.

The rows are data in norms.toml. Each of them is named by a law, or by one line there
that says why no law states it; what is in neither place is a gap, and a test finds it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from . import laws as _laws  # noqa: F401  # importing them defines them
from .law import LAWS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE: Final = Path(__file__).parent / "norms.toml"

#: What each letter in the column ``basis`` means.
BASES: Final = {
    "D": "documented",
    "V": "follows from the documentation",
    "O": "promised by nobody",
}

#: What a row can wait for.
WHERES: Final = {
    "layers": "laws on each layer of torch.nn",
    "histories": "laws on several steps, optimizers, hooks, checkpoint and utilities",
}


class NormsError(ValueError):
    """norms.toml is not well formed, or something names a row that it does not have."""


@dataclass(frozen=True)
class Norm:
    """One row: a statement that can be tested.

    id         a letter and a number, "A1"
    statement  in one line
    basis      D, V or O: a key of BASES
    """

    id: str
    statement: str
    basis: str


@dataclass(frozen=True)
class Later:
    """Why no law states a row yet.

    row     its id
    where   what it waits for: a key of WHERES
    reason  in one sentence
    """

    row: str
    where: str
    reason: str


@dataclass(frozen=True)
class Never:
    """Why no law can state a row: its id, and the reason in one sentence."""

    row: str
    reason: str


@dataclass(frozen=True)
class _Norms:
    """All that norms.toml says."""

    rows: dict[str, Norm]
    later: dict[str, Later]
    never: dict[str, Never]


def rows(path: Path = FILE) -> dict[str, Norm]:
    """Every row by its id, in the order of the file; NormsError where it is not well formed."""
    return _read(path).rows


def later(path: Path = FILE) -> dict[str, Later]:
    """The rows that a law is still to state."""
    return _read(path).later


def never(path: Path = FILE) -> dict[str, Never]:
    """The rows that no law can state."""
    return _read(path).never


def stated(path: Path = FILE) -> dict[str, list[str]]:
    """The rows that laws state, with the names of these laws; NormsError for unknown rows."""
    found: dict[str, list[str]] = {}
    for law in LAWS.values():
        _known(law.norms, rows(path), f"law {law.name!r}")
        for row in law.norms:
            found.setdefault(row, []).append(law.name)
    return found


def unaccounted(path: Path = FILE) -> list[str]:
    """The rows that neither a law names nor a line of the file: gaps."""
    by_law, excused = stated(path), _excused(path)
    return [row for row in rows(path) if row not in by_law and row not in excused]


def doubly(path: Path = FILE) -> list[str]:
    """The rows of which a line says that no law states them, though a law does."""
    by_law, excused = stated(path), _excused(path)
    return [row for row in rows(path) if row in by_law and row in excused]


def _excused(path: Path) -> set[str]:
    return {*later(path), *never(path)}


@cache
def _read(path: Path) -> _Norms:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise NormsError(f"cannot read the norms in {path.name}: {error}") from None
    unknown = sorted(set(data) - {"rows", "later", "never"})
    if unknown:
        raise NormsError(f"unknown tables: {', '.join(unknown)}; known: later, never, rows")
    norms = {row: _norm(row, entry) for row, entry in data.get("rows", {}).items()}
    waiting = {
        row: Later(row, entry["where"], entry["reason"])
        for row, entry in _lines(data.get("later", []), {"rows", "where", "reason"}, norms)
    }
    excluded = {
        row: Never(row, entry["reason"])
        for row, entry in _lines(data.get("never", []), {"rows", "reason"}, norms)
    }
    for row, line in waiting.items():
        if line.where not in WHERES:
            raise NormsError(f"row {row}: where is one of {', '.join(WHERES)}, not {line.where!r}")
    twice = [row for row in waiting if row in excluded]
    if twice:
        raise NormsError(f"rows both in a later and in a never line: {', '.join(twice)}")
    return _Norms(norms, waiting, excluded)


def _norm(row: str, entry: dict[str, Any]) -> Norm:
    _fields(entry, {"statement", "basis"}, f"row {row}")
    if entry["basis"] not in BASES:
        raise NormsError(f"row {row}: basis is one of {', '.join(BASES)}, not {entry['basis']!r}")
    return Norm(row, entry["statement"], entry["basis"])


def _lines(
    entries: list[dict[str, Any]], fields: set[str], known: dict[str, Norm]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row that the lines name, with its line; no row twice."""
    met: set[str] = set()
    for entry in entries:
        _fields(entry, fields, f"the line of rows {entry.get('rows', '?')}")
        _known(entry["rows"], known, f"the line {entry['reason']!r}")
        for row in entry["rows"]:
            if row in met:
                raise NormsError(f"row {row} stands in two lines: keep one reason")
            met.add(row)
            yield row, entry


def _fields(entry: dict[str, Any], wanted: set[str], what: str) -> None:
    wrong = sorted(set(entry) ^ wanted)
    if wrong:
        raise NormsError(f"{what}: missing or unknown fields: {', '.join(wrong)}")
    empty = sorted(name for name, value in entry.items() if not value)
    if empty:
        raise NormsError(f"{what}: empty fields: {', '.join(empty)}")


def _known(named: tuple[str, ...] | list[str], known: dict[str, Norm], who: str) -> None:
    unknown = [row for row in named if row not in known]
    if unknown:
        raise NormsError(
            f"{who} names rows that norms.toml does not have: {', '.join(unknown)}; "
            f"a row is written as {next(iter(known), 'A1')}"
        )
