"""What unpickling would call, and what changed between two checkpoints."""

from __future__ import annotations

import json
import pickle
from collections import deque
from typing import Any

import numpy as np
import pytest

from ckptstore.codec.opaque import Opaque
from ckptstore.rllib_formats import diff, scan
from tests.codec.torch_bytes import Call, Global, archive, stream
from tests.rllib_formats.trees import Files, load, open_files


class System:
    """Unpickling it would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("true",)


def worst(files: Files) -> list[str]:
    uses = scan.scan({path: len(data) for path, data in files.items()}, files.__getitem__)
    return [f"{use.path}:{use.name}" for use in uses if use.rank == "code"]


def test_code_is_found_wherever_it_hides() -> None:
    danger = pickle.dumps(System())
    name = next(name for name in ("posix.system", "nt.system") if name.encode().split(b".")[0] in danger)
    call = Call(Global("os.system"), "true")
    msgpack = pytest.importorskip("msgpack")
    hidden: dict[str, bytes] = {
        "plain.pkl": danger,
        "nested.pkl": pickle.dumps({"worker": [danger]}),
        "checkpoint-3": pickle.dumps({"worker": pickle.dumps({"deeper": danger})}),
        ".tune_metadata": danger,
    }
    for path, data in hidden.items():
        assert worst({path: data}) == [f"{path}:{name}"], path
    assert worst({"model.pt": archive(call, {})}) == ["model.pt:os.system"]
    assert worst({"model.pt": stream(call, [], b"")}) == ["model.pt:os.system"]
    packed = msgpack.packb({b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": danger})
    assert worst({"a.msgpck": packed}) == ["a.msgpck:pickle.loads", f"a.msgpck:{name}"]
    assert worst({"broken.pkl": b"\x80\x05K"})[0].startswith("broken.pkl:(not decodable")
    assert worst({"README.md": danger}) == [f"README.md:{name}"]


@pytest.mark.parametrize(
    "inner",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cos\nsystem\n(S'true'\ntR. and more",
        b"cos\nsystem\n(S'true'\ntR and it breaks off",
        b"\x80\x04cos\nsystem\nbroken",
        pickle.dumps(pickle.dumps({"worker": b"(S'true'\nios\nsystem\n."}) + b"tail"),
        bytearray(b"cos\nsystem\n(S'true'\ntR."),
    ],
    ids=["old protocol", "with a tail", "cut after the call", "cut after the import", "deeper", "bytearray"],
)
def test_what_pickle_would_run_inside_bytes_is_found_however_it_is_dressed(inner: bytes) -> None:
    for outer in (inner, [inner], {"worker": inner}, deque([inner]), np.array([inner, None], object)):
        assert worst({"a.pkl": pickle.dumps(outer)}) == ["a.pkl:os.system"]


def test_ordinary_bytes_are_no_pickles() -> None:
    random = np.random.default_rng(0)
    values = [random.bytes(int(size)) for size in random.integers(0, 5000, 300)]
    values += [b"", b"N.", b"checkpoint\nof\nmine", json.dumps({"a": 1}).encode(), bytes(1000)]
    assert worst({"a.pkl": pickle.dumps(values)}) == []


def test_nesting_beyond_what_is_looked_into_is_said() -> None:
    data = pickle.dumps(System())
    for _ in range(12):
        data = pickle.dumps(data)
    assert worst({"a.pkl": data})[0].startswith("a.pkl:(not decodable")


def test_what_the_json_calls_a_state_file_must_be_one() -> None:
    info = json.dumps({"state_file": "/home/somebody/notes.txt"}).encode()
    (found,) = worst({"rllib_checkpoint.json": info, "notes.txt": b"text", "other.txt": b"text"})
    assert found.startswith("notes.txt:(not decodable")
    assert worst({"policies/a/rllib_checkpoint.json": info, "policies/a/notes.txt": b"text"}) != []
    for broken in (b"", b"{", b"[]", b'{"state_file": 1}'):
        assert worst({"rllib_checkpoint.json": broken, "notes.txt": b"text"}) == []


def test_ranks() -> None:
    assert scan.rank("collections.OrderedDict") == "data"
    assert scan.rank("numpy._core.multiarray._reconstruct") == "data"
    assert scan.rank("torch.FloatStorage") == "data"
    assert scan.rank("ray.rllib.algorithms.ppo.ppo.PPO") == "library"
    assert scan.rank("numpy.testing._private.utils.runstring") == "code"
    assert scan.rank("ray.cloudpickle.cloudpickle._make_function") == "code"
    assert scan.rank("mymodule.MyEnv") == "code"
    assert scan.rank("types.CodeType") == "code"
    # Through a library's module to what that has imported.
    assert scan.rank("numpy.f2py.cfuncs.subprocess.Popen") == "code"
    assert scan.rank("torch.utils.cpp_extension.os.PathLike") == "code"
    assert scan.rank("numpy.testing._private.utils.Popen") == "code"


def test_real_checkpoints_are_told_apart() -> None:
    assert worst(load("v0_1/ray_2.0.1_ppo_filter")) == []
    by_value = worst(load("v1_0/ray_2.1.0_tune"))
    assert any("_make_skeleton_class" in name for name in by_value)
    assert not any("not decodable" in name for name in by_value)


def test_equal_checkpoints_have_no_difference() -> None:
    files = load("rllib_1_0_ppo_multi5")
    a, b = open_files(files), open_files(files)
    found = diff.diff(a, b, configs=(a.state()["config"], b.state()["config"]))
    assert not found
    assert found == diff.Difference((), (), (), ())


def test_differences_are_measured() -> None:
    before = {
        "same": np.ones(3),
        "moved": np.zeros(4, "f4"),
        "shape": np.ones(2),
        "gone": np.ones(1),
        "nan": np.array([np.nan, 1]),
    }
    after = {
        "same": np.ones(3),
        "moved": np.array([3, 0, 4, 0], "f4"),
        "shape": np.ones((2, 1)),
        "new": np.ones(1),
        "nan": np.array([np.nan, 1]),
    }
    found = {item.name: item for item in diff.diff_weights("p", before, after)}
    assert found.keys() == {"moved", "shape", "gone", "new"}
    assert (found["moved"].l2, found["moved"].largest) == (5.0, 4.0)
    assert (found["shape"].before, found["shape"].after) == ("float64 (2,)", "float64 (2, 1)")
    assert found["gone"].after == found["new"].before == ""
    (retyped,) = diff.diff_weights("p", {"w": np.ones(2, "f4")}, {"w": np.ones(2, "f8")})
    assert (retyped.l2, retyped.before, retyped.after) == (0.0, "float32 (2,)", "float64 (2,)")
    (worse,) = diff.diff_weights("p", {"w": np.array([1.0])}, {"w": np.array([np.nan])})
    assert worse.l2 is not None
    assert np.isnan(worse.l2)
    (complex_,) = diff.diff_weights("p", {"w": np.array([1j])}, {"w": np.array([-1j])})
    assert complex_.largest == 2
    for one, other in (
        (np.array([2**53]), np.array([2**53 + 1])),  # equal as float64
        (np.array([1e-200]), np.array([2e-200])),  # their difference squared is zero
        (np.array(["2020"], "M8[Y]"), np.array(["NaT"], "M8[Y]")),
    ):
        assert diff.diff_weights("p", {"w": one}, {"w": other}), one
    assert diff.diff_weights("p", {"w": np.array([0.0])}, {"w": np.array([-0.0])}) == []
    (text,) = diff.diff_weights("p", {"w": np.array(["a"])}, {"w": np.array(["b"])})
    assert text.l2 is None


def test_policies_and_configs_differ() -> None:
    files = load("rllib_1_0_ppo_multi5")
    a = open_files(files)
    b = open_files(
        {path: data for path, data in files.items() if "pol4" not in path and "algorithm_state" not in path}
        | {"algorithm_state.pkl": pickle.dumps({"worker": {"policy_ids": []}})}
    )
    found = diff.diff(a, b)
    assert found.only_before == ("pol4",)
    assert found.arrays == ()
    assert diff.diff(a, b, policy_ids=["pol1"]) == diff.Difference((), (), (), ())
    reference = Opaque("ray.rllib.X")
    before = {
        "lr": 1,
        "model": {"a": [1], "b": 2},
        "class": reference,
        "only": 1,
        "space": {"low": np.ones(2)},
    }
    after = {"lr": 2, "model": {"a": [1], "b": 3}, "class": "ray.rllib.X", "space": {"low": np.ones(2)}}
    assert diff.diff_config(before, after) == [
        ("lr", 1, 2),
        ("model/b", 2, 3),
        ("only", 1, diff.MISSING),
    ]
