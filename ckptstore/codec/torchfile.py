"""Files and streams of torch.save, read with numpy alone.

Two containers: a zip of stored records (torch 1.6 on: ``data.pkl`` beside one record per storage) and
the older stream of pickles followed by the storages. Torch's own reader unpickles both; here the pickle
goes through the safe decoder, and only the records that mean "a tensor over this storage" are rebuilt,
from bytes, with offset, shape and strides checked against the storage's real length. Tensors become
arrays of their own, in C order and native byte order; whatever else torch pickles stays `Opaque`.

Nothing a file claims is believed: records must be stored uncompressed, each under its own name, and their
checksums must hold; so together they take no more memory than the file. Expanded views count against the
budget.
"""

from __future__ import annotations

import copy
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np

from ckptstore.codec import npy, trees
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import safe
from ckptstore.codec.pickles.budget import DEFAULT, Budget, Meter
from ckptstore.codec.pickles.classes import Classes
from ckptstore.codec.pickles.stepping import end_of_pickle
from ckptstore.codec.pickles.torch_calls import Tensors
from ckptstore.errors import UnreadableFormat, UnsafeContent

_ZIP_MAGIC = b"PK\x03\x04"
DAMAGED_ZIP = (
    zipfile.BadZipFile,
    EOFError,
    RuntimeError,  # encrypted; or NotImplementedError: a compression that is not known
    ValueError,
    OverflowError,  # a record that begins at byte 2**63
    struct.error,  # ... or too near the end, up to Python 3.11
    OSError,
    zlib.error,
    lzma.LZMAError,
)
"""What `zipfile` raises where an archive contradicts itself."""
_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled long, the first pickle of the stream
_STREAM_BYTES = 2**16  # what decoding one stream costs at least; streams may be tiny and many
_INNER = Budget(steps=2**24, bytes=2**24)  # for the pickles of a stream inside a pickle: a tensor, no more
_LEGACY_MAGIC_WITHIN = 32  # bytes: protocol and frame opcodes may come before it

