"""Options, profiles, devices, one thread, seeds and the header."""

from __future__ import annotations

from importlib.metadata import entry_points

import hypothesis
import pytest
import torch

import oracles.laws  # noqa: F401  # defines the laws
from oracles.deviations import plain_version
from oracles.subject import collect_rarely
from strategies import devices
from tests import report
from tests.harness import picking, profiles, seeds
from tests.harness.process import prepare


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("torchlaws")
    group.addoption(
        "--device",
        action="append",
        help=f"where laws are tried: {', '.join(devices.KNOWN)}; repeatable",
    )
    group.addoption(
        "--law", action="append", help="a pattern of law names, such as '*grad*'; repeatable"
    )
    group.addoption("--results", help="write what was found to this JSON file")
    group.addoption(
        "--seed",
        help=f"what cases are drawn from: a number, or random (default: {seeds.RECORDED})",
    )
    group.addoption(
        "--law-timeout",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="a law that takes longer is TIMED_OUT (default: 1800); looked at between its cases",
    )
    group.addoption("--torch", help="refuse to run on another torch than this: torch2.4 or 2.4")
    group.addoption(
        "--violations", default="violations", help="folder for the scripts of violations"
    )


@pytest.hookimpl(tryfirst=True)  # before the plugin of Hypothesis loads the profile
def pytest_configure(config: pytest.Config) -> None:
    prepare()
    if not hasattr(config, "workerinput"):
        _validate(config)
    config.pluginmanager.register(report.Reporter(config), "torchlaws-report")


def pytest_collection_finish() -> None:
    collect_rarely()


def _validate(config: pytest.Config) -> None:
    """Refuse bad input at once, before anything is measured."""
    if tuple(map(int, plain_version(torch.__version__).split(".")[:2])) < (2, 0):
        raise pytest.UsageError(
            f"torch {torch.__version__} is too old: torchlaws needs 2.0 or later"
        )
    wanted = (config.getoption("--torch") or "").removeprefix("torch")
    if wanted and not torch.__version__.startswith(f"{wanted}."):
        raise pytest.UsageError(f"torch {torch.__version__} was imported, not {wanted}")
    reseeding = foreign_reseeding()
    if reseeding:
        raise pytest.UsageError(reseeding)
    for device in config.getoption("--device") or ["cpu"]:
        reason = devices.missing(device)
        if reason:
            raise pytest.UsageError(reason)
    unknown = profiles.unknown(report.profile(config))
    if unknown:
        raise pytest.UsageError(unknown)
    report.validate(config)


def foreign_reseeding() -> str:
    """Whether some plugin of Hypothesis reseeds torch; then what to do about it."""
    torch.manual_seed(20)
    state, moved = torch.get_rng_state(), []

    @hypothesis.settings(max_examples=2, database=None, deadline=None)
    @hypothesis.given(hypothesis.strategies.booleans())
    def look(_: bool) -> None:
        moved.append(not torch.equal(state, torch.get_rng_state()))

    look()
    if not any(moved):
        return ""
    plugins = sorted({p.dist.name for p in entry_points(group="hypothesis") if p.dist is not None})
    return (
        "a Hypothesis plugin reseeds torch, so that every case draws the same numbers: "
        "uninstall it, or set HYPOTHESIS_NO_PLUGINS=1 "
        f"(plugins found: {', '.join(plugins) or 'none'})"
    )


def pytest_report_header(config: pytest.Config) -> str:
    chosen = picking.picked(report.patterns(config))
    names = config.getoption("--device") or ["cpu"]
    return (
        f"torchlaws: torch {torch.__version__}, "
        f"device {', '.join(f'{d} ({devices.name(d)})' for d in names)}, "
        f"profile {report.profile(config)}, seed {report.seed(config)}, {len(chosen)} laws"
    )
