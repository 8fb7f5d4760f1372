"""One run: the processes in which its laws are judged, and what is to be done when one dies.

A law that kills its process, or does not end, costs no other: it is an alarm of its own, and
another process goes on with the next law.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from oracles.codec import encode
from oracles.coverage import from_text
from oracles.results import Status
from oracles.trial import kind_of
from tests.floor import Floor
from tests.harness.coverage import CASES
from tests.harness.options import label
from tests.harness.profiles import SUBJECTS

from .records import ROOT, Alarm

#: Seconds until a process must have imported torch and the suite.
IMPORTED: Final = 300.0
#: A law that looks at no clock, as it is within one case, is given this many times as long.
PATIENCE: Final = 2.0

#: What stands in the place of a law where a run does not reach its floor.
FLOOR: Final = "coverage"

#: The runs of this process that go on now, by the name that was given to them.
RUNNING: Final[dict[str, Drive]] = {}


class Failed(Exception):
    """A run could not be made here."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Make a run; its record as plain data. Raises Failed."""
    drive = RUNNING[job["name"]] = Drive(job)
    try:
        return drive.run()
    finally:
        del RUNNING[job["name"]]


def progress() -> dict[str, tuple[int, int]]:
    """How many laws were judged, and how many of them are alarms, in each run that goes on."""
    return {name: (drive.done, len(drive.alarms)) for name, drive in list(RUNNING.items())}


def stop() -> None:
    """End all runs of this process."""
    for drive in list(RUNNING.values()):
        drive.stop()


class Drive:
    """A run that goes on."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.done = 0
        self.alarms: list[Alarm] = []
        self.statuses: Counter[str] = Counter()
        self.figures: Counter[str] = Counter()
        self.floor = Floor()
        self.kind: dict[str, Any] = {}
        self.ready = False
        self.stopped = threading.Event()

    def stop(self) -> None:
        """End it: what was judged so far is lost."""
        self.stopped.set()

    def run(self) -> dict[str, Any]:
        """Judge all laws, in as many processes as it takes."""
        start = time.monotonic()
        laws = self.job["laws"]
        with tempfile.TemporaryDirectory(prefix="torchlaws-") as made:
            folder = Path(made).resolve()
            while self.done < len(laws):
                self._with_a_process(folder)
        self.alarms += self._short()
        return {
            "seed": self.job["seed"],
            "worker": self.job["worker"],
            "kind": self.kind,
            "seconds": round(time.monotonic() - start, 1),
            "laws": len(laws),
            "subjects": self.figures["subjects"],
            "cells": self.figures["cells"],
            "statuses": dict(self.statuses),
            "alarms": encode(self.alarms),
        }

    def _short(self) -> list[Alarm]:
        """An alarm where a run of all laws does not reach its floor, as in the main job."""
        if self.job["patterns"] or SUBJECTS[self.job["profile"]] < CASES:
            return []
        status, lines = Status.NOT_COVERED.value, self.floor.short([self.job["device"]])
        return [Alarm(FLOOR, "", status, line.partition(";")[0], line) for line in lines]

    def _with_a_process(self, folder: Path) -> None:
        """Judge the laws that are left, until they are or the process ends."""
        self.ready = False
        errors = folder / "errors.txt"
        with errors.open("w", encoding="utf-8") as said:
            child = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", f"{__package__}.child"],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                start_new_session=True,  # what interrupts a hunt must not end its processes first
            )
        try:
            ended = self._watch(child, folder)
        finally:
            _kill(child)
        if self.stopped.is_set():
            raise Failed("it was stopped")
        if ended is not None and not self.ready:
            text = errors.read_text(encoding="utf-8", errors="replace").splitlines()
            last = next((each for each in reversed(text) if each.strip()), "")
            raise Failed(f"{ended[1]} before it judged anything: {last}")
        if ended is not None:
            self._died(*ended, folder)

    def _watch(self, child: subprocess.Popen[str], folder: Path) -> tuple[Status, str] | None:
        """Take what the process says; how and why it ended too early, or None."""
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_read, args=(child, lines), daemon=True).start()
        left = self.job["laws"][self.done :]
        assert child.stdin is not None
        with suppress(BrokenPipeError):  # it ended at once: that is seen below
            child.stdin.write(json.dumps(self.job | {"laws": left, "folder": str(folder)}) + "\n")
            child.stdin.flush()
        allowed, since = IMPORTED, time.monotonic()
        while self.done < len(self.job["laws"]) and not self.stopped.is_set():
            try:
                text = lines.get(timeout=0.2)
            except queue.Empty:
                if time.monotonic() - since > allowed:
                    return Status.TIMED_OUT, f"not done in {allowed:g} s, and it was ended"
                continue
            if not text.endswith("\n"):  # the end, or a line that was cut off by it
                return Status.CRASHED, f"the process ended with {_ending(child.wait())}"
            self._take(json.loads(text))
            allowed, since = self.job["timeout"] * PATIENCE, time.monotonic()
        return None

    def _take(self, said: dict[str, Any]) -> None:
        if "ready" in said:
            self.kind, self.ready = said["ready"], True
            return
        self.statuses[said["status"]] += 1
        self.floor.met |= from_text(said["met"])
        self.figures.update(subjects=said["subjects"], cells=said["cells"])
        if said["alarm"] is not None:
            self.alarms.append(Alarm(**said["alarm"]))
        self.done += 1

    def _died(self, status: Status, why: str, folder: Path) -> None:
        """The law that was being judged when the process ended is an alarm."""
        name, layer = self.job["laws"][self.done]
        running = folder / f"{label(name, layer, self.job['device'])}.json"
        text = running.read_text(encoding="utf-8") if running.exists() else ""
        case = json.loads(text) if text else None
        self.alarms.append(Alarm(name, layer, status.value, kind_of(why), why, case))
        self.statuses[status.value] += 1
        self.done += 1


def _read(child: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert child.stdout is not None
    for each in child.stdout:
        lines.put(each)
    lines.put("")


def _ending(code: int) -> str:
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


def _kill(child: subprocess.Popen[str]) -> None:
    """End the process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    with suppress(BrokenPipeError):
        assert child.stdin is not None
        child.stdin.close()
