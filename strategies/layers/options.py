"""Options of layers that are not drawn, and why: of constructors, and of forward."""

from __future__ import annotations

from typing import Final

_DEPRECATED: Final = "deprecated: reduction says the same, and is drawn"
_TO: Final = "the module is moved with .to() after it is built, layer and input alike"

#: By class, "*" for every class that has the option, and option.
NOT_DRAWN: Final[dict[tuple[str, str], str]] = {
    ("*", "device"): _TO,
    ("*", "dtype"): _TO,
    ("*", "size_average"): _DEPRECATED,
    ("*", "reduce"): _DEPRECATED,
}


def reason(name: str, option: str) -> str:
    """Why this option of this class of torch.nn is not drawn; "" if it has to be."""
    return NOT_DRAWN.get((name, option)) or NOT_DRAWN.get(("*", option), "")
