"""A trial: one law on one device, judged on one drawn case after another.

It counts what was judged, knows which violations the register explains, and notes
the global state of torch before and after. It draws nothing: give it cases.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Final
from zlib import crc32

import torch

from . import subject
from .case import Case, read
from .coverage import Combination, met_by
from .deviations import CORPUS, Deviation, Register
from .history import History, shrunk
from .law import LAWS, Law, NotApplicable, OutOfScope, Unsupported, Violation
from .play import Played, played
from .relations import Place, Traits, comparisons, counting_traits, place_of, reporting
from .rounding import can_round, rounded
from .sample import Nesting, Sample
from .setting import Setting, covering, fold
from .subject import Layer, Subject, lacking


@dataclass
class Tally:
    """What was judged.

    subjects        drawn cases with at least one cell judged
    cells           one law judged on one subject in one setting
    out_of_scope    cells of which the law does not speak
    unsupported     drawn cases that this build of torch cannot run
    deviating       cells that broke the law as the register says, by deviation
    excused         cells in which the register explained some fact
    rounded         cells in which some values differed by rounding
    ulps            the largest of these differences, in units in the last place
    sampled         cells for which it was looked up what the register could explain
    excusable       of these, cells in which the register could explain some fact
    not_applicable  why the law does not speak of this device, where it does not
    settings        cells by each part of their setting: mode, grad mode, what is frozen
    traits          of layers, what their traits claimed and what they showed
    reached         of histories: kinds of steps, pairs of them, refusals; see Played.reached
    met             of modules: how their layers were called, see coverage
    """

    subjects: int = 0
    cells: int = 0
    out_of_scope: int = 0
    unsupported: int = 0
    deviating: Counter[str] = field(default_factory=Counter)
    excused: int = 0
    rounded: int = 0
    ulps: float = 0.0
    sampled: int = 0
    excusable: int = 0
    not_applicable: str = ""
    settings: Counter[str] = field(default_factory=Counter)
    traits: Traits = field(default_factory=Traits)
    reached: set[tuple[str, ...]] = field(default_factory=set)
    met: set[Combination] = field(default_factory=set)

    def reaches(self) -> dict[str, int]:
        """How many kinds of steps, pairs of them and refusals were reached by histories."""
        sizes = Counter(map(len, self.reached))
        return {what: sizes[n] for n, what in enumerate(REACHED, 1) if sizes[n]}


#: What histories reach: steps, pairs of steps, and refusals.
REACHED: Final = ("kinds of steps", "pairs of kinds", "refusals")


class Leak(AssertionError):
    """A case left the global state of torch changed: not a verdict, but a crash."""


@dataclass
class Trial:
    """One law on one device: what was tried so far, and the last violation.

    layer       the class of torch.nn that it is tried on, for a law of layers
    everywhere  judge in every setting of which the law speaks, whatever the law says
    tried       how many cells were tried, those out of scope included
    known       the differences of the subject at hand that were measured
    """

    law: Law
    device: str
    register: Register
    layer: str = ""
    everywhere: bool = False
    tally: Tally = field(default_factory=Tally)
    violation: tuple[Case, Violation] | None = None
    tried: int = 0
    known: list[Measured] = field(default_factory=list)

    def judge(self, drawn: Case) -> None:
        """Judge a case in settings of which the law speaks; raise Violation.

        Raises Unsupported where this build of torch cannot run the case, or would end the process.
        """
        fatal = self.register.fatal(drawn)
        if fatal is not None:
            self.tally.unsupported += 1
            raise Unsupported(f"it is not run here: {fatal.name}")
        before, generator = global_state(), torch.get_rng_state()
        judged = 0
        try:
            judged = self._judge(drawn)
        except Unsupported:
            self.tally.unsupported += 1
            raise
        except Exception:
            forget()  # what broke is tried again from the start, or it may not be seen to be flaky
            raise
        finally:
            torch.set_rng_state(generator)
            leak = _put_back(before)
        if leak:
            raise Leak(leak)
        self.tally.subjects += bool(judged)

    def _judge(self, drawn: Case) -> int:
        judged: list[Setting | None] = []
        self.known.clear()
        for setting, quantities in cells(self.law, drawn, judged, self.everywhere):
            made = comparisons()
            cell = Cell(self, drawn, setting, quantities)
            try:
                cell.judge()
            except OutOfScope as reason:
                self.tally.out_of_scope += 1
                if isinstance(reason, NotApplicable):
                    self.tally.not_applicable = str(reason)
                continue
            except Violation as violation:
                self.violation = (cell.case, violation)
                raise
            except Unsupported:
                raise
            except Exception as error:
                if lacking(error):
                    raise Unsupported(str(error)) from error
                raise
            if comparisons() == made and not cell.excused:
                self.tally.out_of_scope += 1  # it had nothing to compare: it judged nothing
                continue
            judged.append(setting)
            cell.count()
            if setting is not None:
                self.tally.settings.update(_parts(setting))
            for given in quantities.values():
                if isinstance(given, Played):
                    self.tally.reached |= given.reached
                elif setting is not None and isinstance(given, Subject):
                    self.tally.met |= met_by(given, setting)
        self.tally.cells += len(judged)
        return len(judged)


#: Of one in so many cells it is looked up what the register could explain. A prime: the cells of
#: a subject come in the order of its settings, which are often a power of two.
SAMPLED: Final = 101


@dataclass(frozen=True)
class Measured:
    """A difference of a subject that was measured: settings that round alike share it.

    size  in units in the last place; None where it is not one of rounding
    """

    violation: Violation
    size: float | None

    def is_of(self, other: Violation) -> bool:
        """Whether the other one is of the same values."""
        pairs = (
            (self.violation.observed, other.observed),
            (self.violation.expected, other.expected),
        )
        return all(a.expression == b.expression and _equal(a.value, b.value) for a, b in pairs)


def _equal(a: Any, b: Any) -> bool:
    dense = all(isinstance(t, torch.Tensor) and not t.is_sparse for t in (a, b))
    return dense and (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(a, b)


class Cell:
    """One law judged on one subject in one setting.

    excused  the deviations that explain what was seen
    ulps     the largest difference of rounding; None where there was none
    """

    def __init__(
        self, trial: Trial, drawn: Case, setting: Setting | None, quantities: dict[str, Any]
    ) -> None:
        self.trial = trial
        self.drawn = drawn
        self.setting = setting
        self.quantities = quantities
        self.excused: set[str] = set()
        self.ulps: float | None = None
        self.compared: set[str] | None = None
        if trial.tried % SAMPLED == 0:
            self.compared = set()
        trial.tried += 1

    @cached_property
    def case(self) -> Case:
        """The drawn case in this setting alone."""
        return replace(self.drawn, setting=self.setting)

    def judge(self) -> None:
        """Judge it; raise the first violation that nobody explains."""
        compare = self._note if self.compared is not None else None
        with (
            counting_traits(self.trial.tally.traits),
            reporting(self.explains, self.rounds, compare),
        ):
            try:
                self.trial.law.judge(**self.quantities)
            except Violation as violation:
                # What is raised past the verbs, by a step of a run, was not asked about yet.
                if violation.asked or not self.explains(violation):
                    raise

    def explains(self, violation: Violation) -> bool:
        """Whether the register describes this fact, or it is one of rounding."""
        violation.asked = True
        known = self.trial.register.explaining(self.case, violation)
        if known is not None:
            self.excused.add(known.name)
            return True
        return self.rounds(violation)

    def rounds(self, violation: Violation) -> bool:
        """Whether values differ by rounding alone."""
        if not can_round(self.quantities):
            return False
        known = self.trial.known
        found = next((k for k in known if k.is_of(violation)), None)
        if found is None:
            size = rounded(self.trial.law, self.quantities, place_of(violation), violation)
            found = Measured(violation, size)
            known.append(found)
        size = found.size
        if size is not None:
            self.ulps = max(size, self.ulps or 0.0)
        return size is not None

    def _note(self, place: Place, observed: Any, expected: Any) -> None:
        assert self.compared is not None
        self.compared.add(place[1])

    def count(self) -> None:
        """Count it in the tally of the trial."""
        tally = self.trial.tally
        tally.deviating.update(self.excused)
        tally.excused += bool(self.excused)
        if self.ulps is not None:
            tally.rounded += 1
            tally.ulps = max(tally.ulps, self.ulps)
        if self.compared is not None:
            tally.sampled += 1
            could = self.trial.register.explainable(self.case)
            tally.excusable += bool(self.excused) or any(c in could for c in self.compared)


def cells(
    law: Law, drawn: Case, judged: Sequence[Setting | None], everywhere: bool = False
) -> Iterator[tuple[Setting | None, dict[str, Any]]]:
    """Each cell of a drawn case: its setting, and what the law is given.

    judged      the settings that were judged so far, as the caller notes down
    everywhere  give all settings of which the law speaks, not only some that cover them
    """
    given = _quantities(law, drawn)
    if not law.over_settings:
        yield None, given
        return
    (name,) = (n for n, kind in law.quantifiers.items() if kind is Setting)
    assert drawn.specimen is not None
    lattice = drawn.specimen.lattice if drawn.setting is None else [drawn.setting]
    spoken_of = [setting for setting in lattice if law.when(setting)]
    turn = crc32(drawn.specimen.key.encode())
    each = everywhere or law.everywhere
    for setting in spoken_of if each else _some(spoken_of, turn, judged):
        yield setting, given | {name: setting}


def _some(
    settings: Sequence[Setting], turn: int, judged: Sequence[Setting | None]
) -> Iterator[Setting]:
    """Settings that cover these, and others in the place of those that turn out of scope."""
    while settings:
        tried, before = covering(settings, turn), len(judged)
        yield from tried
        if len(judged) == before + len(tried):
            return
        met = frozenset[Hashable]().union(*(s.pairs for s in judged if s is not None))
        settings = [s for s in settings if s not in tried and not s.pairs <= met]


@lru_cache(maxsize=2048)
def _parts(setting: Setting) -> tuple[str, ...]:
    """What a setting counts as."""
    state = fold(setting.grad)
    return (
        "train" if setting.training else "eval",
        "recording" if state.recording else "inference mode" if state.inference else "no grad",
        "frozen" if setting.frozen else "not frozen",
    )


def _quantities(law: Law, drawn: Case) -> dict[str, Any]:
    makers: dict[type, Callable[[], Any]] = {
        Subject: lambda: Subject.of(_given(drawn.specimen, law, "specimen"), drawn.device),
        Layer: lambda: Layer.of(_given(drawn.specimen, law, "specimen"), drawn.device),
        Sample: lambda: replace(_given(drawn.sample, law, "sample"), device=drawn.device),
        Nesting: lambda: _given(drawn.nesting, law, "nesting"),
        Played: lambda: played(_given(drawn.history, law, "history"), drawn.device),
    }
    return {n: makers[kind]() for n, kind in law.quantifiers.items() if kind is not Setting}


def _given(value: Any, law: Law, what: str) -> Any:
    if value is None:
        raise ValueError(f"a case of law {law.name} needs a {what}")
    return value


def replay(case: Case) -> Violation | None:
    """Judge a stored case: its first violation, known or not, or None where the law holds.

    Raises OutOfScope where no cell of it is in the law's scope, Unsupported where torch
    cannot run it.
    """
    return next(iter(violations(case)), None)


def violations(case: Case) -> list[Violation]:
    """Judge a stored case: every fact that breaks the law, known to the register or not.

    Raises OutOfScope where no cell of it is in the law's scope, Unsupported where torch
    cannot run it.
    """
    law, judged = LAWS[case.law], 0
    found: list[Violation] = []

    def note(violation: Violation) -> bool:
        found.append(violation)
        return True

    for _, quantities in cells(law, case, (), everywhere=True):
        made = comparisons()
        with counting_traits(Traits()), reporting(note):
            try:
                law.judge(**quantities)
            except Violation as violation:
                found.append(violation)
        judged += comparisons() > made
    if not judged and not found:
        raise OutOfScope(f"{law.name} does not speak of this setting")
    return found


def smallest(
    case: Case, shown: Violation, wanted: Callable[[Case, Violation], bool]
) -> tuple[Case, Violation]:
    """The smallest case that can be made of one with a history, and the violation it shows.

    shown   the violation of the case: a smaller one shows the same kind of fact
    wanted  says of a smaller case and its violation whether they show what is to be shown
    """

    def shows(history: History) -> Violation | None:
        candidate = replace(case, history=history)
        try:
            violation = replay(candidate)
            alike = violation is not None and _kind_of_fact(violation) == _kind_of_fact(shown)
            return violation if violation and alike and wanted(candidate, violation) else None
        except Exception:  # no history any more: a name is used before it is made
            return None
        finally:
            forget()

    assert case.history is not None
    # Twice: what depends on when something is collected may show once and not again.
    history = shrunk(case.history, lambda h: all(shows(h) is not None for _ in range(2)))
    violation = shows(history)
    if violation is None:  # it does not show again: a flake is handed on as it was found
        return case, shown
    return replace(case, history=history), violation


def _kind_of_fact(violation: Violation) -> tuple[str, type]:
    """What was seen, without the names of things, and the type of what was expected."""
    return kind_of(violation.observed.expression), type(violation.expected.value)


def kind_of(text: str) -> str:
    """What a text is about, without names and numbers."""
    return re.sub(r"\d+|'[^']*'", "", text)


def witnesses(
    law: Law, device: str, register: Register, layer: str = ""
) -> Iterator[tuple[Deviation, Case]]:
    """The witnesses that must still break the law on this device and torch, with this layer."""
    for deviation in register.of(law.name, device):
        for case in deviation.cases:
            if case.law == law.name and (not layer or layer == case.layer):
                yield deviation, replace(case, device=device)


def examples(law: Law, device: str, layer: str = "") -> Iterator[Case]:
    """Cases that chance seldom draws, to be judged before all others: corpus/examples/LAW."""
    for path in sorted((CORPUS / "examples" / law.name).glob("*.json")):
        case = read(path)
        if not law.over_layers or case.layer == layer:
            yield replace(case, device=device)


def global_state() -> dict[str, Any]:
    """What a case must leave as it was. Randomness is put back by the trial itself."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    return {
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.is_inference_mode_enabled()": torch.is_inference_mode_enabled(),
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.are_deterministic_algorithms_enabled()": deterministic,
        "torch.is_autocast_enabled()": torch.is_autocast_enabled(),
        "torch.is_anomaly_enabled()": torch.is_anomaly_enabled(),
    }


def forget() -> None:
    """Keep no subject and no history: what they remember is not of the torch that is there now."""
    subject.forget()
    played.cache_clear()


def _put_back(before: dict[str, Any]) -> str:
    """What of the global state is not what it was, after putting back what can be."""
    after = global_state()
    if after == before:
        return ""
    changed = {what: value for what, value in after.items() if value != before[what]}
    torch.set_grad_enabled(before["torch.is_grad_enabled()"])
    torch.set_default_dtype(before["torch.get_default_dtype()"])
    torch.set_num_threads(before["torch.get_num_threads()"])
    torch.use_deterministic_algorithms(before["torch.are_deterministic_algorithms_enabled()"])
    return "; ".join(f"the case left {k} = {v}, it was {before[k]}" for k, v in changed.items())
