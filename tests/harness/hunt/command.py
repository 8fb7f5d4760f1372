"""The command: its options, the loop, and what the user sees."""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, NoReturn

from oracles.codec import decode
from tests.harness import picking, profiles, seeds

from .places import Begun, Gone, Places, Processes, Workers
from .records import Died, Hunt, Kind, Run, Started, Store, Wrong, read
from .summary import as_markdown, as_text, evidence

#: Seconds between two looks at what has become of the runs.
PAUSE: Final = 0.2
#: Seconds between two lines of progress where they are not written over each other.
SELDOM: Final = 300.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """In one line."""
        raise Wrong(f"{message} (--help says more)")


def main(argv: Sequence[str]) -> int:
    """Hunt; exit status 0 without alarms, 1 with some, 2 for what cannot be done."""
    try:
        options = _options(argv)
        if options.summary:
            store = Store(None)
            store.records = read(options.summary)
            print(as_markdown(store), end="")
            return 0
        _validate(options)
        hunting = Hunting(options, f"python -m oracles hunt {shlex.join(argv)}".rstrip())
        places: Places = (
            Workers(options.scheduler) if options.scheduler else Processes(options.workers or 1)
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return hunting.hunt(places)
    except Wrong as wrong:
        print(f"torchlaws: {wrong}", file=sys.stderr)
        return 2
    except OSError as error:  # a disk that is full, a folder that may not be written to
        print(f"torchlaws: {error}", file=sys.stderr)
        return 2


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m oracles hunt",
        description="Judge all laws with new seeds, one run after another, until it is enough or "
        "Ctrl-C. Exit status: 0 without alarms, 1 with some, 2 for what cannot be done.",
    )
    add = parser.add_argument
    add("--runs", type=int, metavar="N", help="how many runs, those in the file included")
    add("--hours", type=float, metavar="H", help="how long; a run that is not done is redone later")
    add("--workers", type=int, metavar="N", help="runs side by side on this machine (default: 1)")
    add("--scheduler", metavar="ADDRESS", help="a Dask scheduler, whose workers make the runs")
    add("--law", action="append", default=[], help="a pattern of law names, or a theory")
    add("--device", default="cpu", help="where laws are tried (default: cpu)")
    add("--profile", default="ci", help=f"{', '.join(profiles.SUBJECTS)} (default: ci)")
    add("--out", type=Path, metavar="FILE", help="append to this file, and go on from it")
    add("--mixed", action="store_true", help="take runs of several torches, devices or codes")
    add("--violations", type=Path, default=Path("violations"), help="folder for the scripts")
    add("--law-timeout", type=float, default=1800.0, metavar="SECONDS", help="(default: 1800)")
    add("--fault", default="", help="a fault that is planted: it should be found in each run")
    add("--summary", type=Path, metavar="FILE", help="print what is in a file, as Markdown")
    return parser.parse_args(argv)


def _validate(options: argparse.Namespace) -> None:
    for name in ("runs", "hours", "workers", "law_timeout"):
        value = getattr(options, name)
        if value is not None and not (0 < value < math.inf):
            raise Wrong(f"--{name.replace('_', '-')} {value}: it must be more than 0")
    if options.workers and options.scheduler:
        raise Wrong("--workers is for this machine: with --scheduler, its workers are taken")
    wrong = picking.in_vain(options.law) or profiles.unknown(options.profile)
    if wrong:
        raise Wrong(wrong)
    if options.fault:
        from tests.faults.faults import FAULTS  # what plants is imported only where it is asked for

        if options.fault not in FAULTS:
            raise Wrong(f"no fault is named {options.fault!r} (tests/faults has them)")
    try:
        options.violations.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Wrong(f"--violations {options.violations}: {error.strerror}") from None


@dataclass
class Going:
    """A run that goes on: its job, and where it is awaited."""

    job: dict[str, Any]
    begun: Begun
    laws: int = 0
    alarms: int = 0


