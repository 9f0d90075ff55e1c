"""From files to objects: fetches what is asked for, checks it against its digests, decodes those bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from ckptstore.backends.base import Backend
from ckptstore.backends.translate import explain_memory_error, retry_if_corrupt, translate_errors
from ckptstore.codec.indexed.read import load_trusted, skeleton
from ckptstore.codec.pickles import safe
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointGone,
    UnsafeContent,
)
from ckptstore.format import names, parts, strictjson
from ckptstore.format.digest import digest
from ckptstore.format.manifest import Manifest
from ckptstore.format.markers import derive_marker
from ckptstore.format.parts import FileParts, Part
from ckptstore.read.foreign_code import refuse_foreign_code
from ckptstore.read.how import SAFELY, How
from ckptstore.read.manifests import fetch_manifest, key_of
from ckptstore.read.memory import blank, fresh
from ckptstore.read.report import VerifyReport
from ckptstore.work import Lock, Progress, run_all

_BATCH_BYTES = 32 * 2**20  # of parts side by side fetched with one request
_WORTH_LEAVING_OUT = 2**20  # bytes of an array: fewer are fetched along with what lies around them
_T = TypeVar("_T")
Fill = Callable[[Iterable[np.ndarray[Any, Any]]], bool]


def _byte_bounds(array: np.ndarray[Any, Any]) -> tuple[int, int]:
    """The addresses of the first byte of `array` and of the one after its last; equal if it is empty."""
    low = high = array.ctypes.data
    if array.size == 0:
        return low, high
    for length, step in zip(array.shape, array.strides, strict=True):
        reach = (length - 1) * step
        low, high = (low + reach, high) if reach < 0 else (low, high + reach)
    return low, high + array.itemsize


def _owns_memory(array: np.ndarray[Any, Any]) -> bool:
    """Whether its data are in memory of its own, and not in memory that the decoder was handed.

    A scalar's are, which is always in the pickle itself.
    """
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return isinstance(base, np.ndarray) and array.ndim > 0 and array.size > 0


def _batches(file_parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Neighbouring parts together, so that small arrays don't cost a request each."""
    batch: list[Part] = []
    size = 0
    for part in file_parts:
        apart = batch and part.offset != batch[-1].offset + batch[-1].length
        if batch and (apart or size + part.length > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(part)
        size += part.length
    if batch:
        yield batch


@contextmanager
def _about(source: str) -> Iterator[None]:
    """Names the file in what the decoder refuses: it sees bytes only."""
    try:
        yield
    except UnsafeContent as error:
        raise UnsafeContent(source, ": ".join(filter(None, (error.what, error.why))), error.remedy) from error


class VerifiedFiles:
    """Reads the files of one committed checkpoint; nothing leaves it unverified. Thread-safe."""

    def __init__(
        self,
        backend: Backend,
        prefix: str,
        manifest: Manifest,
        label: str,
        table: Mapping[str, FileParts] | None = None,
        concurrency: int = 8,
    ) -> None:
        """`table` is what ``parts.json`` says, where that is known already."""
        self.backend = backend
        self.prefix = prefix
        self.manifest = manifest
        self.label = label
        self.concurrency = concurrency
        self._files = {file.path: file for file in manifest.files}
        self._parts = table
        self._last: tuple[tuple[str, int], bytes] = ("", 0), b""  # file and offset of a part, and the part
        self._lock = Lock()

    def paths(self) -> Mapping[str, int]:
        """Every payload file and its size in bytes."""
        return {file.path: file.size for file in self.manifest.files}

    @property
    def parts(self) -> Mapping[str, FileParts]:
        """``parts.json``, verified against the manifest, and the manifest's files against it."""
        with self._lock:
            if self._parts is None:
                self._parts = self._fetch_parts()
            return self._parts

    @retry_if_corrupt
    def parts_bytes(self) -> bytes:
        """The verified bytes of ``parts.json``."""
        said = self.manifest.parts
        key, most = key_of(self.prefix, names.PARTS), min(said.size, strictjson.MAX_BYTES)
        data = self._explain_missing(names.PARTS, lambda: self.backend.read(key, most=most))
        if len(data) != said.size or digest(data) != said.digest:
            raise self._corrupt(names.PARTS, "its digest does not match the manifest")
        return data

    def _fetch_parts(self) -> Mapping[str, FileParts]:
        table = parts.load(self.parts_bytes(), f"{self.label}/{names.PARTS}")
        if table.keys() != self._files.keys():
            raise self._corrupt(names.PARTS, "it does not list the manifest's files")
        for path, file in self._files.items():
            if table[path].size != file.size or table[path].digest != file.digest:
                raise self._corrupt(path, "parts.json and the manifest disagree about it")
        return table

    def fetch(self, path: str) -> memoryview:
        """The verified bytes of the file `path`, in private memory."""
        file = self._file(path)
        with explain_memory_error(f"{self.label}/{path}"):
            view = fresh(file.size)
        self._fetch_into(view, path, file.parts)
        return view

    def _fetch_into(self, view: memoryview, path: str, wanted: Sequence[Part]) -> None:
        """Read those parts of the file to their places in `view`, verified; neighbours with one request."""

        @retry_if_corrupt
        def fetch(batch: Sequence[Part]) -> None:
            start, stop = batch[0].offset, batch[-1].offset + batch[-1].length
            self._explain_missing(
                path, lambda: self.backend.read_into(key_of(self.prefix, path), start, view[start:stop])
            )
            for part in batch:
                self._check(path, part, view[part.offset : part.offset + part.length])

        run_all(fetch, list(_batches(wanted)), self.concurrency)

    def outline(self, path: str) -> tuple[object, Fill]:
        """The object in the pickle `path` with the data of large arrays missing, and what fetches them.

        The latter takes some of its arrays and returns whether they hold their data now. False means that
        it can't tell where an array's data come from: use `decode`.
        """
        file = self._file(path)
        spans = {span.offset: span for span in file.arrays}
        # Small arrays between come along: another request costs more than they do.
        large = {span.offset for span in file.arrays if span.length > _WORTH_LEAVING_OUT}
        with explain_memory_error(f"{self.label}/{path}"):
            view = blank(file.size)  # pages that are never touched take no memory
        missing: list[Part] = []
        now: list[Part] = []
        skip_until = 0
        for part in file.parts:
            if part.offset in large:
                skip_until = part.offset + spans[part.offset].length
            (missing if part.offset < skip_until else now).append(part)
        self._fetch_into(view, path, now)
        value = self._decode_view(file, view)
        start = np.frombuffer(view, np.uint8).ctypes.data if file.size else 0

        def fill(arrays: Iterable[np.ndarray[Any, Any]]) -> bool:
            wanted: set[int] = set()
            for array in arrays:
                low, high = _byte_bounds(array)
                if large and _owns_memory(array):
                    return False  # it may be a copy of what wasn't there yet
                # All that it overlaps: a view may be a part of one array's data, or reach over two.
                wanted |= {at for at in large if at < high - start and low - start < at + spans[at].length}
            reach = {offset: offset + spans[offset].length for offset in wanted}
            chosen = [part for part in missing if any(a <= part.offset < b for a, b in reach.items())]
            self._fetch_into(view, path, chosen)
            return True

        return value, fill

    def read(self, path: str) -> bytes:
        """The verified bytes of the file `path`."""
        if derive_marker(self.manifest, path) is not None:
            return b"".join(self.stream(path))
        return bytes(self.fetch(path))

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` of the file `path`, from parts that are verified."""
        file = self._file(path)
        last, data = self._last
        if last[0] == path and last[1] <= start <= stop <= last[1] + len(data):
            return data[start - last[1] : stop - last[1]]
        chosen = [part for part in file.parts if part.offset < stop and start < part.offset + part.length]
        if len(chosen) == 1:  # often asked for again, a little at a time
            data = self._read_part(path, chosen[0])
            self._last = (path, chosen[0].offset), data
            return data[start - chosen[0].offset : stop - chosen[0].offset]
        with explain_memory_error(f"{self.label}/{path}"):
            view = blank(file.size)  # pages that are never touched take no memory
        self._fetch_into(view, path, chosen)
        return bytes(view[start:stop])

    def stream(self, path: str) -> Iterator[bytes]:
        """The verified bytes of the file `path`, part by part; of one that a copy left behind, if known."""
        known = derive_marker(self.manifest, path)
        for part in self._file(path).parts:
            try:
                yield self._read_part(path, part)
            except CheckpointCorrupt as error:
                if known is None or not isinstance(error.__cause__, FileNotFoundError):
                    raise
                yield known

    def decode(self, path: str, how: How = SAFELY) -> object:
        """The object in the pickle `path`: plain data, or what else `how` says.

        With its `mmap`, array data are mapped copy-on-write where the place has files, and are not
        read (nor checked) until touched.
        """
        file = self._file(path)
        if not file.arrays or not how.mmap:
            return self._decode_view(file, self.fetch(path), how)
        view = self._map(path)
        self._check_gaps(file, view)
        return self._decode_view(file, view, how)

    def _decode_view(self, file: FileParts, view: memoryview, how: How = SAFELY) -> object:
        path = file.path
        if not file.arrays:
            return self._decode(path, bytes(view), (), how)
        gaps: list[memoryview] = []
        buffers: list[memoryview] = []
        end = 0
        for offset, length in file.arrays:
            gaps.append(view[end:offset])
            end = offset + length
            buffers.append(view[offset:end])
        gaps.append(view[end:])
        try:
            pickled = skeleton(gaps, file.arrays)
        except CheckpointCorrupt as error:
            raise self._corrupt(path, error.why) from error
        return self._decode(path, pickled, buffers, how)

    def _decode(self, path: str, pickled: bytes, buffers: Sequence[memoryview], how: How) -> object:
        if how.trusted:
            refuse_foreign_code(f"{self.label}/{path}", pickled, self.manifest.writer)
            return load_trusted(pickled, buffers)
        with _about(f"{self.label}/{path}"):
            tensors = how.tensors() if how.tensors else None
            return safe.loads(pickled, buffers, tensors=tensors, own=True, classes=how.classes)

    @property
    def maps(self) -> bool:
        """Whether the place has files that can be mapped."""
        return hasattr(self.backend, "map")

    def _map(self, path: str) -> memoryview:
        mapper: Callable[[str], memoryview] | None = getattr(self.backend, "map", None)
        if mapper is None:
            return self.fetch(path)
        view = self._explain_missing(path, lambda: mapper(key_of(self.prefix, path)))
        if len(view) != self._file(path).size:
            raise self._corrupt(path, f"it has {len(view)} bytes, not {self._file(path).size}")
        return view

    def _check_gaps(self, file: FileParts, view: memoryview) -> None:
        arrays = {span.offset: span.offset + span.length for span in file.arrays}
        skip_until = 0
        for part in file.parts:
            skip_until = max(skip_until, arrays.get(part.offset, 0))
            if part.offset >= skip_until:
                self._check(file.path, part, view[part.offset : part.offset + part.length])

    def verify(self, listing: Mapping[str, int], progress: Progress | None = None) -> VerifyReport:
        """Read and check every byte; `listing` is what lies in the directory now."""
        problems: list[str] = []
        damaged: list[str] = []
        count = 0
        strays = tuple(sorted(listing.keys() - {*self._files, names.PARTS, names.MANIFEST, names.CLAIM}))
        there = [
            path for path in self._files if path in listing or derive_marker(self.manifest, path) is None
        ]

        def one(path: str) -> int:
            done = 0
            for data in self.stream(path):
                done += len(data)
                if progress is not None:
                    progress(len(data))
            if path in listing and listing[path] != done:
                raise self._corrupt(path, f"it has {listing[path]} bytes, not {done}")
            return done

        def try_file(path: str) -> int | str:
            try:
                return one(path)
            except CheckpointCorrupt as error:
                return f"{path}: {error.why}"

        try:
            self.parts  # noqa: B018  # everything else is checked against it
        except CheckpointCorrupt as error:
            told = (f"{names.PARTS}: {error.why}",)
            return VerifyReport(self.label, 0, 0, told, strays, damaged=(names.PARTS,))
        for path, result in zip(there, run_all(try_file, there, self.concurrency), strict=True):
            if isinstance(result, str):
                problems.append(result)
                damaged.append(path)
            else:
                count += result
        return VerifyReport(
            self.label,
            len(there),
            count,
            tuple(problems),
            strays,
            damaged=tuple(damaged),
            signed_for=self.manifest.store if self.manifest.signature else "",
        )

    def _file(self, path: str) -> FileParts:
        try:
            return self.parts[path]
        except KeyError:
            raise CheckpointCorrupt(f"{self.label}/{path}", "the manifest does not list it") from None

    @retry_if_corrupt
    def _read_part(self, path: str, part: Part) -> bytes:
        key = key_of(self.prefix, path)
        data = self._explain_missing(
            path, lambda: self.backend.read(key, part.offset, part.offset + part.length)
        )
        self._check(path, part, memoryview(data))
        return data

    def _check(self, path: str, part: Part, data: memoryview) -> None:
        if digest(data) != part.digest:
            raise self._corrupt(
                path, f"the digest of bytes {part.offset} to {part.offset + part.length} does not match"
            )

    def _explain_missing(self, path: str, read: Callable[[], _T]) -> _T:
        """`read()`, with a missing or short file explained: deleted meanwhile, or damaged."""
        try:
            with translate_errors(f"{self.label}/{path}"), explain_memory_error(f"{self.label}/{path}"):
                return read()
        except (CheckpointCorrupt, FileNotFoundError) as error:
            why = "it is missing" if isinstance(error, FileNotFoundError) else error.why
            raise self._corrupt(path, why) from error

    def _corrupt(self, path: str, why: str) -> CheckpointError:
        """CheckpointGone if the checkpoint was deleted meanwhile, else CheckpointCorrupt.

        On a disk another one may have its name by now.
        """
        now = fetch_manifest(self.backend, self.prefix, self.label)
        if now is None or now.id != self.manifest.id:
            return CheckpointGone(self.label, "it was deleted while it was being read")
        return CheckpointCorrupt(f"{self.label}/{path}", why)
