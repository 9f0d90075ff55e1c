"""What torch users save comes back: whatever is acknowledged opens, by every reader, equal. Needs torch."""

from __future__ import annotations

import contextlib
import copy
import pickle
import re
import sys
import threading
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore, InvalidRequest, Opaque, Raw
from ckptstore.errors import UnreadableFormat

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.filterwarnings(  # torch's own, about its prototypes
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


def net() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.BatchNorm1d(200), torch.nn.Dropout(0.1))


def trained() -> tuple[Any, Any]:
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 300)).sum().backward()
    optimizer.step()
    return model, optimizer


def tied() -> Any:
    layer = torch.nn.Linear(300, 300)
    return torch.nn.Sequential(layer, layer)


class Custom(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A module with all that one can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(9.0).reshape(3, 3))
        self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.low = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        self.history = {"loss": [torch.tensor(0.5)], (1, 2): "x"}


def subclass() -> Any:
    class Labelled(torch.Tensor):  # type: ignore[misc,name-defined]
        pass

    labelled = torch.ones(3).as_subclass(Labelled)
    labelled.label = "mine"
    return labelled


def attributes() -> Any:
    tensor = torch.ones(3)
    tensor.tag = {"a": 1}
    return tensor


def flat_views() -> Any:
    flat = torch.arange(1000.0)
    table = flat.view(10, 100)
    return {"flat": flat, "a": flat[:600].view(20, 30), "b": flat[600:], "c": flat[::2], "t": table.T}


MAKERS: dict[str, Callable[[], Any]] = {
    "state dict": lambda: net().state_dict(),
    "module": net,
    "tied module": tied,
    "custom module": Custom,
    "optimizer": lambda: trained()[1],
    "module and optimizer": trained,
    "optimizer state": lambda: trained()[1].state_dict(),
    "scheduler": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(trained()[1], 10),
    "generator": lambda: torch.Generator().manual_seed(3),
    "random state": torch.get_rng_state,
    "distribution": lambda: torch.distributions.Normal(torch.zeros(3), torch.ones(3)),
    "keyed by tensors": lambda: {torch.ones(2): "a", torch.ones(2): "b", "rest": torch.zeros(2)},
    "set of tensors": lambda: {torch.ones(2), torch.ones(2)},
    "keyed by a tuple with a tensor": lambda: {(torch.ones(2), 1): 2},
    "flat views": flat_views,
    "gradient wanted": lambda: torch.ones(3, requires_grad=True),
    "result of an operation": lambda: torch.ones(3, requires_grad=True) * 2,
    "parameter list": lambda: torch.nn.ParameterList([torch.ones(2), torch.zeros(3)]),
    "attributes": attributes,
    "buffer": lambda: torch.nn.Buffer(torch.ones(3)) if hasattr(torch.nn, "Buffer") else torch.ones(3),
    "subclass": subclass,
    "expanded": lambda: torch.ones(3).expand(400, 3),
    "conjugate": lambda: torch.tensor([1 + 2j]).conj(),
    "channels last": lambda: torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "empty": lambda: torch.zeros(0, 3),
    "scalar": lambda: torch.tensor(2.5),
    "bfloat16": lambda: torch.arange(5.0).to(torch.bfloat16),
    "large bfloat16": lambda: torch.arange(600_000.0).to(torch.bfloat16),
    "float8": lambda: torch.arange(5.0).to(torch.float8_e4m3fn),
    "complex32": lambda: torch.ones(3, dtype=torch.complex32),
    "uint16": lambda: torch.ones(3).to(torch.uint16),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "meta": lambda: torch.ones(3, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    "masked": lambda: torch.masked.masked_tensor(torch.ones(3), torch.tensor([True, False, True])),
    "dtype and device": lambda: [torch.float16, torch.device("cpu"), torch.Size([1, 2]), torch.strided],
    "dataset": lambda: torch.utils.data.TensorDataset(torch.ones(3), torch.zeros(3)),
    "closure": lambda: lambda x, w=torch.ones(3): x + w,  # noqa: B008
    "numpy beside": lambda: {"a": np.ones(3), "t": torch.ones(3), "deep": [(torch.ones(1), [np.arange(2)])]},
}


def same_tensor(a: Any, b: Any) -> bool:
    """Equal in type, dtype, layout and bytes."""
    if type(a).__qualname__ != type(b).__qualname__:
        return False
    if a.dtype != b.dtype or a.requires_grad != b.requires_grad or a.layout != b.layout:
        return False
    if a.device.type == "meta":
        return bool(a.shape == b.shape and b.device.type == "meta")
    if a.is_nested:
        return all(map(same_tensor, a.unbind(), b.unbind()))
    if type(a).__name__ == "MaskedTensor":
        return str(a) == str(b)
    if a.is_quantized:
        return bool(torch.equal(a.dequantize(), b.dequantize()))
    if a.layout != torch.strided:
        return bool(torch.equal(a.to_dense(), b.to_dense()))
    one, other = (item.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8) for item in (a, b))
    return bool(a.shape == b.shape and torch.equal(one, other))


