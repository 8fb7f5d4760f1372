"""Plants the fault that the environment variable TORCHLAWS_FAULT names.

From the root of the repository, on the suite and on the script of a violation:

    TORCHLAWS_FAULT=DropoutIgnoresEval python -m pytest -p tests.faults.plant tests/laws
    TORCHLAWS_FAULT=DropoutIgnoresEval python -m tests.faults.plant violations/SCRIPT.py
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Final

from tests.faults.faults import FAULTS

VARIABLE: Final = "TORCHLAWS_FAULT"


def plant(name: str) -> Callable[[], None]:
    """Plant a fault by name; what is returned takes it back. Exits where there is none."""
    if name not in FAULTS:
        # The nearest first: a misspelt name is then at the beginning of the line.
        near = get_close_matches(name, FAULTS, n=1)
        names = ", ".join([*near, *sorted(set(FAULTS) - set(near))])
        sys.exit(f"{VARIABLE}: no fault is named {name!r}; faults: {names}")
    return FAULTS[name].plant()


def main() -> None:
    """Run a script with the fault planted."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: {VARIABLE}=NAME python -m tests.faults.plant SCRIPT.py")
    runpy.run_path(sys.argv[1], run_name="__main__")


if os.environ.get(VARIABLE):
    plant(os.environ[VARIABLE])
elif __name__ == "__main__":
    sys.exit(f"{VARIABLE} is not set; faults: {', '.join(sorted(FAULTS))}")

if __name__ == "__main__":
    main()
