"""From objects to files: streams each file through a sink, hashing it on the way, several at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ckptstore.backends.base import Sink
from ckptstore.format.digest import digest
from ckptstore.format.layout import Item
from ckptstore.format.parts import PART_BYTES, FileParts, Part, Span
from ckptstore.work import Pool, Progress, check_interrupted, run_all

GAP_BYTES = 2**20
"""Bytes between arrays are gathered up to this much before they are written and hashed as one part."""


class Cutter:
    """Cuts what is written into parts.

    Array data arrive as memoryviews and become parts of their own; what lies between is gathered.
    """

    def __init__(self) -> None:
        self._gap = bytearray()
        self._parts: list[Part] = []
        self._end = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`; its memory may be reused when this returns."""
        if isinstance(data, memoryview) or len(data) >= GAP_BYTES:
            self._close_gap()
            view = memoryview(data).cast("B")
            part = self.array_part if isinstance(data, memoryview) else self.part
            for start in range(0, len(view), PART_BYTES):
                self._add(view[start : start + PART_BYTES], part)
        else:
            self._gap += data
            if len(self._gap) >= GAP_BYTES:
                self._close_gap()

    def finish(self, path: str, arrays: Iterable[tuple[int, int]] = ()) -> FileParts:
        """The file's parts, once everything is written."""
        self._close_gap()
        return FileParts(path, tuple(self._parts), tuple(Span(*span) for span in arrays))

    def _close_gap(self) -> None:
        if self._gap:
            gap, self._gap = self._gap, bytearray()
            self._add(memoryview(gap), self.part)

    def _add(self, data: memoryview, part: Callable[[memoryview], str]) -> None:
        self._parts.append(Part(self._end, len(data), part(data)))
        self._end += len(data)

    def part(self, data: memoryview) -> str:
        """The digest of the next part, once done with its memory."""
        raise NotImplementedError

    def array_part(self, data: memoryview) -> str:
        """Like `part`, for the data of an array, whose memory may be the caller's."""
        return self.part(data)


class Hasher(Cutter):
    """Only hashes, in the thread that reads: what lies where it belongs already."""

    def part(self, data: memoryview) -> str:
        """Hash it."""
        return digest(data)


class Buffers:
    """Memory for private copies of parts, used again: fresh pages take longer than the copying."""

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    @contextmanager
    def copy(self, data: memoryview) -> Iterator[memoryview]:
        """What `data` holds now; lets other threads run meanwhile. To be done with when the block ends."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = bytearray()
        if len(buffer) < len(data):
            buffer = bytearray(len(data))
        private = memoryview(buffer)[: len(data)]
        np.copyto(np.frombuffer(private, np.uint8), np.frombuffer(data, np.uint8))
        yield private
        self._free.append(buffer)


class Recorder(Cutter):
    """Hands the parts on to a sink.

    Large ones are hashed by another thread while this one writes the same memory. Where that memory is
    the caller's (`live`), both are of a private copy: a thread that goes on training would otherwise
    change bytes between the two, and the file would never match its digest.
    """

    def __init__(
        self, sink: Sink, hashers: Pool, buffers: Buffers, live: bool, progress: Progress | None = None
    ) -> None:
        super().__init__()
        self._sink = sink
        self._hashers = hashers
        self._buffers = buffers
        self._live = live
        self._progress = progress

    def array_part(self, data: memoryview) -> str:
        """Write and hash it, or a private copy."""
        if not self._live:
            return self.part(data)
        with self._buffers.copy(data) as private:
            return self.part(private)

    def part(self, data: memoryview) -> str:
        """Write and hash it."""
        check_interrupted()
        if len(data) < GAP_BYTES:
            self._sink.write(data)
            hexdigest = digest(data)
        else:
            future = self._hashers.submit(digest, data)
            try:
                self._sink.write(data)
            finally:
                future.run()  # unless a thread is at it
                hexdigest = future.result()  # the memory may change as soon as we return
        if self._progress is not None:
            self._progress(len(data))
        return hexdigest


def write_items(
    create: Callable[[str], Sink],
    items: Sequence[Item],
    concurrency: int,
    progress: Progress | None = None,
    reuse: Callable[[Item], FileParts | None] = lambda item: None,
) -> list[FileParts]:
    """Write every item through a sink of its own, `concurrency` files at a time; in `items`' order.

    An item for which `reuse` gives its parts is there already. The first failure stops the rest and is
    raised.
    """
    buffers = Buffers()
    hashers = Pool(os.cpu_count() or 1)

    def one(item: Item) -> FileParts:
        if (reused := reuse(item)) is not None:
            return reused
        with create(item.path) as sink:
            recorder = Recorder(sink, hashers, buffers, item.live, progress)
            return recorder.finish(item.path, item.emit(recorder.write))

    return run_all(one, items, concurrency)
