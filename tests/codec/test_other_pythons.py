"""What we write opens with plain ``pickle.load`` elsewhere, and what is written elsewhere decodes here.

Needs the environments of ``python -m tests.codec.other_pythons``.
"""

from __future__ import annotations

import json
import pickle
import subprocess
from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ckptstore.codec.pickles import safe
from tests.codec.other_pythons import ENVIRONMENTS, ROOT, Environment
from tests.codec.support import cut, dumped, same

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.name),
]

N = 70_000


def _readonly(a: Any) -> Any:
    a.flags.writeable = False
    return a


STATE: dict[str, Any] = {
    "large": np.arange(N, dtype="f4"),
    "small": np.arange(3.0),
    "strided": np.arange(4 * N)[::4],
    "Fortran": np.asfortranarray(np.arange(3.0 * N).reshape(3, N)),
    "read-only": _readonly(np.arange(N)),
    "small, read-only": _readonly(np.arange(2)),
    "big-endian": np.arange(N, dtype=">i4"),
    "datetime64": np.arange(N).astype("M8[ms]"),
    "structured": np.zeros(N, [("a", "i4"), ("b", "f8", (2,))]),
    "empty": np.zeros((0, 3)),
    "empty, read-only": _readonly(np.zeros((2, 0))),
    "0-d": np.array(2.5),
    "text": np.array(["é", "xyz"]),
    "bool": np.array([True, False]),
    "objects": np.array([1, "x", None, [1]], object),
}
SCALARS: dict[str, Any] = {
    "f4": np.float32(1.5),
    "f2": np.float16("nan"),
    "i8": np.int64(-7),
    "b1": np.bool_(True),
    "str": np.str_("é"),
    "M8": np.datetime64("2020-01-01", "D"),
    "void": np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")])[0],
    "long": np.longdouble("0.1"),
}
OTHER: dict[str, Any] = {
    "bytes": b"b" * 100_000,
    "text": "é" * 100_000,
    "ordered": OrderedDict(a=1),
    "default": defaultdict(list, a=[1]),
    "deque": deque([1], 3),
    "set": {1, 2},
    "dtype": np.dtype(">M8[us]"),
    "scalar type": np.float32,
    "bool type": np.bool_,
    "random": np.random.RandomState(5),
}

READ = """
import json, pickle, sys, warnings
warnings.simplefilter("error")
import numpy as np
report = {}
for name, load in (("C", pickle.load), ("Python", pickle._load)):
    with open(sys.argv[1], "rb") as file:
        state = load(file)
    with open(sys.argv[2], "rb") as file, open(sys.argv[3], "rb") as out_of_band:
        skeleton, buffers = pickle.load(out_of_band)
        again = (pickle.loads if name == "C" else pickle._loads)(skeleton, buffers=buffers)
    for found in (state, again):
        arrays = {
            key: [a.dtype.str if a.dtype.names is None else str(a.dtype.names), list(a.shape),
                  bool(a.flags.writeable), a.tobytes().hex()[:2000], a.nbytes]
            for key, a in found["arrays"].items() if not a.dtype.hasobject
        }
        assert found["arrays"]["objects"].tolist() == [1, "x", None, [1]]
        scalars = {key: [s.dtype.str, np.asarray(s).tobytes().hex()[:20]]
                   for key, s in found["scalars"].items()}
        other = found["other"]
        assert other["bytes"] == b"b" * 100000 and other["text"] == "\\xe9" * 100000
        assert type(other["ordered"]).__name__ == "OrderedDict" and other["default"]["z"] == []
        assert other["deque"].maxlen == 3 and other["dtype"] == np.dtype(">M8[us]")
        assert other["scalar type"] is np.float32 and other["bool type"] is np.bool_
        report = {"arrays": arrays, "scalars": scalars, "random": other["random"].random_sample()}
        print(json.dumps(report, sort_keys=True))
"""

WRITE = """
import pickle, sys
import numpy as np
a = np.arange(6.0).reshape(2, 3)
class Sub(np.ndarray): pass
value = {"a": a, "t": a.T, "s": a[:, ::2], "f": np.float32(1.5), "o": np.array([1, None], object),
         "d": np.dtype("f4"), "m": np.array([1], "M8[s]"), "n": np.array(["x"]), "z": np.zeros((0, 2)),
         "r": np.zeros(2, [("a", "i4"), ("b", "f8", (2,))]), "b": np.bool_(True), "big": np.arange(20000)}
for protocol in range(6):
    with open(f"{sys.argv[1]}/{protocol}", "wb") as file:
        pickle.dump(value, file, protocol)
import cloudpickle
with open(f"{sys.argv[1]}/cloud", "wb") as file:
    cloudpickle.dump({**value, "fn": lambda x: x + 1, "rng": np.random.default_rng(3)}, file)
"""


