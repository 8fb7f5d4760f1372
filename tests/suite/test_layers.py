"""The catalogue leaves out no class of torch.nn, and a broken trait of a layer is noticed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch import nn

import oracles.laws
from oracles import catalogue
from oracles.__main__ import main as cli
from oracles.case import Case
from oracles.catalogue import Row
from oracles.deviations import load
from oracles.law import LAWS, Unsupported, Violation
from oracles.results import Results
from oracles.results import load as load_results
from oracles.script import message, script
from oracles.traits import CLASSES, TRAITS
from oracles.trial import Trial
from strategies import drawn_for
from strategies.layers import EXCLUDED
from strategies.layers.kinds import torch_has

assert oracles.laws.THEORIES
ROOT = Path(__file__).parents[2]
LAW = LAWS["a_layer_does_what_its_traits_claim"]


def of_torch() -> set[str]:
    """The public classes of the torch.nn that is installed."""
    classes = ((name, getattr(nn, name)) for name in dir(nn))
    return {n for n, c in classes if isinstance(c, type) and issubclass(c, nn.Module)}


def test_every_class_of_torch_nn_is_in_the_catalogue_or_excluded_with_a_reason() -> None:
    missing = of_torch() - set(CLASSES) - set(EXCLUDED)
    assert not missing, f"torch.nn has classes that nothing is said of: {sorted(missing)}"
    assert not set(CLASSES) & set(EXCLUDED), "excluded, and in the catalogue"
    assert all(EXCLUDED.values())
    assert set(EXCLUDED) <= of_torch()


# --- the table -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded() -> Results:
    """The results that the table is made of."""
    return load_results(ROOT / "results" / "torch2.13-cpu.json")


def test_every_class_has_a_row_and_was_judged_in_every_mode(recorded: Results) -> None:
    rows = {row.name: row for row in catalogue.rows(recorded)}
    assert tuple(rows) == CLASSES
    parts = {"train", "eval", "recording", "no grad", "inference mode", "not frozen"}
    for row in rows.values():
        owning = any(TRAITS[kind].parameters({"sizes": [1]}) for kind in row.kinds)
        wanted = parts | ({"frozen"} if owning else set())
        assert wanted <= set(row.settings), (row.name, row.settings)
        assert row.subjects >= 20


def test_the_table_on_disk_is_up_to_date(recorded: Results) -> None:
    found = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
    if found != catalogue.as_markdown(recorded):
        pytest.fail("docs/layers.md is not what was recorded: run `python -m oracles docs`")


def test_a_cell_says_in_which_modes_a_trait_showed() -> None:
    def cell(column: str, **traits: int) -> str:
        shown = {name.replace("_", " "): count for name, count in traits.items()}
        return catalogue.mark(Row("X", (), shown, 1.5, 1, 1, {}, {}, (), ()), column)

    assert cell("random") == ""
    assert cell("random", is_random_in_training=3) == "train"
    assert cell("random", is_random_in_evaluation=3) == "eval"
    assert cell("random", is_random_in_training=1, is_random_in_evaluation=1) == "both"
    assert cell("train and eval differ", differs_between_train_and_eval=1) == "yes"


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["catalogue"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in CLASSES)
    assert cli(["catalogue", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in data["layers"]] == list(CLASSES)


def test_results_without_layers_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "results" / "torch2.13-cpu.json").read_text(encoding="utf-8")
    data = json.loads(text) | {"laws": []}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    for named, words in ((path, "says nothing of layers"), (tmp_path / "no.json", "cannot read")):
        assert cli(["catalogue", "--results", str(named)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1


# --- broken traits ---------------------------------------------------------------------------

Forward = Callable[..., Any]


def drawing(forward: Forward) -> Forward:
    """It draws a number that it does not use."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        torch.rand(1)
        return forward(self, *x, **options)

    return broken


def flipping(forward: Forward) -> Forward:
    """Its output in training is another."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        out = forward(self, *x, **options)
        return _changed(out, 2.0) if self.training else out

    return broken


def unrecorded(forward: Forward) -> Forward:
    """Its output is another where grad is disabled."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        out = forward(self, *x, **options)
        return out if torch.is_grad_enabled() else _changed(out, 1.5)

    return broken


