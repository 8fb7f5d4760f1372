"""A violation as a script of plain torch, for a bug report, and as a message of four parts."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from . import drawing, relations
from .case import Case
from .history import written
from .law import LAWS, RAISED, Law, Script, Term, Violation
from .recipe import render
from .sample import Nesting, Sample
from .specimen import DIFFERENTIATE

_STANDARD: Final = ("asyncio", "contextlib", "copy", "io", "pickle", "threading", "warnings")


def message(case: Case, violation: Violation, script: Path | None = None) -> str:
    """What a violation says: Law, Subject, Setting, However, and where the script is."""
    law = LAWS[case.law]
    parts = {"Law": f"{law.sentence}\n{law.name} ({law.source})", "Subject": _subject(case)}
    parts["Setting"] = str(case.setting) if case.setting else "the default"
    parts["However"] = violation.message
    if script is not None:
        parts["Script"] = str(script)
    return "\n".join(f"{name}\n{textwrap.indent(text, '    ')}" for name, text in parts.items())


def _subject(case: Case) -> str:
    if case.specimen is not None:
        specimen = case.specimen
        kind = f"# dtype {specimen.dtype}, seed {specimen.seed}, device {case.device}\n"
        return kind + render(specimen.recipe).partition("\n\n\n")[2]
    if case.history is not None:
        return written(case.history)
    drawn = (case.sample, case.nesting)
    return "\n".join(repr(d) for d in drawn if d is not None)


def script(case: Case, violation: Violation) -> str:
    """The violation as a script that imports torch alone and ends in a failing assert."""
    law = LAWS[case.law]
    what = f"{law.sentence}\n\nSource: {law.source}"
    if case.setting is not None:
        what += f"\nSetting: {case.setting}"
    what += f"\nHowever: {violation.message}"
    body = _shown(case, violation, law)
    text = what.replace("\\", "\\\\").replace('"""', "'''")
    lines = "\n".join(textwrap.fill(line, 96) for line in text.splitlines())
    return f'"""{lines}\n"""\n\n{body}'


def _shown(case: Case, violation: Violation, law: Law) -> str:
    """What shows the violation, beneath the docstring of the script."""
    if case.history is not None and violation.observed.script is not None:
        return violation.observed.script.source
    return _compared(violation) if case.specimen is not None else _law_itself(law, case)