def same(a: Any, b: Any, seen: set[tuple[int, int]] | None = None) -> bool:
    """Equal in type, dtype, layout, bytes and attributes, as far down as it goes."""
    seen = set() if seen is None else seen
    if (id(a), id(b)) in seen:
        return True
    seen.add((id(a), id(b)))
    if isinstance(a, torch.Tensor):
        return same_tensor(a, b) and (a.is_nested or same(vars(a), vars(b), seen))
    if hasattr(a, "state_dict"):
        return type(a) is type(b) and same(a.state_dict(), b.state_dict(), seen)
    if isinstance(a, torch.Generator):
        return bool(torch.equal(a.get_state(), b.get_state()))
    if type(a) is not type(b) and type(a).__qualname__ != type(b).__qualname__:
        return False
    if isinstance(a, dict):
        if len(a) != len(b):
            return False
        return all(
            same(x, y, seen) and same(v, w, seen) for (x, v), (y, w) in zip(a.items(), b.items(), strict=True)
        )
    if isinstance(a, (set, frozenset)):
        return len(a) == len(b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y, seen) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and np.array_equal(a, b))
    if callable(a) and hasattr(a, "__code__"):
        return same(a.__defaults__, b.__defaults__, seen)
    if hasattr(a, "__dict__") and not isinstance(a, type):
        return same(vars(a), vars(b), seen)
    return bool(a == b) or a is b or repr(a) == repr(b)


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(
        str(tmp_path / "run") if request.param == "disk" else f"memory://{uuid.uuid4().hex}/run"
    )


def read_plainly(checkpoint: Checkpoint, file: str) -> Any:
    with checkpoint.as_directory() as directory, open(f"{directory}/{file}", "rb") as opened:
        return pickle.load(opened)


@pytest.mark.parametrize("how", ["save", "save_async"])
@pytest.mark.parametrize("name", MAKERS)
def test_what_is_acknowledged_opens(store: CheckpointStore, name: str, how: str) -> None:
    value = MAKERS[name]()
    given: dict[str, Any] = {
        "state": {"v": Raw(value), "beside": 1},
        "policies": {"p": {"weights": {"v": value}}},
    }
    try:
        saved = store.save(1, **given) if how == "save" else store.save_async(1, **given).result()
    except InvalidRequest:
        assert name in ("nested", "jagged", "masked")
        return
    checkpoint = CheckpointStore(store.url).get(1)
    assert checkpoint.id == saved.id
    trusted = checkpoint.load(trusted=True)
    assert same(trusted.state["v"], value)
    assert same(trusted.policies["p"]["weights"]["v"], value)
    assert same(read_plainly(checkpoint, "algorithm_state.pkl")["v"], value)
    safe = checkpoint.load()
    assert safe.state["beside"] == 1  # nothing in it spoils the rest of its file
    assert checkpoint.load(tensors="torch").state["beside"] == 1
    if isinstance(value, torch.Tensor) and value.layout == torch.strided and type(value) is torch.Tensor:
        found = checkpoint.load(tensors="torch").state["v"]
        if value.device.type != "meta" and not value.is_quantized:
            attributes = vars(value)
            assert same(found, value) or attributes  # attributes are left out of the safe load
            assert isinstance(safe.state["v"], (np.ndarray, Opaque))


# What a default load gives as records: of these a scan may say that they are a library's.
NO_PLAIN_VALUES = {
    "module", "tied module", "custom module", "optimizer", "module and optimizer", "scheduler", "generator",
    "distribution", "parameter list", "subclass", "sparse", "sparse rows", "quantized", "meta", "jagged",
    "masked", "dataset", "closure",
}  # fmt: skip
CODE = {"subclass", "jagged", "masked", "closure", "custom module"}


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "nested"])
def test_a_scan_of_what_we_wrote_finds_no_code(store: CheckpointStore, name: str) -> None:
    try:
        saved = store.save(1, {"v": Raw(MAKERS[name]())}, opaque="allow")
    except InvalidRequest:
        assert name in ("jagged", "masked")
        return
    ranks = {use.rank for use in saved.scan()} or {"data"}
    if name not in NO_PLAIN_VALUES:
        assert ranks == {"data"}, [use for use in saved.scan() if use.rank != "data"]
    elif name not in CODE:
        assert ranks <= {"data", "library"}, [use for use in saved.scan() if use.rank == "code"]


