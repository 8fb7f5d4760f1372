"""What the user sees and keeps: the table, the messages, the results file.

Each test hands over its result as a property of its report, so that the parts of all
xdist workers are joined; a worker that dies leaves the case that killed it in a file.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from oracles import VERSION
from oracles.codec import decode, encode
from oracles.law import LAWS
from oracles.results import SCHEMA, LawResult, Results, Status, table, write
from strategies import devices
from tests.floor import Floor
from tests.harness import picking, seeds
from tests.harness.coverage import is_large
from tests.harness.evidence import kept_case, mention
from tests.harness.options import Options, label
from tests.harness.seeds import Seed

PROPERTY = "torchlaws"
SEED = pytest.StashKey[Seed]()


def patterns(config: pytest.Config) -> list[str]:
    """What --law picks; nothing for all laws."""
    return config.getoption("--law") or []


def tried(config: pytest.Config) -> list[tuple[str, str, str]]:
    """The law, the layer if it is one of layers, and the device of each test."""
    devices = dict.fromkeys(config.getoption("--device") or ["cpu"])
    laws = picking.tried(patterns(config))
    return [(*law, device) for device in devices for law in laws]


def profile(config: pytest.Config) -> str:
    """The name of the Hypothesis profile in force."""
    return config.getoption("--hypothesis-profile", None) or "dev"


def validate(config: pytest.Config) -> None:
    """Refuse a pattern that matches no law, a seed that is none, a file that cannot be written."""
    in_vain = picking.in_vain(patterns(config))
    if in_vain:
        raise pytest.UsageError(in_vain)
    given = config.getoption("--seed")
    text = os.environ.get("TORCHLAWS_SEED", "") if given is None else given
    try:
        config.stash[SEED] = seeds.chosen(text)
    except ValueError:
        raise pytest.UsageError(f"seed {text!r} is neither a number nor {seeds.RANDOM}") from None
    results = config.getoption("--results")
    if results:
        _writable(Path(results))


def _writable(path: Path) -> None:
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise pytest.UsageError(f"--results {path}: cannot be written: {error.strerror}") from None


def log_folder(config: pytest.Config) -> Path:
    """Where the case under trial is written down before it is run, for all workers."""
    given = getattr(config, "workerinput", None)
    if given is not None:
        return Path(given["torchlaws_log"])
    return Path(config.getoption("--violations")).resolve() / f".running-{os.getpid()}"


def options(config: pytest.Config) -> Options:
    """How the laws of this run are judged."""
    # Where a fault is planted, its script shows it with the fault alone.
    planted = config.pluginmanager.has_plugin("tests.faults.plant")
    return Options(
        seed=seed(config).value,
        violations=Path(config.getoption("--violations")),
        running=log_folder(config),
        timeout=float(config.getoption("--law-timeout")),
        through=("-m", "tests.faults.plant") if planted else (),
    )


class Reporter:
    """Collects the results of all workers, prints the table and writes the file."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.results: dict[str, LawResult] = {}
        self.floor = Floor()
        self.start = time.time()
        self.is_worker = hasattr(config, "workerinput")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Hand to each worker where to log, and the seed of the run."""
        node.workerinput["torchlaws_log"] = str(log_folder(self.config))
        node.workerinput["torchlaws_seed"] = encode(seed(self.config))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the result out of a report; without one, the worker died."""
        if self.is_worker or "test_law[" not in report.nodeid:
            return
        self.floor.take(report)
        given = dict(report.user_properties).get(PROPERTY)
        if given is not None:
            self.results[report.nodeid] = decode(LawResult, json.loads(str(given)))
        elif report.failed and report.nodeid not in self.results:
            self.results[report.nodeid] = self._crashed(report)

    def _crashed(self, report: pytest.TestReport) -> LawResult:
        labels = {label(*what): what for what in tried(self.config)}
        name, layer, device = labels[report.nodeid.partition("[")[2].rstrip("]")]
        reason = str(report.longrepr).strip().splitlines()[-1]
        reason += mention(kept_case(options(self.config), name, layer, device))
        return _unjudged(name, layer, device, Status.CRASHED, reason)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write what was measured, also of a run that was interrupted. Fail below the floor."""
        if self.is_worker:
            return
        if session.exitstatus == pytest.ExitCode.OK and self.short():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        path = self.config.getoption("--results")
        if path and self.results:
            write(Path(path), self.joined())
        shutil.rmtree(log_folder(self.config), ignore_errors=True)

    def short(self) -> list[str]:
        """Why a run of all laws does not reach its floor; nothing where it does, or need not."""
        chosen = self.config.getoption("--law") or not is_large()
        names = self.config.getoption("--device") or ["cpu"]
        if chosen or any(r.status == "NOT_RUN" for r in self.joined().laws):
            return []
        return self.floor.short(names)

    def joined(self) -> Results:
        """The results of all workers, in the order of the laws."""
        coverage = self.floor.coverage()
        names = self.config.getoption("--device") or ["cpu"]
        found = {(r.name, r.layer, r.device): r for r in self.results.values()}
        laws = [found[what] if what in found else _not_run(*what) for what in tried(self.config)]
        laws.sort(key=lambda law: (law.theory, law.name, law.layer, law.device))
        return Results(
            schema=SCHEMA,
            suite=VERSION,
            torch=str(torch.__version__),
            python=platform.python_version(),
            hypothesis=hypothesis.__version__,
            platform=platform.platform(terse=True),
            device=", ".join(names),
            device_name=", ".join(devices.name(d) for d in names),
            profile=profile(self.config),
            seed=seed(self.config).value,
            started=datetime.fromtimestamp(self.start, timezone.utc).isoformat(timespec="seconds"),
            seconds=round(time.time() - self.start, 1),
            laws=tuple(laws),
            coverage=coverage.as_data() if coverage else {},
        )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table by theory, and one line for each law that neither holds nor deviates."""
        if not self.results:
            return
        terminalreporter.section("laws")
        laws = self.joined().laws
        terminalreporter.write_line(table(laws))
        quiet = ("HOLDS", "DEVIATES", "NOT_RUN")
        others = [r for r in laws if r.status not in quiet]
        for result in others:
            why = result.reason or (result.violation or {}).get("message", "").strip()
            script = (result.violation or {}).get("script", "")
            what = f"{result.name} of {result.layer}" if result.layer else result.name
            line = f"{result.status} {what} on {result.device}"
            terminalreporter.write_line(f"{line}: {script or why.splitlines()[0] if why else ''}")
        for result in laws:
            if result.reached:
                reached = ", ".join(f"{count:,} {what}" for what, count in result.reached.items())
                line = f"{result.name}: {result.subjects:,} histories reached {reached}"
                terminalreporter.write_line(line)
        coverage = self.floor.coverage()
        if coverage is not None:
            terminalreporter.write_line(str(coverage))
        for line in self.short():
            terminalreporter.write_line(f"NOT_COVERED: {line}")
        left = sum(r.status == "NOT_RUN" for r in laws)
        if left:
            terminalreporter.write_line(f"NOT_RUN: {left} laws were picked and not tried")
        path = self.config.getoption("--results")
        if path:
            terminalreporter.write_line(f"results: {path}")


def _unjudged(name: str, layer: str, device: str, status: Status, reason: str) -> LawResult:
    law = LAWS[name]
    told = (law.name, law.theory, law.sentence, law.norms, device)
    return LawResult(*told, status.value, reason=reason, layer=layer)


def _not_run(name: str, layer: str, device: str) -> LawResult:
    """What is said of a law that was picked and not tried: the run was stopped before."""
    return _unjudged(name, layer, device, Status.NOT_RUN, "the run ended before it was tried")


def seed(config: pytest.Config) -> Seed:
    """The seed of the run, the same in every worker."""
    given = getattr(config, "workerinput", None)
    return config.stash[SEED] if given is None else decode(Seed, given["torchlaws_seed"])
