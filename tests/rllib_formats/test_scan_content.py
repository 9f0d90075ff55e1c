"""What a file is called doesn't matter to `scan`: every container, hostile and honest, and every limit."""

from __future__ import annotations

import base64
import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore.rllib_formats import scan
from ckptstore.rllib_formats.content import LIMITS, Limits
from tests.codec.torch_bytes import Call, Global, archive, code, storage, stream, tensor

NAMES = [
    "last.ckpt",
    "pytorch_model.bin",
    "x.joblib",
    "model.tar",
    ".metadata",
    "weights.txt",
    "a/b/model",
    "x.zip",
]
NAME = pickle.dumps(os.system, 0).decode().replace("\n", ".").split(".p0")[0][1:]  # posix.system or nt.system


class Evil:
    """Unpickling it would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


class Wrapper:
    """What joblib pickles in place of an array; the data follow."""

    def __init__(self, array: np.ndarray[Any, Any], aligned: bool) -> None:
        self.subclass, self.shape, self.order = np.ndarray, array.shape, "C"
        self.dtype, self.allow_mmap = array.dtype, not array.dtype.hasobject
        self.numpy_array_alignment_bytes = 16 if aligned else None


Wrapper.__module__, Wrapper.__qualname__, Wrapper.__name__ = (
    "joblib.numpy_pickle",
    "NumpyArrayWrapper",
    "NumpyArrayWrapper",
)


_PurePickler: Any = pickle._Pickler


class JoblibPickler(_PurePickler):  # type: ignore[misc]
    """Writes as joblib's NumpyPickler does, by the same rules."""

    aligned = True

    def save(self, value: Any, *rest: Any) -> None:
        if not isinstance(value, np.ndarray) or type(value) is not np.ndarray:
            super().save(value, *rest)
            return
        super().save(Wrapper(value, self.aligned))
        self.framer.end_framing()
        if value.dtype.hasobject:
            pickle.dump(value, self._file, 2)
        else:
            padding = 16 - (self._file.tell() + 1) % 16
            self._file.write(
                (bytes([padding]) + b"\xff" * padding if self.aligned else b"") + value.tobytes()
            )
        self.framer.start_framing()

    def save_global(self, value: Any, name: str | None = None) -> None:
        if value is Wrapper:
            self.write(b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n")
            self.memoize(value)
        else:
            super().save_global(value, name)


JoblibPickler.dispatch = {**_PurePickler.dispatch, type: JoblibPickler.save_global}


def joblib(value: Any, protocol: int = 4, aligned: bool = True) -> bytes:
    file = io.BytesIO()
    pickler = JoblibPickler(file, protocol)
    pickler._file, pickler.aligned = file, aligned
    pickler.dump(value)
    return file.getvalue()


def zipped(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return file.getvalue()


def tarred(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def arrays(extra: Any) -> dict[str, Any]:
    random = np.random.default_rng(0)
    found = {
        "w": random.random((50, 7)),
        "n": np.arange(3),
        "o": np.array(["a", None], object),
        "e": np.empty(0),
    }
    return {**found, "extra": extra}


def torch_tree(extra: Any) -> Any:
    inner = (Call(Global("os.system"), "true"),) if extra is not None else ()
    return {"w": tensor(storage("0", 4), (2, 2), (2, 1)), "x": inner}


def torch_zip(extra: Any) -> bytes:
    return archive(torch_tree(extra), {"0": b"\x80\x02" * 8}, byteorder="little")


def torch_stream(extra: Any) -> bytes:
    return stream(torch_tree(extra), ["0"], struct.pack("<q4f", 4, *range(4)))


def torch_tar(extra: Any, where: str) -> bytes:
    """As torch 0.1 wrote it: pickles, with numbers between them."""

    def one(value: Any) -> bytes:
        return b"\x80\x02" + code(value) + b"."

    def key(place: str, plain: Any) -> Any:
        return Call(Global("os.system"), "true") if extra is not None and where == place else plain

    floats = Global("torch.FloatStorage")
    numbers = struct.pack("<q3f", 3, 1, 2, 3)
    storages = (
        one(2) + one(("1", "cpu", floats)) + numbers + one((key("storages", "2"), "cpu", floats)) + numbers
    )
    shapes = struct.pack("<ii2q2qq", 2, 0, 3, 1, 1, 1, 0)
    tensors = one(1) + one((key("tensors", 5), "1", Global("torch.FloatTensor"))) + shapes
    return tarred(
        {
            "sys_info": pickle.dumps({"protocol_version": 1000}, 2),
            "pickle": one({"w": key("pickle", 1)}),
            "tensors": tensors,
            "storages": storages + one([key("views", 1)]),
        }
    )


def sb3(extra: Any, where: str) -> bytes:
    hidden = base64.b64encode(pickle.dumps([extra if where == "data" else None])).decode()
    data = json.dumps({"policy_class": {":type:": "<class 'x'>", ":serialized:": hidden}, "n": 3})
    return zipped(
        {
            "data": data.encode(),
            "policy.pth": torch_zip(extra if where == "policy" else None),
            "_stable_baselines3_version": b"2.3.0",
            "system_info.txt": b"- OS: Linux\n",
        }
    )


def pickled(extra: Any, protocol: int) -> bytes:
    return pickle.dumps(arrays(extra), protocol)


def packed(extra: Any, protocol: int) -> bytes:
    return joblib(arrays(extra), protocol)


def split(data: bytes) -> bytes:
    """As two members of gzip."""
    return gzip.compress(data[:9]) + gzip.compress(data[9:])


def by(make: Callable[[Any, Any], bytes], kind: Any) -> Callable[[Any], bytes]:
    return lambda extra: make(extra, kind)


def distributed(extra: Any) -> bytes:
    """Archives behind one another, as in the files of torch's distributed checkpoints."""
    return torch_zip(None) + torch_zip(extra) + torch_zip(None)


CONTAINERS: dict[str, Callable[[Any], bytes]] = {
    **{f"pickle {n}": by(pickled, n) for n in range(6)},
    "pickles in a row": lambda extra: pickle.dumps(1) + pickle.dumps([extra]) + pickle.dumps(2),
    "gzip in a pickle": lambda extra: pickle.dumps(gzip.compress(pickle.dumps(pickle.dumps(extra)))),
    **{f"joblib {n}": by(packed, n) for n in range(2, 6)},
    "joblib before alignment": lambda extra: joblib(arrays(extra), aligned=False),
    "joblib's object arrays": lambda extra: joblib([np.ones(3), np.array([extra, 1], object)]),
    "gzip": lambda extra: gzip.compress(joblib(arrays(extra))),
    "bz2": lambda extra: bz2.compress(joblib(arrays(extra))),
    "xz": lambda extra: lzma.compress(joblib(arrays(extra))),
    "lzma": lambda extra: lzma.compress(joblib(arrays(extra)), lzma.FORMAT_ALONE),
    "zlib": lambda extra: zlib.compress(joblib(arrays(extra))),
    "two gzip members": lambda extra: split(pickle.dumps([extra])),
    "zfile": lambda extra: b"ZF%-19s" % b"0x99" + zlib.compress(pickle.dumps([extra])),
    "torch zip": torch_zip,
    "torch stream": torch_stream,
    **{f"torch tar {w}": by(torch_tar, w) for w in ("pickle", "storages", "tensors", "views")},
    **{f"sb3 {w}": by(sb3, w) for w in ("data", "policy")},
    "distributed": distributed,
    "npy": lambda extra: npy(np.array([extra, 1], object)),
    "npz": lambda extra: zipped({"a.npy": npy(np.arange(3)), "o.npy": npy(np.array([extra], object))}),
    "npz deflated": lambda extra: zipped({"o.npy": npy(np.array([extra], object))}, zipfile.ZIP_DEFLATED),
    "tar": lambda extra: tarred({"a/x": pickle.dumps([extra]), "b.txt": b"text"}),
    "old tar in gzip": lambda extra: gzip.compress(tarred({"x": pickle.dumps([extra])}, tarfile.GNU_FORMAT)),
    "zip in tar in zip": lambda extra: zipped({"t": tarred({"z": zipped({"p": pickle.dumps([extra], 0)})})}),
    "zip behind text": lambda extra: b"hello " + zipped({"p": pickle.dumps([extra])}),
    "hex in JSON": lambda extra: json.dumps({"v": {"value": pickle.dumps([extra]).hex()}}).encode(),
    "base64 in JSON lines": lambda extra: b'{"n": 1}\n' + json.dumps(
        {"obs": base64.b64encode(pickle.dumps([extra])).decode()}
    ).encode(),
    "base64 in JSON": lambda extra: json.dumps([base64.b64encode(pickle.dumps([extra])).decode()]).encode(),
    "protocol 0 in sb3's JSON": lambda extra: json.dumps(
        {":serialized:": base64.b64encode(pickle.dumps([extra], 0)).decode()}
    ).encode(),
}  # fmt: skip


def look(files: dict[str, bytes], limits: Limits = LIMITS) -> list[scan.Use]:
    return list(scan.scan({path: len(data) for path, data in files.items()}, files.__getitem__, limits))


@pytest.mark.parametrize("container", CONTAINERS)
def test_hostile_files_are_found_and_honest_ones_pass(container: str) -> None:
    for name in NAMES:
        hostile = look({name: CONTAINERS[container](Evil())})
        assert {(use.name, use.rank) for use in hostile if "system" in use.name} <= {
            (NAME, "code"),
            ("os.system", "code"),
        }
        assert hostile, name
        assert any("system" in use.name for use in hostile), (name, hostile)
        honest = look({name: CONTAINERS[container](None)})
        assert [use for use in honest if use.rank != "data"] == [], name


@pytest.mark.parametrize(
    "data",
    [b"", b"plain text\nin lines\n", b"checkpoint\nof\nmine\n", b'{"a": [1, "80", "gAAA"]}', b"in\na\nR\n",
     b"i\xffx\n\xfe\nR", b"\x10\x00\x00\x00\x00\x00\x00\x00{              }",
     npy(np.arange(4)), npy(np.ones(2, [("a", "i4")]))],
)  # fmt: skip
def test_what_holds_no_pickle_is_passed_over(data: bytes) -> None:
    assert [use for use in look({"file": data, "x.bin": data}) if use.rank == "code"] == []


def test_what_was_not_looked_into_is_said_and_refused() -> None:
    encrypted = bytearray(zipped({"secret": b"x"}))
    for magic in (b"PK\x03\x04", b"PK\x01\x02"):
        at = encrypted.find(magic) + (6 if magic.endswith(b"\x04") else 8)
        encrypted[at] |= 1
    cases = {
        "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        "model.keras": (zipped({"config.json": b"{}", "w.h5": b"\x89HDF\r\n\x1a\n"}), "w.h5: HDF5"),
        "x.bin": (b"\x00\x01\x02\xff" * 9, "unknown format"),
        "e.zip": (bytes(encrypted), "secret: it is encrypted"),
        "z.zst": (b"\x28\xb5\x2f\xfd" + bytes(9), "zstd"),
        "cut.gz": (gzip.compress(bytes(1000))[:-9], "cut short"),
        "tail": (pickle.dumps(1) + b"\x00\xff behind", "after the pickle"),
        "model.py": (b"import os\n", "source code"),
    }
    for name, (data, why) in cases.items():
        found = [use for use in look({name: data}) if use.rank != "data"]
        assert {use.rank for use in found} == {"unknown"}, found
        assert any(why in use.name for use in found), found
    assert [use.rank for use in scan.scan({"link": -1}, dict[str, bytes]().__getitem__)] == ["unknown"]


def test_keras_and_yaml() -> None:
    layer = json.dumps({"config": {"layers": [{"class_name": "Lambda", "config": {}}]}}).encode()
    assert ("keras.layers.Lambda", "code") in [
        (use.name, use.rank) for use in look({"m.keras": zipped({"config.json": layer})})
    ]
    for tag in (
        "!!python/object/apply:os.system ['true']",
        "!<tag:yaml.org,2002:python/object/apply:os.system> ['true']",
        "%TAG !p! tag:yaml.org,2002:python/object/apply:\n---\n!p!os.system ['true']",
        "%TAG !! tag:yaml.org,2002:pyth\n---\n!!on/object/apply:os.system ['true']",
        "!<tag:yaml.org,2002:%70ython/object/apply:os.system> ['true']",
    ):
        assert [use.rank for use in look({"hparams.yaml": f"{tag}\n".encode()})] == ["code"], tag


def test_a_pickle_dressed_as_something_else() -> None:
    danger = b"cos\nsystem\n(S'true'\ntR."
    tar = bytearray(tarred({"x": b"y"}))
    tar[: len(danger)] = danger
    tar[148:156] = b" " * 8
    tar[148:156] = b"%06o\0 " % sum(tar[:512])
    for data in (
        danger + zipped({"a.txt": b"text"}),
        bytes(tar),
        danger + b"\n# text\n",
        b"}." + danger,
        danger[:-1],
    ):
        assert any(use.name == "os.system" for use in look({"README.md": data})), data[:40]
    # What the decoder refuses before it gets to the call: pickle.load gets there.
    early = b"(I1\nI2\nlNb0" + danger
    assert [use for use in look({"notes.txt": early}) if use.rank == "code"]


@pytest.mark.parametrize("code", [0, 1, 42, 127])
def test_msgpack_cannot_hide_a_pickle(code: int) -> None:
    msgpack = pytest.importorskip("msgpack")
    for extra in (Evil(), None):
        hidden = pickle.dumps([1, extra])
        text = base64.b64encode(hidden).decode()
        for document in (
            {"a": msgpack.ExtType(code, hidden)},
            {b"a": [{3: hidden}]},
            [msgpack.ExtType(code, msgpack.packb([msgpack.ExtType(7, hidden)]))],
            [msgpack.packb({"a": hidden})],
            {"a": text},
            {text: 1},
        ):
            for name in ("x.msgpack", "x.bin"):
                ranks = {use.rank for use in look({name: msgpack.packb(document)})}
                assert ranks <= {"data"} if extra is None else "code" in ranks, document


def test_text_in_a_pickle() -> None:
    for encode in (base64.b64encode, base64.b85encode):
        for extra in (Evil(), None):
            text = encode(pickle.dumps([1, extra])).decode()
            for value in (
                {"a": [text]},
                {text: 1},
                {"a": b"x: " + text.encode()} if extra is None else [text],
            ):
                ranks = {use.rank for use in look({"x.bin": pickle.dumps(value)})}
                assert ranks <= {"data"} if extra is None else "code" in ranks


@pytest.mark.parametrize(
    "how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_zips_of_every_kind(how: int) -> None:
    """What lies before, behind, twice or under a directory's name is found, whichever a reader takes."""
    for extra in (Evil(), None):
        hidden = pickle.dumps([1, extra])
        plain = zipped({"a/data.pkl": hidden}, how)
        twice = io.BytesIO()
        with zipfile.ZipFile(twice, "w", how) as out:
            for data in (hidden, pickle.dumps({})):
                with (
                    pytest.warns(UserWarning, match="Duplicate")
                    if data is not hidden
                    else contextlib.nullcontext()
                ):
                    out.writestr("a/data.pkl", data)
        inner = zipped({"x": tarred({"y": gzip.compress(plain)})}, how)
        for data in (
            plain,
            b"#!/bin/sh\n" + plain,
            hidden + plain,
            twice.getvalue(),
            plain.replace(b"data.pkl", b"data.pk/"),
            plain.replace(b"data.pkl", b"DATA.PKL"),
            inner,
        ):
            ranks = {use.rank for use in look({"x.pt": data})}
            assert ranks <= {"data"} if extra is None else "code" in ranks
    odd = bytearray(zipped({"a": b"text"}))
    odd[8:10] = b"\x63\0"  # a compression that isn't known
    at = odd.find(b"PK\x01\x02") + 10
    odd[at : at + 2] = b"\x63\0"
    assert [use.rank for use in look({"x.zip": bytes(odd)})] == ["code"]


def test_safetensors_cannot_hide_a_pickle() -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(0x0280)
    assert look({"m.safetensors": struct.pack("<Q", len(header)) + header + bytes(4)}) == []
    assert look({"m.safetensors": struct.pack("<Q", len(header)) + header + bytes(5)}) != []


def test_pieces_of_a_distributed_checkpoint_are_those_its_index_lists() -> None:
    def info(offset: int, length: int) -> bytes:
        fields = {"relative_path": "__0_0.distcp", "offset": offset, "length": length}
        return b"ctorch.distributed.checkpoint.filesystem\n_StorageInfo\n)\x81" + code(fields) + b"b"

    # Hidden where no archive begins: inside the bytes of a tensor.
    hidden = torch_zip(Evil())
    data = archive(torch_tree(None), {"0": b"\x00" * 99 + hidden + b"\x00" * 9})
    assert look({"__0_0.distcp": data, "d/.metadata": b"N."}) == [
        use for use in look({"__0_0.distcp": data}) if use.rank == "data"
    ]
    at = data.index(hidden)
    index = b"\x80\x02" + info(0, len(data))[:-1] + b"b\x85" + info(at, len(hidden)) + b"\x86."
    found = look({"d/.metadata": index, "d/__0_0.distcp": data})
    assert ("d/__0_0.distcp", "os.system") in [(use.path, use.name) for use in found]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zlib.compress])
def test_bombs_are_bounded_and_said(pack: Callable[[bytes], bytes]) -> None:
    small = Limits(expanded_bytes=1 << 20)
    for data in (
        pack(bytes(4 << 20)),
        pickle.dumps(pack(bytes(4 << 20))),
        zipped({"b": bytes(4 << 20)}, zipfile.ZIP_DEFLATED),
    ):
        found = [use for use in look({"x": data}, small) if use.rank != "data"]
        assert {use.rank for use in found} == {"unknown"}, found
        assert any("more than" in use.name or "over" in use.name for use in found)


def test_every_other_limit_is_said() -> None:
    many = zipped({str(number): b"text" for number in range(20)})
    assert "more than 10 members" in look({"x": many}, Limits(members=10))[0].name
    assert "more than 5" in look({"x": b"text and more"}, Limits(file_bytes=5))[0].name
    assert "JSON of more" in look({"x": b'{"a": "and more"}'}, Limits(text_bytes=5))[0].name
    deep = b"text"
    for _ in range(12):
        deep = zipped({"x": deep})
    assert "nested more" in look({"x": deep})[0].name
    row = b"N." * 2000
    assert "what follows 1000 pickles" in look({"x": row})[0].name


def test_files_of_the_real_torch() -> None:
    torch = pytest.importorskip("torch")
    for new in (True, False):
        for protocol in (2, 4, 5):
            for extra in (None, Evil()):
                file = io.BytesIO()
                value = OrderedDict(w=torch.ones(3, 4), b=torch.ones(2, dtype=torch.bfloat16), extra=extra)
                torch.save(value, file, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
                ranks = {use.rank for use in look({"model.bin": file.getvalue()})}
                assert ranks == ({"data"} if extra is None else {"data", "code"})


def test_suffixes_and_containers_of_the_real_torch(tmp_path: Path) -> None:
    """A model and an optimizer by `torch.save`, in either format, and a distributed checkpoint."""
    torch = pytest.importorskip("torch")
    distributed_checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    for extra in (None, Evil()):
        state = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "step": 3, "x": extra}
        expected = {"data"} if extra is None else {"data", "code"}
        for suffix in ("pt", "pth", "bin", "ckpt", "p", "pkl", "model", "tar", "zip", "safetensors", "csv"):
            for new in (True, False):
                file = io.BytesIO()
                torch.save(state, file, _use_new_zipfile_serialization=new)
                assert {use.rank for use in look({f"file.{suffix}": file.getvalue()})} == expected, suffix
        directory = tmp_path / str(extra is None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it says that there is one process
            distributed_checkpoint.save(
                {"w": torch.ones(4, 4), "n": [1, extra]}, checkpoint_id=str(directory), no_dist=True
            )
        files = {path.name: path.read_bytes() for path in directory.iterdir()}
        assert ".metadata" in files
        assert {use.rank for use in look(files)} == expected


def test_a_directory_of_hugging_face() -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    honest = {
        "model-00001-of-00002.safetensors": struct.pack("<Q", len(header)) + header + bytes(4),
        "model.safetensors.index.json": b'{"metadata": {"total_size": 4}, "weight_map": {"w": "model-0"}}',
        "config.json": json.dumps({"architectures": ["LlamaForCausalLM"], "eos": "<|endoftext|>"}).encode(),
        "tokenizer.json": json.dumps({"vocab": {"a" * n: n for n in range(40)}, "merges": ["a b"]}).encode(),
        "vocab.txt": "\n".join(f"##{n:x}" for n in range(5000)).encode(),
        "trainer_state.json": json.dumps({"log_history": [{"loss": 1 / n} for n in range(1, 300)]}).encode(),
        "rng_state.pth": torch_zip(None),
        "optimizer.bin": torch_stream(None),
        "README.md": b"---\nlicense: mit\n---\n# Card\n",
    }
    assert {use.rank for use in look(honest)} <= {"data"}
    for name in honest:
        for make in (torch_zip, torch_stream, lambda extra: pickle.dumps([extra])):
            hostile = look({**honest, name: make(Evil())})
            assert {use.path for use in hostile if use.rank == "code"} == {name}


GETATTR, TENSOR = Global("builtins.getattr"), Global("torch.Tensor")
FROM_NUMPY, REBUILD = Global("torch.from_numpy"), Global("torch._tensor._rebuild_from_type_v2")
VIEW: Any = Call(GETATTR, TENSOR, "view")


@pytest.mark.parametrize(
    "hostile",
    [
        Call(GETATTR, TENSOR, "numpy"),
        Call(GETATTR, FROM_NUMPY, "view"),
        Call(Call(GETATTR, TENSOR, "__class__"), 1),  # type: ignore[arg-type]
        Call(Call(VIEW, 1), "rm"),  # type: ignore[arg-type]
        Call(REBUILD, GETATTR, TENSOR, (TENSOR, "__init__"), {}),
        Call(REBUILD, FROM_NUMPY, Global("torch.nn"), (1,), {}),
        Call(REBUILD, Global("torch.nn.modules.linear.Linear"), TENSOR, (1, 2), {}),
        Call(Global("torch.nn.Linear"), GETATTR, "x"),
        Call(Global("functools.partial"), GETATTR, TENSOR),
    ],
    ids=range(9),
)
@pytest.mark.parametrize("beside", [False, True])
def test_what_our_tensors_call_gains_nobody_more(hostile: Any, beside: bool) -> None:
    """The names that our own tensors are written with, used otherwise, alone and beside an honest tensor."""
    honest = Call(VIEW, Call(FROM_NUMPY, 1), Global("torch.bfloat16"))
    assert {use.rank for use in look({"a.pkl": as_pickle(honest)})} == {"data"}
    ranks = {use.rank for use in look({"a.pkl": as_pickle([honest, hostile] if beside else hostile)})}
    assert "code" in ranks


def as_pickle(value: Any) -> bytes:
    return b"\x80\x02" + code(value) + b"."
