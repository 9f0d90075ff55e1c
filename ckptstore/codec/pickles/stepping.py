"""Step over the opcodes of a pickle without executing them."""

from __future__ import annotations

import pickletools
from typing import NamedTuple

from ckptstore.errors import UnsafeContent

_STOP = ord(".")
_TWO_LINES = frozenset(b"ci")  # the names of a module and of what is in it
_ARGUMENT_BYTES = {ord(item.code): item.arg.n if item.arg else 0 for item in pickletools.opcodes}
_PREFIX_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_IMPORTS = frozenset(b"ci\x93\x82\x83\x84")
_CALLS = frozenset(b"Roib\x81\x92")  # BUILD too: it calls a __setstate__
_MARK = ord("(")
_NEED_MARK = frozenset(b"oi")


class Steps(NamedTuple):
    """How far the opcodes from one position go."""

    end: int
    """The byte after STOP, or where they stop making sense."""
    whole: bool
    """Whether they end in STOP."""
    calls: bool
    """Whether something is imported, and then or thereby something called."""


def step_over(data: bytes, start: int = 0, most: int | None = None) -> Steps:
    """The opcodes from `start`, at most `most` of them; what they do to the stack isn't looked at."""
    at, size = start, len(data)
    imports = calls = marked = False
    left = size if most is None else most
    while at < size and left:
        left -= 1
        code = data[at]
        at += 1
        if code == _STOP:
            return Steps(at, True, calls)
        length = _ARGUMENT_BYTES.get(code)
        marked = marked or code == _MARK
        if length is None or (code in _NEED_MARK and not marked):
            break
        if length >= 0:
            at += length
        elif length == pickletools.UP_TO_NEWLINE:
            begin = at
            for _ in range(2 if code in _TWO_LINES else 1):
                at = data.find(b"\n", at) + 1 or size + 1
            if code in _TWO_LINES and not _are_names(data[begin : at - 1]):
                break
        else:
            width = _PREFIX_BYTES[length]
            at += width + int.from_bytes(data[at : at + width], "little")
        if at <= size:
            imports = imports or code in _IMPORTS
            calls = calls or (imports and code in _CALLS)
    return Steps(min(at, size), False, calls)


def _are_names(lines: bytes) -> bool:
    """Whether a module and a name in it could be called that; chance bytes are not."""
    try:
        module, _, name = lines.decode("utf-8").partition("\n")
    except UnicodeDecodeError:
        return False
    return module.isprintable() and name.isprintable() and bool(module and name)


def end_of_pickle(data: bytes, start: int) -> int:
    """The byte after the pickle that begins at `start`. UnsafeContent if it doesn't end."""
    steps = step_over(data, start)
    if not steps.whole:
        raise UnsafeContent("torch stream", f"no pickle ends before byte {steps.end}: cut short or damaged")
    return steps.end
