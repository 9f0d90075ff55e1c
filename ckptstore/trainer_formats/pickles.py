"""Files of torch.save, of any release since 0.2, and plain pickles."""

from __future__ import annotations

import copy
from typing import Any

from ckptstore.codec import torchfile
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import safe
from ckptstore.codec.pickles.budget import DEFAULT, Meter
from ckptstore.trainer_formats.containers import AS_DATA, Decode, element_of, with_tensors
from ckptstore.trainer_formats.source import Source

_LIGHTNING = "pytorch-lightning_version"


def _name_of(tree: Any) -> str:
    version = tree.get(_LIGHTNING) if isinstance(tree, dict) else None
    return f"Lightning {version:.20}" if isinstance(version, str) else "torch"


def is_lightning(tree: Any) -> bool:
    """Whether a Lightning Trainer wrote it."""
    return isinstance(tree, dict) and _LIGHTNING in tree and isinstance(tree.get("state_dict"), dict)


class TorchFile:
    """A zip of torch.save: of what isn't asked for, not a byte is read."""

    def __init__(self, source: Source, path: str) -> None:
        self._source = source
        self._path = path
        self._open: torchfile.TorchZip | None = None

    def _archive(self, decode: Decode) -> torchfile.TorchZip:
        meter = Meter(DEFAULT, self._source.files[self._path])
        file = self._source.file(self._path)
        return torchfile.TorchZip(file, DEFAULT, meter, decode.tensor_maker(), decode.classes)

    @property
    def _outlined(self) -> torchfile.TorchZip:
        if self._open is None:
            self._open = self._archive(AS_DATA)
        return self._open

    @property
    def name(self) -> str:
        """See `Container`."""
        return _name_of(self._outlined.tree)

    def tree(self, decode: Decode = AS_DATA) -> Any:
        """See `Container`."""
        if decode.unpickle is not None:
            return decode.unpickle(self._source.data(self._path), True)
        with self._archive(decode) as archive:
            return archive.make(archive.tree)

    def outline(self) -> Any:
        """See `Container`."""
        return self._outlined.tree

    def element(self, leaf: Any) -> str:
        """See `Container`."""
        return torchfile.element_of(leaf) if isinstance(leaf, Opaque) else element_of(leaf)

    def make(self, leaf: Any) -> Any:
        """See `Container`."""
        return self._outlined.make_one(leaf) if isinstance(leaf, Opaque) else copy.deepcopy(leaf)


class Stream:
    """A plain pickle, or the stream of pickles and storages of torch before 1.6: read whole."""

    def __init__(self, source: Source, path: str, is_torch: bool) -> None:
        self._source = source
        self._path = path
        self._is_torch = is_torch
        self._outlined: tuple[Any] | None = None

    @property
    def name(self) -> str:
        """See `Container`."""
        return _name_of(self.outline()) if self._is_torch else "pickle"

    def tree(self, decode: Decode = AS_DATA) -> Any:
        """See `Container`."""
        data = self._source.data(self._path)
        if decode.unpickle is not None:
            return decode.unpickle(data, self._is_torch)
        tensors = decode.tensor_maker()
        if self._is_torch:
            return torchfile.loads(data, tensors=tensors, classes=decode.classes)
        value = safe.loads(data, tensors=tensors, own=True, classes=decode.classes)
        return with_tensors(value, len(data), tensors)

    def outline(self) -> Any:
        """See `Container`."""
        if self._outlined is None:
            self._outlined = (self.tree(),)
        return self._outlined[0]

    def element(self, leaf: Any) -> str:
        """See `Container`."""
        return element_of(leaf)

    def make(self, leaf: Any) -> Any:
        """See `Container`. A copy: the outline is kept."""
        return copy.deepcopy(leaf)
