"""Which laws are judged, in which order."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from difflib import get_close_matches

import oracles.laws  # noqa: F401  # defines the laws
from oracles.law import LAWS, Law, by_scope


def picked(patterns: Sequence[str]) -> list[Law]:
    """The laws that some pattern of names, or name of a theory, picks; all without any."""
    laws = sorted(LAWS.values(), key=lambda law: (law.theory, law.name))
    return [law for law in laws if any(_picks(p, law) for p in patterns or ["*"])]


def tried(patterns: Sequence[str]) -> list[tuple[str, str]]:
    """The laws that are picked, each with the layers it is judged on; "" stands for no layer."""
    return [(law.name, layer) for law, layer in by_scope(picked(patterns))]


def in_vain(patterns: Sequence[str]) -> str:
    """The first pattern that picks no law, and what is near it; "" if each picks some."""
    for pattern in patterns:
        if not any(_picks(pattern, law) for law in LAWS.values()):
            close = get_close_matches(pattern, LAWS, n=3, cutoff=0.4)
            near = f"; near it: {', '.join(close)}" if close else ""
            return (
                f"--law {pattern!r} matches none of the {len(LAWS)} laws{near} "
                "(`python -m oracles laws` lists them)"
            )
    return ""


def _picks(pattern: str, law: Law) -> bool:
    return fnmatch.fnmatch(law.name, pattern) or pattern == law.theory
