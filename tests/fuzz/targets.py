"""What the fuzzers feed: each target takes any bytes and may end in a typed error or a right answer only.

A target raises whatever is wrong: an exception that is not ours, or an answer that contradicts itself.
Budgets are small here, so that what blows up in time or memory shows at small sizes.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import decimal
import functools
import io
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ckptstore.backends.registry import open_backend
from ckptstore.codec import known, rllib_msgpack, torchfile
from ckptstore.codec.pickles import safe
from ckptstore.codec.pickles.budget import Budget
from ckptstore.commit import refs
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    InvalidRequest,
    UnreadableFormat,
    UnsafeContent,
)
from ckptstore.format import manifest, names, parts, strictjson
from ckptstore.format.digest import digest
from ckptstore.rllib_formats import scan
from tests.codec.support import PythonUnpickler
from tests.rllib_formats import trees

DATA = Path(__file__).parents[1] / "data"
BUDGET = Budget(steps=1 << 22, bytes=1 << 24)
_MAX_SEED = 32 * 1024


class Target(NamedTuple):
    """One decoder under test."""

    run: Callable[[bytes], object]
    seeds: Callable[[], Iterator[bytes]]
    """Inputs to start from: whole and right ones."""


class NoNames(pickle.Unpickler):
    """The real unpickler for pickles that name nothing: an oracle that runs no code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


class NoNamesInPython(PythonUnpickler):  # type: ignore[misc]  # of any type, to mypy
    """The same, in Python."""

    find_class = NoNames.find_class


def safe_pickle(data: bytes) -> bool:
    """Decodes or refuses; where Python's own unpickler agrees to read it too, both read the same."""
    with contextlib.suppress(UnsafeContent):
        safe.globals_in(data, BUDGET)
    try:
        value = safe.loads(data, budget=BUDGET)
    except UnsafeContent:
        return False
    with contextlib.suppress(UnsafeContent):
        known.plain(value, len(data))
    ours = _text(value)
    if ours is None or "Opaque" in ours:
        return True
    for oracle in (NoNames, NoNamesInPython):
        try:
            theirs = _text(oracle(io.BytesIO(data)).load())
        except Exception:  # noqa: BLE001  # it raises nearly anything; ours may be more lenient, not wrong
            return True
        if ours == theirs:
            return True
    raise AssertionError((ours[:200], (theirs or "")[:200]))


def _text(value: Any) -> str | None:
    with contextlib.suppress(RecursionError):
        return repr(value)[:100_000]
    return None


def msgpack(data: bytes) -> bool:
    """RLlib's MessagePack."""
    try:
        value = rllib_msgpack.loads(data, 1 << 18)
    except UnsafeContent:
        return False
    with contextlib.suppress(UnsafeContent):
        known.plain(value, len(data))
    return True


def torch_file(data: bytes) -> bool:
    """What torch.save wrote: a zip archive or the older stream."""
    with contextlib.suppress(UnsafeContent, UnreadableFormat):
        torchfile.loads(data, BUDGET)
        return True
    return False


def scanned(data: bytes) -> bool:
    """The scan for names, on pickles within pickles within torch files."""
    return not any(use.name.startswith("(") for use in scan.scan_bytes("x.pkl", data))


def manifest_bytes(data: bytes) -> bool:
    """A manifest, given the digest that fits it: what is accepted is written back to the same bytes."""
    with contextlib.suppress(CheckpointCorrupt, UnreadableFormat):
        manifest.load(data, "m")
    body = data.strip(b"\n \t").removesuffix(b"}")
    signed = body + b',"digest":"' + digest(body).encode() + b'"}\n'
    try:
        loaded = manifest.load(signed, "m")
    except (CheckpointCorrupt, UnreadableFormat):
        return False
    assert manifest.load(loaded.dump(), "m").dump() == loaded.dump()
    for file in loaded.files:
        assert not file.path.startswith("/")
        assert ".." not in file.path.split("/")
    return True


def parts_table(data: bytes) -> bool:
    """``parts.json``."""
    try:
        table = parts.load(data, "p")
    except (CheckpointCorrupt, UnreadableFormat):
        return False
    assert parts.load(parts.dump(table.values()), "p") == table
    for file in table.values():
        assert file.size == sum(part.length for part in file.parts)
    return True


def small_json(data: bytes) -> bool:
    """A ref, and names made of the same bytes: tags and policies with every trick in them."""
    backend = open_backend("memory://fuzz")
    key = f"{names.REFS}/champion/000000000001.json"
    backend.delete([key, names.STORE])
    backend.publish(names.STORE, b"{}")  # refs count where a store is
    backend.publish(key, data or b" ")
    with contextlib.suppress(CheckpointCorrupt):
        for target in refs.read_all(backend).values():
            name = refs.parse_name(target, key)
            assert str(name) == target.name
    with contextlib.suppress(CheckpointCorrupt):
        value = strictjson.loads(data, "j")
        assert strictjson.loads(strictjson.dumps(value).encode(), "j") == value
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(InvalidRequest):
        for policy_id in names.check_policy_ids([text]):
            path = names.policy_path(policy_id)
            assert names.relative_path(path, "p") == path
            return True
    return False


