"""The examples, run as they stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore
from tests.servers import Server

pytestmark = pytest.mark.usefixtures("needs_ray")
EXAMPLES = Path(__file__).parents[3] / "examples"


def example(name: str) -> dict[str, Any]:
    return run_path(str(EXAMPLES / name))


def test_cartpole_goes_on_in_a_bucket(
    start_server: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_server("moto")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.options["secret"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    url = server.new_url()
    for iterations in (1, 3):
        example("rllib_cartpole.py")["train"](url, iterations)
    out = capsys.readouterr().out
    assert "going on from iteration 0" in out
    assert "going on from iteration 1" in out
    store = CheckpointStore(url, create=False)
    assert [ckpt.step for ckpt in store.checkpoints()] == [1, 2, 3]
    assert all(ckpt.verify().ok for ckpt in store.checkpoints())


def test_a_league_restores_two_of_a_hundred(tmp_path: Path) -> None:
    league = example("rllib_league.py")
    saved = league["found"](str(tmp_path))
    assert len(saved.policy_ids) == 100
    algo = league["match"](str(tmp_path), "player_007", "player_097")
    try:
        for name in ("player_007", "player_097"):
            truth, state = saved.weights(name), algo.get_module(name).get_state()
            assert truth
            for key, value in state.items():
                np.testing.assert_array_equal(value, truth[key])
        assert algo.get_module("player_003") is None
        algo.train()
        assert algo.iteration == saved.step + 1
        frozen = algo.learner_group.get_weights()["player_097"]
        np.testing.assert_array_equal(
            frozen["pi.net.mlp.0.weight"], saved.weights("player_097")["pi.net.mlp.0.weight"]
        )
    finally:
        algo.stop()
