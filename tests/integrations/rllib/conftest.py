"""Ray for the whole session, where it is installed; `make rllib` brings a Python that has it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

NEEDED = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray isn't installed beside these tests; `make rllib` has its own"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "needs_ray" in getattr(item, "fixturenames", ()):
            item.add_marker(NEEDED)
            # Ray's own, and those of what it imports, aren't ours to mend.
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="session")
def needs_ray() -> Iterator[None]:
    import ray

    from tests.integrations.rllib import corpus

    corpus.start_ray()
    yield
    ray.shutdown()
