"""HDF5, and the zip of Keras that has its weights in it: with h5py, which is asked for numbers alone.

Nothing outside the file is followed: neither links to other files nor data that lie in them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.budget import Meter
from ckptstore.errors import CheckpointError, UnreadableFormat, UnsafeContent
from ckptstore.trainer_formats.containers import AS_DATA, EXPANDED, Decode
from ckptstore.trainer_formats.source import parse_json
from ckptstore.trainer_formats.zips import Zip

WEIGHTS = "model.weights.h5"
_CONFIG = "config.json"
_METADATA = "metadata.json"
_MOST_OBJECTS = 100_000
_MOST_DEEP = 100


def is_keras(names: tuple[str, ...]) -> bool:
    """Whether a zip with such members is one of Keras."""
    return WEIGHTS in names and _CONFIG in names


class Hdf5:
    """One file. `read` returns its bytes; `what` names it in errors."""

    def __init__(self, what: str, read: Callable[[], bytes]) -> None:
        self._what = what
        self._read = read
        self._file: Any = None
        self._meter = Meter(EXPANDED, 0)

    @property
    def name(self) -> str:
        """See `Container`."""
        version = self._opened.attrs.get("keras_version")
        text = version.decode("utf-8", "replace") if isinstance(version, bytes) else version
        return f"Keras HDF5 {text:.20}" if isinstance(text, str) else "HDF5"

    def tree(self, decode: Decode = AS_DATA) -> dict[str, Any]:
        """See `Container`. Groups are dicts."""
        found: dict[str, Any] = {}
        for path, dataset in self._datasets().items():
            *groups, last = path.split("/")
            inner = found
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[last] = self.make(dataset) if self.element(dataset) else Opaque(f"hdf5.{dataset.dtype}")
        return found

    def outline(self) -> dict[str, Any]:
        """See `Container`: by path, and without what optimizers keep."""
        return {
            path: dataset
            for path, dataset in self._datasets().items()
            if path.split("/")[0] not in ("optimizer", "optimizer_weights")
        }

    def element(self, leaf: Any) -> str:
        """See `Container`."""
        dtype = getattr(leaf, "dtype", None)
        return str(dtype.name) if dtype is not None and dtype.kind in "biufc" else ""

    def make(self, leaf: Any) -> Any:
        """See `Container`."""
        if leaf.external is not None or leaf.is_virtual:
            raise UnsafeContent(self._what, f"the data of {leaf.name!r:.80} lie in another file")
        count = leaf.dtype.itemsize
        for length in leaf.shape:
            count *= int(length)
        try:
            self._meter.charge(count)
        except UnsafeContent as error:
            raise UnsafeContent(self._what, f"{leaf.name!r:.80} needs {count} bytes") from error
        try:
            return leaf[()]
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise UnsafeContent(self._what, f"{leaf.name!r:.80} can't be read ({error!s:.100})") from error

    @property
    def _opened(self) -> Any:
        if self._file is None:
            h5py = _import_h5py(self._what)
            data = self._read()
            self._meter = Meter(EXPANDED, len(data))
            try:
                self._file = h5py.File(io.BytesIO(data), "r")
            except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
                raise UnsafeContent(self._what, f"not a whole HDF5 file ({error!s:.100})") from error
        return self._file

    def _datasets(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        try:
            for count, (path, dataset) in enumerate(self._walk(self._opened)):
                if count >= _MOST_OBJECTS:
                    raise UnsafeContent(self._what, f"more than {_MOST_OBJECTS} datasets")
                found[path] = dataset
        except CheckpointError:
            raise
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise UnsafeContent(self._what, f"not a whole HDF5 file ({error!s:.100})") from error
        return found

    def _walk(self, top: Any) -> Iterator[tuple[str, Any]]:
        """Every dataset, by path, in the order of the names."""
        h5py = _import_h5py(self._what)
        pending, seen = [("", top, 0)], 0
        while pending:
            path, group, depth = pending.pop()
            for name in sorted(group):
                seen += 1
                if seen > _MOST_OBJECTS or depth > _MOST_DEEP:
                    raise UnsafeContent(self._what, "too many groups, or groups that hold themselves")
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise UnsafeContent(self._what, f"{name!r:.80} is a link")
                inner = f"{path}/{name}" if path else name
                item = group[name]
                if isinstance(item, h5py.Group):
                    pending.append((inner, item, depth + 1))
                elif isinstance(item, h5py.Dataset):
                    yield inner, item


class Keras:
    """A ``.keras`` file: the model's description, and its weights."""

    def __init__(self, what: str, archive: Zip) -> None:
        self._archive = archive
        self._weights = Hdf5(f"{what}!{WEIGHTS}", lambda: archive.read(WEIGHTS))

    @property
    def name(self) -> str:
        """See `Container`."""
        found = (
            parse_json(_METADATA, self._archive.read(_METADATA)) if _METADATA in self._archive.names else {}
        )
        version = found.get("keras_version") if isinstance(found, dict) else None
        return f"Keras {version:.20}" if isinstance(version, str) else "Keras"

    def tree(self, decode: Decode = AS_DATA) -> dict[str, Any]:
        """See `Container`. Its members by name; Lambda layers stay the text that they are in there."""
        found: dict[str, Any] = {}
        for name in self._archive.names:
            if name == WEIGHTS:
                found[name] = self._weights.tree(decode)
            elif name.endswith(".json"):
                found[name] = parse_json(name, self._archive.read(name))
        return found

    def outline(self) -> dict[str, Any]:
        """See `Container`: the weights alone."""
        return self._weights.outline()

    def element(self, leaf: Any) -> str:
        """See `Container`."""
        return self._weights.element(leaf)

    def make(self, leaf: Any) -> Any:
        """See `Container`."""
        return self._weights.make(leaf)


def _import_h5py(what: str) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise UnreadableFormat(
            what, "it is HDF5, and h5py is not installed", "pip install 'ckptstore[hdf5]'"
        ) from error
    return h5py
