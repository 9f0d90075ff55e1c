"""Pickles written as text are found in any text file, and honest text is passed over."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import sysconfig
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore.rllib_formats import encoded, scan
from tests.rllib_formats.test_scan_content import Evil, look, zipped

_TO_Z85 = bytes.maketrans(encoded._B85, encoded._Z85)


def unpadded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "base64": base64.b64encode,
    "URL-safe base64": base64.urlsafe_b64encode,
    "base64 without padding": unpadded,
    "base64 in lines": base64.encodebytes,
    "base64 twice": lambda data: base64.b64encode(base64.b64encode(data) + b"\n"),
    "base32": base64.b32encode,
    "base32 in small letters": lambda data: base64.b32encode(data).lower(),
    "hexadecimal": lambda data: data.hex().encode(),
    "hexadecimal in capitals": lambda data: data.hex().upper().encode(),
    "hexadecimal bytes": lambda data: data.hex(" ").encode(),
    "numbers": lambda data: str(list(data)).encode(),
    "hexadecimal numbers": lambda data: ", ".join(map(hex, data)).encode(),
    "base85": base64.b85encode,
    "ascii85": lambda data: base64.a85encode(data, adobe=True, wrapcol=76),
    "z85": lambda data: base64.b85encode(data).translate(_TO_Z85),
    "literal": lambda data: repr(data).encode(),
    "data URL": lambda data: b"data:a/b;base64," + urllib.parse.quote(base64.b64encode(data)).encode(),
    "data URL in percents": lambda data: b"data:," + urllib.parse.quote(data).encode(),
    "zlib": lambda data: base64.b64encode(zlib.compress(data)),
    "gzip": lambda data: base64.b85encode(gzip.compress(data)),
    "zip": lambda data: base64.b32encode(zipped({"data.pkl": data}, zipfile.ZIP_DEFLATED)),
    "JSON in base64": lambda data: base64.b64encode(json.dumps({"state": data.hex()}).encode()),
}
FILES: dict[str, Callable[[bytes], bytes]] = {
    "x.csv": lambda text: b"id,name,blob\n1,x," + text.replace(b"\n", b"") + b",9\n",
    "quoted.csv": lambda text: b'id,blob\n1,"' + text + b'"\n',
    "x.yaml": lambda text: b"a: 1\nblob: |\n  " + text.replace(b"\n", b"\n  ") + b"\nb: 2\n",
    "x.toml": lambda text: b'x = """\n' + text + b'"""\n',
    "x.ini": lambda text: b"[s]\nkey=" + text.replace(b"\n", b"\n  ") + b"\n",
    "x.txt": lambda text: b"hello world this is\n" + text + b"\n",
    "x.json": lambda text: json.dumps({"a": [{"v": text.decode()}]}).encode(),
    "keys.json": lambda text: json.dumps({text.decode(): 1}).encode(),
    "escaped.json": lambda text: b'{"a": "%s"}' % b"".join(b"\\u%04x" % character for character in text),
    "x.html": lambda text: b'<img src="' + text.replace(b"\n", b"") + b'">',
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_in_every_file_and_encoding(encoding: str, file: str) -> None:
    for protocol in range(6):
        hostile, honest = (
            look({file: FILES[file](ENCODINGS[encoding](pickle.dumps(value, protocol)))})
            for value in ([1, Evil()], {"a": list(range(30)), "text": "b"})
        )
        assert ("posix.system", "code") in {(use.name, use.rank) for use in hostile}, protocol
        assert [use for use in honest if use.rank != "data"] == [], protocol


@pytest.mark.parametrize(
    "text",
    [
        {"py/reduce": [{"py/function": "posix.system"}, {"py/tuple": ["true"]}]},
        [{"a": {"py/object": "posix.system"}}],
        {"x": json.dumps({"py/type": "posix.system"})},
    ],
)
def test_jsonpickle(text: Any) -> None:
    document = json.dumps(text)
    for data in (
        document,
        document.replace("py/", "py\\/"),
        document.replace("py/", "\\u0070y/"),
        f"- {document}\n",
        f"x = '{document}'\n",
    ):
        found = look({"any.thing": data.encode()})
        assert ("posix.system", "code") in {(use.name, use.rank) for use in found}, data
    assert look({"x.yaml": b"a:\n- py/object: posix.system\n  b: 1\n"})
    assert look({"x.json": b'{"py/repr": "os/os.system(1)"}'})
    assert look({"x.json": b'{"py/id": 3, "py/tuple": [1, 2], "copy/object": "os.system"}'}) == []


def test_as_text_itself() -> None:
    text = "cposix\nsystem\n(S'true'\ntR."
    binary = pickle.dumps([1, Evil()], 4)
    for data in (
        json.dumps({"a": [text]}),
        json.dumps({text: 1}),
        f'id,blob\n1,"{text}"\n',
        json.dumps({"a": binary.decode("latin-1")}),
        json.dumps({"a": list(binary)}, indent=1),
    ):
        assert "posix.system" in {use.name for use in look({"x": data.encode()})}, data


def test_what_goes_before_hides_nothing() -> None:
    hidden = base64.b64encode(pickle.dumps([1, Evil()]))
    for begin in (b"N.\n", b"]q\0.", b"Git v2.1.\n", b"K\x01.", b"aaaaaaaaaaaaaaaaaaaaaaa/"):
        found = look({"x": begin + hidden + b"\n"})
        assert [use for use in found if use.rank != "data"], begin
    noise = base64.b64encode(np.random.default_rng(3).bytes(300_000)) + b"\n"
    assert "posix.system" in {use.name for use in look({"x": noise * 3 + hidden + b"\n" + noise})}


def test_what_the_decoder_refuses_first_is_found_too() -> None:
    early = b"(I1\nI2\nlNb0cos\nsystem\n(S'true'\ntR."
    for name, encode in ENCODINGS.items():
        assert [use.rank for use in look({"x.csv": b"id,blob\n" + encode(early) + b"\n"})][:1] == ["code"], (
            name
        )


@pytest.mark.parametrize("seed", [2, 7])
def test_chance_is_no_pickle(seed: int) -> None:
    """Keys, digests, paths and numbers, none of which is anything."""
    random = np.random.default_rng(seed)
    lines = []
    for number in range(5000):
        some = random.bytes(32)
        lines += [
            base64.b64encode(some).decode(),
            f"{number},{some.hex()},{random.random()}",
            f"/home/user_{number}/ray_results/PPO_CartPole-v1_{some[:5].hex()}/checkpoint_{number:06d}",
            base64.b85encode(some).decode(),
            ", ".join(map(str, some)),
        ]
    assert look({"x.csv": "\n".join(lines).encode()}) == []


def test_honest_text_is_passed_over() -> None:
    """Everything that is text in the standard library, but for sources that hold pickles on purpose."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    kinds = (".txt", ".cfg", ".toml", ".ini", ".rst", ".md", ".json", ".csv", ".html", ".py", ".xml", ".in")
    looked, found = 0, []
    for path in sorted((*folder.glob("*"), *folder.glob("[x-z]*/*"), *folder.glob("test/[a-b]*"))):
        if path.suffix in kinds and path.is_file() and "pickle" not in path.name:
            data = path.read_bytes()
            looked += len(data)
            found += [(path.name, use) for use in look({f"{path.stem}.txt": data})]
    assert looked > 2_000_000
    assert found == []


def test_the_work_is_bounded() -> None:
    """Something that begins like a pickle everywhere is given up, and said."""
    nasty = b"gASV" * 50_000
    found = look({"x.txt": nasty})
    assert [use.rank for use in found] in ([], ["unknown"])
    begins = base64.b64encode(b"\x80\x04(" + b"K\x01" * 3000)
    found = look({"x.txt": begins * 100})
    assert {use.rank for use in found} <= {"unknown"}


def test_limits_hold_for_what_is_decoded() -> None:
    deep = pickle.dumps([1, Evil()])
    for _ in range(12):
        deep = base64.b64encode(deep)
    found = look({"x.txt": deep})
    assert found == [] or {use.rank for use in found} == {"unknown"}
    bomb = base64.b64encode(gzip.compress(pickle.dumps(bytes(4 << 20))))
    assert [use.rank for use in look({"x.txt": bomb}, scan.Limits(expanded_bytes=1 << 18))] == ["unknown"]