_NATIVE = {
    "Float": "f4",
    "Double": "f8",
    "Half": "f2",
    "Long": "i8",
    "Int": "i4",
    "Short": "i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
    "ComplexFloat": "c8",
    "ComplexDouble": "c16",
}
_DTYPES = {
    "float32": "f4",
    "float": "f4",
    "float64": "f8",
    "double": "f8",
    "float16": "f2",
    "half": "f2",
    "int64": "i8",
    "long": "i8",
    "int32": "i4",
    "int": "i4",
    "int16": "i2",
    "short": "i2",
    "int8": "i1",
    "uint8": "u1",
    "uint16": "u2",
    "uint32": "u4",
    "uint64": "u8",
    "bool": "?",
    "complex64": "c8",
    "cfloat": "c8",
    "complex128": "c16",
    "cdouble": "c16",
}
_EXTENDED = {
    "bfloat16": 2,
    **{f"float8_{name}": 1 for name in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")},
}
"""Bytes of an element of those that numpy lacks."""


@dataclass(frozen=True)
class Storage:
    """The bytes behind tensors, and the element type that the storage itself names (None: only bytes)."""

    data: memoryview
    kind: ElementType | None
    big_endian: bool


def is_torch(data: bytes) -> bool:
    """Whether `data` begins like a file of torch.save, which an ordinary pickle does not."""
    return data.startswith(_ZIP_MAGIC) or _LEGACY_MAGIC in data[:_LEGACY_MAGIC_WITHIN]


def loads(
    data: bytes, budget: Budget = DEFAULT, tensors: Tensors | None = None, classes: Classes | None = None
) -> Any:
    """What torch.save put into `data`, tensors as arrays, or as what `tensors` makes of them.

    Instances of `classes` are made of their fields. Raises UnsafeContent if it is malformed or larger than it
    may be, UnreadableFormat if a tensor has an element type that needs a package that isn't installed and
    `tensors` aren't given.
    """
    try:
        return _load(data, budget, Meter(budget, len(data)), tensors, classes)
    except RecursionError as error:
        raise UnsafeContent("torch file", "nested too deeply") from error


def _load(
    data: bytes, budget: Budget, meter: Meter, tensors: Tensors | None = None, classes: Classes | None = None
) -> Any:
    """Like `loads`, charged to the meter of the file around `data`: it may hold thousands of streams."""
    meter.charge(_STREAM_BYTES)
    if data.startswith(_ZIP_MAGIC):
        with TorchZip(io.BytesIO(data), budget, meter, tensors, classes) as archive:
            return archive.make(archive.tree)
    return _load_legacy(data, budget, meter, tensors, classes)


class TorchZip:
    """A zip of torch.save. Of `file` it reads the directory and the pickle, and storages when it must."""

    def __init__(
        self,
        file: IO[bytes],
        budget: Budget,
        meter: Meter,
        tensors: Tensors | None = None,
        classes: Classes | None = None,
    ) -> None:
        """UnsafeContent for what torch.save doesn't write."""
        try:
            self._archive = zipfile.ZipFile(file)
        except DAMAGED_ZIP as error:
            raise UnsafeContent("torch file", f"not a whole zip archive ({error})") from error
        self._records = {info.filename: info for info in self._archive.infolist()}
        tops = tops_of(self._records)
        if len(self._records) != len(self._archive.infolist()) or len(tops) != 1:
            raise UnsafeContent("torch file", "a zip archive, but not one that torch.save writes")
        if begins_late(self._archive):
            raise UnsafeContent("torch file", "not a whole zip archive (another one is inside)")
        self._top = tops[0]
        self._big_endian = self._top + "byteorder" in self._records and self._record("byteorder") == b"big"
        self._meter, self._budget, self._tensors = meter, budget, tensors
        self.tree = safe.loads(self._record("data.pkl"), budget=budget, tensors=tensors, classes=classes)
        """What it holds, with a record for each tensor."""

    def __enter__(self) -> TorchZip:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def make(self, value: Any) -> Any:
        """`value`, a part of `tree`, with its tensors, in place where it holds them."""
        storages: dict[str, Storage] = {}

        def storage(pid: tuple[Any, ...]) -> Storage:
            kind, key, count = pid[1], pid[2], pid[4]
            if key not in storages:
                content = memoryview(self._record(f"data/{key}"))
                storages[key] = _storage(content, kind, count, self._big_endian)
            return storages[key]

        return trees.rewrite(value, _rebuilder(storage, self._meter, self._budget, self._tensors))

    def make_one(self, record: Opaque) -> Any:
        """The tensor that `record`, a part of `tree`, stands for; it stays as it is."""
        return self.make(copy.deepcopy(record))

    def _record(self, name: str) -> bytes:
        info = self._records.get(self._top + name)
        if info is None:
            raise UnsafeContent("torch file", f"the record {name!r:.80} is missing")
        if info.compress_type != zipfile.ZIP_STORED:  # torch never compresses, bombs do
            raise UnsafeContent("torch file", f"the record {name!r:.80} is compressed")
        try:
            return self._archive.read(info)
        except DAMAGED_ZIP as error:
            raise UnsafeContent("torch file", f"the record {name!r:.80} is damaged ({error})") from error


def begins_late(archive: zipfile.ZipFile) -> bool:
    """Whether something stands before it: of an archive cut short, its last member that is one is found."""
    return min((info.header_offset for info in archive.infolist()), default=0) > 0


def tops_of(names: Iterable[str]) -> list[str]:
    """Directories at the top of a zip, with their slash, that hold the pickle of torch.save."""
    return [name[: -len("data.pkl")] for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]


def _load_legacy(
    data: bytes, budget: Budget, meter: Meter, tensors: Tensors | None, classes: Classes | None
) -> Any:
    """The stream of torch before 1.6, which tensors pickled inside other pickles still use."""
    pickles = pickles_of_stream(data)
    at = sum(map(len, pickles))
    system, keys = safe.loads(pickles[2], budget=budget), safe.loads(pickles[4], budget=budget)
    if not isinstance(keys, list) or not isinstance(system, dict):
        raise UnsafeContent("torch stream", "its header is not what torch.save writes")
    big_endian = system.get("little_endian") is False
    tree = safe.loads(pickles[3], budget=budget, tensors=tensors, classes=classes)

    kinds: dict[str, Any] = {}

    def note(item: Opaque) -> Any:
        pid = _persistent(item)
        if pid is not None:
            kinds[pid[2]] = pid[1]
        return item

    trees.rewrite(tree, note)
    storages: dict[str, Storage] = {}
    order = "big" if big_endian else "little"
    for key in keys:
        if not isinstance(key, str) or key not in kinds or key in storages:
            raise UnsafeContent("torch stream", f"the storage {key!r:.80} belongs to no tensor")
        count = int.from_bytes(data[at : at + 8], order, signed=True)  # type: ignore[arg-type]
        at += 8
        kind = _storage_kind(kinds[key])
        length = count * (kind.raw.itemsize if kind is not None else 1)
        if count < 0 or at + length > len(data):
            raise UnsafeContent("torch stream", f"a storage claims {count} elements; the stream ends before")
        storages[key] = Storage(memoryview(data)[at : at + length], kind, big_endian)
        at += length

    def storage(pid: tuple[Any, ...]) -> Storage:
        if pid[2] not in storages:
            raise UnsafeContent("torch stream", f"the storage {pid[2]!r:.80} is missing")
        found = storages[pid[2]]
        if len(pid) > 5 and pid[5] is not None:
            raise UnreadableFormat(
                "torch stream",
                "it holds views of storages, which torch before 0.4 wrote",
                "Save it again with a newer torch",
            )
        return found

    return trees.rewrite(tree, _rebuilder(storage, meter, budget, tensors))


def pickles_of_stream(data: bytes) -> list[bytes]:
    """The five pickles a legacy stream begins with.

    The magic number, the protocol version, facts about the writer, the object, the keys of its storages.
    """
    at, found = 0, []
    for _ in range(5):
        end = end_of_pickle(data, at)
        found.append(data[at:end])
        at = end
    return found


def _persistent(item: Opaque) -> tuple[Any, ...] | None:
    """The persistent id of a storage, if that is what `item` is."""
    if item.name != "persistent_id" or not item.args:
        return None
    pid = item.args[0]
    if (
        isinstance(pid, tuple)
        and len(pid) >= 5
        and pid[0] == "storage"
        and isinstance(pid[2], str)
        and isinstance(pid[4], int)
        and pid[4] >= 0
    ):
        return pid
    raise UnsafeContent("torch file", "a persistent id that torch does not write")


class ElementType(NamedTuple):
    """What the elements of a tensor are: a type of numpy's, or integers that another type has the bits of."""

    raw: np.dtype[Any]
    extended: str = ""
    """Torch's name of a type that numpy lacks."""

    def finish(self, array: np.ndarray[Any, Any], tensors: Tensors | None) -> Any:
        """The tensor, of what `array` holds: an array itself where `tensors` are None."""
        if tensors is None:
            return array.view(_extension_dtype(self.extended)) if self.extended else array
        if self.extended:
            return tensors.view(tensors.from_numpy(array.view(f"i{self.raw.itemsize}")), self.extended)
        return tensors.from_numpy(array)


def element_type(name: str) -> ElementType | None:
    """The element type that torch calls `name`; None for one that isn't known here."""
    if name in _EXTENDED:
        return ElementType(np.dtype(f"u{_EXTENDED[name]}"), name)
    return ElementType(np.dtype(_DTYPES[name])) if name in _DTYPES else None


def _storage_kind(kind: Any) -> ElementType | None:
    name = kind.name if isinstance(kind, Opaque) else ""
    short = name.rpartition(".")[2].removesuffix("Storage")
    if short in _NATIVE:
        return ElementType(np.dtype(_NATIVE[short]))
    if short.lower() in _EXTENDED:
        return element_type(short.lower())
    if short == "Untyped":
        return None
    raise UnsafeContent("torch file", f"{name or kind!r:.80} is not a storage type known here")


def _extension_dtype(name: str) -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError as error:
        raise UnreadableFormat(
            "torch file", f"it holds {name} tensors, which numpy alone can't", "pip install ml_dtypes"
        ) from error
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return dtype


def _storage(content: memoryview, kind: Any, count: int, big_endian: bool) -> Storage:
    found = _storage_kind(kind)
    if count * (found.raw.itemsize if found is not None else 1) != content.nbytes:
        raise UnsafeContent("torch file", f"a storage of {content.nbytes} bytes claims {count} elements")
    return Storage(content, found, big_endian)


def _rebuilder(
    storage: Callable[[tuple[Any, ...]], Storage], meter: Meter, budget: Budget, tensors: Tensors | None
) -> Callable[[Opaque], Any]:
    """What converts the records of a tree; `storage` finds the storage of a persistent id."""

    def rebuild(item: Opaque) -> Any:
        pid = _persistent(item)
        return item if pid is None else storage(pid)

    def convert(item: Opaque) -> Any:
        return rebuild(item) if item.name == "persistent_id" else tensor(item, meter, budget, tensors)

    return convert


def tensor(item: Opaque, meter: Meter, budget: Budget = DEFAULT, tensors: Tensors | None = None) -> Any:
    """The array for a record that rebuilds a tensor, the storage for one that loads one; else `item`.

    With `tensors` what they make of the array. Works on records whose arguments were converted before
    (`trees.rewrite` does it in that order).
    """
    if not item.name.startswith("torch.") or not item.args:
        return item
    short, args = item.name.removeprefix("torch."), item.args
    if short == "storage._load_from_bytes" and isinstance(args[0], bytes):
        inner = _load(args[0], _INNER, meter, tensors)
        return inner if isinstance(inner, Storage) else item
    if short in {"_utils._rebuild_tensor", "_utils._rebuild_tensor_v2"} and len(args) >= 4:
        made = _array(args[0], args[1], args[2], args[3], None, meter, tensors)
        return tensors.with_gradient(made) if tensors and args[4:5] == (True,) else made
    if short == "_utils._rebuild_tensor_v3" and len(args) >= 7:
        return _array(args[0], args[1], args[2], args[3], args[6], meter, tensors)
    # A subclass, or with attributes of its own.
    if short == "_tensor._rebuild_from_type_v2" and len(args) >= 3:
        rebuild, inner_args = args[0], args[2]
        if isinstance(rebuild, Opaque) and rebuild.is_reference and isinstance(inner_args, tuple):
            found = tensor(Opaque(rebuild.name, inner_args), meter, budget, tensors)
            return found if _is_made(found, tensors) else item
    if short in {"_utils._rebuild_parameter", "_utils._rebuild_parameter_with_state"}:
        if tensors is not None and _is_made(args[0], tensors) and len(args) > 1:
            return tensors.parameter(args[0], args[1] is True)
        return args[0] if _is_made(args[0], tensors) else item
    if short == "_utils._rebuild_device_tensor_from_numpy":
        if tensors is not None and isinstance(args[0], np.ndarray) and args[0].dtype.kind in "biufc":
            return tensors.from_numpy(args[0])
        return args[0] if isinstance(args[0], np.ndarray) else item
    if short == "Size" and isinstance(args[0], (tuple, list)):
        return tuple(args[0])
    return item


def _is_made(value: Any, tensors: Tensors | None) -> bool:
    return isinstance(value, np.ndarray) or (tensors is not None and tensors.is_tensor(value))


def element_of(item: Opaque) -> str:
    """The element type, in torch's words, of the tensor that a record rebuilds; empty if it isn't one."""
    short, args = item.name.removeprefix("torch."), item.args or ()
    if short in {"_utils._rebuild_tensor", "_utils._rebuild_tensor_v2", "_utils._rebuild_tensor_v3"} and args:
        if short.endswith("v3") and len(args) >= 7 and isinstance(args[6], Opaque):
            return args[6].name.rpartition(".")[2]
        pid = _persistent(args[0]) if isinstance(args[0], Opaque) else None
        name = pid[1].name if pid is not None and isinstance(pid[1], Opaque) else ""
        return str(name.rpartition(".")[2].removesuffix("Storage").lower())
    if short in {"_utils._rebuild_parameter", "_utils._rebuild_parameter_with_state"} and args:
        return element_of(args[0]) if isinstance(args[0], Opaque) else ""
    if short == "_tensor._rebuild_from_type_v2" and len(args) >= 3 and isinstance(args[2], tuple):
        return element_of(Opaque(args[0].name, args[2])) if isinstance(args[0], Opaque) else ""
    return ""


def _array(
    storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any, meter: Meter, tensors: Tensors | None
) -> Any:
    """A new array with a part of `storage`; `offset` and `strides` count elements."""
    if not isinstance(storage, Storage):
        raise UnsafeContent("torch file", "a tensor without a storage")
    kind: Any = storage.kind
    if isinstance(dtype, Opaque):
        kind = element_type(dtype.name.rpartition(".")[2])
    if kind is None:
        raise UnsafeContent("torch file", f"a tensor of the type {dtype!r:.80}, which is not known here")
    shape, strides = npy.shape_of(shape), npy.shape_of(strides)
    if len(shape) != len(strides) or not isinstance(offset, int) or offset < 0:
        raise UnsafeContent("torch file", "a tensor whose shape and strides don't fit each other")
    count = npy.count_of(shape)
    size = kind.raw.itemsize
    available = storage.data.nbytes // size
    last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if count else -1
    if offset + last >= available:
        raise UnsafeContent("torch file", f"a tensor of shape {shape!r:.80} reaches beyond its storage")
    meter.charge(count * size)
    if count:
        stored = kind.raw.newbyteorder(">" if storage.big_endian else "<")
        steps = tuple(step * size for step in strides)
        view: Any = np.ndarray(shape, stored, storage.data, offset * size, steps)
        made: Any = np.array(view, dtype=kind.raw, order="C")
    else:
        made = np.empty(shape, kind.raw)
    return kind.finish(made, tensors)
