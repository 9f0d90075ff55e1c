"""Both containers of torch.save, as torch writes them and as an attacker would."""

from __future__ import annotations

import builtins
import contextlib
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore.codec import torchfile, trees
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.budget import Budget, Meter
from ckptstore.errors import CheckpointError, UnreadableFormat, UnsafeContent
from tests.codec.torch_bytes import Call, Global, Persistent, archive, storage, stream, tensor

DATA = Path(__file__).parents[1] / "data" / "torch"
SIX = struct.pack("<6f", *range(6))


@pytest.mark.parametrize("name", ["zip", "legacy", "unsigned", "extended", "extended_legacy"])
def test_files_that_torch_wrote(name: str) -> None:
    if name.startswith("extended"):
        pytest.importorskip("ml_dtypes")
    with np.load(DATA / "expected.npz") as archive_:
        truth = {key: archive_[key] for key in archive_.files}
    value = torchfile.loads((DATA / f"{name}.pt").read_bytes())
    arrays = {key: item for key, item in value.items() if isinstance(item, np.ndarray)}
    assert arrays
    for key, array in arrays.items():
        assert array.shape == truth[key].shape
        assert array.flags.c_contiguous
        assert array.flags.writeable
        np.testing.assert_array_equal(array.astype(truth[key].dtype), truth[key])
        if not name.startswith("extended"):
            assert array.dtype == truth[key].dtype
        else:
            assert array.dtype.name == key
    if "nested" in value:
        assert value["size"] == (4, 6)
        np.testing.assert_array_equal(value["nested"]["list"][1][0], truth["contiguous"][1])


def test_arrays_of_one_storage_are_their_own() -> None:
    value = torchfile.loads((DATA / "zip.pt").read_bytes())
    value["shared_head"][:] = -1
    assert (value["shared_tail"] >= 0).all()


def test_bfloat16_without_ml_dtypes_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "ml_dtypes":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UnreadableFormat, match="pip install ml_dtypes"):
        torchfile.loads((DATA / "extended.pt").read_bytes())


def test_big_endian_files() -> None:
    big = struct.pack(">6f", *range(6))
    value = tensor(storage("0", 6), (2, 3), (3, 1))
    expected = np.arange(6, dtype="f4").reshape(2, 3)
    np.testing.assert_array_equal(torchfile.loads(archive(value, {"0": big}, byteorder="big")), expected)
    legacy = tensor(storage("0", 6, view=None), (2, 3), (3, 1))
    data = stream(legacy, ["0"], struct.pack(">q", 6) + big, little=False)
    result = torchfile.loads(data)
    np.testing.assert_array_equal(result, expected)
    assert result.dtype.isnative


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((2, 4), (4, 1), 0),
        ((2, 3), (3, 1), 1),
        ((2, 3), (3, 2), 0),
        ((7,), (1,), 0),
        ((1,), (1,), 6),
        ((), (), 6),
        ((2**40,), (1,), 0),
        ((2**40, 2**40), (0, 0), 0),
        ((2, 3), (3,), 0),
        ((-1,), (1,), 0),
        ((2,), (-1,), 1),
        ((2,), (1,), -1),
        ((True,), (1,), 0),
        (("2",), (1,), 0),
        ((1,) * 65, (1,) * 65, 0),
        (6, (1,), 0),
        ((2,), (1,), None),
    ],
)
def test_a_tensor_larger_than_its_storage(shape: Any, strides: Any, offset: Any) -> None:
    with pytest.raises(UnsafeContent):
        torchfile.loads(archive(tensor(storage("0", 6), shape, strides, offset), {"0": SIX}))


def test_expanded_views_count_against_the_budget() -> None:
    tracemalloc.start()
    bomb = [tensor(storage("0", 6), (1000, 1000, 250), (0, 0, 0)) for _ in range(8)]
    with pytest.raises(UnsafeContent, match="more memory"):
        torchfile.loads(archive(bomb, {"0": SIX}), Budget(bytes=2**20))
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "where",
    [
        storage("0", 7),
        storage("0", 5),
        storage("missing", 6),
        storage("0", -1),
        storage("0", 6, "Nonsense"),
        storage("0", 12, "Half"),
        Persistent("storage"),
        Persistent(("storage", 1, 2, 3, 4)),
        None,
        "text",
        Call(Global("torch.FloatStorage"), 6),
    ],
)
def test_storages_that_lie(where: Any) -> None:
    value = tensor(where, (13,), (1,))
    with pytest.raises(UnsafeContent):
        torchfile.loads(archive(value, {"0": SIX}))


def test_a_storage_of_another_length_than_it_claims() -> None:
    for count in (5, 7):
        with pytest.raises(UnsafeContent, match="claims"):
            torchfile.loads(archive(tensor(storage("0", count), (5,), (1,)), {"0": SIX}))


