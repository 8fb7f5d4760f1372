"""Results: what a run of the laws found, as one JSON file, and how two of them differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

from .codec import CodecError, decode, encode

SCHEMA: Final = 1


class Status(str, Enum):
    """What can be said of a law after it was tried."""

    HOLDS = "HOLDS"
    VIOLATED = "VIOLATED"
    DEVIATES = "DEVIATES"
    MENDED = "MENDED"
    NOT_APPLICABLE = "NOT_APPLICABLE"
    UNSUPPORTED = "UNSUPPORTED"
    NOT_COVERED = "NOT_COVERED"
    CRASHED = "CRASHED"
    TIMED_OUT = "TIMED_OUT"
    NOT_RUN = "NOT_RUN"

    @property
    def fails(self) -> bool:
        """Whether a run with such a law fails."""
        return self in (
            Status.VIOLATED,
            Status.MENDED,
            Status.NOT_COVERED,
            Status.CRASHED,
            Status.TIMED_OUT,
        )


class ResultsError(ValueError):
    """A results file cannot be read or written. One line that says why."""


@dataclass(frozen=True)
class LawResult:
    """One law on one device.

    status        see Status
    subjects      drawn cases with at least one cell judged
    cells         one law judged on one subject in one setting
    out_of_scope  cells of which the law does not speak
    unsupported   drawn cases that this build of torch cannot run
    seconds       wall time
    deviations    by name, how many cells broke the law as the register says, witnesses included
    violation     message, case, script and whether the script reproduces it; None without one
    reason        for the other statuses, why
    layer         the class of torch.nn, for a law of layers
    settings      cells by each part of their setting
    traits        of a layer: each trait that showed, with the number of comparisons that showed it
    excused       cells in which the register explained some fact
    rounded       cells in which some values differed by rounding
    ulps          the largest of these differences, in units in the last place
    sampled       cells for which it was looked up what the register could explain
    excusable     of these, cells in which the register could explain some fact
    reached       of histories: how many kinds of steps, pairs of these, and refusals
    """

    name: str
    theory: str
    sentence: str
    norms: tuple[str, ...]
    device: str
    status: str
    subjects: int = 0
    cells: int = 0
    out_of_scope: int = 0
    unsupported: int = 0
    seconds: float = 0.0
    deviations: dict[str, int] = field(default_factory=dict)
    violation: dict[str, Any] | None = None
    reason: str = ""
    layer: str = ""
    settings: dict[str, int] = field(default_factory=dict)
    traits: dict[str, int] = field(default_factory=dict)
    excused: int = 0
    rounded: int = 0
    ulps: float = 0.0
    sampled: int = 0
    excusable: int = 0
    reached: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """One run: where, with what, and what became of each law.

    coverage   pairs and triples of switches that were reached, and how many can occur: see coverage
    """

    schema: int
    suite: str
    torch: str
    python: str
    hypothesis: str
    platform: str
    device: str
    device_name: str
    profile: str
    seed: int
    started: str
    seconds: float
    laws: tuple[LawResult, ...]
    coverage: dict[str, int] = field(default_factory=dict)


def write(path: Path, results: Results) -> None:
    """Write a results file; fields at their default are written out as well."""
    path.write_text(json.dumps(_complete(results), indent=1) + "\n", encoding="utf-8")


def _complete(results: Results) -> dict[str, Any]:
    data: dict[str, Any] = encode(results)
    data["laws"] = [vars(law) | {"norms": list(law.norms)} for law in results.laws]
    return data


def load(path: Path) -> Results:
    """A results file; ResultsError where it cannot be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"cannot read results {path}: {error.strerror}") from None
    except ValueError as error:
        raise ResultsError(f"results {path} are not JSON: {error}") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(schema, int) or schema > SCHEMA:
        raise ResultsError(f"results {path} have schema {schema}; this torchlaws reads {SCHEMA}")
    try:
        return decode(Results, data)
    except CodecError as error:
        raise ResultsError(f"results {path} are not of schema {schema}: {error}") from None


@dataclass(frozen=True)
class Difference:
    """A law whose status differs between two results, of a layer if it is one of layers.

    by_chance  what differs is only what torch is known to do in both versions: one of the runs
               drew a case that shows it and the other did not
    """

    law: str
    device: str
    layer: str
    before: str
    after: str
    by_chance: bool


def differences(
    before: Results, after: Results, of_both: Callable[[str, str], bool]
) -> list[Difference]:
    """Laws whose status or deviations differ; a law that one side lacks is NOT_RUN there.

    of_both says of a deviation and a device whether torch is known to do so in both versions. If
    it no longer does, that is no chance, and not taken for it: its law is MENDED, as its witness
    is judged in every run. Of a layer the traits that show are compared as well.
    """
    found = []
    left, right = _by_name(before), _by_name(after)
    for key in dict.fromkeys([*left, *right]):
        a, b = left.get(key), right.get(key)
        if _said(a) != _said(b):
            _, device, _ = key
            met = [d for law in (a, b) if law for d in law.deviations if of_both(d, device)]
            by_chance = _said(a, met) == _said(b, met)
            found.append(Difference(*key, _said(a), _said(b), by_chance))
    return found


def _by_name(results: Results) -> dict[tuple[str, str, str], LawResult]:
    return {(law.name, law.device, law.layer): law for law in results.laws}


def _said(law: LawResult | None, but_for: Sequence[str] = ()) -> str:
    """The status of a law with its deviations and traits, as if some deviations were not met."""
    if law is None:
        return Status.NOT_RUN.value
    deviations = [d for d in law.deviations if d not in but_for]
    unmet = law.status == Status.DEVIATES.value and not deviations
    status = Status.HOLDS.value if unmet else law.status
    names = ", ".join(sorted([*deviations, *law.traits]))
    return f"{status} ({names})" if names else status


def table(laws: list[LawResult] | tuple[LawResult, ...]) -> str:
    """By theory: laws, their statuses, subjects, cells, seconds.

    excusable and excused are shares of the cells: in how many the register could explain some
    fact, and did. rounded counts the cells in which values differed by rounding.
    """
    columns = ["theory", "laws", "holding", "deviating", "violated", "other"]
    columns += ["subjects", "cells", "excusable", "excused", "rounded", "seconds"]
    rows = [columns]
    for theory in dict.fromkeys(law.theory for law in laws):
        rows.append([theory, *_counts([law for law in laws if law.theory == theory])])
    rows.append(["all", *_counts(list(laws))])
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(r, widths, strict=True))
        )
        for r in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:-1], "-" * len(lines[0]), lines[-1]])


def _counts(laws: list[LawResult]) -> list[str]:
    named = (Status.HOLDS, Status.DEVIATES, Status.VIOLATED)
    by_status = [sum(law.status == status.value for law in laws) for status in named]
    numbers = [len(laws), *by_status, len(laws) - sum(by_status)]
    numbers += [sum(law.subjects for law in laws), sum(law.cells for law in laws)]
    shares = [_share(laws, "excusable", "sampled"), _share(laws, "excused", "cells")]
    rounded = f"{sum(law.rounded for law in laws):,}"
    seconds = f"{sum(law.seconds for law in laws):,.1f}"
    return [*(f"{n:,}" for n in numbers), *shares, rounded, seconds]


def _share(laws: list[LawResult], part: str, whole: str) -> str:
    of = sum(getattr(law, whole) for law in laws)
    return f"{sum(getattr(law, part) for law in laws) / of:.1%}" if of else "-"
