"""Tied weights: a tensor that has two names in the target, and one in the checkpoint. Needs torch."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from ckptstore import Checkpoint, CheckpointStore, InvalidRequest

torch = pytest.importorskip("torch", reason="torch is not installed")


class Tied(torch.nn.Module):  # type: ignore[misc, name-defined]
    """As language models are: what embeds also decides."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.body = torch.nn.Linear(3, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        if tied:
            self.head.weight = self.embed.weight


@pytest.fixture
def store() -> CheckpointStore:
    return CheckpointStore(f"memory://{uuid.uuid4().hex}/run")


def without(state: Any, name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


def test_safetensors_that_leave_a_name_out(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    saved, net = Tied(), Tied()
    safetensors.save_model(saved, str(tmp_path / "model.safetensors"))
    (tmp_path / "trainer_state.json").write_text('{"global_step": 4}')
    (tmp_path / "config.json").write_text("{}")
    checkpoint = Checkpoint.open(str(tmp_path))
    checkpoint.restore({"model": net})
    assert torch.equal(net.embed.weight, saved.embed.weight)
    assert net.head.weight is net.embed.weight
    report = checkpoint.report
    assert report is not None
    assert {"model/head.weight", "model/embed.weight"} <= set(report.loaded)
    assert not report.missing


@pytest.mark.parametrize("left_out", ["embed.weight", "head.weight"])
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_a_twin_is_enough(store: CheckpointStore, left_out: str, wrapper: str) -> None:
    saved, net = Tied(), Tied()
    there = without(saved.state_dict(), left_out)
    checkpoint = store.save(1, {"net": {f"{wrapper}{name}": value for name, value in there.items()}})
    checkpoint.restore({"net": net})
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in net.state_dict().items())
    assert net.head.weight is net.embed.weight


@pytest.mark.parametrize("is_deeper", [True, False])
def test_a_twin_is_enough_for_state_dicts(store: CheckpointStore, is_deeper: bool) -> None:
    saved, here = Tied(), dict(Tied().state_dict())
    there = without(saved.state_dict(), "head.weight")
    checkpoint = store.save(1, {"net": there} if is_deeper else there)
    made = checkpoint.restore({"net": here} if is_deeper else here)
    made = made["net"] if is_deeper else made
    assert torch.equal(made["head.weight"], saved.head.weight)
    assert made["head.weight"].data_ptr() == made["embed.weight"].data_ptr()


def test_a_name_that_is_missing_is_missing(store: CheckpointStore) -> None:
    checkpoint = store.save(1, {"net": without(Tied().state_dict(), "head.weight")})
    with pytest.raises(InvalidRequest, match=r"net/head\.weight: not in the checkpoint"):
        checkpoint.restore({"net": Tied(tied=False)})
    empty, meta = Tied(tied=False), Tied(tied=False).to("meta")
    empty.embed.weight = torch.nn.Parameter(torch.empty(0, 3))  # nothing lies nowhere, but isn't the same
    empty.head.weight = torch.nn.Parameter(torch.empty(0, 3))
    checkpoint = store.save(2, {"net": without(empty.state_dict(), "head.weight")})
    with pytest.raises(InvalidRequest, match=r"net/head\.weight: not in the checkpoint"):
        checkpoint.restore({"net": empty})
    with pytest.raises(InvalidRequest, match=r"net/head\.weight: not in the checkpoint"):
        checkpoint.restore({"net": meta})


def test_a_part_of_the_same_memory_is_no_twin(store: CheckpointStore) -> None:
    net = torch.nn.Module()
    whole = torch.zeros(4, 4)
    net.register_buffer("whole", whole)
    net.register_buffer("part", whole[:2])
    net.register_buffer("turned", whole.t())
    checkpoint = store.save(1, {"net": {"whole": torch.arange(16.0).reshape(4, 4)}})
    with pytest.raises(InvalidRequest) as raised:
        checkpoint.restore({"net": net})
    assert "net/part: not" in str(raised.value)
    assert "net/turned: not" in str(raised.value)


def test_both_names_for_a_target_that_is_not_tied(store: CheckpointStore) -> None:
    saved, net = Tied(), Tied(tied=False)
    store.save(1, {"net": saved}).restore({"net": net})
    assert torch.equal(net.head.weight, saved.head.weight)
    assert torch.equal(net.embed.weight, saved.embed.weight)
    assert net.head.weight is not net.embed.weight
