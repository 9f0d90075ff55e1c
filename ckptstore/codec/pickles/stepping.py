"""Step over the opcodes of a pickle without executing them."""

from __future__ import annotations

import pickletools
import re
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
_EXTENSIONS = frozenset(b"\x82\x83\x84")  # numbers of what copyreg knows
_STACK_GLOBAL = 0x93
_STRINGS = frozenset(b"VSXUT\x8c\x8d")
_NAME = re.compile(rb"['\"]?[A-Za-z_\\\x80-\xff][\w.\\\x80-\xff]*['\"]?\r?\n?\Z")
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
    """Whether something is imported, by what can be a name, and then or thereby something called."""
    reach: int
    """The byte after the last argument, which may lie beyond the data."""


def step_over(data: bytes, start: int = 0, most: int | None = None) -> Steps:
    """The opcodes from `start`, at most `most` of them; what they do to the stack isn't looked at."""
    at, size = start, len(data)
    imports = calls = marked = named = False
    left = size if most is None else most
    while at < size and left:
        left -= 1
        code = data[at]
        at += 1
        begin = at
        if code == _STOP:
            return Steps(at, True, calls, at)
        length = _ARGUMENT_BYTES.get(code)
        marked = marked or code == _MARK
        if length is None or (code in _NEED_MARK and not marked):
            break
        if length >= 0:
            at += length
        elif length == pickletools.UP_TO_NEWLINE:
            for _ in range(2 if code in _TWO_LINES else 1):
                at = data.find(b"\n", at) + 1 or size + 1
            if code in _TWO_LINES and not _are_names(data[begin : at - 1]):
                break
        else:
            width = _PREFIX_BYTES[length]
            at += width + int.from_bytes(data[at : at + width], "little")
        if at <= size:
            if not imports and code in _TWO_LINES:
                imports = all(map(_NAME.match, data[begin : at - 1].split(b"\n")))
            elif not named and code in _STRINGS:
                named = _NAME.match(data[begin + max(_PREFIX_BYTES.get(length, 0), 0) : at]) is not None
            elif not imports and code == _STACK_GLOBAL:
                imports = named
            elif not imports and code in _EXTENSIONS:
                imports = data[start : start + 1] == b"\x80"
            calls = calls or (imports and code in _CALLS)
    return Steps(min(at, size), False, calls, at)


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