def reproduces(path: Path, through: tuple[str, ...] = ()) -> bool:
    """Whether the script, run in a fresh process, ends in its failing assert.

    through names the module that runs it, as arguments of Python; none for Python itself.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *through, str(path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode == 1 and "AssertionError: expected" in done.stderr


# --- laws about modules: two terms, each with its script ------------------------------------


def _compared(violation: Violation) -> str:
    observed, expected = violation.observed, violation.expected
    shared = observed.script.source if observed.script else ""
    functions = [_function("observed", observed, shared), _function("expected", expected, shared)]
    if not any("differentiate(" in f or "weights(" in f for f in functions):
        shared = shared.replace(DIFFERENTIATE, "").rstrip() + "\n"
    verdict = _asserted(violation)
    parts = [shared, *functions, *([_same()] if "same(" in verdict else []), verdict]
    text = "\n\n".join(parts)
    imports = ["from __future__ import annotations\n", *_imports(text), "from typing import Any\n"]
    text = text.replace("import torch\n", "import torch\nfrom torch import Tensor\n", 1)
    if "import torch\n" not in text:
        imports.append("import torch\nfrom torch import Tensor")
    return "\n".join(imports) + "\n" + text.lstrip("\n")


def _same() -> str:
    """The verb that compares, without its bookkeeping."""
    lines = inspect.getsource(relations.same).splitlines(keepends=True)
    return "".join(line for line in lines if "_Ledger" not in line)


_ASSERT: Final = """\
seen, wanted = observed(), expected()
assert same(seen, wanted), f"expected {wanted}, observed {seen}"
"""
#: Where values differ by more than rounding: half of what was seen is far beyond that.
_ASSERT_CLOSE: Final = """\
seen, wanted = observed(), expected()
alike = seen.shape == wanted.shape
apart = float((seen - wanted).detach().abs().nan_to_num().max()) if alike else {most}
assert apart < {most}, f"expected {{wanted}}, observed {{seen}}"
"""


def _asserted(violation: Violation) -> str:
    if not violation.ulps:
        return _ASSERT
    apart = (violation.observed.value.detach() - violation.expected.value.detach()).to_dense()
    return _ASSERT_CLOSE.format(most=float(apart.abs().nan_to_num().max()) / 2)


def _imports(text: str) -> Iterable[str]:
    return [f"import {name}" for name in _STANDARD if re.search(rf"\b{name}\.", text)]


def _function(name: str, term: Term, shared: str) -> str:
    if term.script is None:
        return f"def {name}():\n    return {term.expression}\n"
    lines = list(_statements(term, term.script))
    if term.script.source != shared:
        lines = [*term.script.source.splitlines(), *lines]
    return f"def {name}():\n" + textwrap.indent("\n".join(lines), "    ") + "\n"


def _statements(term: Term, script: Script) -> Iterable[str]:
    if term.expression != RAISED:
        return [*script.statements, f"return {term.expression}"]
    body = [f"    {line}" for line in script.statements]
    failed = ["except Exception as error:", '    return f"{type(error).__name__}: {error}"']
    return ["try:", *body, *failed, "return None"]


# --- laws about tensors and grad modes: the law's own body, with its verbs written out --------


def _law_itself(law: Law, case: Case) -> str:
    function = ast.parse(textwrap.dedent(inspect.getsource(law.body))).body[0]
    assert isinstance(function, ast.FunctionDef)
    given = {
        name: case.sample if kind is Sample else case.nesting
        for name, kind in law.quantifiers.items()
    }
    plain = _Plain(given)
    statements = [s for node in function.body[1:] for s in _listed(plain.visit(node))]
    body = ast.unparse(ast.fix_missing_locations(ast.Module(statements, [])))
    module = inspect.getmodule(law.body)
    assert module is not None
    helpers = _helpers(module, body)
    made = _tensor(case.sample) if case.sample is not None else ""
    shared = _helpers(drawing, "\n".join([*helpers, body]))
    text = "\n\n".join([made, *shared, *helpers, body]) + "\n"
    if case.sample is not None and re.search(r"\bsample\b", text):
        text = text.replace(made, f"{made}\n\n\n{_sample(case)}", 1)
    lines = ["from __future__ import annotations\n", *_imports(text), "import torch"]
    borrowed = dict.fromkeys([*_borrowed(drawing, text), *_borrowed(module, text)])
    return "\n".join([*lines, *borrowed]) + "\n" + text


def _listed(made: Any) -> list[ast.stmt]:
    if made is None:
        return []
    return list(made) if isinstance(made, list) else [made]


def _names(text: str) -> set[str]:
    return {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}


def _helpers(module: ModuleType, body: str) -> list[str]:
    """What of the law's own file its body uses, and what that uses, in the order of the file."""
    source = inspect.getsource(module)
    own: dict[str, str] = {}
    for node in ast.parse(source).body:
        text = ast.get_source_segment(source, node) or ""
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.decorator_list:
            own[node.name] = text
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            own[node.targets[0].id] = text
    used, reached = _names(body), set[str]()
    while new := (used & own.keys()) - reached:
        reached |= new
        used.update(*(_names(own[name]) for name in new))
    return [text for name, text in own.items() if name in reached]


def _borrowed(module: ModuleType, text: str) -> Iterable[str]:
    """The imports of the law's own file that are used, but for what is ours."""
    for name in sorted(_names(text) & vars(module).keys()):
        value = vars(module)[name]
        if inspect.ismodule(value) and name not in (*_STANDARD, "torch"):
            yield f"import {value.__name__} as {name}"
        where = str(getattr(value, "__module__", None) or "")
        if callable(value) and where and not where.startswith(("oracles", "typing")):
            yield f"from {where} import {value.__name__} as {name}"


