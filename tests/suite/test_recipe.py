"""Recipes are data, and what is rendered from them is what they say."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import oracles.laws
from oracles import recipe
from oracles.case import Case, from_json, to_json
from oracles.law import LAWS
from oracles.recipe import BLOCKS, execute, names_of_values, render
from oracles.reference import buffers
from oracles.relations import same
from oracles.sample import Nesting
from oracles.setting import Setting
from oracles.specimen import BACKWARD, Plan, Specimen, source_of, statements
from oracles.subject import Subject
from oracles.traits import CLASSES, TRAITS, class_of, kinds_of
from strategies import layers, nestings, samples

from .helpers import RICH, drawn, drawn_specimens, outline, python, runnable, running_specimens

assert oracles.laws.THEORIES
LAW = min(LAWS)


@pytest.fixture(scope="module")
def several() -> list[Specimen]:
    """Different specimens, the richest first."""
    return [RICH, *drawn_specimens(300)]


def plain(specimen: Specimen) -> Specimen:
    """The specimen as it is read from a file: lists of arguments are lists."""
    case = from_json(to_json(Case(LAW, specimen=specimen)))
    assert case.specimen is not None
    return case.specimen


def digests(specimens: list[Specimen]) -> list[str]:
    return [hashlib.sha256(source_of(s).encode()).hexdigest() for s in specimens]


def test_a_specimen_goes_to_json_and_back(several: list[Specimen]) -> None:
    for specimen in several:
        case = Case(LAW, "meta", specimen, specimen.lattice[-1])
        text = to_json(case)
        assert from_json(text) == case, text
        assert to_json(from_json(text)) == text
        assert json.loads(text)["schema"] == 1


def test_a_sample_and_a_nesting_go_to_json_and_back() -> None:
    for sample, nesting in zip(drawn(samples(), 50), drawn(nestings(), 50), strict=True):
        case = Case(LAW, sample=sample, nesting=nesting)
        assert from_json(to_json(case)) == case


def test_what_was_read_renders_to_the_same_source(several: list[Specimen]) -> None:
    for specimen in several:
        assert source_of(plain(specimen)) == source_of(specimen)


def test_the_source_is_the_same_in_every_process(several: list[Specimen]) -> None:
    several = [plain(s) for s in several[:40]]
    text = json.dumps([to_json(Case(LAW, specimen=s)) for s in several])
    program = (
        "import hashlib, json, sys\n"
        "import oracles.laws\n"
        "from oracles.case import from_json\n"
        "from oracles.subject import source_of\n"
        "for text in json.load(sys.stdin):\n"
        "    source = source_of(from_json(text).specimen)\n"
        "    print(hashlib.sha256(source.encode()).hexdigest())\n"
    )
    for seed in ("1", "2"):
        printed = python("-c", program, given=text, PYTHONHASHSEED=seed)
        assert printed.split() == digests(several)


def test_a_source_is_rendered_and_executed_once(
    several: list[Specimen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "_KEPT", 64)
    source = render(RICH.recipe)
    assert render(RICH.recipe) == source
    module = execute(source)
    assert execute(source) is module
    assert sys.modules[module.__name__] is module
    # More sources than are kept: the oldest is forgotten, and made again when it is asked for.
    for specimen in several[1:150]:
        execute(render(specimen.recipe))
    assert module.__name__ not in sys.modules
    assert execute(source) is not module


def test_the_source_runs_without_torchlaws() -> None:
    """In a namespace of its own it shows the outputs that the subject shows."""
    for specimen in (RICH, *running_specimens(120)):
        setting = runnable(specimen)[-1]
        scope: dict[str, Any] = {"__name__": "elsewhere"}
        lines = (source_of(specimen), *statements(specimen, Plan(setting, BACKWARD)))
        exec("\n".join(lines), scope)
        seen = Subject(specimen).backward(setting).out
        assert len(scope["out"]) == len(seen)
        assert all(map(same, scope["out"], seen)), outline(specimen.recipe)


def test_the_source_runs_where_there_is_no_torchlaws(tmp_path: Path) -> None:
    several = [RICH, *running_specimens(30)]
    scripts = [
        "\n".join(
            (source_of(s), *statements(s, Plan(runnable(s)[-1], BACKWARD)), "print(len(out))")
        )
        for s in several
    ]
    program = (
        "import importlib.util, json, sys\n"
        "for name in ('oracles', 'strategies', 'torchlaws'):\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
        "for script in json.load(sys.stdin):\n"
        "    exec(script, {'__name__': 'script'})\n"
        "assert 'hypothesis' not in sys.modules\n"
    )
    printed = python("-I", "-c", program, given=json.dumps(scripts), cwd=tmp_path)
    assert printed.split() == [str(len(s.recipe.outputs)) for s in several]


def test_the_parameters_of_a_recipe_are_those_of_the_module(several: list[Specimen]) -> None:
    for specimen in several:
        model, _ = Subject(specimen).build()
        names = specimen.recipe.parameters()
        assert len(names) == len(set(names))
        assert sorted(names) == sorted(n for n, _ in model.named_parameters()), specimen


def test_the_buffers_of_a_recipe_are_those_of_the_module(several: list[Specimen]) -> None:
    for specimen in several:
        model, _ = Subject(specimen).build()
        names = buffers(specimen.recipe)
        assert sorted(names) == sorted(n for n, _ in model.named_buffers()), specimen


def test_the_submodules_of_a_recipe_are_there(several: list[Specimen]) -> None:
    for specimen in several:
        model, _ = Subject(specimen).build()
        paths = specimen.recipe.modules()
        assert len(paths) == len(set(paths))
        kinds = {p: type(model.get_submodule(p)).__name__ for p in paths}
        for path, node in specimen.recipe.paths():
            if path in kinds and node.op not in BLOCKS:
                # A lazy layer has become the layer that it stands for.
                name = class_of(node.op).removeprefix("Lazy")
                made = "Linear" if name.startswith("utils.") else name
                assert kinds[path].removeprefix("Parametrized") == made, (path, specimen)


@pytest.mark.parametrize("name", [n for n in CLASSES if TRAITS[kinds_of(n)[0]].parts({})])
def test_the_parts_of_a_layer_are_there(name: str) -> None:
    """All modules that it is made of, but for an activation that a decoder has lost."""
    for specimen in drawn(layers(name), 30):
        model, _ = Subject(specimen).build()
        parts, made = set(specimen.recipe.parts()), {path for path, _ in model.named_modules()}
        assert parts <= made
        left = made - parts - {"", "n0"}
        assert all("decoder" in name.lower() or ".decoder." in path for path in left), left
        assert all(path.endswith(".activation") for path in left), left
        names = sorted(n for n, _ in model.named_parameters())
        assert names == sorted(specimen.recipe.parameters())


def test_a_layer_is_used_again_and_a_weight_is_tied() -> None:
    model, _ = Subject(RICH).build()
    assert RICH.recipe.own_path(3) == RICH.recipe.own_path(1)
    tied = model.get_submodule("layers.n2")
    assert tied.weight is model.get_submodule("layers.n1").weight
    assert "layers.n2.weight" not in RICH.recipe.parameters()
    assert (
        Subject(RICH).run(Setting()).calls["getattr(model.get_submodule('layers.n1'), 'calls', 0)"]
        == 2
    )


def test_every_value_has_a_name_of_its_own(several: list[Specimen]) -> None:
    for specimen in several:
        values, assigned = names_of_values(specimen.recipe)
        assert len(values) == len(set(values))
        assert values[len(specimen.recipe.inputs) :] == [n for names in assigned for n in names]


def test_the_inputs_are_what_the_recipe_says(several: list[Specimen]) -> None:
    for specimen in several:
        _, inputs = Subject(specimen).build()
        for given, made in zip(specimen.recipe.inputs, inputs, strict=True):
            assert tuple(made.shape) == given.shape
            assert made.is_leaf and not made.requires_grad and not made._is_view()
            if given.high:
                assert made.dtype is torch.int64
                assert 0 <= int(made.min()) <= int(made.max()) < given.high
            elif not given.transposed:
                assert made.is_contiguous()
            elif min(given.shape[-2:]) > 1:
                assert not made.is_contiguous()


def test_nestings_are_what_they_say() -> None:
    inside = Nesting(("torch.inference_mode()", "torch.enable_grad()"))
    with inside.entered():
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == inside.flags
    assert (inside.flags, inside.recording) == ((True, True), False)
