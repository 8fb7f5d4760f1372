"""How laws are judged, beside the profile of Hypothesis in force."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """How laws are judged.

    seed        what the cases are drawn from
    violations  the folder for scripts and cases of violations
    running     the folder in which the case under trial is written down before it runs
    timeout     seconds that a law may take; looked at between its cases
    through     the module that runs the script of a violation, as arguments of Python
    """

    seed: int
    violations: Path
    running: Path
    timeout: float = 1800.0
    through: tuple[str, ...] = ()

    def running_case(self, *what: str) -> Path:
        """The file with the case that a law, layer and device is being judged on."""
        return self.running / f"{label(*what)}.json"


def label(name: str, layer: str, device: str) -> str:
    """How a test is called: the law, the layer if it is one of layers, the device."""
    return "@".join(part for part in (name, layer, device) if part)
