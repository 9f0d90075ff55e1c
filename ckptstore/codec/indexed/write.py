"""Write an ordinary protocol-5 pickle, and note where its array data lie.

``pickle.load`` opens the result on Python 3.8 to 3.13 with numpy 1.24 to 2.x. It differs from what the
plain pickler makes in that every array is a call of ``numpy.ndarray`` on its bytes, and the bytes of
large ones begin on multiples of 64 in the file, so that they can be read, verified and memory-mapped by
themselves.

How a large array is aligned: the C pickler closes its frame, writes the opcode with the length, and
then hands the buffer itself to `write` in a call of its own. :class:`_Sink` holds back the last chunk,
and when the next write *is* a buffer made here, puts a padding string, pushed and popped again, in front
of the opcode. A large write by itself says nothing: frames, and bytes and str of 64 KiB and more, arrive
the same way, and padding inside one of those makes the file unreadable.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle

from ckptstore.codec.indexed.reducers import DEFAULT_REDUCER, Reducers
from ckptstore.codec.indexed.regions import Region, length_opcode
from ckptstore.codec.indexed.unpicklable import explain
from ckptstore.errors import CheckpointError, InvalidRequest

ALIGNMENT = 64
"""Array data begin on multiples of this many bytes in the file: a cache line, and enough for any dtype."""

Write = Callable[["bytes | memoryview"], object]


def dump(obj: object, write: Write, strange: set[str] | None = None) -> list[Region]:
    """Pickle `obj` through `write` and return the regions of its large arrays, in file order.

    `strange` collects names of what the default load may make nothing of.

    `write` takes bytes or a memoryview and must consume all of it before it returns; what it is given
    may be reused afterwards. Array data of contiguous arrays are passed as views, never copied. What
    `write` raises comes through as it is.

    Raises InvalidRequest for something that can't be pickled, naming its type and, where it can be
    found, the path to it.
    """
    sink = _Sink(write)
    try:
        pickler = _Pickler(sink, sink.made)
        pickler.dump(obj)
    except Exception as error:
        if sink.failed or (isinstance(error, CheckpointError) and not isinstance(error, InvalidRequest)):
            raise
        raise explain(obj, error, lambda part: _Pickler(_Nowhere(), {}).dump(part)) from error
    sink.flush()
    if strange is not None:
        strange |= pickler.reducers.strange
    return sink.regions


class _Nowhere:
    def write(self, data: object) -> None:
        pass


class _Sink:
    """Stands between the pickler and `write`: counts bytes, pads, notes regions."""

    def __init__(self, write: Write) -> None:
        self.regions: list[Region] = []
        self.failed = False
        self.made: dict[int, pickle.PickleBuffer] = {}  # by id; holding them keeps the ids unique
        self._write = write
        self._held: bytes = b""
        self._offset = 0  # of the end of what has been written, without what is held

    def write(self, data: Any) -> int:
        if type(data) is pickle.PickleBuffer:
            view = data.raw()
            size = view.nbytes
            if id(data) not in self.made:
                self.flush()
                self._emit(view)
                return size
            self._pad(size)
            self.regions.append(Region(self._offset, size))
            self._emit(view)
            # The pickler keeps every buffer to its end; the copies behind strided arrays must not stay.
            view.release()
            data.release()
            return size
        self.flush()
        if type(data) is bytes:
            self._held = data
        else:
            self._emit(memoryview(data))
        return len(data)

    def flush(self) -> None:
        """Pass on what is held back."""
        held, self._held = self._held, b""
        if held:
            self._emit(held)

    def _pad(self, length: int) -> None:
        """Write what is held, so that the byte after it has an offset that is a multiple of ALIGNMENT."""
        held, self._held = self._held, b""
        opcode = length_opcode(held, length)
        if not opcode:
            self.failed = True
            raise AssertionError("the pickler wrote no length opcode before a buffer")
        gap = -(self._offset + len(held)) % ALIGNMENT
        if gap:
            if gap < 3:  # SHORT_BINBYTES, its length and POP take three bytes by themselves
                gap += ALIGNMENT
            padding = b"C" + bytes([gap - 3]) + bytes(gap - 3) + b"0"
            held = held[:-opcode] + padding + held[-opcode:]
        self._emit(held)

    def _emit(self, data: bytes | memoryview) -> None:
        try:
            self._write(data)
        except BaseException:
            self.failed = True
            raise
        self._offset += len(data)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle, with arrays and what resembles them reduced by :class:`Reducers`."""

    def __init__(self, file: object, made: dict[int, pickle.PickleBuffer]) -> None:
        super().__init__(file, protocol=5)
        self.reducers = Reducers(made)

    def reducer_override(self, obj: Any) -> Any:
        reduced = self.reducers.reduce(obj)
        return super().reducer_override(obj) if reduced is DEFAULT_REDUCER else reduced
