"""The manifest and parts.json: strict readers, every changed byte seen."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptstore.errors import CheckpointCorrupt, CheckpointError, InvalidRequest, UnreadableFormat
from ckptstore.format import manifest, metrics, names, parts, strictjson
from ckptstore.format.digest import digest, digest_of_digests
from ckptstore.format.manifest import File, Manifest, Parent
from ckptstore.format.parts import FileParts, Part, Span

A, B, C = (digest(text) for text in (b"a", b"b", b"c"))


def example(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "id": "0123",
        "step": 7,
        "kind": "Algorithm",
        "origin": "save",
        "checkpoint_version": "1.1",
        "format": "cloudpickle",
        "created": "2020-01-01T00:00:00.000+00:00",
        "writer": {"ckptstore": "0"},
        "parent": Parent("0122", "resume"),
        "metrics": {"reward": math.inf, "$odd": {"$float": 1}},
        "labels": ("eval",),
        "policies": ("pol0", "pöl"),
        "files": (File("a", 1, A), File("b", 2, B)),
        "parts": File(names.PARTS, 3, C),
    }
    return Manifest(**{**fields, **changes})


def body(**changes: Any) -> bytes:
    """A manifest with fields changed behind its back, its digest made right again."""
    raw = {**json.loads(example().dump()), **changes}
    del raw["digest"]
    signed = strictjson.dumps({key: value for key, value in raw.items() if value is not DROP})[:-1].encode()
    return signed + b',"digest":"' + digest(signed).encode() + b'"}\n'


DROP = object()


def test_round_trip() -> None:
    assert manifest.load(example().dump(), "m") == example()


def test_equal_manifests_give_equal_bytes() -> None:
    assert example().dump() == example(metrics=dict(reversed(list(example().metrics.items())))).dump()


@given(st.integers(0, 40))
def test_never_mistaken_for_a_seal(files: int) -> None:
    data = example(files=tuple(File(f"{index:04}", 1, A) for index in range(files))).dump()
    assert len(data) >= names.MIN_MANIFEST_BYTES > names.SMALL_STATE_BYTES


def test_every_changed_byte_is_seen() -> None:
    data = example().dump()
    for index in range(len(data)):
        for bit in (1, 32, 128):
            changed = bytearray(data)
            changed[index] ^= bit
            with pytest.raises(CheckpointError):
                manifest.load(bytes(changed), "m")
    for cut in range(len(data)):
        with pytest.raises(CheckpointCorrupt):
            manifest.load(data[:cut], "m")
    with pytest.raises(CheckpointCorrupt):
        manifest.load(data + b" ", "m")


def test_a_newer_schema_asks_for_an_upgrade() -> None:
    with pytest.raises(UnreadableFormat, match="Upgrade"):
        manifest.load(body(schema_version=3, shape_of_things="unknown"), "m")
    with pytest.raises(UnreadableFormat, match="Upgrade"):
        manifest.load(body(schema_version=3, digest_algorithm="blake4"), "m")
    with pytest.raises(UnreadableFormat, match="requires shards"):
        manifest.load(body(requires=["shards"], shards=[]), "m")


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "aborted"},
        {"step": -1},
        {"step": True},
        {"step": 1.0},
        {"step": 10**30},
        {"kind": "Nonsense"},
        {"origin": 1},
        {"id": ""},
        {"id": None},
        {"writer": {"ckptstore": 1}},
        {"parent": {"id": "x", "relation": None}},
        {"parent": {"id": "x"}},
        {"labels": "eval"},
        {"policies": [1]},
        {"metrics": {"x": {"$float": "many"}}},
        {"files": DROP},
        {"schema_version": 0},
        {"schema_version": 1},  # which knows neither of the two that schema 2 added
        {"store": DROP},
        {"requires": "shards"},
        {"files": [{"path": "../../etc/passwd", "size": 1, "digest": A}]},
        {"files": [{"path": "/etc/passwd", "size": 1, "digest": A}]},
        {"files": [{"path": "a", "size": -1, "digest": A}]},
        {"files": [{"path": "a", "size": 2**63, "digest": A}]},
        {"files": [{"path": "a", "size": True, "digest": A}]},
        {"files": [{"path": "a", "size": 1, "digest": A.upper()}]},
        {"files": [{"path": "a", "size": 1, "digest": A, "extra": 1}]},
        {"files": [{"path": "b", "size": 1, "digest": A}, {"path": "a", "size": 1, "digest": A}]},
        {"files": [{"path": "a", "size": 1, "digest": A}] * 2},
        {"files": ["a"]},
    ],
)
def test_refused_though_its_digest_is_right(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointCorrupt):
        manifest.load(body(**changes), "m")


def test_fields_of_later_releases_are_read_past() -> None:
    data = body(surprise=[1], origin="add", parent={"id": "x", "relation": "merge"})
    loaded = manifest.load(data, "m")
    assert loaded == example(origin="add", parent=Parent("x", "merge"))
    assert loaded.dump() == data


@pytest.mark.parametrize(
    "changes",
    [{"surprise": 1}, {"origin": "elsewhere"}, {"parent": {"id": "x", "relation": "stolen"}}],
)
def test_schema_1_holds_no_more_than_its_fields(changes: dict[str, Any]) -> None:
    old = {"schema_version": 1, "store": DROP, "requires": DROP}
    assert manifest.load(body(**old), "m") == example(schema=1)
    with pytest.raises(CheckpointCorrupt):
        manifest.load(body(**old, **changes), "m")


def test_duplicate_keys_are_refused() -> None:
    signed = example().dump().rpartition(b',"digest"')[0]
    doubled = signed.replace(b'"step":7', b'"step":7,"step":8')
    with pytest.raises(CheckpointCorrupt, match="twice"):
        manifest.load(doubled + b',"digest":"' + digest(doubled).encode() + b'"}\n', "m")


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{", b"\xff", b'{"a":NaN}', b"[" * 100_000, b'{"a":1e999}', b"9" * 10_000]
)
def test_not_even_an_object(data: bytes) -> None:
    with pytest.raises(CheckpointCorrupt):
        manifest.load(data, "m")


# -- metrics ----------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
            ),
            max_leaves=10,
        ),
        max_size=4,
    )
)
def test_metrics_round_trip(values: dict[str, Any]) -> None:
    text = strictjson.dumps(metrics.encode(values))
    assert metrics.decode(json.loads(text), "m") == values


def test_metrics_of_other_kinds() -> None:
    values = {
        "nan": math.nan,
        "f4": np.float32(0.5),
        "i8": np.int64(3),
        "zero_d": np.array(1.5),
        "yes": np.bool_(True),
    }
    back = metrics.decode(json.loads(strictjson.dumps(metrics.encode(values))), "m")
    assert math.isnan(back.pop("nan"))
    assert back == {"f4": 0.5, "i8": 3, "zero_d": 1.5, "yes": True}


@pytest.mark.parametrize("bad", [np.zeros(3), object(), {1: 2}, b"x", {"a": {"b": {3}}}, 1j])
def test_metrics_that_json_cannot_hold(bad: object) -> None:
    with pytest.raises(InvalidRequest, match=r"metrics\['x'\]"):
        metrics.encode({"x": bad})
    with pytest.raises(InvalidRequest):
        metrics.encode(bad)  # type: ignore[arg-type]  # what untyped callers pass


def test_metrics_without_end() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidRequest):
        metrics.encode({"x": loop})


# -- parts ------------------------------------------------------------------------------------------


def table(*rows: list[Any], arrays: list[Any] | None = None, path: str = "a") -> bytes:
    entry = {"parts": list(rows), "arrays": arrays or []}
    return strictjson.dumps({"schema_version": 1, "files": {path: entry}}).encode()


def test_parts_round_trip() -> None:
    file = FileParts("a", (Part(0, 5, A), Part(5, 3, B), Part(8, 4, C)), (Span(5, 7),))
    empty = FileParts("empty", ())
    assert parts.load(parts.dump([file, empty]), "p") == {"a": file, "empty": empty}
    assert (file.size, empty.size) == (12, 0)
    assert file.digest == digest_of_digests([A, B, C])
    assert empty.digest == digest(b"")


@pytest.mark.parametrize(
    "data",
    [
        table([1, 5, A]),
        table([0, 0, A]),
        table([0, 5, A], [4, 3, B]),
        table([0, 5, A], [6, 3, B]),
        table([0, -5, A]),
        table([0, True, A]),
        table([0, 5, "x"]),
        table([0, 5]),
        table([0, 2**63, A]),
        table([0, 5, A], arrays=[[0, 4]]),
        table([0, 5, A], arrays=[[1, 4]]),
        table([0, 5, A], arrays=[[0, 0]]),
        table([0, 5, A], arrays=[[0, 6]]),
        table([0, 5, A], [5, 5, B], arrays=[[5, 5], [0, 5]]),
        table([0, 5, A], [5, 5, B], arrays=[[0, 10], [5, 5]]),
        table([0, 5, A], arrays=[0]),
        table([0, 5, A], path="../a"),
        b'{"schema_version":1,"files":{"a":3}}',
        b'{"schema_version":0,"files":{}}',
        b'{"schema_version":1}',
    ],
)
def test_parts_that_lie(data: bytes) -> None:
    with pytest.raises(CheckpointCorrupt):
        parts.load(data, "p")


def test_parts_of_a_newer_schema() -> None:
    with pytest.raises(UnreadableFormat):
        parts.load(b'{"schema_version":2}', "p")
