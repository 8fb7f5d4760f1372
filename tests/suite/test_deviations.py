"""The register: what a deviation explains, and that its witnesses must show it still."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch

from oracles import deviations
from oracles.case import Case, to_json
from oracles.deviations import Deviation, Register, RegisterError, load
from oracles.law import LAWS, Term, Unsupported, Violation
from oracles.recipe import Input, Node, Recipe
from oracles.results import Status
from oracles.results import load as load_results
from oracles.setting import Setting
from oracles.specimen import Specimen
from oracles.trial import Trial, forget
from tests.harness.witnesses import mended

LAW = "evaluation_changes_no_state"
WEIGHT = "model.state_dict()['n0.weight']"


def specimen(**arguments: Any) -> Specimen:
    """An embedding, and a batch norm of what it returns."""
    embedding = Node("Embedding", (0,), {"num_embeddings": 3, "embedding_dim": 1} | arguments)
    norm = Node("BatchNorm1d", (1,), {"num_features": 4})
    return Specimen(Recipe((Input((2, 4), 3),), (embedding, norm), (2,)))


RENORMALISING = Case(LAW, specimen=specimen(max_norm=0.5), setting=Setting(training=False))
RESTING = replace(RENORMALISING, specimen=specimen())
DEVIATION = Deviation(
    name="embeddings_renormalise",
    condition="an_embedding_has_max_norm",
    facts=("{state}",),
    devices=("cpu",),
    torch=">=2.1,<2.13",
    basis="bug",
    reason="It rewrites what it looks up.",
)
OTHER = replace(DEVIATION, name="it_renormalises_too", facts=(WEIGHT,))


def violation(expression: str = WEIGHT, value: Any = 1.0) -> Violation:
    return Violation("", Term(expression, value), Term("2.0", 2.0))


@pytest.mark.parametrize(
    ("device", "version", "speaks"),
    [
        ("cpu", "2.1.0", True),
        ("cpu", "2.12.1", True),
        ("cpu", "2.12.0.dev20260101", True),
        ("cpu", "2.13.0", False),
        ("cpu", "2.0.1", False),
        ("cuda", "2.12.1", False),
    ],
)
def test_a_deviation_speaks_of_its_devices_and_versions(
    device: str, version: str, speaks: bool
) -> None:
    assert DEVIATION.in_force(device, version) is speaks
    assert bool(Register((DEVIATION,), version).in_force(device)) is speaks


def test_a_deviation_explains_what_it_describes_and_nothing_else() -> None:
    assert DEVIATION.explains(RENORMALISING, violation())
    assert not DEVIATION.explains(RESTING, violation())  # its condition does not hold
    assert not DEVIATION.explains(RENORMALISING, violation("out[0]"))  # another kind of fact


def test_a_deviation_is_of_a_mechanism_and_holds_for_every_law() -> None:
    for law in ("which_state_moves_depends_on_train_and_eval_alone", "backward_changes_no_state"):
        assert DEVIATION.explains(replace(RENORMALISING, law=law), violation())


def test_an_excuse_is_no_wider_than_its_path() -> None:
    """The embedding renormalises: the batch norm beside it may not move for that."""
    for name in ("n1.running_mean", "n1.num_batches_tracked", "n1.weight"):
        moved = violation(f"model.state_dict()[{name!r}]")
        assert not DEVIATION.explains(RENORMALISING, moved)
        assert load().explaining(RENORMALISING, moved) is None


def test_an_error_is_explained_by_its_words() -> None:
    refusing = replace(DEVIATION, facts=("raised",), raised=("not implemented",))
    assert refusing.explains(RENORMALISING, violation("raised", "RuntimeError: not implemented"))
    assert not refusing.explains(RENORMALISING, violation("raised", "RuntimeError: no memory"))


def acts(name: str, case: Case) -> bool:
    """Whether the condition of this name holds."""
    return deviations.CONDITIONS[name](case) is not None


def attending(training: bool, **arguments: Any) -> Case:
    """One nn.MultiheadAttention, of which the number of heads is odd."""
    given = {"embed_dim": 3, "num_heads": 3, "batch_first": True, "dropout": 0.0, "bias": True}
    node = Node("MultiheadAttention", (0,), given | arguments)
    recipe = Recipe((Input((2, 2, 3)),), (node,), (1,))
    return Case(LAW, specimen=Specimen(recipe), setting=Setting(training=training))


def test_what_attention_did_once_is_told_by_mode_mask_and_bias() -> None:
    mask = {"key_padding_mask": {"mask": "bias", "rows": [[0, 1], [0, 0]]}, "need_weights": False}
    biased = "attention_with_batch_first_has_no_bias"
    masked = "attention_that_may_be_fast_has_a_bias_for_a_mask"
    assert acts(masked, attending(False, forward=mask))
    assert not acts(masked, attending(True, forward=mask))
    assert not acts(masked, attending(False, forward=mask, batch_first=False))
    assert not acts(masked, attending(False))
    assert acts(biased, attending(True, bias=False))
    assert not acts(biased, attending(False, bias=False, batch_first=False))
    assert not acts(biased, attending(False))


def test_a_deviation_of_old_versions_is_not_in_force_today() -> None:
    old = {d.name for d in load().deviations if d.in_force("cpu", "2.0.1")}
    today = {d.name for d in load().deviations if d.in_force("cpu", "2.13.0")}
    assert "attention_takes_a_bias_for_a_mask" in old - today
    assert "a_checkpoint_saves_its_inputs_even_if_nothing_requires_grad" in today - old


def judged(register: Register) -> Trial:
    trial = Trial(LAWS[LAW], "cpu", register, everywhere=True)
    trial.judge(RENORMALISING)
    return trial


def test_a_law_goes_on_after_an_excused_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight is excused: that the batch norm moves in evaluation is seen all the same."""
    assert judged(Register((replace(DEVIATION, torch=""),), "2.13.0")).tally.excused == 1
    batch_norm: Any = torch.nn.functional.batch_norm

    def moving(*arguments: Any) -> Any:
        *tensors, _, momentum, eps = arguments
        return batch_norm(*tensors, True, momentum, eps)

    monkeypatch.setattr(torch.nn.functional, "batch_norm", moving)
    forget()
    with pytest.raises(Violation) as raised:
        judged(Register((replace(DEVIATION, torch=""),), "2.13.0"))
    assert raised.value.observed.expression == "model.state_dict()['n1.running_mean']"
    forget()


