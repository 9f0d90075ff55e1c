"""``examples/serve_policy.py`` in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.truth import DATA

EXAMPLE = Path(__file__).parents[2] / "examples/serve_policy.py"


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """The URL it serves on."""
    ran = [sys.executable, "-W", "error", str(EXAMPLE), *arguments, "--port", "0"]
    with subprocess.Popen(ran, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving on "), process.communicate()
            yield line.split()[-1]
        finally:
            process.kill()


def ask(url: str, request: Any) -> dict[str, Any]:
    with urllib.request.urlopen(url, json.dumps(request).encode(), timeout=60) as reply:
        answer: dict[str, Any] = json.load(reply)
        return answer


def test_one_policy_of_five() -> None:
    root = DATA / "rllib_1_0_ppo_multi5"
    expected = json.loads((root / "expected.json").read_text())
    with serving(str(root / "checkpoint"), "--policy", "pol3") as url:
        answer = ask(url, {"obs": [expected["probe_obs"]] * 2})
        truth = expected["probe_logits"]["pol3"]
        np.testing.assert_allclose(answer["action_dist_inputs"], [truth] * 2, atol=1e-6)
        assert answer["action"] == [int(np.argmax(truth))] * 2
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(url, {"obs": "nonsense"})
        assert ask(url, {"obs": [[0, 0, 0, 0]]})["action"] in ([0], [1])


def test_an_lstm() -> None:
    root = DATA / "old_stack/ppo_lstm"
    with np.load(root / "truth.npz") as archive:
        obs, truth = archive["obs"].astype("f4") / 127, archive["logits"]
    with serving(str(root / "checkpoint")) as url:
        answer = ask(url, {"obs": obs.tolist()})
        np.testing.assert_allclose(answer["action_dist_inputs"], truth, atol=1e-6)
        states = {f"state_in_{part}": answer[f"state_out_{part}"] for part in "hc"}
        later = ask(url, {"obs": obs.tolist(), **states})
        assert np.abs(np.subtract(later["action_dist_inputs"], truth)).max() > 1e-4