def handing_on(forward: Forward) -> Forward:
    """It returns its input itself."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        return x[0]

    return broken


def detaching(forward: Forward) -> Forward:
    """What it returns is cut from the graph."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        return _changed(forward(self, *x, **options), None)

    return broken


def writing(forward: Forward) -> Forward:
    """It writes into its parameters and buffers."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        with torch.no_grad():
            for t in [*self.parameters(), *self.buffers()]:
                t.add_(1)
        return forward(self, *x, **options)

    return broken


def refusing(forward: Forward) -> Forward:
    """In training it refuses inputs of one sample."""

    def broken(self: nn.Module, *x: Any, **options: Any) -> Any:
        if self.training and x[0].shape[0] == 1:
            raise ValueError("one sample only")
        return forward(self, *x, **options)

    return broken


def _changed(out: Any, factor: float | None) -> Any:
    if isinstance(out, tuple):
        return (_changed(out[0], factor), *out[1:])
    if not isinstance(out, torch.Tensor) or not out.is_floating_point():
        return out
    return out.detach() if factor is None else (out + 1) * factor


#: How a trait is broken, and the words of the message that name it.
BREAKING: dict[Callable[[Forward], Forward], str] = {
    drawing: "draws randomness",
    flipping: "differs between train and eval",
    unrecorded: "out[0] was",
    handing_on: "returns its input itself",
    detaching: "requires_grad",
    writing: "moves a buffer|writes a parameter",
    refusing: "refuses single values in training alone",
}


_PLAIN = ("{self}({0})", "{self}({0}, {1})")


def _breakable() -> list[tuple[str, Callable[[Forward], Forward]]]:
    """Every layer with each way to break one of its traits that changes what it does."""
    found = []
    for name in CLASSES:
        if name.startswith(("Parameter", "utils.")) or "Lazy" in name or name == "Identity":
            continue  # no forward, the forward of another class, nothing to break
        traits = TRAITS[name]
        ways = [way for way in BREAKING if way not in (writing, handing_on)]
        if isinstance(traits.call, str) and traits.call.endswith(".output"):
            continue  # it returns a named tuple, of which the fields are taken
        ways += [writing] if traits.parameters({}) else []
        ways += [handing_on] if traits.called({}) in _PLAIN else []
        found += [(name, way) for way in ways if not _does_anyway(name, way)]
    return found


def _does_anyway(name: str, way: Callable[[Forward], Forward]) -> bool:
    traits = TRAITS[name]
    telling = way in (drawing, flipping) and traits.differs({"num_layers": 2, "dropout": 0.5})
    return bool(telling) or (way is refusing and traits.batch({}))


def _drawn(count: int) -> list[tuple[str, Callable[[Forward], Forward]]]:
    """Of each way some layers; with another seed others are broken."""
    seeded, breakable = random.Random(3), _breakable()
    by_way = ([pair for pair in breakable if pair[1] is way] for way in BREAKING)
    return [pair for pairs in by_way for pair in seeded.sample(pairs, min(count, len(pairs)))]


BROKEN = [(name, breaking) for name, breaking in _drawn(6) if torch_has(name)]


@pytest.mark.parametrize(
    ("name", "breaking"), BROKEN, ids=[f"{name}-{b.__name__}" for name, b in BROKEN]
)
def test_a_broken_trait_is_noticed(name: str, breaking: Callable[[Forward], Forward]) -> None:
    owner = getattr(nn, name)
    trial = Trial(LAW, "cpu", load(), name)

    @settings(
        max_examples=40,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(drawn_for(LAW, name))
    def judge(drawn: dict[str, Any]) -> None:
        # Not while drawing: the shapes of outputs are asked of torch, and remembered.
        with broken, suppress(Unsupported):
            trial.judge(Case(LAW.name, "cpu", **drawn))

    broken = mock.patch.object(owner, "forward", breaking(owner.forward))
    with pytest.raises(Violation) as caught:
        judge()
    words = BREAKING[breaking].split("|")
    assert any(word in caught.value.message for word in words), caught.value.message
    assert trial.violation is not None
    case, violation = trial.violation
    assert f"nn.{name}(" in message(case, violation), "the message names the layer"
    shown = compile(script(case, violation), "<script>", "exec")
    with broken, pytest.raises(AssertionError, match="expected"):
        exec(shown, {"__name__": "__main__"})
    exec(shown, {"__name__": "__main__"})