def test_a_state_dict_comes_back_in_two_lines(store: CheckpointStore) -> None:
    model, optimizer = trained()
    store.save(1, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    state = CheckpointStore(store.url).get(1).load(tensors="torch").state
    fresh, other = net(), None
    fresh.load_state_dict(state["model"])
    other = torch.optim.Adam(fresh.parameters())
    other.load_state_dict(state["optimizer"])
    assert same(fresh.state_dict(), model.state_dict())
    for one, two in ((model, optimizer), (fresh, other)):
        torch.manual_seed(1)
        one.zero_grad()
        one(torch.ones(4, 300)).sum().backward()
        two.step()
    assert same(dict(fresh.named_parameters()), dict(model.named_parameters()))


def test_objects_work_and_share_what_they_shared(store: CheckpointStore) -> None:
    model, optimizer = trained()
    store.save(1, {"model": Raw(model), "optimizer": Raw(optimizer), "tied": Raw(tied())})
    state = CheckpointStore(store.url).get(1).load(trusted=True).state
    assert state["optimizer"].param_groups[0]["params"][0] is state["model"][0].weight
    assert state["tied"][0].weight is state["tied"][1].weight
    state["model"](torch.ones(4, 300)).sum().backward()
    state["optimizer"].step()
    flat = store.save(2, flat_views()).load(trusted=True).state
    flat["flat"][3] = -1
    assert flat["a"][0, 3] == -1
    assert flat["t"][3, 0] == -1
    as_torch = store.get(2).load(tensors="torch").state
    as_torch["flat"][3] = -1
    assert as_torch["a"][0, 3] == -1


def test_weights_by_name_of_views(store: CheckpointStore) -> None:
    flat = torch.arange(2_000_000.0)
    views = {
        "flat": flat,
        "head": flat[:10],
        "row": flat.view(1000, -1)[7],
        "column": flat.view(1000, -1)[:, 3],
    }
    store.save(1, policies={"p": {"weights": views}})
    for name, tensor in views.items():
        found = CheckpointStore(store.url).get(1).weights("p", names=[name])[name]
        np.testing.assert_array_equal(found, tensor.numpy())


def test_every_subclass_of_tensor_is_equal_or_refused(store: CheckpointStore) -> None:
    """Memory of a subclass is never borrowed: a DTensor's came back as garbage, verified."""
    kinds = set()
    todo = [torch.Tensor]
    while todo:
        kind = todo.pop()
        kinds.add(kind)
        todo += kind.__subclasses__()
    tried = refused = 0
    for step, kind in enumerate(sorted(kinds, key=lambda kind: kind.__qualname__)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                value = torch.arange(4.0).as_subclass(kind)
            except Exception:  # noqa: BLE001 - not made like that
                continue
            try:
                saved = store.save(step, {"v": value, "beside": 1})
            except InvalidRequest:
                refused += 1
                continue
            tried += 1
            back = saved.load(trusted=True).state["v"]
            assert type(back).__qualname__ == kind.__qualname__
            with contextlib.suppress(
                RuntimeError, NotImplementedError, AttributeError, TypeError, ValueError
            ):
                assert back.tolist() == [0, 1, 2, 3]
            assert saved.load().state["beside"] == 1
    assert tried + refused > 3


def test_a_shard_is_refused_by_name(store: CheckpointStore) -> None:
    pytest.importorskip("torch.distributed.tensor")
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        shard = distribute_tensor(torch.ones(4, 4), init_device_mesh("cpu", (1,)), [Shard(0)])
        for given in ({"state": {"m": {"w": shard}}}, {"policies": {"p": {"weights": {"w": shard}}}}):
            for call in (store.save, store.save_async):
                with pytest.raises(InvalidRequest, match="full_tensor"):
                    call(1, **given)
    finally:
        dist.destroy_process_group()
    assert store.checkpoints() == []


@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_a_model_that_trains_meanwhile(store: CheckpointStore, size: int) -> None:
    tensor = torch.zeros(size)
    stop = threading.Event()

    def train() -> None:
        while not stop.is_set():
            tensor.add_(1)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    try:
        for step in range(4):
            saved = store.save(step, {"w": tensor}, {"p": {"weights": {"w": tensor.view(2, -1)}}})
            assert saved.check().ok
            saved.load(trusted=True)
            saved.load(tensors="torch")
    finally:
        stop.set()
        thread.join()


def test_tensors_of_an_unknown_kind() -> None:
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    checkpoint = store.save(1, {"t": torch.ones(2)})
    with pytest.raises(InvalidRequest, match="'numpy' or 'torch'"):
        checkpoint.load(tensors="jax")  # type: ignore[arg-type]
    assert copy.deepcopy(checkpoint.load().state)["t"].tolist() == [1, 1]


def test_the_page_for_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its examples run, and the first one goes on where it ended, as if it had never been stopped."""
    page = (Path(__file__).parent.parent / "docs/trainers/pytorch.md").read_text(encoding="utf-8")
    first, *others = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    weights = []
    for run, lengths in (("stopped", (3, 3)), ("whole", (6,))):
        (tmp_path / run).mkdir()
        monkeypatch.chdir(tmp_path / run)
        torch.manual_seed(0)
        for length in lengths:
            names: dict[str, Any] = {}
            exec(first.replace("first_step + 3", f"first_step + {length}"), names)
            torch.manual_seed(1)  # a new process doesn't have the old one's model
        weights.append(names["net"].weight.detach().numpy().copy())
    for other in others:
        exec(other, names)
    assert len(others) == 4
    assert (weights[0] == weights[1]).all()


def test_a_type_that_numpy_lacks_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    checkpoint = CheckpointStore(tmp_path).save(1, policies={"p": {"w": torch.ones(3, dtype=torch.bfloat16)}})
    with pytest.raises(UnreadableFormat, match=r"'w' is of type torch\.bfloat16.*pip install ml_dtypes"):
        checkpoint.weights()
