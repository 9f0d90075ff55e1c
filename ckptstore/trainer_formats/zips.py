"""Zip archives whose members are read one by one, into memory and within limits; nothing is extracted."""

from __future__ import annotations

import zipfile
from typing import IO

from ckptstore.codec.pickles.budget import Meter
from ckptstore.codec.torchfile import DAMAGED_ZIP, begins_late
from ckptstore.errors import CheckpointCorrupt, UnsafeContent
from ckptstore.format.names import stays_below
from ckptstore.trainer_formats.containers import EXPANDED
from ckptstore.trainer_formats.source import AGAIN

_MOST_MEMBERS = 100_000
_END = b"PK\x05\x06"
_END_BYTES = 22
_MOST_COMMENT = 2**16
_CUT = "it is cut short, or damaged at its end: not a whole zip archive"


def _has_end(file: IO[bytes], size: int) -> bool:
    """Whether a file of `size` bytes ends as every zip does, which half a download doesn't."""
    file.seek(max(size - _END_BYTES - _MOST_COMMENT, 0))
    tail = file.read()
    at = tail.rfind(_END)
    end = at + _END_BYTES
    return at >= 0 and end + int.from_bytes(tail[end - 2 : end], "little") == len(tail)


class Zip:
    """One archive; `what` names it in errors. UnsafeContent for one that contradicts itself."""

    def __init__(self, file: IO[bytes], what: str, size: int) -> None:
        self._what = what
        self._meter = Meter(EXPANDED, size)
        try:
            self._archive = zipfile.ZipFile(file)
        except DAMAGED_ZIP as error:
            if not _has_end(file, size):
                raise CheckpointCorrupt(what, _CUT, AGAIN) from error
            raise UnsafeContent(what, f"not a whole zip archive ({error})") from error
        if begins_late(self._archive):
            if not _has_end(file, size):  # what was found is a member that is a zip itself, as SB3 has
                raise CheckpointCorrupt(what, _CUT, AGAIN)
            raise UnsafeContent(what, "not a whole zip archive (another one is inside)")
        infos = self._archive.infolist()
        self._infos = {info.filename: info for info in infos}
        if len(infos) > _MOST_MEMBERS:
            raise UnsafeContent(what, f"{len(infos)} members, more than {_MOST_MEMBERS}")
        if len(self._infos) != len(infos):
            raise UnsafeContent(what, "two of its members have one name")
        for name, info in self._infos.items():
            if not stays_below(name.removesuffix("/")):
                raise UnsafeContent(what, f"its member {name!r:.80} would lie outside")
            if info.flag_bits & 1:
                raise UnsafeContent(what, f"its member {name!r:.80} is encrypted")
        self.names = tuple(name for name, info in self._infos.items() if not info.is_dir())
        """Its members, in the archive's order."""

    def size(self, name: str) -> int:
        """The bytes that the member `name` claims to have."""
        return self._infos[name].file_size

    def read(self, name: str, most: int | None = None) -> bytes:
        """The member `name`, or its first `most` bytes."""
        info = self._infos.get(name)
        if info is None:
            raise UnsafeContent(self._what, f"its member {name!r:.80} is missing")
        count = info.file_size if most is None else min(info.file_size, most)
        try:
            self._meter.charge(count)
        except UnsafeContent as error:
            raise UnsafeContent(self._what, "its members inflate to more than its size allows") from error
        try:
            with self._archive.open(info) as file:
                data = file.read(count)
        except DAMAGED_ZIP as error:
            raise UnsafeContent(self._what, f"its member {name!r:.80} is damaged ({error})") from error
        if len(data) != count:
            raise UnsafeContent(self._what, f"its member {name!r:.80} has {len(data)} bytes, not {count}")
        return data