class Hunting:
    """A hunt that goes on."""

    def __init__(self, options: argparse.Namespace, command: str) -> None:
        self.options = options
        self.command = command
        self.store = Store(options.out)
        self.laws = picking.tried(options.law)
        #: What all runs must be of, unless they may be mixed.
        self.kind: Kind | None = next((hunt.kind for hunt in self.store.of(Hunt)), None)
        #: Of each worker; None where it is refused.
        self.kinds: dict[str, Kind | None] = {}
        self.headed = False
        self.going: list[Going] = []
        #: The seeds of runs that are to be made again, and how often each was begun here.
        self.again = self.store.unfinished
        self.attempts: Counter[int] = Counter()
        self.before = len(self.store.runs)
        self.start = time.monotonic()
        self.shown = 0.0

    def hunt(self, places: Places) -> int:
        """Make runs until there are enough, the time is up, or the user has seen enough."""
        cut_off = False
        try:
            self._loop(places)
        except KeyboardInterrupt:
            self._say("interrupted: what was going on is redone when the hunt goes on")
        except Gone as gone:
            self._say(f"{gone}: what was going on is redone when the hunt goes on")
            cut_off = True
        finally:
            places.stop()
            self._clear()
            self.store.close()
        print(as_text(self.store, self.options.violations))
        if cut_off:
            return 2
        return 1 if self.store.lost or any(run.alarms for run in self.store.runs) else 0

    def _loop(self, places: Places) -> None:
        while not self._late:
            self._look(places)
            workers = places.workers()
            for worker in workers:
                self._meet(places, worker)
            self._fill(places, workers)
            if not self.going and not self._more:
                return
            self._tell(places)
            time.sleep(PAUSE)

    @property
    def _late(self) -> bool:
        hours = self.options.hours
        return hours is not None and time.monotonic() - self.start > hours * 3600

    @property
    def _more(self) -> bool:
        """Whether a run is still to be begun."""
        made = len(self.store.runs) + len(self.store.lost) + len(self.going)
        return self.options.runs is None or made < self.options.runs

    def _meet(self, places: Places, worker: str) -> None:
        """Ask a worker that is new what it is, and refuse it where its runs are of another kind."""
        if worker in self.kinds:
            return
        options = self.options
        said = places.kind(
            worker, options.device, options.profile, tuple(options.law), options.fault
        )
        self.kinds[worker] = None
        if "missing" in said:
            self._refuse(worker, said["missing"])
            return
        kind = decode(Kind, said)
        if self.kind is not None and kind != self.kind and not options.mixed:
            self._refuse(worker, f"runs there are of {kind}, those so far of {self.kind}")
            return
        self.kinds[worker] = kind
        self.kind = self.kind or kind
        if not self.headed:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            self.store.add(Hunt(self.command, now, kind))
            self.headed = True

    def _refuse(self, worker: str, why: str) -> None:
        more = " (--mixed takes both)" if self.kind is not None else ""
        if not self.options.scheduler:
            raise Wrong(f"{worker}: {why}{more}")
        self._say(f"refused: {worker}: {why}{more}")

    def _fill(self, places: Places, workers: Any) -> None:
        """Begin runs wherever there is room."""
        taken = Counter(going.job["worker"] for going in self.going)
        fit = [w for w in workers if self.kinds.get(w) is not None]
        if workers and not fit and not self.going:
            raise Wrong("no worker can make these runs")
        for worker in fit:
            for _ in range(workers[worker] - taken[worker]):
                if self._more:
                    self._begin(places, worker)

    def _begin(self, places: Places, worker: str) -> None:
        seed = self.again.pop(0) if self.again else seeds.drawn()
        self.attempts[seed] += 1
        options = self.options
        job = {
            "name": f"torchlaws-{seed}-{self.attempts[seed]}",
            "seed": seed,
            "worker": worker,
            "device": options.device,
            "profile": options.profile,
            "patterns": options.law,
            "laws": self.laws,
            "timeout": options.law_timeout,
            "fault": options.fault,
        }
        if self.attempts[seed] == 1:
            self.store.add(Started(seed))
        self.going.append(Going(job, places.begin(job)))

    def _look(self, places: Places) -> None:
        """Take the runs that are done, and those whose worker is gone."""
        workers = places.workers()
        for going in list(self.going):
            if going.begun.done():
                self.going.remove(going)
                try:
                    run = decode(Run, going.begun.result())
                except Exception as error:  # whatever kept the run from being made is reported
                    self._died(going, str(error).splitlines()[0] if str(error) else repr(error))
                    continue
                self._made(run)
            elif going.job["worker"] not in workers:
                self.going.remove(going)
                going.begun.cancel()
                self._died(going, "the worker is gone")

    def _made(self, run: Run) -> None:
        if run.kind != self.kind and not self.options.mixed:
            raise Wrong(f"the suite has changed while it ran: it is of {run.kind} now")
        self.store.add(run)
        for alarm in run.alarms:
            where = evidence(self.options.violations, run, alarm) or alarm.message.splitlines()[0]
            law = f"{alarm.law} of {alarm.layer}" if alarm.layer else alarm.law
            self._say(f"{alarm.status} {law} (seed {run.seed}): {where}")
        self.shown = 0.0

    def _died(self, going: Going, why: str) -> None:
        seed, worker = going.job["seed"], going.job["worker"]
        again = self.attempts[seed] == 1
        self.store.add(Died(seed, worker, why, again))
        then = "it is made again" if again else "it is given up"
        self._say(f"the run of seed {seed} on {worker} was lost: {why}; {then}")
        if again:
            self.again.append(seed)

    def _tell(self, places: Places) -> None:
        """One line: which run, laws, alarms, seconds left."""
        far = places.progress()
        for going in self.going:
            going.laws, going.alarms = far.get(going.job["name"], (going.laws, going.alarms))
        if sys.stderr.isatty():
            print(f"\r\x1b[K{self._progress()}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.shown > SELDOM or not self.shown:
            print(self._progress(), file=sys.stderr, flush=True)
            self.shown = time.monotonic()

    def _progress(self) -> str:
        done = len(self.store.runs)
        wanted = f" of {self.options.runs:,}" if self.options.runs else ""
        laws = sum(going.laws for going in self.going)
        alarms = sum(len(run.alarms) for run in self.store.runs)
        alarms += sum(going.alarms for going in self.going)
        left = self._left(laws)
        seconds = f", {left:,.0f} s left" if left is not None else ""
        if not self.going:
            return f"run {done + 1:,}{wanted}: no worker is there{seconds}"
        number = f"{done + 1:,}" + (f" to {done + len(self.going):,}" if self.going[1:] else "")
        total = f"{len(self.laws) * len(self.going):,}"
        return f"run {number}{wanted}: {laws:,} of {total} laws, {alarms:,} alarms{seconds}"

    def _left(self, laws: int) -> float | None:
        """Seconds until the time is up or the runs are made, at the speed of those so far."""
        spent = time.monotonic() - self.start
        known = []
        if self.options.hours is not None:
            known.append(self.options.hours * 3600 - spent)
        made = len(self.store.runs) - self.before + laws / len(self.laws)
        if self.options.runs is not None and made:
            known.append(spent / made * (self.options.runs - self.before - made))
        return max(0.0, min(known)) if known else None

    def _say(self, text: str) -> None:
        self._clear()
        print(text, flush=True)

    def _clear(self) -> None:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
