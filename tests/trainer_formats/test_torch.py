"""With torch: tensors instead of arrays, what is loaded in trust, and modules restored."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import InvalidRequest
from tests.trainer_formats.support import DATA, OTHERS, only_file, said, truth

torch = pytest.importorskip("torch")
nn = torch.nn
TENSORS = [name for name in OTHERS if not name.startswith("npz")]


def bits(tensor: Any) -> bytes:
    plain = tensor.detach().contiguous()
    data: bytes = plain.view(torch.uint8).numpy().tobytes() if plain.dim() else plain.numpy().tobytes()
    return data


def network() -> Any:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


def find(state: Any, name: str) -> Any:
    """The tensor with the name that `weights` gives it, whatever surrounds it."""
    for held in (state, *(value for value in state.values() if isinstance(value, dict))):
        if name in held:
            return held[name]
    first, _, rest = name.partition("/")
    return find(state[first], rest)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_are_tensors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)  # torch has all these types itself
    state = Checkpoint.open(DATA / name / "checkpoint").load(tensors="torch").state
    for key, array in truth(name).items():
        tensor = find(state, key)
        assert isinstance(tensor, torch.Tensor)
        assert str(tensor.dtype) == f"torch.{said(name)['kinds'][key]}"
        assert (tuple(tensor.shape), bits(tensor)) == (array.shape, np.ascontiguousarray(array).tobytes())


def test_a_file_of_torch_is_as_torch_loads_it() -> None:
    for name in ("torch_tar_2.13.0", "torch_legacy_2.13.0", "lightning_2.6.6"):
        ours = Checkpoint.open(only_file(name)).load(tensors="torch").state
        theirs = torch.load(only_file(name), weights_only=False)
        assert list(ours) == list(theirs)
        optimizer = [
            each["optimizer"] if "optimizer" in each else each["optimizer_states"][0]
            for each in (ours, theirs)
        ]
        assert optimizer[0]["param_groups"] == optimizer[1]["param_groups"]
        for number, moments in optimizer[1]["state"].items():
            for key, value in moments.items():
                assert torch.equal(optimizer[0]["state"][number][key], value)


def test_parameters_stay_parameters(tmp_path: Any) -> None:
    held = {
        "p": nn.Parameter(torch.randn(3)),
        "frozen": nn.Parameter(torch.ones(2), False),
        "t": torch.ones(1),
    }
    held["wanted"] = torch.ones(3, requires_grad=True)
    torch.save(held, tmp_path / "a.pt")
    made = Checkpoint.open(tmp_path / "a.pt").load(tensors="torch").state
    assert {key: (type(value), value.requires_grad) for key, value in made.items()} == {
        key: (type(value), value.requires_grad) for key, value in held.items()
    }
    assert all(torch.equal(made[key], held[key]) for key in held)
    assert Checkpoint.open(tmp_path / "a.pt").weights().keys() == held.keys()


def test_whole_modules_only_in_trust(tmp_path: Any) -> None:
    model = network()
    torch.save(model, tmp_path / "model.pth")
    ckpt = Checkpoint.open(tmp_path / "model.pth")
    assert "Sequential" in repr(ckpt.state)
    whole = ckpt.load(trusted=True).state
    assert torch.equal(whole[0].weight, model[0].weight)


def test_trusted_directories() -> None:
    pytest.importorskip("transformers")
    state = Checkpoint.open(DATA / "huggingface_5.24.0" / "checkpoint").load(trusted=True).state
    assert type(state["training_args.bin"]).__name__ == "TrainingArguments"


def test_restore(tmp_path: Any) -> None:
    model, agent = network(), network()
    ckpt = Checkpoint.open(only_file("lightning_2.6.6"))
    ckpt.restore({"net": model})
    optimizer = torch.optim.AdamW(model.parameters())
    ckpt.restore({"optimizer_states": [optimizer]})
    assert optimizer.state_dict()["state"][0]["step"] == 8
    store = CheckpointStore(tmp_path)
    store.add(Checkpoint.open(only_file("cleanrl_2.13.0")), step=1)
    store.get(1).restore(agent)
    for module, name, prefix in ((model, "lightning_2.6.6", "net."), (agent, "cleanrl_2.13.0", "")):
        for key, value in module.state_dict().items():
            assert bits(value) == truth(name)[prefix + key].tobytes()
    other = nn.Linear(4, 3)
    before = other.weight.clone()
    with pytest.raises(InvalidRequest, match="nothing is changed"):
        ckpt.restore({"net": other})
    assert torch.equal(other.weight, before)
    Checkpoint.open(only_file("safetensors_0.8.0")).restore({"scalar": torch.zeros(())})
    steps = Checkpoint.open(DATA / "huggingface_5.24.0" / "checkpoint").restore(
        {"trainer_state.json": {"global_step": 0}}, strict=False
    )
    assert steps["trainer_state.json"]["global_step"] == 5


@pytest.mark.parametrize("call", ["tensor", "parameter"])
def test_gradients_of_integers_are_not_made(tmp_path: Any, call: str) -> None:
    """A file may say that a tensor of integers wants a gradient, which torch refuses to make."""
    held = torch.ones(2, requires_grad=True) if call == "tensor" else nn.Parameter(torch.ones(2))
    torch.save({"a": held}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pt").read_bytes()
    assert data.count(b"ctorch\nFloatStorage\n") == 1
    (tmp_path / "a.pt").write_bytes(data.replace(b"ctorch\nFloatStorage\n", b"ctorch\nIntStorage\n"))
    made = Checkpoint.open(tmp_path / "a.pt").load(tensors="torch").state["a"]
    assert (made.dtype, made.requires_grad) == (torch.int32, False)
