"""The main job: every law on drawn cases, each law on each device a test of its own."""

from __future__ import annotations

import json

import pytest

from oracles.codec import encode
from oracles.deviations import Register, load
from oracles.results import Status
from tests import report
from tests.floor import Floor
from tests.harness.options import label
from tests.harness.runner import judge


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    tried = report.tried(metafunc.config)
    metafunc.parametrize(("name", "layer", "device"), tried, ids=[label(*what) for what in tried])


@pytest.fixture(scope="session")
def register() -> Register:
    """What this torch is known to break."""
    return load()


def test_law(
    name: str, layer: str, device: str, register: Register, request: pytest.FixtureRequest
) -> None:
    """The law holds, or departs as the register says."""
    judged = judge(name, layer, device, register, report.options(request.config))
    result = judged.result
    request.node.user_properties.append((report.PROPERTY, json.dumps(encode(result))))
    Floor.hand_over(request.node, judged.met)
    if result.status in (Status.NOT_APPLICABLE.value, Status.UNSUPPORTED.value):
        pytest.skip(result.reason)
    if Status(result.status).fails:
        text = (result.violation or {}).get("message") or result.reason
        pytest.fail(f"{result.status}\n{text}", pytrace=False)
