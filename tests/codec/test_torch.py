"""Torch tensors go out as arrays, each storage once. Skipped where torch isn't installed."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
import pytest

from ckptstore.codec.indexed.regions import Region
from ckptstore.codec.pickles import safe
from ckptstore.errors import InvalidRequest
from tests.codec.support import READERS, dumped, same

torch = pytest.importorskip("torch", reason="torch is not installed")

N = 50_000
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())


def array(tensor: Any) -> Any:
    return tensor.detach().resolve_conj().cpu().numpy()


@readers
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(N),
        lambda: torch.arange(6.0).reshape(2, 3).T,
        lambda: torch.zeros(0, 3),
        lambda: torch.tensor(2.5),
        lambda: torch.ones(3, dtype=torch.bool),
        lambda: torch.arange(4.0)[::2],
        lambda: torch.ones(3).expand(4, 3),
        lambda: torch.tensor([1 + 2j]).conj(),
        lambda: torch.nn.Parameter(torch.ones(N)),
        lambda: torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
        lambda: torch.tensor([1.0], requires_grad=True) * 2,
    ],
)
def test_tensors_become_arrays(make: Any, read: Any) -> None:
    tensor = make()
    back = read(*dumped({"t": tensor}))["t"]
    assert type(back) is np.ndarray
    assert back.dtype == array(tensor).dtype
    np.testing.assert_array_equal(back, array(tensor))
    assert back.flags.writeable


@readers
def test_bfloat16_and_float8(read: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        tensor = torch.arange(4.0).to(getattr(torch, name))
        back = read(*dumped(tensor))
        assert back.dtype == np.dtype(getattr(ml_dtypes, name))
        assert back.astype("f4").tolist() == [0, 1, 2, 3]


def test_bfloat16_without_ml_dtypes_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(InvalidRequest, match="ml_dtypes") as caught:
        dumped({"w": {"x": torch.ones(2, dtype=torch.bfloat16)}})
    assert caught.value.what == "state['w']['x']"


def test_a_slice_writes_only_its_elements() -> None:
    whole = torch.arange(1_000_000)
    assert len(dumped(whole[5:10])[0]) < 1000
    data, _ = dumped([whole[5:10], whole[100:105], whole[::250_000]])
    assert len(data) < 1000
    assert [a.tolist() for a in safe.loads(data)] == [
        [5, 6, 7, 8, 9],
        [100, 101, 102, 103, 104],
        [0, 250_000, 500_000, 750_000],
    ]


def test_elements_that_share_memory_come_back() -> None:
    storage = torch.arange(4.0)
    for tensor in (storage.as_strided((2, 2), (1, 0)), storage.as_strided((2, 2), (1, 1))):
        np.testing.assert_array_equal(safe.loads(dumped(tensor)[0]), array(tensor))


@readers
def test_a_storage_is_written_once(read: Any) -> None:
    whole = torch.arange(N, dtype=torch.float32)
    views = [whole, whole.view(2, -1), whole[10:20], whole[::2], whole.view(2, -1).T, whole.detach()]
    data, regions = dumped(views)
    assert [length for _, length in regions] == [4 * N]
    back = read(data, regions)
    for found, tensor in zip(back, views, strict=True):
        np.testing.assert_array_equal(found, array(tensor))
    back[0][10] = -1
    assert back[2][0] == -1  # shared memory stays shared


def test_another_storage_at_the_same_address_is_another() -> None:
    """Temporaries are freed while pickling, and their addresses used again."""

    class Fresh:
        def __init__(self, value: int) -> None:
            self.value = value

        def __reduce__(self) -> Any:
            return np.copy, (torch.full((N,), self.value),)

    data, regions = dumped([Fresh(i) for i in range(20)])
    assert len(regions) == 20
    assert [int(record.args[0][0]) for record in safe.loads(data)] == list(range(20))


@readers
def test_a_module_state_with_tied_weights(read: Any) -> None:
    layer = torch.nn.Linear(300, 300)
    model = torch.nn.Sequential(layer, layer)
    data, regions = dumped(model.state_dict())
    assert [length for _, length in regions] == [4 * 300 * 300]
    back = read(data, regions)
    assert list(back) == list(model.state_dict())
    for key, tensor in model.state_dict().items():
        np.testing.assert_array_equal(back[key], array(tensor))


def test_layouts_that_are_no_arrays_keep_torchs_pickling() -> None:
    sparse = torch.eye(3).to_sparse()
    assert torch.equal(pickle.loads(dumped(sparse)[0]).to_dense(), torch.eye(3))


def test_no_copy_is_made_of_a_tensor() -> None:
    tensor = torch.ones(N)
    seen: list[int] = []

    def write(data: Any) -> None:
        if isinstance(data, memoryview):
            seen.append(np.frombuffer(data, "u1").__array_interface__["data"][0])

    from ckptstore.codec.indexed.write import dump

    regions = dump(tensor, write)
    assert seen == [tensor.data_ptr()]
    assert isinstance(regions[0], Region)


def test_optimizer_states_come_back() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    back = safe.loads(dumped(optimizer.state_dict())[0])
    expected = optimizer.state_dict()
    assert same(back["state"][0]["exp_avg"], array(expected["state"][0]["exp_avg"]))
    assert back["param_groups"] == expected["param_groups"]
