"""Say at save what the default load will give back as a record of an object, and where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from ckptstore.codec.indexed.read import skeleton
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import safe
from ckptstore.codec.tensors import tensor_types
from ckptstore.errors import InvalidRequest, UnsafeContent
from ckptstore.logs import logger
from ckptstore.read.memory import blank
from ckptstore.work import Lock

Mode = Literal["warn", "error", "allow"]
_SHOWN = 5
_REMEDY = "Load with classes=[...], restore() or trusted=True, save other data, or pass opaque='allow'"


class Watch:
    """What one run has said so far: each kind once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._lock = Lock()

    def look(self, mode: Mode, where: str, value: object, strange: set[str]) -> None:
        """Look into `value`, saved as `where`, if `strange` has names that were not looked at before.

        InvalidRequest with the mode "error", where a default load would give a record.
        """
        with self._lock:
            if mode == "warn" and strange <= self._said:
                return
            self._said |= strange
        found = [f"{where}{path} ({name})" for path, name in find(value)]
        if not found:
            return
        listed = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if found[_SHOWN:] else "")
        if mode == "error":
            raise InvalidRequest(listed, "a default load gives records of it (Opaque)", _REMEDY)
        logger.warning("a default load gives records (Opaque) of %s. %s", listed, _REMEDY)


def check_mode(mode: str) -> None:
    """InvalidRequest for a mode that isn't one."""
    if mode not in ("warn", "error", "allow"):
        raise InvalidRequest("opaque", f"{mode!r} is unknown", "Use 'warn', 'error' or 'allow'")


def find(value: object) -> list[tuple[str, str]]:
    """Paths in `value` of what a default load makes a record of, and the records' names.

    Pickles it and decodes that as a load does, without the data of its arrays.
    """
    try:
        return list(_differences(value, _decode(value)))
    except UnsafeContent as error:
        return [("", f"not to be decoded: {error.why}")]


def _decode(value: object) -> object:
    from ckptstore.codec.indexed.write import dump

    chunks: list[tuple[int, bytes | None, int]] = []
    size = 0

    def keep(data: bytes | memoryview) -> None:
        nonlocal size
        length = len(data) if isinstance(data, bytes) else data.nbytes
        chunks.append((size, data if isinstance(data, bytes) else None, length))
        size += length

    regions = dump(value, keep)
    arrays = {region.offset for region in regions}
    gaps: list[bytes] = [b""]
    for offset, data, length in chunks:
        if offset in arrays and data is None:
            gaps.append(b"")
        else:
            gaps[-1] += bytes(length) if data is None else data
    memory = blank(sum(region.length for region in regions))  # pages that are never touched take no memory
    buffers, end = [], 0
    for region in regions:
        buffers.append(memory[end : end + region.length])
        end += region.length
    return safe.loads(skeleton(gaps, regions), buffers, own=True)


def _differences(value: Any, decoded: Any) -> Iterator[tuple[str, str]]:
    """Where `decoded` has a record and `value` none; by a list, for data may be nested deeply."""
    todo: list[tuple[str, Any, Any]] = [("", value, decoded)]
    seen: set[int] = set()
    while todo:
        path, mine, made = todo.pop()
        if isinstance(made, Opaque):
            # A tensor of a type that numpy lacks is one of its bits, unless it is asked for as a tensor.
            if not isinstance(mine, (Opaque, *tensor_types())):
                yield path, made.name.removesuffix("()")
            continue
        if id(made) in seen or not isinstance(made, (dict, list, tuple, set, frozenset, np.ndarray)):
            continue
        seen.add(id(made))
        pairs: list[tuple[str, Any, Any]] = []
        if isinstance(made, dict):
            keys = list(mine) if isinstance(mine, Mapping) and len(mine) == len(made) else list(made)
            for key, (name, item) in zip(keys, made.items(), strict=False):
                pairs.append((f"{path} key {_brief(key)}", key, name))
                pairs.append(
                    (f"{path}[{_brief(key)}]", mine.get(key) if isinstance(mine, Mapping) else None, item)
                )
        elif isinstance(made, (set, frozenset)):
            pairs = [(f"{path} member", None, item) for item in made]
        elif isinstance(made, np.ndarray):
            if made.dtype == object:
                pairs = [(f"{path}[{at}]", None, item) for at, item in enumerate(made.ravel().tolist())]
        else:
            others = (
                mine if isinstance(mine, (list, tuple)) and len(mine) == len(made) else [None] * len(made)
            )
            pairs = [(f"{path}[{at}]", a, b) for at, (a, b) in enumerate(zip(others, made, strict=True))]
        todo += reversed(pairs)


def _brief(value: object) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bytes, bool)) else f"<{type(value).__name__}>"
    return text if len(text) <= 40 else text[:37] + "..."
