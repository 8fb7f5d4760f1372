"""Each test has subjects of its own: many change torch, or what is known of its layers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oracles.trial import forget


@pytest.fixture(autouse=True)
def _own_subjects() -> Iterator[None]:
    forget()
    yield
    forget()
