"""The profiles of Hypothesis: how many cases a law is judged on."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.errors import InvalidArgument

_COMMON: Final[dict[str, Any]] = {
    "deadline": None,
    "database": None,
    "print_blob": False,
    "derandomize": False,
    "report_multiple_bugs": False,
    # Laws may find most cases out of their scope, and torch is slow the first time.
    "suppress_health_check": list(HealthCheck),
}
_QUICK: Final = (Phase.generate, Phase.target, Phase.shrink)
#: How many subjects a law is judged on, by the name of the profile.
SUBJECTS: Final = {"dev": 20, "ci": 100, "nightly": 2000, "debug": 20}

for _name, _subjects in SUBJECTS.items():
    settings.register_profile(_name, max_examples=_subjects, phases=_QUICK, **_COMMON)
# Explaining costs about ten times as much on a failing law: only where it is asked for.
_EXPLAINING: Final = (*_QUICK, Phase.explain)
settings.register_profile(
    "debug", settings.get_profile("debug"), verbosity=Verbosity.verbose, phases=_EXPLAINING
)


def load(name: str) -> None:
    """Put a profile in force."""
    settings.load_profile(name)


load("dev")


def unknown(name: str) -> str:
    """Why there is no such profile; "" if there is."""
    try:
        settings.get_profile(name)
    except InvalidArgument:
        return f"no profile is named {name!r}; known profiles: {', '.join(SUBJECTS)}"
    return ""
