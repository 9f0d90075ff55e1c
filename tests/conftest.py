"""Object stores for the whole session: each is started on first use and stopped at the end."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator

import pytest

# Must be set before gcsfs is first imported: the other class asks for each bucket's kind.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# A developer's own credentials and endpoints have no business in tests.
for _name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "STORAGE_EMULATOR"))]:
    del os.environ[_name]
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

from ckptstore.backends.objects import opener  # noqa: E402
from tests.figures import (  # noqa: E402, F401  # the hooks count, and sum up at the end
    figures,
    pytest_runtest_makereport,
    pytest_runtest_protocol,
    pytest_terminal_summary,
)
from tests.servers import STARTERS, Server  # noqa: E402

opener.FAST = False  # as without ckptstore[fast]; the tests of `fast` say so


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With CKPTSTORE_SHARE, only that share of the tests, drawn by CKPTSTORE_SEED."""
    share, seed = float(os.environ.get("CKPTSTORE_SHARE", "1")), os.environ.get("CKPTSTORE_SEED", "1")
    drawn = [item for item in items if zlib.crc32(f"{seed} {item.nodeid}".encode()) < share * 2**32]
    if len(drawn) < len(items):
        config.hook.pytest_deselected(items=sorted(set(items) - set(drawn), key=items.index))
        items[:] = drawn


@pytest.fixture(scope="session")
def start_server() -> Iterator[Callable[[str], Server]]:
    """Starts the server of that name, once per session."""
    running: dict[str, Server] = {}
    with contextlib.ExitStack() as stack:

        def start(name: str) -> Server:
            if name not in running:
                running[name] = stack.enter_context(STARTERS[name]())
            return running[name]

        yield start


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores opened in this test use obstore."""
    monkeypatch.setattr(opener, "FAST", True)


@pytest.fixture(scope="session")
def moto(start_server: Callable[[str], Server]) -> Server:
    return start_server("moto")


@pytest.fixture(scope="session")
def seaweedfs(start_server: Callable[[str], Server]) -> Server:
    return start_server("seaweedfs")


@pytest.fixture(scope="session")
def rclone(start_server: Callable[[str], Server]) -> Server:
    return start_server("rclone")


@pytest.fixture(scope="session")
def fake_gcs(start_server: Callable[[str], Server]) -> Server:
    return start_server("fake-gcs")
