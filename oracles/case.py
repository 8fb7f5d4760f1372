"""A case: a law and what it is judged on, as a value that goes to JSON and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import history
from .codec import CodecError, decode, encode
from .history import History
from .law import LAWS
from .recipe import (
    BLOCKS,
    CONTAINERS,
    DTYPES,
    HOOKS,
    PARAMETRIZATIONS,
    WITHIN,
    Node,
    Recipe,
)
from .sample import Nesting, Sample
from .setting import Setting, fold
from .specimen import Specimen
from .traits import TRAITS, class_of

SCHEMA = 1


class CaseError(ValueError):
    """A case file cannot be read. One line that says why and what would be right."""


@dataclass(frozen=True)
class Case:
    """What one cell was judged on.

    law       by name
    device    "cpu", "cuda", "meta", ...
    specimen, setting, sample, nesting, history   what the law quantifies over; the others are None
    schema    the version of this form
    """

    law: str
    device: str = "cpu"
    specimen: Specimen | None = None
    setting: Setting | None = None
    sample: Sample | None = None
    nesting: Nesting | None = None
    history: History | None = None
    schema: int = SCHEMA

    @property
    def layer(self) -> str:
        """The class of torch.nn that its module is, for a law of layers; "" without a module."""
        return class_of(self.specimen.recipe.nodes[0].op) if self.specimen else ""


def to_json(case: Case) -> str:
    """The case as text; the same text for the same case."""
    return json.dumps(_as_data(case), indent=1) + "\n"


def to_line(case: Case) -> str:
    """The case as text without line breaks, which is made ten times as fast."""
    return json.dumps(_as_data(case))


def _as_data(case: Case) -> dict[str, Any]:
    data: dict[str, Any] = encode(case)
    return {"schema": case.schema} | data


def from_json(text: str) -> Case:
    """The case in this text; CaseError where it is not one."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise CaseError(f"is not JSON: {error}") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(schema, int):
        raise CaseError("is not a case: it has no 'schema' number")
    if schema > SCHEMA:
        raise CaseError(f"has schema {schema}; this torchlaws reads up to {SCHEMA}: update it")
    try:
        case = decode(Case, data)
        _validate(case)
    except CodecError as error:
        raise CaseError(f"is not a case of schema {schema}: {error}") from None
    return case


def _validate(case: Case) -> None:
    if case.law not in LAWS:
        raise CodecError(f"no law is named {case.law!r}; `python -m oracles laws` lists them")
    if case.setting is not None:
        _valid_stack(case.setting.grad)
    if case.nesting is not None:
        _valid_stack(case.nesting.contexts)
    for step in case.history.walk() if case.history else ():
        _one_of(step.kind, (*sorted(history.SIMPLE), *history.BLOCKS), "the kind of a step")
    for made in (case.specimen, case.sample):
        if made is not None and made.dtype not in DTYPES:
            raise CodecError(f"no dtype {made.dtype!r}; known: {', '.join(DTYPES)}")
    if case.specimen is not None:
        _valid_stack(case.specimen.mixture.grad)
        _valid_recipe(case.specimen.recipe)


def _valid_stack(stack: tuple[str, ...]) -> None:
    try:
        fold(stack)
    except ValueError as error:
        raise CodecError(str(error)) from None


def _one_of(value: str, known: tuple[str, ...], what: str) -> None:
    if value not in known:
        raise CodecError(f"{what} is {value!r}; known: {', '.join(map(repr, known))}")


def _valid_node(index: int, node: Node) -> None:
    _one_of(node.op, (*sorted(TRAITS), *BLOCKS), f"the op of node {index}")
    _one_of(node.within, ("", *WITHIN), f"within of node {index}")
    _one_of(node.hooked, ("", *HOOKS), f"hooked of node {index}")
    _one_of(node.parametrized, ("", *PARAMETRIZATIONS), f"parametrized of node {index}")
    if (node.op in BLOCKS) is not (node.body is not None):
        raise CodecError(f"node {index} ({node.op}): a block has a body, and nothing else has")
    for earlier in (node.shared, node.tied):
        if earlier is not None and not 0 <= earlier < index:
            raise CodecError(
                f"node {index} ({node.op}) shares or ties a node that is not there yet"
            )


def _valid_recipe(recipe: Recipe) -> None:
    _one_of(recipe.container, CONTAINERS, "the container")
    count = len(recipe.inputs)
    for index, node in enumerate(recipe.nodes):
        _valid_node(index, node)
        if any(not 0 <= i < count for i in node.inputs):
            raise CodecError(f"node {index} ({node.op}) takes a value that is not there yet")
        if node.body is not None:
            _valid_recipe(node.body)
        count += len(node.body.outputs) if node.body else len(node.outputs)
    if any(not 0 <= i < count for i in recipe.outputs):
        raise CodecError("an output is a value that is not there")


def read(path: Path) -> Case:
    """The case stored in a file; CaseError, with the path, where it cannot be read."""
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaseError(f"cannot read case {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CaseError(f"case {path} is not a text file in UTF-8") from None
    except CaseError as error:
        raise CaseError(f"case {path} {error}") from None