CASES = (
    "v0_1/ray_2.0.1_ppo_filter",
    "v1_0/ray_2.1.0_policy",
    "v1_1/ray_2.50.1_msgpack_multi",
    "v1_2/ray_2.5.1_learner",
    "v1_2/ray_2.35.0_learner_multi",
    "v2_0/ray_2.35.0_modules",
    "v2_1/ray_2.60.0_modules",
)


@functools.cache
def _tree(case: str) -> trees.Files:
    return trees.load(case)


def layout(data: bytes) -> bool:
    """A golden checkpoint with up to eight edits, and all of it read: eras, migrations and the model.

    The first byte names the checkpoint; each edit is a file, a kind of change, a place and new bytes.
    """
    if not data:
        return False
    files = dict(_tree(CASES[data[0] % len(CASES)]))
    rest = data[1:]
    for _ in range(8):
        if len(rest) < 6 or not files:
            break
        path = sorted(files)[rest[0] % len(files)]
        kind, place, size = rest[1] % 6, int.from_bytes(rest[2:5], "little"), rest[5]
        new, rest = rest[6 : 6 + size], rest[6 + size :]
        _edit(files, path, kind, place, new)
    try:
        trees.read_all(files)
        return True
    except CheckpointError:
        return False


def _edit(files: trees.Files, path: str, kind: int, place: int, new: bytes) -> None:
    old = files[path]
    place %= len(old) + 1
    other = sorted(files)[place % len(files)]
    if kind == 0:
        files[path] = old[:place] + new + old[place + len(new) :]
    elif kind == 1:
        files[path] = old[:place] + new + old[place:]
    elif kind == 2:
        files[path] = old[:place]
    elif kind == 3:
        del files[path]
    elif kind == 4:
        files[path], files[other] = files[other], old
    else:
        files[new.decode("latin-1") or other] = files.pop(path)


def _pickles() -> Iterator[bytes]:
    values: list[Any] = [
        {"a": [1, 2.5, None, True], "b": ("x", b"y", {3}, frozenset([4]))},
        {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "i": np.int64(3)},
        [2**70, -1, "é" * 300, bytearray(b"z"), complex(1, 2), range(3)],
        [decimal.Decimal("1.5"), datetime.datetime(2026, 1, 2), collections.OrderedDict(a=1), Path("/x")],
        np.random.default_rng(0).bit_generator.state,
    ]
    for value in values:
        for protocol in range(6):
            yield pickle.dumps(value, protocol)
    yield from _golden("*.pkl")
    yield from _golden("checkpoint-*")


def _golden(pattern: str) -> Iterator[bytes]:
    for path in sorted(DATA.rglob(pattern)):
        if path.is_file() and path.stat().st_size <= _MAX_SEED:
            yield path.read_bytes()


def _msgpacks() -> Iterator[bytes]:
    yield from _golden("*.msgpack")
    yield from _golden("*.msgpck")


def _torches() -> Iterator[bytes]:
    yield from _golden("*.pt")


def _everything() -> Iterator[bytes]:
    yield from _torches()
    yield from _pickles()


def _parts_of(payload: bytes) -> parts.FileParts:
    rows = (parts.Part(0, 8, digest(payload[:8])), parts.Part(8, len(payload) - 8, digest(payload[8:])))
    return parts.FileParts("policies/p/policy_state.pkl", rows, (parts.Span(8, len(payload) - 8),))


def _tables() -> Iterator[bytes]:
    yield parts.dump([])
    yield parts.dump([_parts_of(b"0123456789"), parts.FileParts("a", ())])


def _manifests() -> Iterator[bytes]:
    file = _parts_of(b"0123456789")
    sealed = manifest.Manifest(
        id="a1",
        step=5,
        kind="Algorithm",
        origin="save",
        checkpoint_version="1.1",
        format="cloudpickle",
        created="2026-01-01T00:00:00Z",
        writer={"ckptstore": "1"},
        parent=manifest.Parent("a0", "resume"),
        metrics={"x": float("nan"), "$y": [1, {"z": None}]},
        labels=("eval",),
        policies=("p",),
        files=(manifest.File(file.path, file.size, file.digest),),
        parts=manifest.File(names.PARTS, 10, digest(b"")),
    ).dump()
    body = json.loads(sealed)
    del body["digest"]
    yield sealed
    yield json.dumps({**body, "padding": ""}).encode()


def _texts() -> Iterator[bytes]:
    yield b'{"schema_version":1,"target":{"name":"checkpoint_000001","id":"a"}}\n'
    yield b'{"schema_version":1,"target":null}\n'
    yield "pol-é\u202e\u0301".encode()
    yield b"../../etc/passwd"


def _layouts() -> Iterator[bytes]:
    for index in range(len(CASES)):
        for kind in range(6):
            yield bytes([index, 3, kind, 9, 0, 0, 4]) + b"\x80\x04N." + bytes([7, kind, 90, 1, 0, 2]) + b"{}"


TARGETS = {
    "pickle": Target(safe_pickle, _pickles),
    "msgpack": Target(msgpack, _msgpacks),
    "torch": Target(torch_file, _torches),
    "scan": Target(scanned, _everything),
    "manifest": Target(manifest_bytes, _manifests),
    "parts": Target(parts_table, _tables),
    "refs": Target(small_json, _texts),
    "layout": Target(layout, _layouts),
}
