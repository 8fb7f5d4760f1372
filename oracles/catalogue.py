"""The table of layers: what each class of torch.nn does under each mode, as it was measured.

A row is a class, a column a trait. What is marked was seen in the run that is named above the
table; what is not marked was looked for in the same run and not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from .deviations import OF_MODULES, load
from .document import anchor, escaped, spoken
from .law import LAWS
from .results import LawResult, Results
from .traits import CLASSES, TRAITS, kinds_of

LAW: Final = "a_layer_does_what_its_traits_claim"

#: The columns: a heading, and the trait in each mode that it may show.
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "train and eval differ": ("differs between train and eval",),
    "random": ("is random in training", "is random in evaluation"),
    "draws": ("draws randomness in training", "draws randomness in evaluation"),
    "moves buffers": ("moves a buffer in training", "moves a buffer in evaluation"),
    "writes parameters": ("writes a parameter in training", "writes a parameter in evaluation"),
    "returns its input": (
        "returns its input itself in training",
        "returns its input itself in evaluation",
    ),
    "refuses single values": ("refuses single values in training alone",),
    "rounds otherwise": (),
}
INTRO: Final = """\
What each class of `torch.nn` does under each mode. A mark says in which modes a trait showed:
*train*, *eval*, *both*, or *yes* for a trait that is no matter of one mode. *Rounds otherwise* is
the largest difference of rounding between a forward that is recorded and one that is not, or
between modes, in units in the last place. An empty cell was
looked for as hard and not seen. A trait that shows where it is not claimed, or is claimed and
never shows, fails the run. This page is generated: `python -m oracles docs` writes it."""


@dataclass(frozen=True)
class Row:
    """A class of torch.nn, and what was measured of it.

    kinds       the nodes by which it is drawn: as it is, with masks, packed and so on
    traits      each trait that showed, with the number of comparisons that showed it
    ulps        the largest difference between two of its kernels, in units in the last place
    subjects    drawn layers that were judged
    cells       one of them in one setting
    settings    cells by each part of their setting
    outputs     of each kind, for each output whether gradients flow through it
    laws        those that speak of this class by name
    deviations  those that it showed, without those of grad modes, which every layer shows
    """

    name: str
    kinds: tuple[str, ...]
    traits: dict[str, int]
    ulps: float
    subjects: int
    cells: int
    settings: dict[str, int]
    outputs: dict[str, tuple[bool, ...]]
    laws: tuple[str, ...]
    deviations: tuple[str, ...]


def rows(results: Results) -> list[Row]:
    """A row for each class that was measured, in the order of their names."""
    measured = {r.layer: r for r in results.laws if r.name == LAW and r.subjects}
    return [_row(name, measured[name]) for name in CLASSES if name in measured]


def _row(name: str, found: LawResult) -> Row:
    kinds = kinds_of(name)
    of_it = {name, *kinds}
    laws = tuple(law.name for law in LAWS.values() if of_it & set(law.having))
    return Row(
        name,
        kinds,
        found.traits,
        found.ulps,
        found.subjects,
        found.cells,
        found.settings,
        {kind: TRAITS[kind].differentiable for kind in kinds},
        laws,
        tuple(sorted(name for name in found.deviations if name in _of_layers())),
    )


@cache
def _of_layers() -> frozenset[str]:
    return frozenset(d.name for d in load().deviations if d.condition in OF_MODULES)


def as_data(results: Results) -> dict[str, Any]:
    """The table as JSON has it: what was measured where, and the rows."""
    where = {"torch": results.torch, "device": results.device, "profile": results.profile}
    return where | {"seed": results.seed, "layers": [vars(row) for row in rows(results)]}


def mark(row: Row, column: str) -> str:
    """What a cell of the table says."""
    if not COLUMNS[column]:
        return f"{row.ulps:.2g} ulp" if row.ulps else ""
    shown = [bool(row.traits.get(trait)) for trait in COLUMNS[column]]
    if not any(shown):
        return ""
    if len(shown) == 1:
        return "yes"
    return "both" if all(shown) else "train" if shown[0] else "eval"


def as_text(results: Results) -> str:
    """The table for a terminal: a line for each class that shows a trait, and all other names."""
    found = rows(results)
    telling = [row for row in found if row.traits]
    lines = [[row.name, *(mark(row, column) for column in COLUMNS)] for row in telling]
    head = ["class", *COLUMNS]
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    text = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in [head, *lines]
    ]
    plain = ", ".join(row.name for row in found if not row.traits)
    return "\n".join(
        [*text, "", f"{len(found) - len(telling)} classes show none of these: {plain}"]
    )


def as_markdown(results: Results) -> str:
    """The page docs/layers.md."""
    found = rows(results)
    judged = (
        f"{sum(r.subjects for r in found):,} layers in {sum(r.cells for r in found):,} settings"
    )
    where = (
        f"torch {results.torch}, {results.device}, profile {results.profile}, seed {results.seed}"
    )
    lines = ["# The layers", "", *INTRO.splitlines(), ""]
    lines += [f"Measured: {where}: {len(found)} classes, {judged}.", ""]
    head = ["class", *COLUMNS, "subjects", "laws", "deviations"]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in found:
        laws = ", ".join(f"[{spoken(law)}](laws.md#{anchor(law)})" for law in row.laws)
        known = ", ".join(escaped(spoken(deviation)) for deviation in row.deviations)
        cells = [f"`{row.name}`", *(mark(row, c) for c in COLUMNS), str(row.subjects), laws, known]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
