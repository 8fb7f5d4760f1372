"""The command line: the laws, the layers, a stored case and its script, results compared."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from . import catalogue
from . import laws as _defined  # noqa: F401  # defines the laws
from .case import Case, CaseError, read
from .deviations import load as load_register
from .deviations import plain_version
from .document import laws_markdown
from .law import LAWS, OutOfScope, Unsupported, Violation
from .results import Results, ResultsError, differences
from .results import load as load_results
from .script import message, script
from .subject import quiet
from .trial import Trial, replay


class Complaint(Exception):  # one line for the user, not an error of ours
    """What was wrong with the input."""


def _laws(arguments: argparse.Namespace) -> int:
    """Print every law with its sentence, source and norms."""
    theory = ""
    for law in sorted(LAWS.values(), key=lambda law: (law.theory, law.name)):
        if law.theory != theory:
            theory = law.theory
            print(f"\n{theory}")
        norms = f"  [{', '.join(law.norms)}]" if law.norms else ""
        print(f"  {law.name}\n      {law.sentence}\n      {law.source}{norms}")
    print(f"\n{len(LAWS)} laws")
    return 0


def _judged(path: str) -> tuple[Case, Violation | None]:
    """A stored case, and how it breaks its law; None where the law holds."""
    try:
        case = read(Path(path))
        return case, replay(case)
    except CaseError as error:
        raise Complaint(str(error)) from None
    except (OutOfScope, Unsupported) as reason:
        raise Complaint(f"{path} could not be judged here: {reason}") from None


def _replay(arguments: argparse.Namespace) -> int:
    """Judge a stored case: exit status 1 where it breaks its law."""
    try:
        case, violation = _judged(arguments.case)
    except Complaint:
        raise
    except Exception as error:  # the case is kept because it crashes: that is what it shows
        traceback.print_exc()
        print(f"CRASHED {arguments.case}: {type(error).__name__}")
        return 1
    if violation is None:
        print(f"HOLDS {case.law} on {case.device}")
        return 0
    register = load_register()
    trial = Trial(LAWS[case.law], case.device, register, everywhere=True)
    try:
        trial.judge(case)
    except Violation as unknown:
        print(f"{message(case, unknown)}\nVIOLATED")
        return 1
    print(message(case, violation))
    for deviation in register.deviations:
        if deviation.name in trial.tally.deviating:
            print(f"DEVIATES as the register says: {deviation.name}: {deviation.reason}")
    if trial.tally.rounded:
        print(f"ROUNDED: values differ by {trial.tally.ulps:.3g} units in the last place")
    return 1


def _script(arguments: argparse.Namespace) -> int:
    """Print the script of plain torch that shows what a stored case shows."""
    case, violation = _judged(arguments.case)
    if violation is None:
        raise Complaint(
            f"{case.law} holds for {arguments.case} on this torch: there is nothing to show"
        )
    print(script(case, violation), end="")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    """Print the laws whose status differs between two results files."""
    try:
        before, after = load_results(Path(arguments.before)), load_results(Path(arguments.after))
    except ResultsError as error:
        raise Complaint(str(error)) from None
    register = {deviation.name: deviation for deviation in load_register().deviations}
    versions = [plain_version(results.torch) for results in (before, after)]

    def of_both(name: str, device: str) -> bool:
        known = register.get(name)
        return known is not None and all(known.in_force(device, v) for v in versions)

    found = differences(before, after, of_both)
    shown = [d for d in found if arguments.all or not d.by_chance]
    print(f"torch {before.torch} on {before.device} -> torch {after.torch} on {after.device}")
    for difference in shown:
        what = f"{difference.law} of {difference.layer}" if difference.layer else difference.law
        print(f"  {what} on {difference.device}")
        print(f"      {difference.before}\n   -> {difference.after}")
    print(f"{len(shown)} of {len(after.laws)} laws differ")
    if len(found) > len(shown):
        met = f"{len(found) - len(shown)} more met by chance, in one of the runs alone,"
        print(f"{met} what torch does in both versions: --all shows them")
    return 0


def _docs(arguments: argparse.Namespace) -> int:
    """Write docs/laws.md and docs/layers.md anew."""
    results = [
        json.loads(p.read_text(encoding="utf-8")) for p in sorted(Path("results").glob("*.json"))
    ]
    folder = Path(arguments.folder)
    (folder / "laws.md").write_text(laws_markdown(results), encoding="utf-8")
    (folder / "layers.md").write_text(catalogue.as_markdown(_recorded("")), encoding="utf-8")
    print(f"{folder}: {len(LAWS)} laws, {len(results)} results files")
    return 0


#: The results that the table of layers is made of, if no others are named.
RECORDED = Path("results/torch2.13-cpu.json")


def _recorded(path: str) -> Results:
    try:
        results = load_results(Path(path) if path else RECORDED)
    except ResultsError as error:
        raise Complaint(str(error)) from None
    if not catalogue.rows(results):
        raise Complaint(f"{path or RECORDED} says nothing of layers: it was recorded without them")
    return results


def _catalogue(arguments: argparse.Namespace) -> int:
    """Print what each class of torch.nn does under each mode, as it was measured."""
    results = _recorded(arguments.results)
    if arguments.json:
        print(json.dumps(catalogue.as_data(results), indent=1))
    else:
        print(catalogue.as_text(results))
        print(f"measured on torch {results.torch}, {results.device}, profile {results.profile}")
    return 0


def _hunt(arguments: argparse.Namespace) -> int:
    """Judge all laws with new seeds, run after run, and group what is found."""
    try:
        # What draws cases is no part of the oracles: the one command that does is not theirs.
        from tests.harness.hunt import command
    except ModuleNotFoundError as error:
        raise Complaint(
            "hunt needs the suite: run it from a checkout with hypothesis and pytest installed "
            f"(no module is named {error.name!r})"
        ) from None
    return command.main(arguments.rest)


_COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], tuple[str, ...]]] = {
    "laws": (_laws, ()),
    "replay": (_replay, ("case",)),
    "script": (_script, ("case",)),
    "compare": (_compare, ("before", "after")),
    "catalogue": (_catalogue, ()),
    "docs": (_docs, ()),
    "hunt": (_hunt, ()),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """In one line, as everything else that is wrong."""
        raise Complaint(f"{message} (--help says more)")


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit status."""
    parser = _Parser(prog="python -m oracles", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (run, positional) in _COMMANDS.items():
        helps = name != "hunt"  # which has options of its own, and says so itself
        command = commands.add_parser(name, help=(run.__doc__ or "").strip(), add_help=helps)
        for argument in positional:
            command.add_argument(argument)
        if name == "compare":
            more = "what differs by chance as well: a known deviation that one run did not meet"
            command.add_argument("--all", action="store_true", help=more)
        if name == "docs":
            command.add_argument("folder", nargs="?", default="docs")
        if name == "catalogue":
            command.add_argument("--json", action="store_true", help="as JSON")
            command.add_argument("--results", default="", help=f"results file ({RECORDED})")
        command.set_defaults(run=run)
    warnings.filterwarnings("ignore")
    quiet()
    try:
        arguments, rest = parser.parse_known_args(argv)
        if rest and arguments.command != "hunt":
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        arguments.rest = rest
        status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever reads it, as head does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Complaint as complaint:
        print(f"torchlaws: {complaint}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
