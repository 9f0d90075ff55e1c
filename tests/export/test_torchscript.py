"""TorchScript files of stored policies, run by torch alone, against what the live algorithms computed."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint
from ckptstore.errors import InvalidRequest, UnreadableFormat
from ckptstore.export import torchscript
from tests.export.truth import DATA, UNKNOWN, Truth, difference, run_torchscript, truths

TRUTHS = [truth for truth in truths(DATA) if not any(name in truth.name for name in UNKNOWN)]
torch = pytest.importorskip("torch", reason="torch is not installed: make rllib runs this")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of torch.jit
        yield


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda truth: truth.name)
def test_the_file_computes_what_the_live_policy_did(truth: Truth, tmp_path: Path) -> None:
    found = difference(truth, "torchscript", run_torchscript, tmp_path)
    assert found is None or found < 1e-5


def test_names_and_where_it_is_from(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(DATA / "old_stack/ppo_lstm/checkpoint")
    checkpoint.export(tmp_path / "lstm.pt")
    extra = {torchscript.METADATA: ""}
    loaded = torch.jit.load(tmp_path / "lstm.pt", _extra_files=extra)
    told = json.loads(extra[torchscript.METADATA])
    assert told["checkpoint_id"] == checkpoint.id
    assert told["inputs"] == ["obs", "state_in_h", "state_in_c"]
    assert set(told["outputs"]) == {"action_dist_inputs", "vf_preds", "state_out_h", "state_out_c"}
    stored = checkpoint.weights("default_policy")
    weights = loaded.state_dict()
    np.testing.assert_array_equal(weights["pi.net.mlp.0.weight"], stored["_logits_branch._model.0.weight"])


def test_nothing_but_torch_is_needed_to_run_it(tmp_path: Path) -> None:
    Checkpoint.open(DATA / "old_stack/sac/checkpoint").export(tmp_path / "sac.pt")
    code = (
        "import sys, torch; made = torch.jit.load(sys.argv[1])(torch.zeros(5, 4)); "
        "print(made['action_dist_inputs'].shape[0], [n for n in ('ray', 'ckptstore') if n in sys.modules])"
    )
    ran = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "sac.pt")]
    done = subprocess.run(ran, capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["5", "[]\n"]


@pytest.mark.parametrize("step", ["active", "affine", "lstm"])
def test_a_file_that_computes_otherwise_is_not_written(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = torchscript._Tensors
    right: Any = getattr(tensors, step)
    monkeypatch.setattr(tensors, step, lambda self, x, *rest: right(self, x * 2, *rest))
    with pytest.raises(UnreadableFormat, match="doesn't compute what the weights do"):
        Checkpoint.open(DATA / "old_stack/ppo_lstm/checkpoint").export(tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


def test_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InvalidRequest, match=r"ckptstore\[torch\]"):
        Checkpoint.open(DATA / "old_stack/sac/checkpoint").export(tmp_path / "x.pt")
