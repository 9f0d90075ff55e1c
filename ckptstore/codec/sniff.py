"""Tell by its first bytes what a file is; its name is not asked."""

from __future__ import annotations

import ast
import json
import re
import struct
import tarfile
from typing import Any

import numpy as np

_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_ZIP_END = b"PK\x05\x06"
_ZIP_END_WITHIN = 65_557  # bytes: 22, and a comment
_TAR_BLOCK = 512
_HDF5 = b"\x89HDF\r\n\x1a\n"
_NPY = b"\x93NUMPY"
_MOST_HEADER = 64 * 1024  # bytes of an .npy header
_LONG = re.compile(r"(\d)L\b")  # as Python 2 wrote shapes
MAX_SAFETENSORS_HEADER = 100_000_000  # bytes; the limit of the library itself


def is_zip(data: bytes) -> bool:
    """Whether it begins or ends as a zip archive does: many readers look at its end alone."""
    return data.startswith(_ZIP) or _ZIP_END in data[-_ZIP_END_WITHIN:]


def is_tar(data: bytes) -> bool:
    """Whether it begins with a header of tar's, whose checksum fits."""
    if len(data) < _TAR_BLOCK or not data[0]:
        return False
    try:
        tarfile.TarInfo.frombuf(data[:_TAR_BLOCK], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def is_hdf5(data: bytes) -> bool:
    """Whether it is HDF5."""
    return data.startswith(_HDF5)


def is_npy(data: bytes) -> bool:
    """Whether it is an array of numpy's."""
    return data.startswith(_NPY)


def pickle_in_npy(data: bytes) -> bytes | None:
    """What numpy unpickles of an ``.npy`` file: None where its dtype holds no objects.

    A header that isn't understood counts as one that does.
    """
    width = 2 if data[6:7] == b"\x01" else 4
    start = 8 + width
    end = start + int.from_bytes(data[8:start], "little")
    try:
        text = _LONG.sub(r"\1", data[start : min(end, start + _MOST_HEADER)].decode("latin-1").strip())
        descr = ast.literal_eval(text)["descr"]
        plain = isinstance(descr, (str, list)) and not np.dtype(descr).hasobject
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError, struct.error):
        plain = False
    return None if plain else data[end:]


def is_safetensors(data: bytes) -> bool:
    """Whether it is a whole file of safetensors: a header in JSON, then nothing but the tensors' bytes."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 10 or not 2 <= size <= min(MAX_SAFETENSORS_HEADER, len(data) - 8) or data[8:9] != b"{":
        return False
    try:
        header = json.loads(data[8 : 8 + size])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(max(ends, default=0) == len(data) - 8 - size)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return False


def text_of(data: bytes) -> str | None:
    """Its text, if it is UTF-8 without control characters such as no text has."""
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None


def json_of(text: str) -> Any:
    """The JSON document that `text` is, or a list of those that its lines are; None if it is none."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        lines = [_line_of(line) for line in text.splitlines() if line.strip()]
        return [document for document in lines if document is not None] or None


def _line_of(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
