"""The examples of ``docs/foreign.md`` run as they stand."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer_formats.support import only_file, truth

PAGE = (Path(__file__).parents[2] / "docs/foreign.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/lightning").mkdir(parents=True)
    shutil.copy(only_file("lightning_2.6.6"), tmp_path / "runs/lightning")
    shutil.copy(only_file("cleanrl_2.13.0"), tmp_path / "runs/agent.pt")
    shutil.copy(only_file("torch_tar_2.13.0"), tmp_path / "runs/checkpoint.pth.tar")
    return tmp_path


def test_reading_and_adding(files: Path) -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS[0], names)  # our own page
    assert (names["ckpt"].format, names["ckpt"].step) == ("Lightning 2.6.6", 8)
    assert [each.step for each in names["store"].checkpoints()] == [8, 100]
    assert names["store"].get(100).weights().keys() == truth("cleanrl_2.13.0").keys()


def test_restoring(files: Path) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    model, agent = (nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)) for _ in range(2))
    optimizer = torch.optim.Adam(agent.parameters())
    names: dict[str, Any] = {"model": model, "agent": agent, "optimizer": optimizer}
    exec(BLOCKS[0].splitlines()[0] + "\n" + BLOCKS[1], names)  # our own page
    for module, name, prefix in ((model, "lightning_2.6.6", "net."), (agent, "cleanrl_2.13.0", "")):
        for key, value in module.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), truth(name)[prefix + key])
    assert len(optimizer.state_dict()["state"]) == 6
