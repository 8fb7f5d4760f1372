"""python -m oracles hunt: runs, files, workers that die, a scheduler with two real workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from oracles.case import from_json
from oracles.codec import decode, encode
from oracles.coverage import occurring
from tests.harness.hunt import command, records
from tests.harness.hunt.drive import Drive
from tests.harness.hunt.places import HERE, Gone
from tests.harness.hunt.records import Alarm, Died, Hunt, Kind, Record, Run, Started, Wrong, line
from tests.harness.hunt.summary import groups, shares

from .helpers import ROOT

LAW = "a_thread_has_a_mode_of_its_own"
FAST = ("--law", LAW, "--profile", "dev")


def start(*arguments: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """A hunt of one fast law, with the file hunt.jsonl of the folder."""
    files = ("--out", str(folder / "hunt.jsonl"), "--violations", str(folder / "violations"))
    return subprocess.Popen(
        [sys.executable, "-m", "oracles", "hunt", *FAST, *files, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(hunt: subprocess.Popen[str], status: int) -> str:
    """What a hunt has printed when it is over."""
    said, errors = hunt.communicate(timeout=240)
    assert hunt.returncode == status, said + errors
    return said


def found(folder: Path) -> list[Record]:
    return records.read(folder / "hunt.jsonl")


def of(kind: type[Any], folder: Path) -> list[Any]:
    return [record for record in found(folder) if isinstance(record, kind)]


def until(what: Callable[[], Any]) -> None:
    """Wait for something that happens soon."""
    for _ in range(1200):
        if what():
            return
        time.sleep(0.1)
    raise AssertionError("it does not happen")


def instead(folder: Path, **bodies: str) -> dict[str, str]:
    """The environment in which laws have other bodies, in the processes that judge."""
    lines = ["import os, sys, time", "if 'tests.harness.hunt.child' in sys.orig_argv:"]
    lines += [f"    sys.path.insert(0, {str(ROOT)!r})", "    import oracles.law, oracles.laws"]
    for name, body in bodies.items():
        lines += [f"    def body(nesting): {body}"]
        lines += [f"    object.__setattr__(oracles.law.LAWS[{name!r}], 'body', body)"]
    (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.mark.parametrize(
    ("profile", "patterns", "alarms"), [("ci", [], 2), ("ci", ["layers"], 0), ("dev", [], 0)]
)
def test_a_run_below_the_floor_of_coverage_is_an_alarm(
    profile: str, patterns: list[str], alarms: int
) -> None:
    """As the main job fails there: of pairs and of triples too few are met."""
    job = {"profile": profile, "patterns": patterns, "device": "cpu", "laws": [], "seed": 1}
    drive = Drive(job | {"worker": HERE})
    drive.floor.met = set(occurring("Tanh", False))
    made = decode(tuple[Alarm, ...], drive.run()["alarms"])
    assert [(a.law, a.status) for a in made] == [("coverage", "NOT_COVERED")] * alarms


# --- real hunts ---------------------------------------------------------------------------------


def test_a_hunt_goes_on_from_its_file(tmp_path: Path) -> None:
    said = ended(start("--runs", "1", folder=tmp_path), 0)
    assert said.splitlines()[-1].startswith("runs: 1, cells: 20, alarms: 0, 0.00 alarms a run")
    (first,) = of(Run, tmp_path)
    path = tmp_path / "hunt.jsonl"
    with path.open("a", encoding="utf-8") as file:  # a run that was interrupted, and its last line
        file.write(line(Started(17)) + '{"record": "ru')
    ended(start("--runs", "2", folder=tmp_path), 0)
    assert [run.seed for run in of(Run, tmp_path)] == [first.seed, 17]
    assert len(of(Hunt, tmp_path)) == 2
    said = ended(start("--runs", "2", folder=tmp_path), 0)
    assert said.splitlines()[-1].startswith("runs: 2, cells: 40")


def test_a_run_judges_what_the_main_job_judges_with_its_seed(tmp_path: Path) -> None:
    law, path = "evaluation_draws_no_randomness", tmp_path / "results.json"
    ended(start("--runs", "1", "--law", law, folder=tmp_path), 0)
    (run,) = of(Run, tmp_path)
    main = [sys.executable, "-m", "pytest", "tests/laws", "-p", "no:cacheprovider", "-q"]
    main += [*("--law", law, "--law", LAW), "--seed", str(run.seed), "--results", str(path)]
    subprocess.run(
        [*main, "--violations", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=240,
    )
    laws = json.loads(path.read_text(encoding="utf-8"))["laws"]
    assert run.cells == sum(law["cells"] for law in laws)
    assert run.subjects == sum(law["subjects"] for law in laws) == 40
    assert run.statuses == Counter(law["status"] for law in laws)


def test_an_interrupted_hunt_leaves_its_run_to_be_redone(tmp_path: Path) -> None:
    slow = instead(tmp_path, **{LAW: "time.sleep(1000)"})
    hunt = start(folder=tmp_path, **slow)
    until(lambda: (tmp_path / "hunt.jsonl").exists() and of(Started, tmp_path))
    time.sleep(1)
    hunt.send_signal(signal.SIGINT)
    assert "interrupted" in ended(hunt, 0)
    (begun,) = of(Started, tmp_path)
    ended(start("--runs", "1", folder=tmp_path), 0)
    assert [run.seed for run in of(Run, tmp_path)] == [begun.seed]


def test_a_law_that_dies_hangs_or_crashes_costs_itself_alone(tmp_path: Path) -> None:
    dying = "tasks_of_a_thread_share_its_mode"
    hanging = "a_decorator_needs_no_parentheses"
    crashing = "leaving_restores_the_mode"
    bodies = {
        dying: "os._exit(3)",
        hanging: "time.sleep(1000)",
        crashing: "raise KeyError('no such mode')",
    }
    laws = [argument for name in bodies for argument in ("--law", name)]
    options = ("--runs", "1", "--law-timeout", "2", *laws)
    said = ended(start(*options, folder=tmp_path, **instead(tmp_path, **bodies)), 1)
    (run,) = of(Run, tmp_path)
    alarms = {alarm.law: alarm for alarm in run.alarms}
    assert {name: alarm.status for name, alarm in alarms.items()} == {
        dying: "CRASHED",
        hanging: "TIMED_OUT",
        crashing: "CRASHED",
    }
    assert alarms[dying].message == "the process ended with exit status 3"
    assert alarms[crashing].kind == "KeyError: "
    assert run.statuses["HOLDS"] == 1
    assert run.cells >= 20
    for name, alarm in alarms.items():
        kept = tmp_path / "violations" / str(run.seed) / f"{name}@cpu.crashed.json"
        assert str(kept) in said
        assert from_json(kept.read_text(encoding="utf-8")).law == name == alarm.law


def test_a_planted_fault_is_found_with_its_script(tmp_path: Path) -> None:
    fault, law = "NoGradOutlivesExceptions", "leaving_by_an_exception_restores_the_mode"
    said = ended(start("--runs", "1", "--law", law, "--fault", fault, folder=tmp_path), 1)
    (run,) = of(Run, tmp_path)
    assert run.kind.fault == fault
    (alarm,) = run.alarms
    assert (alarm.law, alarm.status, alarm.reproduces) == (law, "VIOLATED", True)
    script = tmp_path / "violations" / str(run.seed) / f"{law}@cpu.py"
    assert str(script) in said
    assert script.read_text(encoding="utf-8") == alarm.script
    assert from_json(script.with_suffix(".json").read_text(encoding="utf-8")).law == law
    shown = subprocess.run(
        [sys.executable, "-m", "oracles", "hunt", "--summary", str(tmp_path / "hunt.jsonl")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    assert f"## VIOLATED {law}: " in shown
    assert "| 1 | " in shown


# --- wrong usage --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--runs", "0"), "--runs 0: it must be more than 0"),
        (("--runs", "many"), "invalid int value: 'many'"),
        (("--hours", "-1"), "it must be more than 0"),
        (("--workers", "0"), "--workers 0: it must be more than 0"),
        (("--workers", "2", "--scheduler", "tcp://x"), "--workers is for this machine"),
        (("--law", "no_such_law"), "matches none of the"),
        (("--profile", "fast"), "known profiles: dev, ci, nightly, debug"),
        (("--device", "tpu"), "unknown device 'tpu'; known devices: cpu, cuda, meta"),
        (("--out", "/no/such/folder/h.jsonl"), "cannot be written: No such file or directory"),
        (("--fault", "NoSuchFault"), "no fault is named 'NoSuchFault'"),
        (("--summary", "/no/such/file"), "cannot be read: No such file or directory"),
        (("--wrong",), "unrecognized arguments: --wrong"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: tuple[str, ...],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert command.main(arguments) == 2
    finally:
        signal.signal(signal.SIGTERM, handler)
    said = capsys.readouterr()
    (text,) = said.err.splitlines()
    assert text.startswith("torchlaws: ")
    assert says in text
    assert said.out == ""


def test_a_file_that_is_no_hunt_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    for text in ("some notes\n", "some notes", '{"record": "started", "seed": 1}\n'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(Wrong):
            records.Store(path)
        assert path.read_text(encoding="utf-8") == text


def test_two_hunts_do_not_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "hunt.jsonl"
    first = records.Store(path)
    with pytest.raises(Wrong, match="another hunt writes to it"):
        records.Store(path)
    first.add(Hunt("the command", "now", KIND))
    assert records.read(path) == first.records
    first.close()


def test_without_the_suite_hunt_says_so(tmp_path: Path) -> None:
    (tmp_path / "oracles").symlink_to(ROOT / "oracles")
    done = subprocess.run(
        [sys.executable, "-m", "oracles", "hunt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("torchlaws: hunt needs the suite: run it from a checkout")
    assert len(done.stderr.splitlines()) == 1


# --- workers, without processes -----------------------------------------------------------------

KIND = Kind("2.13.0", "cpu", "some", "dev", "c0de", (LAW,))
OTHER = Kind("2.4.1", "cpu", "some", "dev", "c0de", (LAW,))
Outcome = Callable[[dict[str, Any]], "Future[dict[str, Any]]"]


class Fake:
    """Workers of which each makes runs in its own way, at once."""

    def __init__(self, **outcomes: Outcome) -> None:
        self.outcomes = outcomes
        self.kinds: dict[str, dict[str, Any]] = dict.fromkeys(outcomes, encode(KIND))
        self.stopped = self.gone = False

    def workers(self) -> Mapping[str, int]:
        if self.gone:
            raise Gone("it is gone")
        return dict.fromkeys(self.outcomes, 1)

    def kind(self, worker: str, *what: Any) -> dict[str, Any]:
        return self.kinds[worker]

    def begin(self, job: dict[str, Any]) -> Future[dict[str, Any]]:
        return self.outcomes[job["worker"]](job)

    def progress(self) -> dict[str, tuple[int, int]]:
        return {}

    def stop(self) -> None:
        self.stopped = True


def made(job: dict[str, Any], kind: Kind = KIND) -> Future[dict[str, Any]]:
    future: Future[dict[str, Any]] = Future()
    run = Run(job["seed"], job["worker"], kind, 1.0, 1, 20, 20, {"HOLDS": 1})
    future.set_result(encode(run))
    return future


def lost(job: dict[str, Any]) -> Future[dict[str, Any]]:
    future: Future[dict[str, Any]] = Future()
    future.set_exception(OSError("no room\nleft"))
    return future


def hunting(folder: Path, *arguments: str) -> command.Hunting:
    files = ("--out", str(folder / "hunt.jsonl"), "--violations", str(folder / "violations"))
    options = command._options([*FAST, *files, "--scheduler", "fake", *arguments])
    return command.Hunting(options, "the command")


def test_a_run_is_made_again_once_and_then_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = Fake(bad=lost)
    assert hunting(tmp_path, "--runs", "1").hunt(places) == 1
    first, second = of(Died, tmp_path)
    assert (first.seed, first.again, second.again) == (second.seed, True, False)
    assert first.reason == "no room"
    said = capsys.readouterr().out
    assert f"given up: the run of seed {first.seed} on bad: no room" in said
    assert places.stopped


def test_a_run_that_one_worker_loses_is_made_by_another(tmp_path: Path) -> None:
    hunt = hunting(tmp_path, "--runs", "1")
    places = Fake(bad=lost)

    def then(job: dict[str, Any]) -> Future[dict[str, Any]]:
        del places.outcomes["bad"]
        places.outcomes["good"], places.kinds["good"] = made, encode(KIND)
        return lost(job)

    places.outcomes["bad"] = then
    assert hunt.hunt(places) == 0
    (run,), (died,) = of(Run, tmp_path), of(Died, tmp_path)
    assert (run.worker, died.worker, died.again) == ("good", "bad", True)
    assert run.seed == died.seed


def test_a_worker_of_another_torch_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = Fake(one=made, other=made)
    places.kinds["other"] = encode(OTHER)
    assert hunting(tmp_path, "--runs", "3").hunt(places) == 0
    assert {run.worker for run in of(Run, tmp_path)} == {"one"}
    said = capsys.readouterr().out
    assert "refused: other: runs there are of torch 2.4.1, " in said


def test_mixed_workers_are_reported_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = Fake(one=made, other=lambda job: made(job, OTHER))
    places.kinds["other"] = encode(OTHER)
    assert hunting(tmp_path, "--runs", "4", "--mixed").hunt(places) == 0
    assert {run.worker for run in of(Run, tmp_path)} == {"one", "other"}
    said = capsys.readouterr().out
    assert str(KIND) in said
    assert str(OTHER) in said


def test_without_a_fit_worker_there_is_no_hunt(tmp_path: Path) -> None:
    places = Fake(one=made)
    places.kinds["one"] = {"missing": "it does not find the suite"}
    with pytest.raises(Wrong, match="no worker can make these runs"):
        hunting(tmp_path).hunt(places)


def test_a_scheduler_that_is_gone_ends_a_hunt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = Fake(one=made)

    def leaves(job: dict[str, Any]) -> Future[dict[str, Any]]:
        places.gone = True
        return made(job)

    places.outcomes["one"] = leaves
    assert hunting(tmp_path).hunt(places) == 2
    assert "it is gone: what was going on is redone" in capsys.readouterr().out
    assert places.stopped


def test_code_that_changes_while_a_hunt_goes_on_ends_it(tmp_path: Path) -> None:
    with pytest.raises(Wrong, match="the suite has changed while it ran"):
        hunting(tmp_path).hunt(Fake(one=lambda job: made(job, OTHER)))


def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "hunt.jsonl").write_text(line(Hunt("before", "", OTHER)), encoding="utf-8")
    hunt = hunting(tmp_path)
    hunt.options.scheduler = None
    places = Fake(**{HERE: made})
    with pytest.raises(Wrong, match=r"those so far of torch 2\.4\.1.*--mixed takes both"):
        hunt.hunt(places)


def test_records_go_to_lines_and_back() -> None:
    alarm = Alarm("law", "", "VIOLATED", "out[]", "it does", {"schema": 1}, "assert False", True)
    run = Run(3, HERE, KIND, 1.5, 2, 40, 50, {"HOLDS": 1, "VIOLATED": 1}, (alarm,))
    for record in (Hunt("c", "now", KIND), Started(3), run, Died(3, "w", "gone", True)):
        assert records.parsed(line(record)) == record


def test_alarms_are_grouped_by_law_and_kind_with_the_smallest_case_first() -> None:
    def run(seed: int, *alarms: Alarm) -> Run:
        return Run(seed, HERE, KIND, 1.0, 1, 1, 1, {}, alarms)

    big, small = {"schema": 1, "of": [1, 2, 3]}, {"schema": 1}
    runs = [
        run(
            1,
            Alarm("a", "", "VIOLATED", "out[]", "", big),
            Alarm("b", "", "CRASHED", "KeyError", ""),
        ),
        run(2, Alarm("a", "", "VIOLATED", "out[]", "", small)),
        run(3, Alarm("a", "", "VIOLATED", "model.training", "", small)),
    ]
    first, *others = groups(runs)
    assert (first.first.case, first.seeds) == (small, [1, 2])
    assert shares(runs) == {"a": 3, "b": 1}
    assert [group.title for group in others] == [
        "CRASHED b: KeyError",
        "VIOLATED a: model.training",
    ]


# --- a scheduler --------------------------------------------------------------------------------


@contextmanager
def process(*arguments: str, cwd: Path = ROOT) -> Iterator[subprocess.Popen[str]]:
    """Something of Dask that runs until the end of a block."""
    started = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def worker(address: str, name: str) -> Sequence[str]:
    options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name)
    return ("distributed.cli.dask_worker", address, *options)


@pytest.mark.skipif(find_spec("distributed") is None, reason="dask.distributed is an extra")
def test_a_worker_that_is_killed_costs_its_run_alone(tmp_path: Path) -> None:
    told = tmp_path / "scheduler.json"
    file = ("--scheduler-file", str(told))
    options = (
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        str(told),
    )
    with ExitStack() as stack:
        stack.enter_context(process("distributed.cli.dask_scheduler", *options, *file))
        until(told.exists)
        until(told.read_text)
        address = json.loads(told.read_text(encoding="utf-8"))["address"]
        first = stack.enter_context(process(*worker(address, "first")))
        stack.enter_context(process(*worker(address, "second")))
        stack.enter_context(process(*worker(address, "elsewhere"), cwd=tmp_path))
        hunt = start("--runs", "3", "--scheduler", address, folder=tmp_path)
        path = tmp_path / "hunt.jsonl"
        until(lambda: path.exists() and len(of(Started, tmp_path)) >= 2)
        first.kill()
        said = ended(hunt, 0)
    runs, (died,) = of(Run, tmp_path), of(Died, tmp_path)
    assert len(runs) == 3
    assert (died.reason, died.again) == ("the worker is gone", True)
    assert died.seed in {run.seed for run in runs}
    assert died.worker not in {run.worker for run in runs if run.seed == died.seed}
    assert "it does not find the suite: start it in a checkout" in said
    assert "the worker is gone; it is made again" in said
