"""Find pickles, and what may hold one, written as text: base64, hexadecimal and their kin.

Programs put them into CSV, YAML, TOML, ini files and JSON. Text is full of runs of letters that decode to
something, so what is handed out must also look like a pickle: it calls something by its name, or begins as
protocol 2 and later do and ends; or it is compressed, an archive, or text itself. Of each run a little is
decoded at first, and more only while the opcodes make sense: a text takes one pass for each encoding.
"""

from __future__ import annotations

import ast
import base64
import binascii
import re
import urllib.parse
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from ckptstore.codec import inflate
from ckptstore.codec.pickles.stepping import step_over

LEAST = 12
"""Bytes that a pickle which calls something has at least."""
_WINDOWS = (64, 4096)  # bytes that are decoded to see whether it is worth going on
_MOST_STEPS = 1 << 20
_INFLATED = 1 << 20  # bytes that are inflated to see what they are
_MOST_FIELDS = 16  # of one run, in an alphabet that has the signs which stand between fields
_WORK = 8  # bytes decoded in all, for each byte of text and encoding; each attempt counts as some more

_BREAK = rb"(?:\\[rn]|[\s\"',\\])+"
"""Where a long text was broken into lines, in the way of whatever the file is."""
_SPACE = rb"\s+"  # for an alphabet that has quotes
_FIELD = re.compile(rb"[=:,;\"'>~]+")
_TEXT = re.compile(rb"[\t\n\r -~]+\Z")
_PICKLE = re.compile(rb"\x80[\0-\5]")
_FIRST_BYTES = frozenset(
    b"\x80\x95(])}\x8fN\x88\x89IJKML\x8a\x8bFGSTUVX\x8c\x8dBC\x8e\x96cPghj\x82\x83\x84"  # opcodes
    b"\x1f\xfd\x04\x28x\x93Z"  # of what is compressed, and of an array
)
_SECOND_BYTES = tuple((second, third, third) for second in (*range(0, 256, 8), 255) for third in (0, 255))
_ARCHIVES = (b"PK\x03\x04", b"\x93NUMPY")
_DATA_URL = re.compile(rb"data:([\w/+.;=-]{0,200}),([^\s\"'<>]{12,})")
_LITERAL = re.compile(rb"\bb(?:'(?:[^'\\\n]|\\.){12,}'|\"(?:[^\"\\\n]|\\.){12,}\")")
_NUMBERS = re.compile(rb"(?<![\w.-])(?:0x)?[0-9a-fA-F]{1,3}(?:[\s,:]+(?:0x)?[0-9a-fA-F]{1,3}\b){11,}")
_NUMBERS_BEGIN = re.compile(rb"(?<!\w)(?:0x80|128|80)[\s,:]+(?:0x)?0?[0-5]\b")
_NUMBER = re.compile(rb"(?:0x)?([0-9a-fA-F]+)")
_QUOTED = re.compile(rb"(?<![^\"'\0])\(*[ci][A-Za-z_][\w.]*\r?\n[A-Za-z_][\w.]*\r?\n")


class _Encoding(NamedTuple):
    runs: re.Pattern[bytes]
    breaks: re.Pattern[bytes]
    begins: re.Pattern[bytes]
    """How a pickle of protocol 2 or later, gzip and zip begin, wherever in a run."""
    unit: int
    """Characters that are decoded together."""
    size: int
    """Bytes that they make."""
    decode: Callable[[bytes], bytes]
    heads: frozenset[bytes]
    """The first two characters of everything that is looked for."""


def _make_encoding(
    characters: bytes,
    least: int,
    begins: bytes,
    unit: int,
    size: int,
    encode: Callable[[bytes], bytes],
    decode: Callable[[bytes], bytes],
    gap: bytes = _BREAK,
    text: bool = False,
) -> _Encoding:
    firsts = (*_FIRST_BYTES, *(range(32, 127) if text else ()))
    heads = frozenset(encode(bytes((first, *rest)))[:2] for first in firsts for rest in _SECOND_BYTES)
    if decode is _decode_hex:
        heads |= {head.upper() for head in heads}
    long = b"[%s]{%d,}" % (characters, least)
    begin = b"(?<![%s])" % characters  # so that each word is looked at once
    last = b"%s[%s]{1,%d}(?![%s])" % (gap, characters, least - 1, characters)
    runs = re.compile(b"%s%s(?:%s%s)*(?:%s)?" % (begin, long, gap, long, last))
    return _Encoding(runs, re.compile(gap), re.compile(begins), unit, size, decode, heads)


def _decode_base64(text: bytes) -> bytes:
    return binascii.a2b_base64(text.translate(_FROM_URL_SAFE) + b"=" * (-len(text) % 4))


def _decode_base32(text: bytes) -> bytes:
    return base64.b32decode(text + b"=" * (-len(text) % 8), casefold=True)


