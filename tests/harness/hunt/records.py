"""What is kept of a hunt: lines of JSON, appended as things happen."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

import torch

from oracles.codec import CodecError, decode, encode
from strategies import devices

ROOT: Final = Path(__file__).resolve().parents[3]
#: What decides how laws are judged: the code, the register, the witnesses and the examples.
SOURCES: Final = ("oracles", "strategies", "corpus", "tests/harness", "tests/faults")
SUFFIXES: Final = (".py", ".toml", ".json")


class Wrong(Exception):  # one line for the user, not an error of ours
    """What was wrong with the options, a file or a scheduler."""


@dataclass(frozen=True)
class Kind:
    """What runs must have in common for their figures to be added up.

    code   the digest of the sources of the suite
    laws   the patterns that pick the laws; none for all
    fault  the fault that is planted, if one is
    """

    torch: str
    device: str
    device_name: str
    profile: str
    code: str
    laws: tuple[str, ...] = ()
    fault: str = ""

    def __str__(self) -> str:
        laws = f", laws {' '.join(self.laws)}" if self.laws else ""
        fault = f", with the fault {self.fault}" if self.fault else ""
        device = f"{self.device} ({self.device_name})"
        return (
            f"torch {self.torch}, {device}, profile {self.profile}, code {self.code}{laws}{fault}"
        )


def kind_here(device: str, profile: str, laws: tuple[str, ...], fault: str) -> dict[str, Any]:
    """The kind of the runs that this process can make, as plain data."""
    lacking = devices.missing(device)
    if lacking:
        return {"missing": lacking}
    made = Kind(torch.__version__, device, devices.name(device), profile, code(), laws, fault)
    found: dict[str, Any] = encode(made)
    return found


@cache
def code() -> str:
    """A digest of the sources of the suite, as they are now."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES:
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Alarm:
    """A law that failed in a run.

    kind        the kind of fact that was seen, without names and numbers
    message     what is said of it: Law, Subject, Setting, However; or the reason
    case        what broke the law or crashed it, as data; None where no case did
    script      the script of plain torch that shows it; "" where there is none
    reproduces  whether the script shows it in a fresh process
    """

    law: str
    layer: str
    status: str
    kind: str
    message: str
    case: dict[str, Any] | None = None
    script: str = ""
    reproduces: bool = False


@dataclass(frozen=True)
class Hunt:
    """The first line of a file, and a line each time that the hunt goes on."""

    command: str
    started: str
    kind: Kind


@dataclass(frozen=True)
class Started:
    """A run has begun: without a later line of the same seed, it was interrupted."""

    seed: int


@dataclass(frozen=True)
class Run:
    """A complete run: every law was judged with one seed.

    worker    where it was
    statuses  how many laws ended in each status
    """

    seed: int
    worker: str
    kind: Kind
    seconds: float
    laws: int
    subjects: int
    cells: int
    statuses: dict[str, int] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()


@dataclass(frozen=True)
class Died:
    """A worker died, or could not make the run; then the run is made again, once."""

    seed: int
    worker: str
    reason: str
    again: bool = False


Record = Hunt | Started | Run | Died
RECORDS: Final[dict[str, type[Record]]] = {
    "hunt": Hunt,
    "started": Started,
    "run": Run,
    "died": Died,
}
_NAMES: Final = {kind: name for name, kind in RECORDS.items()}


def line(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps({"record": _NAMES[type(record)]} | encode(record)) + "\n"


def parsed(text: str) -> Record:
    """The record in a line; ValueError where it is none."""
    data = json.loads(text)
    name = data.pop("record", None) if isinstance(data, dict) else None
    if name not in RECORDS:
        raise CodecError(f"it is no record of a hunt: {text[:40]!r}")
    return decode(RECORDS[name], data)


def read(path: Path) -> list[Record]:
    """The records of a file; a last line that was not written to its end is passed over."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Wrong(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Wrong(f"{path}: is not a text file in UTF-8") from None
    found = list(_records(path, text))
    if text and not (found and isinstance(found[0], Hunt)):
        raise Wrong(f"{path}: is not a file that hunt has written")
    return found


def _records(path: Path, text: str) -> Iterator[Record]:
    for number, each in enumerate(text.splitlines(keepends=True), 1):
        if each.endswith("\n"):
            try:
                yield parsed(each)
            except ValueError as error:
                raise Wrong(f"{path}: line {number} cannot be read: {error}") from None


class Store:
    """The records of a hunt, in a file if there is one."""

    def __init__(self, path: Path | None) -> None:
        self.records: list[Record] = []
        self.file: IO[str] | None = None
        if path is None:
            return
        try:
            self.file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise Wrong(f"--out {path}: cannot be written: {error.strerror}") from None
        try:  # until this process ends
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise Wrong(f"--out {path}: another hunt writes to it") from None
        try:
            self.records = read(path)
        except Wrong:
            self.close()
            raise
        complete = "".join(map(_text, path.read_text(encoding="utf-8").splitlines(keepends=True)))
        self.file.truncate(len(complete.encode()))

    def add(self, record: Record) -> None:
        """Keep a record: it is in the file when this returns."""
        self.records.append(record)
        if self.file is not None:
            self.file.write(line(record))
            self.file.flush()

    def close(self) -> None:
        """Let go of the file."""
        if self.file is not None:
            self.file.close()

    def of(self, kind: type[Any]) -> list[Any]:
        """The records of one kind, in their order."""
        return [record for record in self.records if isinstance(record, kind)]

    @property
    def runs(self) -> list[Run]:
        """The complete runs."""
        return self.of(Run)

    @property
    def died(self) -> list[Died]:
        """The runs whose worker died, or could not make them."""
        return self.of(Died)

    @property
    def lost(self) -> list[Died]:
        """Those of them that were given up."""
        return [died for died in self.died if not died.again]

    @property
    def unfinished(self) -> list[int]:
        """The seeds of runs that were begun and neither completed nor given up."""
        ended = {run.seed for run in self.runs} | {died.seed for died in self.lost}
        return [s for s in dict.fromkeys(r.seed for r in self.of(Started)) if s not in ended]


def _text(each: str) -> str:
    return each if each.endswith("\n") else ""
