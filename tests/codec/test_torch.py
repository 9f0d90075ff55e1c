"""Torch tensors go out as a call over an indexed array, each storage once. Needs torch."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
import pytest

from ckptstore.codec.indexed.regions import Region
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import safe
from ckptstore.codec.pickles.torch_calls import AsTorch
from tests.codec.support import READERS, dumped, same

torch = pytest.importorskip("torch", reason="torch is not installed")

N = 50_000
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())


def array(tensor: Any) -> Any:
    return tensor.detach().resolve_conj().cpu().numpy()


def as_array(found: Any, read: Any) -> Any:
    """What was read as an array: the safe decoder gives arrays, every other reader tensors."""
    is_safe = read in (READERS["safe"], READERS["safe on the skeleton"])
    assert isinstance(found, np.ndarray if is_safe else torch.Tensor)
    return found if is_safe else array(found)


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
def test_tensors_come_back(make: Any, read: Any) -> None:
    tensor = make()
    found = read(*dumped({"t": tensor}))["t"]
    back = as_array(found, read)
    assert back.dtype == array(tensor).dtype
    np.testing.assert_array_equal(back, array(tensor))
    assert back.flags.writeable
    if found is not back:
        assert type(found) is type(tensor)
        assert found.requires_grad is tensor.requires_grad


LACKING = [
    name
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "complex32")
    if hasattr(torch, name)
]
"""Types of torch's that numpy has not."""


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("installed", [True, False], ids=["with ml_dtypes", "without"])
@pytest.mark.parametrize("name", LACKING)
@readers
def test_types_that_numpy_lacks(
    read: Any, name: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving them, and giving them to torch, takes no further package."""
    if not installed:
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    dtype = getattr(torch, name)
    tensor = torch.tensor([0.0, 1.0, 2.0, 4.0]).to(dtype)
    bits = tensor.view(torch.uint8).tolist()
    back = read(*dumped({"t": tensor, "other": [1]}))
    assert back["other"] == [1]
    found = back["t"]
    if isinstance(found, torch.Tensor):
        assert found.dtype == dtype
        assert found.view(torch.uint8).tolist() == bits
    elif isinstance(found, Opaque):  # what numpy can't show is a record of its bits
        assert not installed or name == "complex32"
        assert found.name == f"torch.{name}"
        assert found.args is not None
        assert found.args[0].view(np.uint8).tolist() == bits
    else:
        assert found.dtype == np.dtype(getattr(pytest.importorskip("ml_dtypes"), name))
        assert found.view(np.uint8).tolist() == bits
    torch_made = safe.loads(dumped(tensor)[0], tensors=AsTorch())
    assert torch_made.dtype == dtype
    assert torch_made.view(torch.uint8).tolist() == bits


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
        np.testing.assert_array_equal(as_array(found, read), array(tensor))
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
        np.testing.assert_array_equal(as_array(back[key], read), array(tensor))


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