def _decode_hex(text: bytes) -> bytes:
    return binascii.a2b_hex(text[: len(text) // 2 * 2])


def _encode_lower(data: bytes) -> bytes:
    return base64.b32encode(data).lower()


def _encode_z85(data: bytes) -> bytes:
    return base64.b85encode(data).translate(bytes.maketrans(_B85, _Z85))


def _decode_z85(text: bytes) -> bytes:
    return base64.b85decode(text.translate(_FROM_Z85))


_B85 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_Z85 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_FROM_Z85 = bytes.maketrans(_Z85, _B85)
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_ENCODINGS = (
    _make_encoding(
        rb"A-Za-z0-9+/_\-", 16, rb"gA[A-X]|H4sI|UEsD", 4, 3, base64.b64encode, _decode_base64, text=True
    ),
    _make_encoding(rb"A-Z2-7", 20, rb"QA[A-Z]|D6FQ|KBFQ", 8, 5, base64.b32encode, _decode_base32),
    _make_encoding(rb"a-z2-7", 20, rb"qa[a-z]|d6fq|kbfq", 8, 5, _encode_lower, _decode_base32),
    _make_encoding(
        rb"0-9a-fA-F",
        24,
        rb"800[0-5]|1[fF]8[bB]08|504[bB]0304",
        2,
        1,
        binascii.b2a_hex,
        _decode_hex,
        text=True,
    ),
    _make_encoding(re.escape(_B85), 16, rb"f[BC]|ABzY|P\)h>@", 5, 4, base64.b85encode, base64.b85decode),
    _make_encoding(rb"!-uz", 16, rb"J[,\-]|\+,\^C|:eLl", 5, 4, base64.a85encode, base64.a85decode, _SPACE),
    _make_encoding(re.escape(_Z85), 16, rb"F[bc]|abZy|p!H\(\[", 5, 4, _encode_z85, _decode_z85),
)


def find(text: bytes) -> Iterator[bytes | None]:
    """What `text` holds in any encoding that may be unpickled; None where the rest was not looked for."""
    for match in _DATA_URL.finditer(text):
        body = urllib.parse.unquote_to_bytes(match[2])
        if b";base64" in match[1]:
            body = _decode_units(_ENCODINGS[0], body.rstrip(b"="))
        if may_unpickle(body):
            yield body
    for match in _LITERAL.finditer(text):
        body = _evaluate(match[0])
        if may_unpickle(body):
            yield body
    for match in _NUMBERS.finditer(text):
        yield from _find_numbers(match[0])
    for match in _QUOTED.finditer(text):
        steps = step_over(text, match.start(), _MOST_STEPS)
        if steps.whole and steps.calls:
            yield text[match.start() : steps.end]
    for encoding in _ENCODINGS:
        yield from _find_in(encoding, text)


def _find_numbers(text: bytes) -> Iterator[bytes]:
    """What a list of bytes as numbers holds: decimal, or hexadecimal with or without ``0x``."""
    for start in (0, *(match.start() for match in _NUMBERS_BEGIN.finditer(text))):
        for base in (10, 16):
            few = _from_numbers(text[start : start + 5 * _WINDOWS[0]], base)
            if len(few) >= LEAST and _goes_on(few, len(text)):
                body = _from_numbers(text[start:], base)
                if may_unpickle(body):
                    yield body


def _find_in(encoding: _Encoding, text: bytes) -> Iterator[bytes | None]:
    work = _WORK * len(text) + _WINDOWS[-1]
    for run in encoding.runs.finditer(text):
        starts, joined, at = [], bytearray(), 0
        for line in encoding.breaks.split(run[0]):
            starts.append(len(joined))
            joined += line
        whole = bytes(joined)
        starts += [match.start() for match in encoding.begins.finditer(whole)]
        starts += [match.end() for match in islice(_FIELD.finditer(whole), _MOST_FIELDS)]
        for at in sorted(set(starts)):
            if whole[at : at + 2] not in encoding.heads:
                continue
            total = (len(whole) - at) // encoding.unit * encoding.size + encoding.size
            for window in (*_WINDOWS, total):
                end = at + (window // encoding.size + 1) * encoding.unit
                data = _decode_units(encoding, whole[at:end])
                work -= len(data) + _WINDOWS[0]
                if not _goes_on(data, total):
                    break
                if window >= total:
                    if may_unpickle(data):
                        yield data
                    break
            if work < 0:
                yield None
                return


def may_unpickle(data: bytes) -> bool:
    """Whether `data` are a pickle, or something that may hold one; chance bytes are not."""
    if len(data) < LEAST:
        return False
    if data.startswith(_ARCHIVES) or data[257:262] == b"ustar" or _TEXT.match(data):
        return True
    if name := inflate.compression_of(data):
        inside, _, whole = inflate.inflate(name, data, _INFLATED)
        if may_unpickle(inside) and (whole or not _TEXT.match(inside)):
            return True
        if len(inside) == _INFLATED and _goes_on(inside, 1 << 62):
            return True
    if data[0] == 0x80 and data[1] > 5:
        return False
    steps = step_over(data, most=_MOST_STEPS)
    if steps.whole and _PICKLE.match(data):
        return True
    return steps.calls


def _goes_on(data: bytes, total: int) -> bool:
    """Whether it is worth decoding the rest of `total` bytes, of which `data` are the first."""
    if data.startswith(_ARCHIVES) or inflate.compression_of(data) or _TEXT.match(data):
        return True
    steps = step_over(data, most=_MOST_STEPS)
    return steps.whole or steps.calls or len(data) <= steps.reach <= total


def _decode_units(encoding: _Encoding, text: bytes) -> bytes:
    """`text` decoded; where some of it can't be, what comes before that."""
    text = text.replace(b"z", b"!!!!!") if encoding.decode is base64.a85decode else text
    try:
        return encoding.decode(text)
    except ValueError:
        pass
    found = bytearray()
    step = 1024 * encoding.unit
    at = 0
    while at < len(text) and step:
        try:
            found += encoding.decode(text[at : at + step])
            at += step
        except ValueError:
            step = 0 if step == encoding.unit else max(step // 32 // encoding.unit, 1) * encoding.unit
    return bytes(found)


def _evaluate(literal: bytes) -> bytes:
    try:
        value = ast.literal_eval(literal.decode("ascii"))
    except (ValueError, SyntaxError, MemoryError):
        return b""
    return value if isinstance(value, bytes) else b""


def _from_numbers(text: bytes, base: int) -> bytes:
    """As many as are bytes."""
    found = bytearray()
    try:
        for match in _NUMBER.finditer(text):
            found.append(int(match[1], base))
    except ValueError:
        pass
    return bytes(found)
