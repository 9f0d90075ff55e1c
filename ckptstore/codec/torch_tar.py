"""The pickles in a tar of torch before 0.2, between which the contents of its storages lie bare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import safe
from ckptstore.codec.pickles.stepping import end_of_pickle
from ckptstore.errors import UnsafeContent

MEMBERS = ("storages", "tensors")

_ITEM_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
}  # fmt: skip


def pickles_of(member: str, data: bytes) -> Iterator[bytes]:
    """The pickles of one of `MEMBERS`, in order. UnsafeContent where the rest can't be found."""
    count, at = _pickle(data, 0)
    yield data[:at]
    if type(count) is not int:
        raise UnsafeContent(f"torch {member}", "it doesn't begin with a number")
    for _ in range(count):
        about, end = _pickle(data, at)
        yield data[at:end]
        at = end + (_storage_bytes(about, data, end) if member == "storages" else _tensor_bytes(data, end))
        if at > len(data):
            raise UnsafeContent(f"torch {member}", "it is cut short")
    if member == "storages" and at < len(data):
        yield data[at : end_of_pickle(data, at)]  # which storages are views of others


def _pickle(data: bytes, at: int) -> tuple[Any, int]:
    end = end_of_pickle(data, at)
    return safe.loads(data[at:end]), end


def _storage_bytes(about: Any, data: bytes, at: int) -> int:
    kind = about[2] if isinstance(about, tuple) and len(about) == 3 else None
    name = kind.name if isinstance(kind, Opaque) else ""
    item = _ITEM_BYTES.get(name.rpartition(".")[2].removesuffix("Storage"))
    if item is None or not name.startswith("torch."):
        raise UnsafeContent("torch storages", f"{name or about!r:.80} is not a storage type known here")
    return 8 + int.from_bytes(data[at : at + 8], "little") * item


def _tensor_bytes(data: bytes, at: int) -> int:
    return 8 + int.from_bytes(data[at : at + 4], "little") * 16 + 8  # shape and strides, then the offset