def test_zip_bombs_and_overlapping_records() -> None:
    value = tensor(storage("0", 2**20), (2**20,), (1,))
    with pytest.raises(UnsafeContent, match="compressed"):
        torchfile.loads(archive(value, {"0": bytes(2**22)}, compress=True))
    with pytest.raises(UnsafeContent, match="compressed"):
        torchfile.loads(archive(tensor(storage("0", 6), (6,), (1,)), {"0": SIX}, compress=True))
    # Both records claim the same bytes: together they yield more than the file has.
    both = [tensor(storage(key, 2**18), (2**18,), (1,)) for key in ("0", "1")]
    data = archive(both, {"0": bytes(2**20), "1": b""})
    first = data.index(b"x/data/0", data.rindex(b"PK\x01\x02x"[:4]) - 200)
    assert first > 0
    directory = data.rfind(b"x/data/0")
    entry_0, entry_1 = directory - 46, data.rfind(b"x/data/1") - 46
    bent = bytearray(data)
    bent[entry_1 + 16 : entry_1 + 28] = bent[entry_0 + 16 : entry_0 + 28]  # checksum and sizes
    bent[entry_1 + 42 : entry_1 + 46] = bent[entry_0 + 42 : entry_0 + 46]  # where it lies
    with pytest.raises(UnsafeContent):
        torchfile.loads(bytes(bent))


def test_a_flipped_bit_in_a_record_is_found() -> None:
    data = bytearray(archive(tensor(storage("0", 6), (6,), (1,)), {"0": SIX}))
    data[data.index(SIX) + 5] ^= 4
    with pytest.raises(UnsafeContent, match="damaged"):
        torchfile.loads(bytes(data))


def test_an_archive_of_something_else() -> None:
    with pytest.raises(UnsafeContent, match="not one that torch"):
        torchfile.loads(archive(1, {}, top="a/b"))


@pytest.mark.parametrize("name", ["zip", "legacy"])
def test_every_truncation_and_many_flips_end_in_typed_errors(name: str) -> None:
    data = (DATA / f"{name}.pt").read_bytes()
    for end in range(0, len(data), 7):
        with pytest.raises(UnsafeContent):
            torchfile.loads(data[:end])
    chance = random.Random(name)
    for _ in range(300):
        bent = bytearray(data)
        bent[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            torchfile.loads(bytes(bent))
        except CheckpointError:
            continue


def test_legacy_streams_that_lie() -> None:
    value = tensor(storage("0", 6, view=None), (6,), (1,))
    good = struct.pack("<q", 6) + SIX
    np.testing.assert_array_equal(torchfile.loads(stream(value, ["0"], good)), np.arange(6, dtype="f4"))
    for keys, tail in [
        (["0"], struct.pack("<q", 7) + SIX),
        (["0"], struct.pack("<q", -1) + SIX),
        (["0"], struct.pack("<q", 2**62) + SIX),
        (["0"], b""),
        ([], good),
        (["1"], good),
        (["0", "0"], good + good),
        ([0], good),
        ("0", good),
    ]:
        with pytest.raises(UnsafeContent):
            torchfile.loads(stream(value, keys, tail))  # type: ignore[arg-type]
    views = tensor(storage("0", 6, view=("v", 0, 3)), (3,), (1,))
    with pytest.raises(UnreadableFormat, match="views"):
        torchfile.loads(stream(views, ["0"], good))


def test_tensors_with_a_type_or_attributes_of_their_own() -> None:
    inner = tensor(storage("0", 6), (6,), (1,))
    subclass = Call(
        Global("torch._tensor._rebuild_from_type_v2"), inner.function, Global("x.Y"), inner.args, {}
    )
    np.testing.assert_array_equal(torchfile.loads(archive(subclass, {"0": SIX})), np.arange(6, dtype="f4"))
    other = Call(
        Global("torch._tensor._rebuild_from_type_v2"), Global("os.system"), Global("x.Y"), ("true",), {}
    )
    assert isinstance(torchfile.loads(archive(other, {})), Opaque)


def test_many_streams_in_one_pickle_share_a_budget() -> None:
    value = tensor(storage("0", 1, view=None), (2**20,), (0,))
    inner = stream(value, ["0"], struct.pack("<q", 1) + b"\0\0\0\0")
    meter = Meter(Budget(bytes=2**26), 0)
    many = Opaque("list", ())
    many.items = [Opaque("torch.storage._load_from_bytes", (inner,)) for _ in range(64)]
    with pytest.raises(UnsafeContent, match="more memory"):
        trees.rewrite(many, lambda item: torchfile.tensor(item, meter))
    tiny = stream(1, [], b"")
    meter = Meter(Budget(bytes=2**20), 0)
    many.items = [Opaque("torch.storage._load_from_bytes", (tiny,)) for _ in range(64)]
    with pytest.raises(UnsafeContent, match="more memory"):
        trees.rewrite(many, lambda item: torchfile.tensor(item, meter))


def test_other_calls_stay_records_and_nothing_runs(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    value = {
        "danger": Call(Global("builtins.open"), str(target), "w"),
        "sparse": Call(Global("torch._utils._rebuild_sparse_tensor"), Global("torch.sparse_coo"), ()),
        "device": Call(Global("torch.device"), "cuda:0"),
    }
    result = torchfile.loads(archive(value, {}))
    assert not target.exists()
    assert {key: type(item) for key, item in result.items()} == dict.fromkeys(value, Opaque)
    assert result["device"].args == ("cuda:0",)


def test_streams_inside_streams_end() -> None:
    inner = stream(1, [], b"")
    for _ in range(60):
        inner = stream(Call(Global("torch.storage._load_from_bytes"), inner), [], b"")
    with contextlib.suppress(UnsafeContent):
        torchfile.loads(inner)
