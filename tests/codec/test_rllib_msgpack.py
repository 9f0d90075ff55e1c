"""MessagePack as RLlib writes it, and as it never would."""

from __future__ import annotations

import random
import resource
import struct
from typing import Any

import msgpack
import numpy as np
import pytest

from ckptstore.codec import rllib_msgpack
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import UnsafeContent


def packed(array: Any, *, text: bool = False) -> dict[Any, Any]:
    """What msgpack_numpy makes of an array or a numpy scalar, with bytes or with text keys."""
    fields: dict[str, Any] = {"nd": isinstance(array, np.ndarray), "type": array.dtype.str}
    if isinstance(array, np.ndarray):
        fields["kind"] = b""
        fields["shape"] = list(array.shape)
    fields["data"] = array.tobytes()
    return {key if text else key.encode(): value for key, value in fields.items()}


PLAIN = [
    None,
    True,
    False,
    0,
    127,
    128,
    2**16,
    2**32,
    2**64 - 1,
    -1,
    -32,
    -33,
    -(2**63),
    1.5,
    float("inf"),
    "",
    "a" * 31,
    "ü" * 200,
    "x" * 70_000,
    b"",
    b"x" * 300,
    b"x" * 70_000,
    [],
    [1, [2, [3]]],
    list(range(70_000)),
    {},
    {"a": 1, 0: 2, -5: 3, b"k": 4, None: 5, 1.5: 6},
    {str(number): number for number in range(70_000)},
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:20])
def test_plain_values(value: object) -> None:
    assert rllib_msgpack.loads(msgpack.packb(value, use_bin_type=True)) == value


def test_single_precision_floats() -> None:
    assert rllib_msgpack.loads(msgpack.packb(0.5, use_single_float=True)) == 0.5


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype="f4").reshape(2, 3),
        np.zeros((0, 3)),
        np.array(2.5),
        np.array([True, False]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.array([b"ab", b"c"]),
        np.arange(3, dtype=">i2"),
        np.float32(1.5),
        np.int64(-3),
        np.bool_(True),
    ],
    ids=lambda array: str(array.dtype) + str(array.shape),
)
def test_arrays_and_numpy_scalars(array: Any, text: bool) -> None:
    value = rllib_msgpack.loads(msgpack.packb({"weights": packed(array, text=text)}))
    assert isinstance(value, dict)
    result = value["weights"]
    assert type(result) is type(array)
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)
    if isinstance(result, np.ndarray):
        assert result.flags.writeable


def test_structured_arrays_and_complex_numbers() -> None:
    fields = {
        b"nd": True,
        b"type": [[b"a", b"<i4"], [b"b", b"<f8"]],
        b"kind": b"V",
        b"shape": [2],
        b"data": bytes(24),
    }
    result = rllib_msgpack.loads(msgpack.packb(fields))
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.dtype([("a", "<i4"), ("b", "<f8")])
    assert rllib_msgpack.loads(msgpack.packb({b"complex": True, b"data": b"(1+2j)"})) == 1 + 2j
    assert rllib_msgpack.loads(msgpack.packb({b"complex": True, b"data": b"nonsense"})) == {
        b"complex": True,
        b"data": b"nonsense",
    }


def test_what_is_no_data_stays_inert() -> None:
    pickled = {
        b"nd": True,
        b"type": "|O",
        b"kind": b"O",
        b"shape": [1],
        b"data": b"cos\nsystem\n(S'true'\ntR.",
    }
    assert rllib_msgpack.loads(msgpack.packb(pickled)) == Opaque("pickle.loads", (pickled[b"data"],))
    assert rllib_msgpack.loads(msgpack.packb(msgpack.ExtType(5, b"abc"))) == Opaque("msgpack.ext5", (b"abc",))
    for length in (1, 2, 4, 8, 16, 300):
        value = rllib_msgpack.loads(msgpack.packb(msgpack.ExtType(5, b"a" * length)))
        assert value == Opaque("msgpack.ext5", (b"a" * length,))
    for text in (rllib_msgpack.NOT_SERIALIZABLE, "c!pickle:gASVBQAAAA==", "module=os,class=system"):
        assert rllib_msgpack.loads(msgpack.packb(text)) == text
    user = {"nd": "not an array", "data": 1}
    assert rllib_msgpack.loads(msgpack.packb(user)) == user


@pytest.mark.parametrize(
    "fields",
    [
        {b"type": "<f4", b"shape": [3], b"data": bytes(8)},
        {b"type": "<f4", b"shape": [2**40, 2**40], b"data": bytes(8)},
        {b"type": "<f4", b"shape": [-1], b"data": bytes(8)},
        {b"type": "<f4", b"shape": None, b"data": bytes(8)},
        {b"type": "|O", b"shape": [1], b"data": bytes(8)},
        {b"type": "nonsense", b"shape": [1], b"data": bytes(8)},
        {b"type": "|V0", b"shape": [2**60], b"data": b""},
        {b"type": None, b"shape": [1], b"data": bytes(8), b"kind": b"V"},
        {b"type": 7, b"shape": [1], b"data": bytes(8)},
        {b"type": "f4," * 10_000, b"shape": [1], b"data": bytes(8)},
    ],
)
def test_arrays_that_lie(fields: dict[bytes, Any]) -> None:
    with pytest.raises(UnsafeContent):
        rllib_msgpack.loads(msgpack.packb({b"nd": True, b"kind": b"", **fields}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff\x01",
        b"\xc6\xff\xff\xff\xff",
        b"\xd9\xff",
        b"\xcb\x00",
        b"\x01\x01",
        b"\xa1\xff",
        b"\x81\x90\x01",
        b"\x81\x80\x01",
        b"\x91" * 5000 + b"\x01",
        b"\xc7\x05\x01",
        b"\xd4",
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(UnsafeContent, match="msgpack"):
        rllib_msgpack.loads(data)


def test_memory_is_bounded() -> None:
    # A header may claim as many elements as the file has bytes. The package reserves them untouched, so
    # what counts is the memory that is really there.
    nested = (b"\xdd" + struct.pack(">I", 2**20)) * 150 + bytes(2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnsafeContent):
        rllib_msgpack.loads(nested)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    empty_maps = b"\xdd" + struct.pack(">I", 2**18) + b"\x80" * 2**18
    with pytest.raises(UnsafeContent, match="100000"):
        rllib_msgpack.loads(empty_maps, max_containers=100_000)


def test_every_truncation_is_refused_and_no_flip_escapes() -> None:
    data = msgpack.packb(
        {"weights": {"a": packed(np.arange(6.0))}, "state": {0: [1, 2.5, None, "text"], 1: b"bytes"}}
    )
    for end in range(len(data)):
        with pytest.raises(UnsafeContent):
            rllib_msgpack.loads(data[:end])
    chance = random.Random(7)
    for _ in range(2000):
        bent = bytearray(data)
        bent[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            rllib_msgpack.loads(bytes(bent))
        except UnsafeContent:
            continue
