"""Files that lie: each ends in a typed error, runs nothing, and reads nothing out of bounds."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    InvalidRequest,
    UnreadableFormat,
    UnsafeContent,
)
from tests.codec.torch_bytes import Call, Global, archive, storage, stream, tensor
from tests.trainer_formats.support import DATA, KERAS, OTHERS, files, only_file

TYPED = (UnsafeContent, CheckpointCorrupt, UnreadableFormat)
RAN: list[str] = []


def run(name: str) -> None:
    RAN.append(name)


class Evil:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return run, ("pickle",)


def zipped(members: dict[str, bytes], compress: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as made:
        for name, data in members.items():
            made.writestr(zipfile.ZipInfo(name) if compress == zipfile.ZIP_STORED else name, data)
    return buffer.getvalue()


def safetensors(header: Any, data: bytes = b"", text: str | None = None) -> bytes:
    raw = (json.dumps(header) if text is None else text).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(shape: list[Any], start: Any, stop: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def npy(header: str, data: bytes = b"") -> bytes:
    raw = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + data


def header(descr: str, count: int) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': ({count},)}}"


CALL = Call(Global(f"{__name__}.run"), "torch")
OBJECTS = pickle.dumps(np.array([Evil()], object))


def try_all(path: Path) -> list[CheckpointError]:
    """Everything that reads it; the errors. Nothing else may come out, and nothing may run."""
    RAN.clear()
    errors = []

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except CheckpointError as error:
            errors.append(error)

    found: list[Checkpoint] = []
    attempt(lambda: found.append(Checkpoint.open(path)))
    if not found:
        assert path.name in str(errors[0])
        return errors
    [ckpt] = found
    attempt(lambda: ckpt.state)
    attempt(ckpt.weights)
    attempt(lambda: ckpt.weights(names=list(ckpt.weights())[:1]))
    attempt(lambda: dict(ckpt.components))
    attempt(lambda: ckpt.format)
    attempt(lambda: ckpt.step)
    attempt(ckpt.scan)
    assert not RAN
    assert all(path.name in str(error) for error in errors)
    return errors


def test_what_runs_here_would_be_seen() -> None:
    pickle.loads(pickle.dumps(Evil()))
    assert RAN == ["pickle"]
    RAN.clear()


# ---- safetensors

TWICE = f'{{"a": {json.dumps(entry([2], 0, 8))}, "a": {json.dumps(entry([2], 0, 8))}}}'
LIES = {
    "beyond the file": safetensors({"a": entry([4], 0, 16)}, bytes(8)),
    "2^40 elements": safetensors({"a": entry([2**40], 0, 16)}, bytes(16)),
    "2^40 bytes": safetensors({"a": entry([2**40], 0, 2**42)}, bytes(16)),
    "elements that wrap around": safetensors({"a": entry([2**32, 2**32], 0, 0)}),
    "a negative length": safetensors({"a": entry([-4], 0, 16)}, bytes(16)),
    "a negative offset": safetensors({"a": entry([4], -16, 0)}, bytes(16)),
    "the end before the start": safetensors({"a": entry([0], 16, 0), "b": entry([4], 0, 16)}, bytes(16)),
    "shared bytes": safetensors({"a": entry([4], 0, 16), "b": entry([4], 0, 16)}, bytes(16)),
    "overlap": safetensors({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)),
    "a gap": safetensors({"a": entry([4], 8, 24)}, bytes(24)),
    "bytes at the end": safetensors({"a": entry([4], 0, 16)}, bytes(17)),
    "a float for an offset": safetensors({"a": entry([4], 0.0, 16)}, bytes(16)),
    "true for an offset": safetensors({"a": entry([1], False, True, "U8")}, bytes(1)),
    "a text for a shape": safetensors({"a": entry("4", 0, 16)}, bytes(16)),  # type: ignore[arg-type]
    "a dtype that is a list": safetensors({"a": entry([4], 0, 16, ["F32"])}, bytes(16)),
    "a dtype nobody has": safetensors({"a": entry([4], 0, 16, "F4096")}, bytes(16)),
    "100 dimensions": safetensors({"a": entry([1] * 100, 0, 4)}, bytes(4)),
    "three offsets": safetensors({"a": {**entry([4], 0, 16), "data_offsets": [0, 8, 16]}}, bytes(16)),
    "no offsets": safetensors({"a": {"dtype": "F32", "shape": [4]}}, bytes(16)),
    "a tensor that is a number": safetensors({"a": 1}),
    "one name twice": safetensors(None, bytes(8), TWICE),
    "a list": safetensors(None, b"", '{"a": [}'),
    "deep": safetensors(None, b"", '{"a": ' + "[" * 100_000),
    "a header longer than the file": struct.pack("<Q", 2**20) + b"{}" + bytes(64),
    "a header of 2^62 bytes": struct.pack("<Q", 2**62) + b"{}" + bytes(64),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_safetensors(tmp_path: Path, lie: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(LIES[lie])
    for path in (tmp_path / "model.safetensors", tmp_path):
        errors = try_all(path)
        assert errors
        assert all(isinstance(error, (*TYPED, ValueError)) for error in errors)


def test_what_is_not_asked_for_may_not_lie_either(tmp_path: Path) -> None:
    lie = safetensors({"a": entry([2**40], 0, 16), "b": entry([2], 16, 24)}, bytes(24))
    (tmp_path / "model.safetensors").write_bytes(lie)
    with pytest.raises(UnsafeContent, match="'a' of shape"):
        Checkpoint.open(tmp_path).weights(names=["b"])


# ---- zips

WEIGHTS = tensor(storage("0", 6), (6,), (1,))
POLICY = archive({"w": WEIGHTS}, {"0": bytes(24)})
SB3 = {"data": b'{"num_timesteps": 1}', "_stable_baselines3_version": b"2.0", "policy.pth": POLICY}
BOMB = zipped({**SB3, "x": bytes(2**20)}, zipfile.ZIP_DEFLATED)


def claims(data: bytes, name: bytes, size: int) -> bytes:
    """The zip with another size for a member, in both of its headers."""
    found = bytearray(data)
    for magic, at, field in ((b"PK\x03\x04", 30, 22), (b"PK\x01\x02", 46, 24)):
        start = -1
        while (start := data.find(magic, start + 1)) >= 0:
            if data[start + at : start + at + len(name)] == name:
                found[start + field : start + field + 4] = struct.pack("<I", size)
    return bytes(found)


def twice(members: dict[str, bytes], name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for each, content in members.items():
            made.writestr(each, content)
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr(name, data)
    return buffer.getvalue()


KERAS_ZIP = {
    "config.json": b"{}",
    "metadata.json": b"{}",
    "model.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(64),
}
ONE = npy(header("<f4", 2), bytes(8))
ZIPS = {
    "torch: cut short": archive({"w": WEIGHTS}, {"0": bytes(24)})[:-30],
    "torch: beyond its storage": archive({"w": tensor(storage("0", 6), (7,), (1,))}, {"0": bytes(24)}),
    "torch: offset beyond": archive({"w": tensor(storage("0", 6), (2,), (1,), 5)}, {"0": bytes(24)}),
    "torch: 2^40 elements": archive({"w": tensor(storage("0", 6), (2**40,), (0,))}, {"0": bytes(24)}),
    "torch: negative stride": archive({"w": tensor(storage("0", 6), (3,), (-1,), 2)}, {"0": bytes(24)}),
    "torch: beyond its record": archive({"w": tensor(storage("0", 2**40), (2**40,), (1,))}, {"0": bytes(24)}),
    "torch: no record": archive({"w": tensor(storage("1", 6), (6,), (1,))}, {"0": bytes(24)}),
    "torch: a record outside": archive({"w": tensor(storage("../../x", 6), (6,), (1,))}, {"0": bytes(24)}),
    "torch: compressed": archive({"w": WEIGHTS}, {"0": bytes(24)}, compress=True),
    "sb3: no policy": zipped({name: data for name, data in SB3.items() if name != "policy.pth"}),
    "sb3: policy is none": zipped({**SB3, "policy.pth": b"none"}),
    "sb3: data is none": zipped({**SB3, "data": b"{"}),
    "sb3: pickle is none": zipped({**SB3, "data": b'{"a": {":serialized:": "gAVLLg=="}}'}),
    "sb3: no base64": zipped({**SB3, "data": '{"a": {":serialized:": "\u00e9"}}'.encode()}),
    "sb3: a key twice": zipped({**SB3, "data": b'{"num_timesteps": 1, "num_timesteps": 2}'}),
    "sb3: outside": zipped({**SB3, "../../../evil.pth": POLICY}),
    "sb3: absolute": zipped({**SB3, "/etc/evil": b"1"}),
    "sb3: a member that claims 4 GiB": claims(BOMB, b"x", 0xFFFFFFF0),
    "sb3: a member that claims less": claims(BOMB, b"data", 3),
    "sb3: not whole": zipped(SB3)[:-40],
    "keras: outside": zipped({**KERAS_ZIP, "a/../../b": b"1"}),
    "keras: no weights that are whole": zipped(KERAS_ZIP),
    "keras: no JSON": zipped({**KERAS_ZIP, "metadata.json": b"{"}),
    "npz: outside": zipped({"../a.npy": ONE}),
    "npz: 2^40 elements": zipped({"a.npy": npy(header("<f4", 1099511627776), bytes(8))}),
    "npz: another length": zipped({"a.npy": npy(header("<f4", 3), bytes(8))}),
    "npz: no header": zipped({"a.npy": b"\x93NUMPY"}),
    "npz: a header that is code": zipped({"a.npy": npy("__import__('os').system('true')", bytes(8))}),
    "npz: a header of 64 KiB": zipped({"a.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + bytes(64)}),
    "npz: a dtype that is none": zipped({"a.npy": npy(header("evil", 2), bytes(8))}),
    "npz: a pickle that is none": zipped({"a.npy": npy(header("|O", 2), b"\x80\x05K")}),
}  # fmt: skip


@pytest.mark.parametrize("lie", ZIPS)
def test_zips(tmp_path: Path, lie: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(ZIPS[lie])
    if lie.startswith("keras"):
        pytest.importorskip("h5py")
    for each in (path, tmp_path):
        errors = try_all(each)
        assert errors
        assert all(isinstance(error, (*TYPED, ValueError)) for error in errors)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["policy.pth", "data"])
def test_two_members_of_one_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.zip").write_bytes(twice(SB3, name, SB3[name]))
    [error] = try_all(tmp_path / "model.zip")
    assert isinstance(error, UnsafeContent)
    (tmp_path / "model.zip").write_bytes(twice({"a.npy": ONE}, "a.npy", ONE))
    [error] = try_all(tmp_path / "model.zip")
    assert isinstance(error, UnsafeContent)


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made,
        made.open("a.npy", "w", force_zip64=True) as file,
    ):
        file.write(npy(header("<f4", 3 * 2**28)))
        for _ in range(3 * 2**10 // 64):
            file.write(bytes(2**26))
    assert path.stat().st_size < 2**24
    tracemalloc.start()
    try:
        with pytest.raises(UnsafeContent, match="inflate to more"):
            Checkpoint.open(path).weights()
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()


# ---- pickles


def in_sb3(**data: Any) -> bytes:
    return zipped({**SB3, "data": json.dumps(data).encode()})


TAIL = struct.pack("<q", 6) + bytes(24)
PICKLES: dict[str, bytes] = {
    "a pickle": pickle.dumps({"w": np.ones(2), "evil": Evil()}),
    "an array of objects": pickle.dumps({"w": np.array([Evil(), 1], object)}),
    "a torch zip": archive({"w": WEIGHTS, "evil": CALL}, {"0": bytes(24)}),
    "a torch stream": stream({"w": WEIGHTS, "evil": CALL}, ["0"], TAIL),
    "an npz": zipped({"a.npy": npy(header("|O", 1), OBJECTS)}),
    "an npy": npy(header("|O", 1), OBJECTS),
    "the data of sb3": in_sb3(evil={":serialized:": base64.b64encode(pickle.dumps(Evil())).decode()}),
    "the variables of sb3": zipped({**SB3, "pytorch_variables.pth": archive(CALL, {})}),
}


@pytest.mark.parametrize("where", PICKLES)
def test_nothing_is_called(tmp_path: Path, where: str) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(PICKLES[where])
    errors = try_all(path)
    assert all(isinstance(error, TYPED) for error in errors)
    assert "test_hostile.run" in repr(Checkpoint.open(path).state)
    store = CheckpointStore(tmp_path / "store")
    assert "test_hostile.run" in repr(store.add(Checkpoint.open(path), step=1).load().state)
    assert any(use.rank == "code" for use in store.get(1).scan())
    assert not RAN


@pytest.mark.parametrize("cut", [1, 2, 3, 20, 60, 200])
@pytest.mark.parametrize("name", [name for name in OTHERS if len(files(name)) == 1])
def test_cut_short(tmp_path: Path, name: str, cut: int) -> None:
    data = only_file(name).read_bytes()
    path = tmp_path / "x.ckpt"
    for end in (len(data) - cut, len(data) * cut // 201, cut):
        path.write_bytes(data[:end])
        assert try_all(path)


def test_changed_bytes_end_in_data_or_typed_errors(tmp_path: Path) -> None:
    """Some bytes changed in each file; whatever comes out is data, and nothing has run."""
    random = np.random.default_rng(0)
    path, tried, refused = tmp_path / "x.ckpt", 0, 0
    for name in [name for name in OTHERS if len(files(name)) == 1]:
        data = only_file(name).read_bytes()
        for _ in range(12):
            bent = bytearray(data)
            for at in random.integers(0, len(data), 3):
                bent[at] = random.integers(256)
            path.write_bytes(bytes(bent))
            tried += 1
            refused += bool(try_all(path))
    assert tried >= 100
    assert refused > tried // 2  # checksums of zips, and lengths


# ---- directories


def bend(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], name: str = "model.safetensors.index.json"
) -> Path:
    place = tmp_path / "run"
    place.mkdir()
    for path, data in files("sharded_5.24.0").items():
        (place / path).write_bytes(data)
    document = json.loads((place / "model.safetensors.index.json").read_text())
    changed = change(document)
    (place / name).write_text(changed if isinstance(changed, str) else json.dumps(document))
    return place


SECRET = "/etc/hostname"
FIRST = "transformer.wte.weight"
INDEXES: dict[str, Callable[[dict[str, Any]], object]] = {
    "above": lambda index: index["weight_map"].update({FIRST: "../secret.safetensors"}),
    "absolute": lambda index: index["weight_map"].update({FIRST: SECRET}),
    "below": lambda index: index["weight_map"].update({FIRST: "a/b.safetensors"}),
    "backslash": lambda index: index["weight_map"].update({FIRST: "..\\secret.safetensors"}),
    "nul": lambda index: index["weight_map"].update({FIRST: "a\0b"}),
    "empty": lambda index: index["weight_map"].update({FIRST: ""}),
    "dots": lambda index: index["weight_map"].update({FIRST: ".."}),
    "missing": lambda index: index["weight_map"].update({FIRST: "model-00009-of-00006.safetensors"}),
    "a number": lambda index: index["weight_map"].update({FIRST: 7}),
    "not in it": lambda index: index["weight_map"].update({"ghost": "model-00001-of-00006.safetensors"}),
    "not a shard": lambda index: index["weight_map"].update({FIRST: "config.json"}),
    "no map": lambda index: index.pop("weight_map"),
    "a list": lambda index: index.update(weight_map=[1]),
    "a key twice": lambda index: '{"weight_map": {"a": "config.json", "a": "config.json"}}',
    "no JSON": lambda index: "{",
    "a list of documents": lambda index: "[1]",
}


@pytest.mark.parametrize("lie", INDEXES)
def test_an_index_that_lies(tmp_path: Path, lie: str) -> None:
    (tmp_path / "secret.safetensors").write_bytes(safetensors({FIRST: entry([1], 0, 4)}, b"1234"))
    place = bend(tmp_path, INDEXES[lie])
    with pytest.raises((UnsafeContent, CheckpointCorrupt)) as caught:
        Checkpoint.open(place).weights()
    assert str(place) in str(caught.value)
    assert try_all(place)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.pt").write_bytes(only_file("cleanrl_2.13.0").read_bytes())
    (tmp_path / "run").mkdir()
    os.symlink(tmp_path / "secret.pt", tmp_path / "run" / "model.pt")
    with pytest.raises(UnreadableFormat, match="links among its files"):
        Checkpoint.open(tmp_path / "run")
    with pytest.raises(InvalidRequest, match="it is a link"):
        Checkpoint.open(tmp_path / "run" / "model.pt")
    (tmp_path / "run" / "other.pt").write_bytes(only_file("cleanrl_2.13.0").read_bytes())
    assert Checkpoint.open(tmp_path / "run").state.keys() == {"other.pt"}


def test_damage_in_one_file_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(only_file("cleanrl_2.13.0").read_bytes())
    (tmp_path / "b.pt").write_bytes(only_file("cleanrl_2.13.0").read_bytes()[:-50])
    ckpt = Checkpoint.open(tmp_path)
    with pytest.raises(CheckpointCorrupt, match=r"b\.pt.*cut short"):
        ckpt.state  # noqa: B018
    assert not ckpt.check().ok


# ---- HDF5


@pytest.mark.parametrize(
    "kind", ["external link", "soft link", "external data", "virtual", "cycle", "huge", "objects", "deep"]
)
def test_hdf5(tmp_path: Path, kind: str) -> None:
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "secret"
    with h5py.File(secret, "w") as file:
        file["w"] = np.arange(4, dtype=np.float32)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["ok"] = np.ones(2, np.float32)
        if kind == "external link":
            file["w"] = h5py.ExternalLink(str(secret), "/w")
        elif kind == "soft link":
            file["w"] = h5py.SoftLink("/w")
        elif kind == "external data":
            file.create_dataset("w", (4,), "f4", external=[(str(secret), 0, 16)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(str(secret), "w", (4,))
            file.create_virtual_dataset("w", layout)
        elif kind == "cycle":
            file.create_group("a")["a"] = file["/"]
        elif kind == "huge":
            file.create_dataset("w", (2**40,), "f4", chunks=(2**10,), fillvalue=1)
        elif kind == "objects":
            file.create_dataset("w", (2,), h5py.string_dtype())
        else:
            group = file
            for _ in range(200):
                group = group.create_group("g")
            group["w"] = np.ones(1)
    if kind == "objects":
        ckpt = Checkpoint.open(path)
        assert ckpt.weights().keys() == {"ok"}
        assert "hdf5.object" in repr(ckpt.state)
        return
    with pytest.raises(UnsafeContent, match=r"x\.h5.*is a link" if "link" in kind else r"x\.h5"):
        Checkpoint.open(path).weights()
    with pytest.raises(UnsafeContent):
        Checkpoint.open(path).state  # noqa: B018


@pytest.mark.parametrize("name", KERAS)
def test_hdf5_cut_short(tmp_path: Path, name: str) -> None:
    pytest.importorskip("h5py")
    data = only_file(name).read_bytes()
    for part in (0.2, 0.5, 0.9):
        (tmp_path / "x.h5").write_bytes(data[: int(len(data) * part)])
        assert try_all(tmp_path / "x.h5")


def test_no_framework_was_imported() -> None:
    assert not {"lightning", "transformers", "stable_baselines3", "keras"} & sys.modules.keys()
    assert DATA.exists()
