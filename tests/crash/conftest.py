from __future__ import annotations

import pytest

from tests.crash.scenarios import make_templates


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The stores that crash scenarios start from, each to be copied and not touched."""
    return make_templates(str(tmp_path_factory.mktemp("template") / "store"))