def test_several_deviations_explain_one_cell() -> None:
    """Inference mode switched off inside no_grad, and a dropout that returns its input."""
    layers = (Node("Dropout", (0,), {"p": 0.5}),)
    subject = Specimen(Recipe((Input((2, 4)),), layers, (1,)))
    stack = ("torch.no_grad()", "torch.inference_mode(False)")
    for law in (
        "recording_depends_on_grad_mode_and_requires_grad_alone",
        "disabling_grad_records_nothing",
        "torch_agrees_with_the_reference",
        "gradients_reach_the_same_leaves_in_train_and_eval",
    ):
        for training in (True, False):
            setting = Setting(training, grad=stack, inputs=(0,))
            Trial(LAWS[law], "cpu", load()).judge(Case(law, specimen=subject, setting=setting))


def test_what_could_be_excused_is_counted_in_a_sample() -> None:
    tally = judged(Register((replace(DEVIATION, torch=""),), "2.13.0")).tally
    assert (tally.sampled, tally.excusable, tally.excused, tally.cells) == (1, 1, 1, 1)
    trial = Trial(LAWS[LAW], "cpu", load(), everywhere=True)
    trial.judge(RESTING)
    assert (trial.tally.sampled, trial.tally.excusable) == (1, 0)


def test_a_case_that_ends_the_process_is_not_run() -> None:
    fatal = replace(DEVIATION, facts=(), fatal=True, torch="")
    trial = Trial(LAWS[LAW], "cpu", Register((fatal,), "2.13.0"))
    with pytest.raises(Unsupported, match=f"it is not run here: {fatal.name}"):
        trial.judge(RENORMALISING)
    assert (trial.tally.unsupported, trial.tally.cells) == (1, 0)
    trial.judge(RESTING)
    assert trial.tally.cells == 1


@pytest.mark.parametrize(("chance", "says"), [(True, ""), (False, "no longer ends the process")])
def test_a_witness_that_no_longer_ends_the_process_is_named(
    corpus: Path, chance: bool, says: str
) -> None:
    fatal = replace(DEVIATION, facts=(), fatal=True, torch="", chance=chance)
    trial = Trial(LAWS[LAW], "cpu", Register((fatal,), "2.13.0"))
    assert says in mended(trial)
    assert not trial.tally.deviating


#: In how many cells of a law the register may explain facts without saying why.
SHARE = 0.2


