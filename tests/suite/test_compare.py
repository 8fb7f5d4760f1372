"""Two results compared: what a version changed is told from what chance did not meet."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oracles.__main__ import main as cli
from oracles.results import Results, Status, differences, load, write

ROOT = Path(__file__).resolve().parents[2]
RECORDED = load(ROOT / "results" / "torch2.13-cpu.json")
#: Known of every version, and of those before 2.11 alone.
ALWAYS = "inference_mode_false_enables_grad_under_no_grad"
BEFORE = "instance_norm_rounds_its_statistics_in_evaluation"


def of_both(deviation: str, device: str) -> bool:
    return deviation == ALWAYS and device == "cpu"


def results(torch: str = "2.13.0", **law: Any) -> Results:
    """Results with one law alone."""
    told: dict[str, Any] = {"name": "a_law", "status": Status.HOLDS.value, "device": "cpu"}
    told |= {"layer": "", "deviations": {}, "traits": {}}
    one = replace(RECORDED.laws[0], **told | law)
    return replace(RECORDED, torch=torch, laws=(one,))


def deviating(*deviations: str, torch: str = "2.13.0", **law: Any) -> Results:
    known = dict.fromkeys(deviations, 1)
    return results(torch, status=Status.DEVIATES.value, deviations=known, **law)


def chance(before: Results, after: Results) -> list[bool]:
    """Of each difference, whether it is one of chance."""
    return [d.by_chance for d in differences(before, after, of_both)]


def test_equal_results_do_not_differ() -> None:
    for same in (results(), deviating(ALWAYS), deviating(BEFORE), RECORDED):
        assert chance(same, same) == []


def test_a_deviation_of_both_versions_that_one_run_met_is_chance() -> None:
    for left, right in [
        (results(), deviating(ALWAYS)),
        (deviating(ALWAYS), results()),
        (deviating(BEFORE), deviating(ALWAYS, BEFORE)),
        (results(traits={"draws": 1}), deviating(ALWAYS, traits={"draws": 2})),
    ]:
        assert chance(left, right) == [True]


def test_all_else_is_a_difference() -> None:
    for left, right in [
        (results(), deviating(BEFORE)),
        (deviating(ALWAYS), deviating(BEFORE)),
        (deviating(ALWAYS, BEFORE), deviating(ALWAYS)),
        (deviating(ALWAYS), results(status=Status.MENDED.value)),
        (deviating(ALWAYS), results(status=Status.VIOLATED.value, deviations={ALWAYS: 1})),
        (results(), results(status=Status.NOT_APPLICABLE.value)),
        (results(traits={"draws": 1}), deviating(ALWAYS)),
        (results(device="cuda"), deviating(ALWAYS, device="cuda")),
    ]:
        assert chance(left, right) == [False]


def test_a_law_that_one_side_lacks_was_not_run_there() -> None:
    (difference,) = differences(replace(RECORDED, laws=()), results(), of_both)
    assert (difference.before, difference.after) == ("NOT_RUN", "HOLDS")
    assert not difference.by_chance


def compared(
    folder: Path, capsys: pytest.CaptureFixture[str], before: Results, after: Results, *more: str
) -> str:
    """What the command prints of two files."""
    paths = [folder / "before.json", folder / "after.json"]
    for path, of in zip(paths, (before, after), strict=True):
        write(path, of)
    assert cli(["compare", *map(str, paths), *more]) == 0
    return capsys.readouterr().out


def test_the_command_asks_the_register(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = deviating(BEFORE, torch="2.4.1"), deviating(ALWAYS, torch="2.13.0")
    said = compared(tmp_path, capsys, old, new)
    assert f"DEVIATES ({BEFORE})" in said
    assert "1 of 1 laws differ" in said
    # Both versions are older than 2.11: which of them was met is chance.
    said = compared(tmp_path, capsys, old, results("2.5.1"))
    assert "0 of 1 laws differ" in said
    assert "a_law" not in said
    assert "1 more met by chance" in said
    said = compared(tmp_path, capsys, old, results("2.5.1"), "--all")
    assert "a_law on cpu" in said
    assert "by chance" not in said


def test_a_reader_that_has_seen_enough_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "oracles", "laws"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1
