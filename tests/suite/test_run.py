"""A whole run, as a user starts it: results, workers that die, bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from oracles.case import from_json
from tests.harness.seeds import RECORDED

ROOT = Path(__file__).parents[2]
PICKED = ("--law", "a_thread_has_*", "--law", "freezing_changes_no_value")


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "tests/laws", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, "--violations", str(folder), *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def instead(source: str, law: str, folder: Path) -> dict[str, Any]:
    """What to start a run with, for this ``body`` to stand in the place of the law's."""
    put = f"import oracles.laws\nfrom oracles.law import LAWS\nlaw = LAWS[{law!r}]\n"
    put += "object.__setattr__(law, 'body', body)\n"
    (folder / "instead.py").write_text(source + put, encoding="utf-8")
    found = f"{folder}{os.pathsep}{ROOT}"
    return {"folder": folder, "PYTHONPATH": found, "PYTEST_PLUGINS": "instead"}


def results(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    schema = json.loads((ROOT / "oracles/results.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(data, schema)
    return data


def test_results_of_all_workers_are_joined_and_fit_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    done = run(*PICKED, "-n", "2", "--results", str(path), "--seed", "5", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    data = results(path)
    assert {law["name"] for law in data["laws"]} == {
        "a_thread_has_a_mode_of_its_own",
        "freezing_changes_no_value",
    }
    assert all(law["subjects"] >= 20 and law["cells"] >= 20 for law in data["laws"])
    assert data["seed"] == 5
    assert "seed 5 (given), 2 laws" in done.stdout
    assert "grad_mode" in done.stdout
    assert "holding" in done.stdout


def test_a_seed_repeats_a_run(tmp_path: Path) -> None:
    counts = []
    for k in range(2):
        path = tmp_path / f"{k}.json"
        run(*PICKED, "--results", str(path), "--seed", "5", folder=tmp_path)
        counts.append(
            [(law["name"], law["cells"], law["subjects"]) for law in results(path)["laws"]]
        )
    assert counts[0] == counts[1]


def test_a_worker_that_dies_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    dying = "import os\ndef body(nesting): os._exit(3)\n"
    arguments = ("-n", "2", "--results", str(path), "--seed", "5")
    done = run(*PICKED, *arguments, **instead(dying, "a_thread_has_a_mode_of_its_own", tmp_path))
    assert done.returncode == 1
    laws = {law["name"]: law for law in results(path)["laws"]}
    assert laws["freezing_changes_no_value"]["status"] in ("HOLDS", "DEVIATES")
    crashed = laws["a_thread_has_a_mode_of_its_own"]
    assert crashed["status"] == "CRASHED"
    kept = tmp_path / "a_thread_has_a_mode_of_its_own@cpu.crashed.json"
    assert str(kept) in crashed["reason"]
    assert json.loads(kept.read_text())["law"] == "a_thread_has_a_mode_of_its_own"


def test_a_case_that_crashes_is_kept(tmp_path: Path) -> None:
    law, path = "a_thread_has_a_mode_of_its_own", tmp_path / "results.json"
    crashing = "def body(nesting):\n    raise KeyError('no such mode')\n"
    arguments = ("--law", law, "--results", str(path))
    done = run(*arguments, **instead(crashing, law, tmp_path))
    assert done.returncode == 1
    kept = tmp_path / f"{law}@cpu.crashed.json"
    line = f"KeyError: 'no such mode'; the case that was running: {kept} "
    assert f"CRASHED {law} on cpu: {line}" in done.stdout
    (found,) = results(path)["laws"]
    assert found["status"] == "CRASHED"
    assert found["reason"].startswith(line)
    assert "Traceback (most recent call last):" in found["reason"]
    assert from_json(kept.read_text(encoding="utf-8")).nesting is not None


def test_without_a_seed_a_run_takes_the_recorded_one(tmp_path: Path) -> None:
    quick = ("--law", "a_thread_has_*")
    assert f"seed {RECORDED} (recorded)" in run(*quick, folder=tmp_path).stdout
    assert "seed 7 (given)" in run(*quick, folder=tmp_path, TORCHLAWS_SEED="7").stdout
    drawn = run(*quick, "--seed", "random", folder=tmp_path, TORCHLAWS_SEED="7").stdout
    assert re.search(r"seed \d+ \(drawn\)", drawn)


@pytest.mark.parametrize(("late", "status"), [(600, "HOLDS"), (10**6, "NOT_COVERED")])
def test_more_is_drawn_while_a_trait_has_not_shown(late: int, status: str, tmp_path: Path) -> None:
    """Up to ten times as many: what is never shown is claimed in vain."""
    path = tmp_path / "results.json"
    rare = (
        "from itertools import count\nfrom oracles.relations import shows\n"
        "from oracles.run import Seen\nfrom oracles.traits import Certainty\n"
        "judged = count()\n"
        "def body(layer, setting):\n"
        f"    seen = Seen(None, {{'it': next(judged) == {late}}})\n"
        "    shows('shines', Certainty.MAYBE, seen, False)\n"
    )
    law = "a_layer_does_what_its_traits_claim"
    arguments = ("--law", law, "-k", "Softsign", "--results", str(path), "--seed", "5")
    done = run(*arguments, **instead(rare, law, tmp_path))
    (found,) = (law for law in results(path)["laws"] if law["status"] != "NOT_RUN")
    assert found["status"] == status, done.stdout
    assert found["subjects"] > 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--device", "tpu"), "unknown device 'tpu'; known devices: cpu, cuda, meta"),
        (("--law", "no_such_law"), "matches none of the"),
        (("--results", "/no/such/folder/r.json"), "cannot be written: No such file or directory"),
        (("--torch", "torch1.13"), "was imported, not 1.13"),
        (("--hypothesis-profile", "fast"), "known profiles: dev, ci, nightly, debug"),
        (("--seed", "some"), "seed 'some' is neither a number nor random"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = run(*arguments, folder=tmp_path)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert done.returncode == 4
    assert len(said) == 1, said
    assert says in said[0]


def test_without_a_gpu_cuda_fails_in_one_line(tmp_path: Path) -> None:
    done = run("--device", "cuda", folder=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 4
    assert "no CUDA device was found" in done.stderr + done.stdout


def test_a_plugin_that_reseeds_torch_is_refused(tmp_path: Path) -> None:
    plugin = tmp_path / "reseeding.py"
    plugin.write_text(
        "import random, torch, hypothesis\n"
        "class Torch:\n"
        "    def seed(self, s): torch.manual_seed(s)\n"
        "    def getstate(self): return torch.get_rng_state()\n"
        "    def setstate(self, s): torch.set_rng_state(s)\n"
        "it = Torch()\nhypothesis.register_random(it)\n"
    )
    found = f"{tmp_path}{os.pathsep}{ROOT}"
    done = run("-p", "reseeding", folder=tmp_path, PYTHONPATH=found)
    assert done.returncode == 4
    assert "a Hypothesis plugin reseeds torch" in done.stderr + done.stdout


@pytest.mark.parametrize("command", ["replay", "script"])
@pytest.mark.parametrize("text", ["", "[]", '{"schema": 99}', '{"schema": 1, "law": "no_law"}'])
def test_a_bad_case_is_one_line(command: str, text: str, tmp_path: Path) -> None:
    case = tmp_path / "case.json"
    case.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "oracles", command, str(case)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("torchlaws: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_case_that_crashes_is_replayed(tmp_path: Path) -> None:
    case = ROOT / f"corpus/inference_mode_false_enables_grad_under_no_grad/{CRASHING}.json"
    started = instead("def body(nesting):\n    raise KeyError('no')\n", CRASHING, tmp_path)
    program = (
        f"import instead, sys, oracles.__main__ as m; sys.exit(m.main(['replay', {str(case)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "replay", str(case)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": started["PYTHONPATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stdout == f"CRASHED {case}: KeyError\n"
    assert "KeyError: 'no'" in done.stderr


CRASHING = "the_innermost_context_decides"


def test_what_replay_says_script_shows(tmp_path: Path) -> None:
    folder = ROOT / "corpus/inference_mode_false_enables_grad_under_no_grad"
    case = folder / "the_innermost_context_decides.json"
    made = subprocess.run(
        [sys.executable, "-m", "oracles", "script", str(case)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    assert "oracles" not in made
    script = tmp_path / "script.py"
    script.write_text(made)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120
    )
    assert "AssertionError: expected (False, False), observed (True, False)" in done.stderr


def test_a_law_that_takes_too_long_is_timed_out(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    options = ("--law", "freezing_changes_no_value", "--law-timeout", "0.2")
    done = run(*options, "--results", str(path), "--hypothesis-profile", "nightly", folder=tmp_path)
    assert done.returncode == 1
    (law,) = results(path)["laws"]
    assert law["status"] == "TIMED_OUT"
    assert 0 < law["subjects"] < 2000
    assert f"{law['subjects']} subjects judged" in law["reason"]


def test_a_law_that_was_not_tried_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    run(*PICKED, "--results", str(path), "-k", "freezing", "--seed", "5", folder=tmp_path)
    status = {law["name"]: law["status"] for law in results(path)["laws"]}
    assert status["a_thread_has_a_mode_of_its_own"] == "NOT_RUN"
    assert status["freezing_changes_no_value"] in ("HOLDS", "DEVIATES")