def test_no_law_is_excused_in_more_than_a_fifth_of_its_cells() -> None:
    recorded = load_results(Path(__file__).parents[2] / "results" / "torch2.13-cpu.json")
    wide = {law for d in load().deviations if d.wide for law in d.laws}
    shares = defaultdict[str, list[int]](lambda: [0, 0, 0, 0])
    for law in recorded.laws:
        counts = (law.excused, law.cells, law.excusable, law.sampled)
        shares[law.name] = [a + b for a, b in zip(shares[law.name], counts, strict=True)]
    for name, (excused, cells, excusable, sampled) in shares.items():
        if name not in wide and cells:
            assert excused <= SHARE * cells, (name, excused, cells)
            # A sample, of ten cells or so where a law has a thousand: up to three standard errors.
            chance = 3 * sqrt(SHARE * (1 - SHARE) * sampled)
            assert excusable <= SHARE * sampled + chance, (name, excusable, sampled)


def toml(value: Any) -> str:
    return repr(value).lower() if isinstance(value, bool) else repr(value)


def entry(**changed: Any) -> str:
    fields = {
        "name": "embeddings_renormalise",
        "condition": "an_embedding_has_max_norm",
        "facts": ["{state}"],
        "basis": "bug",
        "reason": "It rewrites what it looks up.",
    } | changed
    lines = [f"{n} = {toml(value)}" for n, value in fields.items() if value is not None]
    return "\n".join(["[[deviation]]", *lines, ""])


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus with the one witness that the entry needs."""
    monkeypatch.setattr(deviations, "CORPUS", tmp_path)
    folder = tmp_path / "embeddings_renormalise"
    folder.mkdir()
    (folder / f"{LAW}.json").write_text(to_json(RENORMALISING), encoding="utf-8")
    return tmp_path


def test_a_good_entry_is_read(corpus: Path) -> None:
    (corpus / "register.toml").write_text(entry(), encoding="utf-8")
    (read,) = load(corpus / "register.toml").deviations
    assert (read.name, read.laws, read.devices) == (
        DEVIATION.name,
        frozenset({LAW}),
        ("cpu", "cuda"),
    )
    assert read.cases == [RENORMALISING]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (entry(name="without_a_witness"), "has no witness"),
        (entry(fatal=True), "where the process ends, no fact is seen"),
        (entry(condition="no_such_condition"), "known: "),
        (entry(basis="rumour"), "basis is one of documented, bug"),
        (entry(facts=None), "say which facts it explains; places are {output}"),
        (entry(facts=["{path}.weight"]), "no place {path}; places are {output}"),
        (entry(facts=["raised"]), "phrases go together"),
        (entry(raised=["no"]), "phrases go together"),
        (entry(torch="two"), "PEP 440"),
        (entry(reason=None), "missing or unknown fields: reason"),
        (entry(since="2.1"), "missing or unknown fields: since"),
        (entry() + entry(), "named twice"),
    ],
)
def test_an_entry_that_is_not_well_formed_is_refused(corpus: Path, text: str, says: str) -> None:
    (corpus / "register.toml").write_text(text, encoding="utf-8")
    with pytest.raises(RegisterError, match=says):
        load(corpus / "register.toml")


def told(*register: tuple[Deviation, Case]) -> tuple[str, dict[str, int]]:
    """What is said of these deviations with their witnesses, and what is counted."""
    for deviation, case in register:
        vars(deviation)["cases"] = [case]
    known = Register(tuple(deviation for deviation, _ in register), "2.12.0")
    trial = Trial(LAWS[LAW], "cpu", known)
    return mended(trial), dict(trial.tally.deviating)


def test_a_witness_that_shows_its_deviation_is_counted() -> None:
    assert told((replace(DEVIATION), RENORMALISING)) == ("", {DEVIATION.name: 1})


def test_a_witness_that_breaks_its_law_no_longer_is_told() -> None:
    assert told((replace(DEVIATION), RESTING)) == (
        "embeddings_renormalise: its witness no longer shows it",
        {},
    )
    assert Status.MENDED.fails


def test_a_witness_that_breaks_its_law_in_another_way_is_told() -> None:
    elsewhere = replace(DEVIATION, facts=("{output}",))
    assert told((elsewhere, RENORMALISING))[0].endswith("no longer shows it")


def test_a_witness_that_another_deviation_hides_is_not_mended() -> None:
    elsewhere = replace(DEVIATION, facts=("{output}",))
    assert told((elsewhere, RENORMALISING), (replace(OTHER), RENORMALISING)) == (
        "",
        {OTHER.name: 2},
    )


def test_a_witness_that_a_deviation_of_all_versions_hides_is_told() -> None:
    elsewhere = replace(DEVIATION, facts=("{output}",))
    always = replace(OTHER, torch="")
    assert told((elsewhere, RENORMALISING), (always, RENORMALISING))[0].endswith("shows it")
