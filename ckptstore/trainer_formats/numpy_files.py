"""Files of numpy: one array, or a zip of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptstore.codec import npy, sniff
from ckptstore.codec.pickles import safe
from ckptstore.errors import UnsafeContent
from ckptstore.trainer_formats.containers import AS_DATA, Decode, element_of, with_tensors
from ckptstore.trainer_formats.source import Source
from ckptstore.trainer_formats.zips import Zip


def _load(data: bytes, decode: Decode) -> Any:
    """The array; one of objects is decoded as a pickle."""
    pickled = sniff.pickle_in_npy(data)
    if pickled is None:
        return npy.npy(data)
    if decode.unpickle is not None:
        return decode.unpickle(pickled, False)
    tensors = decode.tensor_maker()
    return with_tensors(safe.loads(pickled, own=True, tensors=tensors), len(pickled), tensors)


class Member:
    """One array of a zip, not read yet."""

    def __init__(self, name: str, dtype: str) -> None:
        self.name = name
        self.dtype = dtype


class Npz:
    """A zip of arrays, as `numpy.savez` writes it."""

    name = "npz"

    def __init__(self, archive: Zip) -> None:
        self._archive = archive

    def tree(self, decode: Decode = AS_DATA) -> dict[str, Any]:
        """See `Container`."""
        return {
            name.removesuffix(".npy"): _load(self._archive.read(name), decode) for name in self._archive.names
        }

    def outline(self) -> dict[str, Member]:
        """See `Container`."""
        found = {}
        for name in self._archive.names:
            header = npy.read_header(self._archive.read(name, npy.HEADER_BYTES))
            try:
                dtype = "" if np.dtype(header.descr).hasobject else npy.dtype_of(header.descr).name  # type: ignore[call-overload]
            except (TypeError, ValueError, SyntaxError) as error:
                raise UnsafeContent(name, f"{header.descr!r:.80} is not a dtype") from error
            found[name.removesuffix(".npy")] = Member(name, dtype)
        return found

    def element(self, leaf: Any) -> str:
        """See `Container`."""
        return leaf.dtype if isinstance(leaf, Member) else ""

    def make(self, leaf: Member) -> Any:
        """See `Container`."""
        return npy.npy(self._archive.read(leaf.name))


class Npy:
    """One array."""

    name = "npy"

    def __init__(self, source: Source, path: str) -> None:
        self._source = source
        self._path = path

    def tree(self, decode: Decode = AS_DATA) -> Any:
        """See `Container`."""
        return _load(self._source.data(self._path), decode)

    def outline(self) -> Any:
        """See `Container`."""
        return self.tree()

    def element(self, leaf: Any) -> str:
        """See `Container`."""
        return element_of(leaf)

    def make(self, leaf: Any) -> Any:
        """See `Container`."""
        return leaf
