"""A real object store for the trainers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import servers


@pytest.fixture(scope="session")
def weed() -> Iterator[servers.Server]:
    with servers.seaweedfs() as server:
        yield server


@pytest.fixture
def bucket(weed: servers.Server) -> tuple[str, dict[str, Any]]:
    """The URL of nothing yet, and how to reach it."""
    return weed.new_url(), dict(weed.options)
