"""What the packages may import, what they do on import, and that they explain themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .helpers import ROOT, python

FOREIGN = {"hypothesis", "strategies", "tests", "pytest", "helpers"}
ORACLES = sorted((ROOT / "oracles").rglob("*.py"))
STRATEGIES = sorted((ROOT / "strategies").rglob("*.py"))
FILES = [str(path.relative_to(ROOT)) for path in ORACLES]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every import, wherever it stands: how many dots, and of what."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def public(path: Path) -> Iterator[tuple[str, str | None]]:
    """Public functions, classes and their methods, with their docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield path.name, ast.get_docstring(tree)
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_"]
    owners: list[ast.Module | ast.ClassDef] = [tree, *classes]
    for owner in owners:
        for node in owner.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                holder = f"{owner.name}." if isinstance(owner, ast.ClassDef) else ""
                yield f"{holder}{node.name}", ast.get_docstring(node)


def test_the_packages_are_found() -> None:
    assert {"law.py", "subject.py", "recipe.py"} <= {p.name for p in ORACLES}
    assert {"recipes.py", "nestings.py"} <= {p.name for p in STRATEGIES}


#: pytest is what the plug-in is for; nothing else may know of it.
ALLOWED = {
    "oracles/plugin.py": {"pytest"},
    "oracles/__main__.py": {"tests"},  # for hunt, where it is run; it says so where they are not
}


@pytest.mark.parametrize("file", FILES)
def test_oracles_know_nothing_of_what_is_drawn(file: str) -> None:
    roots = {name.partition(".")[0] for dots, name in imports(ROOT / file) if not dots}
    assert not roots & (FOREIGN - ALLOWED.get(file, set()))


@pytest.mark.parametrize("file", FILES)
def test_oracles_import_each_other_relatively(file: str) -> None:
    """So that they work under the name torchlaws as well."""
    found = list(imports(ROOT / file))
    assert not [name for dots, name in found if not dots and name.partition(".")[0] == "oracles"]
    depth = len(Path(file).parent.parts)
    assert all(dots <= depth for dots, _ in found), "an import that leaves the package"


@pytest.mark.parametrize("file", FILES)
def test_what_is_public_in_oracles_has_a_docstring(file: str) -> None:
    path = ROOT / file
    if path.read_text(encoding="utf-8").strip():
        assert [name for name, text in public(path) if not text] == []


def test_importing_does_not_touch_the_device() -> None:
    """Nor the global generator or the grad mode."""
    program = (
        "import torch\n"
        "state = torch.get_rng_state(), torch.is_grad_enabled(), torch.get_default_dtype()\n"
        "import oracles.laws, oracles.trial, strategies, strategies.layers\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert torch.equal(state[0], torch.get_rng_state())\n"
        "assert state[1:] == (torch.is_grad_enabled(), torch.get_default_dtype())\n"
        "print('untouched')\n"
    )
    assert python("-c", program).strip() == "untouched"


def test_oracles_run_without_hypothesis() -> None:
    program = (
        "import sys\n"
        "sys.modules['hypothesis'] = sys.modules['strategies'] = None\n"
        "import oracles.laws, oracles.trial\n"
        "from oracles.law import LAWS\n"
        "print(len(LAWS) > 10)\n"
    )
    assert python("-c", program).strip() == "True"
