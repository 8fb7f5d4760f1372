"""What a hunt has found: alarms by law and kind of fact, and figures; as text and as Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.harness.options import label

from .records import Alarm, Hunt, Kind, Run, Store

#: How much of a kind of fact is shown on one line.
WIDTH: Final = 100


@dataclass(frozen=True)
class Group:
    """The alarms of one law that are of one kind, with their runs; the smallest case first."""

    met: tuple[tuple[Run, Alarm], ...]

    @property
    def first(self) -> Alarm:
        """The alarm with the smallest case."""
        return self.met[0][1]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs that met it."""
        return sorted({run.seed for run, _ in self.met})

    @property
    def title(self) -> str:
        """The status, the law, its layers, and the kind of fact, on one line."""
        layers = sorted({alarm.layer for _, alarm in self.met} - {""})
        law = f"{self.first.law} of {', '.join(layers)}" if layers else self.first.law
        kind = " ".join(self.first.kind.split())
        shown = kind if len(kind) <= WIDTH else f"{kind[:WIDTH]}..."
        return f"{self.first.status} {law}: {shown}"


def groups(runs: Iterable[Run]) -> list[Group]:
    """The alarms of runs by law, status and kind of fact: what was met most often first."""
    found: dict[tuple[str, ...], list[tuple[Run, Alarm]]] = {}
    for run in runs:
        for alarm in run.alarms:
            found.setdefault((alarm.law, alarm.status, alarm.kind), []).append((run, alarm))
    made = [Group(tuple(sorted(met, key=_size))) for met in found.values()]
    return sorted(made, key=lambda group: (-len(group.met), group.title))


def _size(met: tuple[Run, Alarm]) -> tuple[bool, int]:
    _, alarm = met
    return alarm.case is None, len(json.dumps(alarm.case))


def shares(runs: Sequence[Run]) -> dict[str, int]:
    """For each law with an alarm, in how many runs it had some."""
    met = Counter(law for run in runs for law in {alarm.law for alarm in run.alarms})
    return dict(sorted(met.items(), key=lambda share: (-share[1], share[0])))


def figures(runs: Sequence[Run]) -> str:
    """Runs, cells, alarms, and alarms a run."""
    alarms, cells = sum(len(run.alarms) for run in runs), sum(run.cells for run in runs)
    rate = f", {alarms / len(runs):.2f} alarms a run" if runs else ""
    return f"runs: {len(runs):,}, cells: {cells:,}, alarms: {alarms:,}{rate}"


def by_kind(runs: Iterable[Run]) -> dict[Kind, list[Run]]:
    """Runs of one torch, device, profile and code together."""
    found: dict[Kind, list[Run]] = {}
    for run in runs:
        found.setdefault(run.kind, []).append(run)
    return found


def evidence(folder: Path, run: Run, alarm: Alarm) -> Path | None:
    """Write the script and the case of an alarm to a folder of its run, and say where to look."""
    name = label(alarm.law, alarm.layer, run.kind.device)
    place = folder / str(run.seed)
    found: Path | None = None
    if alarm.case is not None:
        place.mkdir(parents=True, exist_ok=True)
        found = place / f"{name}{'' if alarm.script else '.crashed'}.json"
        found.write_text(json.dumps(alarm.case, indent=1) + "\n", encoding="utf-8")
    if alarm.script:
        place.mkdir(parents=True, exist_ok=True)
        found = place / f"{name}.py"
        found.write_text(alarm.script, encoding="utf-8")
    return found


def as_text(store: Store, folder: Path) -> str:
    """The summary that a hunt ends with."""
    lines = []
    for kind, runs in by_kind(store.runs).items():
        lines.append(str(kind))
        found = groups(runs)
        for law, count in shares(runs).items():
            lines.append(f"  {law}: in {count:,} of {len(runs):,} runs")
            for group in (group for group in found if group.first.law == law):
                run, alarm = group.met[0]
                lines.append(f"    {len(group.met)} x {group.title}")
                lines.append(f"        seeds {', '.join(map(str, group.seeds))}")
                where = evidence(folder, run, alarm) or alarm.message.splitlines()[0]
                lines.append(f"        smallest: {where}")
    for died in store.lost:
        lines.append(f"  given up: the run of seed {died.seed} on {died.worker}: {died.reason}")
    return "\n".join([*lines, figures(store.runs)])


def as_markdown(store: Store) -> str:
    """The summary of a file, for keeping."""
    lines = ["# What hunt found", ""]
    for command in dict.fromkeys(hunt.command for hunt in store.of(Hunt)):
        lines.append(f"    {command}")
    header = "torch | device | profile | code | laws | runs | cells | hours | alarms | a run"
    lines += ["", f"| {header} |", f"|{'--|' * len(header.split('|'))}"]
    for kind, runs in by_kind(store.runs).items():
        alarms = sum(len(run.alarms) for run in runs)
        device = f"{kind.device} ({kind.device_name})"
        laws = " ".join(kind.laws) or "all"
        cells = f"{sum(run.cells for run in runs):,}"
        hours = f"{sum(run.seconds for run in runs) / 3600:.1f}"
        row = [kind.torch, device, kind.profile, kind.code, laws, f"{len(runs):,}", cells, hours]
        lines.append(f"| {' | '.join([*row, f'{alarms:,}', f'{alarms / len(runs):.2f}'])} |")
    for kind, runs in by_kind(store.runs).items():
        share = [f"| {law} | {count:,} of {len(runs):,} |" for law, count in shares(runs).items()]
        if share:
            lines += ["", "| law | runs with an alarm |", "|--|--|", *share]
        for group in groups(runs):
            times = "once" if len(group.met) == 1 else f"{len(group.met)} times"
            seeds = ", ".join(map(str, group.seeds))
            lines += ["", f"## {group.title}", "", f"{times}, on torch {kind.torch}; seeds {seeds}"]
            lines += ["", "```", group.first.message.rstrip(), "```"]
    if store.lost:
        lines += ["", "## Runs that were given up", ""]
        lines += [f"- seed {d.seed} on {d.worker}: {d.reason}" for d in store.lost]
    died = [d for d in store.died if d.again]
    if died:
        lines += ["", "## Runs that were made again", ""]
        lines += [f"- seed {d.seed}, begun on {d.worker}: {d.reason}" for d in died]
    return "\n".join(lines) + "\n"
