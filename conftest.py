"""Options, profiles, devices, one thread, seeds and the header."""

from __future__ import annotations

import os
import random
import warnings
from importlib.metadata import entry_points
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, Phase, Verbosity

import oracles.laws  # noqa: F401  # defines the laws
from oracles.deviations import plain_version
from oracles.subject import collect_rarely, quiet
from strategies import devices
from tests import report

_COMMON: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "print_blob": False,
    "derandomize": False,
    "report_multiple_bugs": False,
    # Laws may find most cases out of their scope, and torch is slow the first time.
    "suppress_health_check": list(HealthCheck),
}
_QUICK = (Phase.generate, Phase.target, Phase.shrink)
for _name, _subjects in {"dev": 20, "ci": 100, "nightly": 2000}.items():
    hypothesis.settings.register_profile(_name, max_examples=_subjects, phases=_QUICK, **_COMMON)
# Explaining costs about ten times as much on a failing law: only where it is asked for.
hypothesis.settings.register_profile(
    "debug",
    max_examples=20,
    verbosity=Verbosity.verbose,
    phases=(*_QUICK, Phase.explain),
    **_COMMON,
)
hypothesis.settings.load_profile("dev")

torch.set_num_threads(1)
# float32 means float32 on every device.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.matmul.allow_tf32 = False


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
    group.addoption("--seed", type=int, help="repeat the run with this seed")
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


def pytest_configure(config: pytest.Config) -> None:
    warnings.filterwarnings("ignore")
    quiet()
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
    if config.getoption("--seed") is None:
        given = os.environ.get("TORCHLAWS_SEED", "")
        config.option.seed = int(given) if given else random.SystemRandom().randrange(2**32)
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
    chosen = report.chosen_laws(config)
    names = config.getoption("--device") or ["cpu"]
    return (
        f"torchlaws: torch {torch.__version__}, "
        f"device {', '.join(f'{d} ({devices.name(d)})' for d in names)}, "
        f"profile {report.profile(config)}, seed {config.getoption('--seed')}, {len(chosen)} laws"
    )