def _run(environment: Environment, script: str, *args: Any) -> list[str]:
    if not environment.executable.exists():
        pytest.skip(f"{environment.name} is not below {ROOT}: python -m tests.codec.other_pythons makes it")
    done = subprocess.run(
        [environment.executable, "-c", script, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_our_files_open_there(environment: Environment, tmp_path: Path) -> None:
    state = {"arrays": STATE, "scalars": SCALARS, "other": OTHER}
    data, regions = dumped(state)
    assert len(regions) >= 7
    (tmp_path / "state.pkl").write_bytes(data)
    gaps, buffers = cut(data, regions)
    from ckptstore.codec.indexed.read import skeleton

    (tmp_path / "parts").write_bytes(pickle.dumps((skeleton(gaps, regions), buffers), 4))
    lines = _run(environment, READ, tmp_path / "state.pkl", tmp_path / "state.pkl", tmp_path / "parts")
    assert len(lines) == 4
    expected: dict[str, Any] = {
        "arrays": {
            key: [
                a.dtype.str if a.dtype.names is None else str(a.dtype.names),
                list(a.shape),
                bool(a.flags.writeable),
                a.tobytes().hex()[:2000],
                a.nbytes,
            ]
            for key, a in STATE.items()
            if not a.dtype.hasobject
        },
        "scalars": {key: [s.dtype.str, np.asarray(s).tobytes().hex()[:20]] for key, s in SCALARS.items()},
        "random": np.random.RandomState(5).random_sample(),
    }
    for line in lines:
        assert json.loads(line) == expected


def test_bfloat16_opens_there(environment: Environment, tmp_path: Path) -> None:
    if environment.python == "3.8":
        pytest.skip("ml_dtypes of these numbers needs a newer Python")
    data, _ = dumped([np.arange(N).astype(ml_dtypes.bfloat16), ml_dtypes.bfloat16(2)])
    (tmp_path / "state.pkl").write_bytes(data)
    script = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    a, s = pickle.load(file)
print(a.dtype, a.shape, float(a[3]), float(s), a.flags.writeable)
"""
    assert _run(environment, script, tmp_path / "state.pkl") == [f"bfloat16 ({N},) 3.0 2.0 True"]


def test_a_lambda_opens_on_the_same_python(environment: Environment, tmp_path: Path) -> None:
    import sys

    if environment.python != f"{sys.version_info[0]}.{sys.version_info[1]}":
        pytest.skip("code objects belong to one Python version")
    data, _ = dumped({"f": lambda x: x + 1})
    (tmp_path / "state.pkl").write_bytes(data)
    script = "import pickle, sys\nwith open(sys.argv[1], 'rb') as file: print(pickle.load(file)['f'](2))"
    assert _run(environment, script, tmp_path / "state.pkl") == ["3"]


def test_their_files_decode_here(environment: Environment, tmp_path: Path) -> None:
    _run(environment, WRITE, tmp_path)
    a = np.arange(6.0).reshape(2, 3)
    expected = {
        "a": a, "t": a.T, "s": a[:, ::2].copy(), "f": np.float32(1.5), "o": np.array([1, None], object),
        "d": np.dtype("f4"), "m": np.array([1], "M8[s]"), "n": np.array(["x"]), "z": np.zeros((0, 2)),
        "r": np.zeros(2, [("a", "i4"), ("b", "f8", (2,))]), "b": np.bool_(True), "big": np.arange(20000),
    }  # fmt: skip
    for path in sorted(tmp_path.iterdir()):
        found = safe.loads(path.read_bytes())
        assert {key: same(found[key], value) for key, value in expected.items()} == dict.fromkeys(
            expected, True
        )


def test_the_writer_works_there(environment: Environment, tmp_path: Path) -> None:
    """The whole codec, on the Pythons and numpys that the package supports."""
    if environment.python in ("3.8", "3.10"):
        pytest.skip("the package needs Python 3.11")
    script = """
import io, sys, warnings
warnings.simplefilter("error")
sys.path.insert(0, sys.argv[2])
import importlib, types
package = types.ModuleType("ckptstore")
package.__path__ = [sys.argv[2] + "/ckptstore"]
sys.modules["ckptstore"] = package
import numpy as np
from ckptstore.codec.indexed.read import load_trusted, skeleton
from ckptstore.codec.indexed.write import dump
from ckptstore.codec.pickles import safe
value = {"a": np.arange(70000), "s": np.arange(300000)[::3], "f": np.float32(1), "b": np.bool_(1),
         "o": np.array([1, None], object), "l": lambda x: x, "m": memoryview(b"abc"), "r": b"x" * 70000,
         "k": np.random.RandomState(1)}
file = io.BytesIO()
regions = dump(value, file.write)
data = file.getvalue()
assert b"_core" not in data and len(regions) == 2
gaps, buffers, end = [], [], 0
for offset, length in regions:
    assert offset % 64 == 0
    gaps.append(data[end:offset])
    buffers.append(bytearray(data[offset:offset + length]))
    end = offset + length
gaps.append(data[end:])
pickled = skeleton(gaps, regions)
for back in (safe.loads(data), safe.loads(pickled, buffers), load_trusted(pickled, buffers)):
    assert (back["a"] == value["a"]).all() and (back["s"] == value["s"]).all()
    assert back["f"] == 1 and back["o"][1] is None
with open(sys.argv[1], "wb") as out:
    out.write(data)
print("ok")
"""
    root = Path(safe.__file__).parents[3]
    assert _run(environment, script, tmp_path / "there.pkl", root) == ["ok"]
    back = pickle.loads((tmp_path / "there.pkl").read_bytes()) if environment.python == "3.11" else None
    assert back is None or back["l"](3) == 3
    assert safe.loads((tmp_path / "there.pkl").read_bytes())["a"][5] == 5
