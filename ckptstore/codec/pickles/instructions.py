"""The rarer instructions of pickles, one function each.

Each gets the machine, its stack and the position after the opcode, and returns the position to continue at.
What makes up most of an ordinary pickle is spelled out in ``loop``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.machine import Machine
from ckptstore.codec.pickles.protocol0 import int_line, long_line, old_text, parse_quoted
from ckptstore.errors import UnsafeContent

Handler = Callable[[Machine, list[Any], int], int]


def _proto(m: Machine, stack: list[Any], pos: int) -> int:
    if m.data[pos] > 5:
        raise UnsafeContent("pickle", f"protocol {m.data[pos]} is newer than this decoder")
    return pos + 1


def _frame(m: Machine, stack: list[Any], pos: int) -> int:
    return m.read_size(pos, 8)[0]


def _newobj_ex(m: Machine, stack: list[Any], pos: int) -> int:
    kwargs, args = stack.pop(), stack.pop()
    if type(kwargs) is not dict:
        raise UnsafeContent("pickle", "keyword arguments that are not a dict")
    m.call(stack, stack.pop(), args, pos, kwargs)
    return pos


def _global(m: Machine, stack: list[Any], pos: int) -> int:
    start = pos
    module, pos = m.line(pos)
    name, pos = m.line(pos)
    stack.append(m.reference(module.decode(), name.decode(), start))
    return pos


def _stack_global(m: Machine, stack: list[Any], pos: int) -> int:
    name, module = stack.pop(), stack.pop()
    if type(name) is not str or type(module) is not str:
        raise UnsafeContent("pickle", "a name that is not text")
    stack.append(m.reference(module, name, pos))
    return pos


def _extension(width: int) -> Handler:
    def handle(m: Machine, stack: list[Any], pos: int) -> int:
        code = int.from_bytes(m.data[pos : pos + width], "little", signed=width == 4)
        stack.append(m.reference("copyreg.extension", str(code), pos))
        return pos + width

    return handle


def _setitem(m: Machine, stack: list[Any], pos: int) -> int:
    value, key = stack.pop(), stack.pop()
    m.set_entries(stack[-1], [key, value])
    return pos


def _dup(m: Machine, stack: list[Any], pos: int) -> int:
    stack.append(stack[-1])
    return pos


def _payload(width: int, make: Callable[[bytes], Any]) -> Handler:
    """A length of `width` bytes, and that much content."""

    def handle(m: Machine, stack: list[Any], pos: int) -> int:
        start, end = m.read_size(pos, width)
        stack.append(make(m.data[start:end]))
        return end

    return handle


def _bytearray8(m: Machine, stack: list[Any], pos: int) -> int:
    start, end = m.read_size(pos, 8)
    stack.append(bytearray(memoryview(m.data)[start:end]))  # one copy; a slice of bytes would be another
    return end


def _text_line(make: Callable[[bytes], Any]) -> Handler:
    """Content up to the end of the line, as protocol 0 writes it."""

    def handle(m: Machine, stack: list[Any], pos: int) -> int:
        text, end = m.line(pos)
        stack.append(make(text))
        return end

    return handle


def _get(m: Machine, stack: list[Any], pos: int) -> int:
    text, end = m.line(pos)
    m.get(stack, int(text))
    return end


def _put(m: Machine, stack: list[Any], pos: int) -> int:
    text, end = m.line(pos)
    m.put(int(text), stack[-1])
    return end


def _persid(m: Machine, stack: list[Any], pos: int) -> int:
    text, end = m.line(pos)
    stack.append(Opaque("persistent_id", (text.decode("ascii"),)))
    return end


def _binpersid(m: Machine, stack: list[Any], pos: int) -> int:
    stack.append(Opaque("persistent_id", (stack.pop(),)))
    return pos


def _next_buffer(m: Machine, stack: list[Any], pos: int) -> int:
    return m.next_buffer(stack, pos)


def _readonly_buffer(m: Machine, stack: list[Any], pos: int) -> int:
    value = stack[-1]
    if type(value) in (bytes, bytearray, memoryview):
        stack[-1] = memoryview(value).toreadonly()
    elif m.buffers is not None:
        raise UnsafeContent("pickle", f"makes a value of type {type(value).__name__} read-only")
    return pos


def _unicode(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


def _to_signed(content: bytes) -> int:
    return int.from_bytes(content, "little", signed=True)


HANDLERS: list[Handler | None] = [None] * 256
for _opcode, _handler in {
    0x80: _proto,
    0x95: _frame,
    0x92: _newobj_ex,
    0x63: _global,
    0x93: _stack_global,
    0x82: _extension(1),
    0x83: _extension(2),
    0x84: _extension(4),
    0x73: _setitem,
    0x32: _dup,
    0x42: _payload(4, bytes),  # BINBYTES
    0x8E: _payload(8, bytes),  # BINBYTES8
    0x96: _bytearray8,
    0x58: _payload(4, _unicode),  # BINUNICODE
    0x8D: _payload(8, _unicode),  # BINUNICODE8
    0x8A: _payload(1, _to_signed),  # LONG1
    0x8B: _payload(4, _to_signed),  # LONG4
    0x55: _payload(1, old_text),  # SHORT_BINSTRING
    0x54: _payload(4, old_text),  # BINSTRING
    0x49: _text_line(int_line),  # INT
    0x4C: _text_line(long_line),  # LONG
    0x46: _text_line(float),  # FLOAT
    0x53: _text_line(parse_quoted),  # STRING
    0x56: _text_line(lambda text: text.decode("raw-unicode-escape")),  # UNICODE
    0x67: _get,
    0x70: _put,
    0x50: _persid,
    0x51: _binpersid,
    0x97: _next_buffer,
    0x98: _readonly_buffer,
}.items():
    HANDLERS[_opcode] = _handler
