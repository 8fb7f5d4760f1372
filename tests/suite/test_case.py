"""Case files that cannot be read say why, in one line, and what would be right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import oracles.laws
from oracles.case import SCHEMA, Case, CaseError, from_json, read, to_json
from oracles.law import LAWS
from oracles.sample import Nesting, Sample
from oracles.setting import Setting

from .helpers import RICH

assert oracles.laws.THEORIES
LAW = min(LAWS)
GOOD: dict[str, Any] = json.loads(to_json(Case(LAW, specimen=RICH, setting=Setting(False))))
BLOCK = {"inputs": [{"shape": [2, 3]}], "nodes": [{"op": "Tanh", "inputs": [0]}], "outputs": [1]}


def but(**changes: Any) -> str:
    """The good case with other fields."""
    return json.dumps(GOOD | changes)


def recipe(**changes: Any) -> str:
    """A case of one layer, its recipe with other fields."""
    return but(specimen={"recipe": BLOCK | changes})


def node(**changes: Any) -> str:
    """A case of one layer, its node with other fields."""
    return recipe(nodes=[{"op": "Linear", "inputs": [0]} | changes])


def refused(text: str) -> str:
    """What is said of a text that is no case."""
    with pytest.raises(CaseError) as caught:
        from_json(text)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


BAD: dict[str, tuple[str, tuple[str, ...]]] = {
    "nothing": ("", ("is not JSON",)),
    "not JSON": ("{'law': 1}", ("is not JSON", "line 1")),
    "a list": ("[]", ("no 'schema' number",)),
    "a number": ("3", ("no 'schema' number",)),
    "null": ("null", ("no 'schema' number",)),
    "no schema": (json.dumps({"law": LAW}), ("no 'schema' number",)),
    "a schema in words": (but(schema="1"), ("no 'schema' number",)),
    "a newer schema": (
        but(schema=SCHEMA + 1),
        (f"schema {SCHEMA + 1}", f"up to {SCHEMA}", "update"),
    ),
    "a newer schema with newer fields": (but(schema=99, more=1), ("schema 99", "update")),
    "an unknown law": (but(law="no_such_law"), ("'no_such_law'", "laws` lists them")),
    "no law": (json.dumps({"schema": 1}), ("'law'",)),
    "a law that is a number": (but(law=3), ("law is 3", "expected str")),
    "an unknown field": (but(mood="good"), ("'mood'", "specimen", "setting", "device")),
    "an unknown field of a setting": (
        but(setting={"trainin": True}),
        ("setting", "'trainin'", "training", "switched"),
    ),
    "an unknown field of a node": (node(wihtin="no_grad"), ("'wihtin'", "within")),
    "a setting of another type": (but(setting=[]), ("setting", "expected dict")),
    "a flag that is a number": (but(setting={"training": 1}), ("training", "expected bool")),
    "a seed that is a flag": (but(sample={"seed": True}), ("seed", "expected int")),
    "a stack that is a text": (but(setting={"grad": "torch.no_grad()"}), ("expected list",)),
    "an unknown context": (
        but(setting={"grad": ["torch.no_gard()"]}),
        ("'torch.no_gard()'", "torch.no_grad()", "torch.inference_mode(False)"),
    ),
    "an unknown context of a nesting": (
        but(nesting={"contexts": ["torch.no_grad()", "no_grad"]}),
        ("'no_grad'", "torch.enable_grad()"),
    ),
    "an unknown context of a mixture": (
        but(specimen={"recipe": BLOCK, "mixture": {"grad": ["no_grad"]}}),
        ("'no_grad'", "torch.enable_grad()"),
    ),
    "an unknown dtype": (
        but(specimen={"recipe": BLOCK, "dtype": "float31"}),
        ("'float31'", "float32", "complex64"),
    ),
    "an unknown dtype of a sample": (
        but(sample={"dtype": "torch.float32"}),
        ("'torch.float32'", "float32"),
    ),
    "an unknown op": (node(op="Lineal"), ("'Lineal'", "Linear", "Dropout", "chunk")),
    "an unknown op in a block": (
        node(op="Block", body=BLOCK | {"nodes": [{"op": "Lineal", "inputs": [0]}]}),
        ("'Lineal'", "Linear"),
    ),
    "no recipe": (but(specimen={}), ("recipe",)),
    "a value that is not there yet": (node(inputs=[1]), ("node 0 (Linear)",)),
    "a negative value": (node(inputs=[-1]), ("node 0 (Linear)",)),
    "an output that is not there": (recipe(outputs=[2]), ("output",)),
    "a negative output": (recipe(outputs=[-1]), ("output",)),
    "an unknown container": (recipe(container="list"), ("'list'", "ModuleList")),
    "an unknown mode within": (node(within="no_gard"), ("'no_gard'", "enable_grad")),
    "an unknown hook": (node(hooked="backward"), ("'backward'", "full_backward")),
    "an unknown parametrization": (node(parametrized="norm"), ("'norm'", "weight_norm")),
    "a block without a body": (node(op="Block"), ("Block",)),
    "a layer that is shared before it is made": (node(shared=5), ("node 0 (Linear)",)),
    "a weight that is tied before it is made": (node(tied=5), ("node 0 (Linear)",)),
}


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD)
def test_a_bad_case_is_refused_in_one_line(text: str, words: tuple[str, ...]) -> None:
    message = refused(text)
    for word in words:
        assert word in message, message


def test_the_good_cases_are_good() -> None:
    """Otherwise the others could be refused for another reason."""
    assert from_json(json.dumps(GOOD)).specimen == RICH
    assert from_json(node()).specimen is not None
    assert from_json(recipe()).specimen is not None
    assert from_json(node(op="Block", body=BLOCK)).specimen is not None


def test_fields_that_have_their_default_are_left_out() -> None:
    text = to_json(Case(LAW, sample=Sample(), nesting=Nesting()))
    assert json.loads(text) == {"schema": SCHEMA, "law": LAW, "sample": {}, "nesting": {}}
    assert from_json(text) == Case(LAW, sample=Sample(), nesting=Nesting())


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8")
    assert read(path) == from_json(json.dumps(GOOD))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("No such file",)),
        (b"{", ("is not JSON",)),
        (b'{"schema": 1, "law": "no_such_law"}', ("'no_such_law'",)),
        (b"\xff\xfe{", ("is not a text file in UTF-8",)),
    ],
    ids=["missing", "not JSON", "unknown law", "not text"],
)
def test_an_unreadable_file_is_named(
    tmp_path: Path, content: bytes | None, words: tuple[str, ...]
) -> None:
    path = tmp_path / "case.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CaseError) as caught:
        read(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for word in (str(path), *words):
        assert word in message


def test_a_folder_is_no_case(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="directory"):
        read(tmp_path)