def _sample(case: Case) -> str:
    """What was drawn, for functions that are handed it."""
    sample = case.sample
    return (
        f"class sample:\n    shape, dtype, seed = {sample.shape}, {sample.dtype!r}, {sample.seed}\n"
        f"    device = {sample.device!r}\n    tensor = staticmethod(tensor)\n"
        if sample is not None
        else ""
    )


def _tensor(sample: Sample) -> str:
    lines = [
        "",
        "",
        "def tensor(requires_grad=False):",
        f"    generator = torch.Generator().manual_seed({sample.seed})",
        f"    made = {sample.source}",
        "    return made.requires_grad_() if requires_grad else made",
    ]
    return "\n".join(lines)


class _Plain(ast.NodeTransformer):
    """Rewrites a law's body: quantifiers become what was drawn, verbs become asserts."""

    def __init__(self, given: dict[str, Sample | Nesting | None]) -> None:
        self.given = given

    def visit_With(self, node: ast.With) -> ast.AST:
        items = []
        for item in node.items:
            contexts = self._entered(item.context_expr)
            items += [item] if contexts is None else [ast.withitem(c) for c in contexts]
        node.items = items
        return self.generic_visit(node)

    def _entered(self, call: ast.expr) -> list[ast.expr] | None:
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            return None
        drawn = self._drawn(call.func.value)
        if not isinstance(drawn, Nesting) or call.func.attr != "entered":
            return None
        # Inside no context at all, one that changes nothing keeps the block a block.
        contexts = drawn.contexts or ("contextlib.nullcontext()",)
        return [ast.parse(c, mode="eval").body for c in contexts]

    def _drawn(self, node: ast.expr) -> Sample | Nesting | None:
        return self.given.get(node.id) if isinstance(node, ast.Name) else None

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Attribute) and isinstance(
            self._drawn(node.func.value), Sample
        ):
            node.func = ast.Name("tensor")
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        drawn = self._drawn(node.value)
        if drawn is None:
            return self.generic_visit(node)
        return ast.parse(repr(getattr(drawn, node.attr)), mode="eval").body

    def visit_Expr(self, node: ast.Expr) -> Any:
        call = node.value
        function = call.func if isinstance(call, ast.Call) else None
        if isinstance(function, ast.Attribute) and function.attr == "needs_values":
            return None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            write: dict[str, Callable[..., str]] = {
                "holds": self._holds,
                "equal": self._equal,
                "refuses": self._refuses,
                "allows": self._allows,
            }
            if call.func.id in write:
                arguments = [ast.unparse(self.visit(a)) for a in call.args]
                return ast.parse(write[call.func.id](*arguments)).body
        return self.generic_visit(node)

    @staticmethod
    def _holds(value: str, what: str, expected: str = "True") -> str:
        return (
            f"observed, expected = {value}, {expected}\n"
            f"assert observed == expected, 'expected ' + repr(expected) + ', observed ' "
            f"+ repr(observed) + ': ' + {what}\n"
        )

    @staticmethod
    def _equal(observed: str, expected: str, what: str) -> str:
        return (
            f"observed, expected = {observed}, {expected}\n"
            "assert observed is not None and torch.equal(observed, expected), "
            "f'expected {expected}, observed {observed}'\n"
        )

    @staticmethod
    def _refuses(action: str, error: str, *words: str) -> str:
        return (
            f"observed = 'nothing was raised'\ntry:\n    {_call(action)}\n"
            f"except {error} as raised:\n    observed = '{error}: ' + str(raised)\n"
            f"assert all(word in observed for word in ['{error}', {', '.join(words)}]), "
            f"f'expected {error}, observed {{observed}}'\n"
        )

    @staticmethod
    def _allows(action: str, what: str) -> str:
        return (
            f"observed = None\ntry:\n    {_call(action)}\n"
            "except Exception as raised:\n"
            "    observed = type(raised).__name__ + ': ' + str(raised)\n"
            f"assert observed is None, 'expected no error of ' + {what} + ', got ' + observed\n"
        )


def _call(action: str) -> str:
    """The statement that does what an action does: the body of a lambda, or a call."""
    return action.partition(": ")[2] if action.startswith("lambda") else f"{action}()"
