"""Files that lie, explode or attack: each is refused with UnsafeContent or decodes to inert data.

Nothing else may come out of the decoder: no other exception, no crash, no import, no call, and neither
time nor memory without bound.
"""

from __future__ import annotations

import contextlib
import pickle
import random
import struct
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.budget import Budget
from ckptstore.codec.pickles.safe import globals_in, loads
from ckptstore.errors import UnsafeContent
from tests.codec.opcodes import Raw, blob, built, called, file, name, number, plain, text
from tests.codec.support import dumped

DATA = Path(__file__).parents[1] / "data" / "rllib_1_0_ppo_multi5" / "checkpoint"


NDARRAY = Raw(name("numpy", "ndarray"))


def dtype(code: Any = "f4", state: Any = (3, "<", None, None, None, -1, -1, 0)) -> Raw:
    return built(called("numpy", "dtype", code, False, True), state)


def fields(names: Any, entries: dict[str, Any], size: Any, code: Any = None) -> Raw:
    items = b"}" + b"".join(text(k) + plain(v) + b"s" for k, v in entries.items())
    return dtype(code or f"V{size}", (3, "|", None, names, Raw(items), size, 1, 16))


def subarray(base: Raw, shape: Any, size: int) -> Raw:
    return dtype(f"V{size}", (3, "|", (base, shape), None, None, size, 1, 0))


def moment(unit: str, count: int) -> Raw:
    return dtype("M8", (4, "<", None, None, None, -1, -1, 0, (None, (unit, count, 1, 1))))


def array(shape: Any, kind: Any, content: Any, version: Any = 1, fortran: Any = False) -> bytes:
    empty = called("numpy.core.multiarray", "_reconstruct", NDARRAY, (0,), b"b")
    return file(built(empty, (version, shape, kind, fortran, content)))


def direct(*args: Any) -> bytes:
    return file(called("numpy", "ndarray", *args))


# -- code ----------------------------------------------------------------------------------------------

ATTACKS = {
    "os.system": b"cos\nsystem\n(S'touch {marker}'\ntR.",
    "posix.system": b"\x80\x04" + name("posix", "system") + b"(" + text("touch {marker}") + b"tR.",
    "eval": b'c__builtin__\neval\n(S\'open("{marker}", "w")\'\ntR.',
    "builtins.exec": b"\x80\x04" + name("builtins", "exec") + b"(" + text("open('{marker}', 'w')") + b"tR.",
    "getattr": file(
        Raw(
            called("builtins", "getattr", called("builtins", "__import__", "os"), "system").data
            + plain(("touch {marker}",))
            + b"R"
        )
    ),
    "open": b"cio\nopen\n(S'{marker}'\nS'w'\ntR.",
    "inst": b"(S'touch {marker}'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch {marker}'\no.",
    "newobj": b"\x80\x04" + name("subprocess", "Popen") + b"(" + text("touch {marker}") + b"t\x81.",
    "newobj_ex": b"\x80\x04" + name("subprocess", "Popen") + b"(" + text("touch {marker}") + b"t}\x92.",
    "build": b"\x80\x04" + name("builtins", "object") + b")\x81}" + text("__reduce__") + b"Nsb.",
    "numpy gadget": file(called("numpy._core._multiarray_umath", "_reload_guard")),
    "numpy.load": file(called("numpy", "load", "{marker}", None, True)),
    "numpy.f2py": file(called("numpy.f2py.diagnose", "run_command", "touch {marker}")),
    "numpy dotted": file(called("numpy", "testing._private.utils.runstring", "open('{marker}','w')", "x")),
    "dtype of an import": file(called("numpy", "dtype", Raw(name("os", "system")), False, True)),
    "ml_dtypes dotted": file(called("numpy", "dtype", Raw(name("ml_dtypes", "np.load")), False, True)),
    "defaultdict": file(called("collections", "defaultdict", Raw(name("os", "system")))),
    "OrderedDict of a call": file(
        called("collections", "OrderedDict", called("os", "system", "touch {marker}"))
    ),
    "setter": file(Raw(b"(" + called("os", "system", "touch {marker}").data + b"N\x862R0t")),
    "persistent": b"Ptouch {marker}\n.",
    "extension": b"\x82\x01.",
    "a record that is called": file(
        Raw(called("ckptstore.codec.opaque", "Opaque", "os.system").data + plain(("touch {marker}",)) + b"R")
    ),
    "a module that does things when imported": file(Raw(name("antigravity", "x"))),
}


def test_attacks_have_no_effect(tmp_path: Path) -> None:
    """In a process whose audit hook turns any import, call out, file or code object into a failure."""
    marker = tmp_path / "marker"
    attacks = [data.replace(b"{marker}", str(marker).encode()) for data in ATTACKS.values()]
    # Replacing changes lengths of counted texts; those are made anew with the real name.
    attacks += [data.replace(b"{marker}", b"mmmmmmmm") for data in ATTACKS.values()]
    script = tmp_path / "decode.py"
    script.write_text(
        textwrap.dedent(
            """
            import pickle, sys
            from ckptstore.codec.opaque import Opaque
            from ckptstore.codec.pickles.safe import globals_in, loads
            from ckptstore.errors import UnsafeContent

            attacks = pickle.load(open(sys.argv[1], "rb"))
            repr(loads(b"\\x80\\x04N."))
            watching = False
            seen = []
            QUIET = {"builtins.id", "object.__getattr__", "object.__setattr__", "sys._getframe"}

            def hook(event, args):
                if watching and event not in QUIET:
                    seen.append((event, repr(args)[:200]))

            sys.addaudithook(hook)
            outcomes = []
            for data in attacks:
                watching = True
                try:
                    repr(loads(data))
                    globals_in(data)
                    outcomes.append("value")
                except UnsafeContent:
                    outcomes.append("refused")
                finally:
                    watching = False
            print(outcomes.count("value"), "values", seen)
            assert seen == [], seen
            assert outcomes.count("value") > 10
            """
        )
    )
    attacks_file = tmp_path / "attacks"
    attacks_file.write_bytes(pickle.dumps(attacks))
    done = subprocess.run(
        [sys.executable, str(script), str(attacks_file)],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not marker.exists()


def _hostile(*arguments: str, code: str = "") -> str:
    """Output of the generator, in a process of its own: audit hooks can't be taken back."""
    done = subprocess.run(
        [sys.executable, *(["-c", code] if code else ["-m", "tests.codec.hostile"]), *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_way_to_call_every_name_has_no_effect() -> None:
    assert "side effects 0" in _hostile("calls")


def test_the_hook_would_see_an_effect() -> None:
    code = """
        import pickle
        from tests.codec import hostile
        case = next(case for case in hostile.calls() if "builtins.compile" in case.label)
        report = hostile.run([case], decode=pickle.loads)
        assert "compile" in report["events"][0] and "holds a code" in report["wrong"][0], report
    """
    _hostile(code=textwrap.dedent(code))


@pytest.mark.slow
def test_hostile_files_by_the_thousand_and_honest_ones() -> None:
    print(_hostile(str(DATA.parents[1])))


def test_an_attack_is_visible_in_what_is_decoded() -> None:
    data = b"cos\nsystem\n(S'true'\ntR."
    assert loads(data) == Opaque("os.system", ("true",))
    assert [(use.name, use.called) for use in globals_in(data)] == [("os.system", False), ("os.system", True)]


# -- arrays that lie -----------------------------------------------------------------------------------

F4 = dtype()
LIES = {
    "too few bytes": array((3,), F4, bytes(8)),
    "too many bytes": array((1,), F4, bytes(8)),
    "negative shape": array((-1,), F4, b""),
    "two negative lengths": array((-1, -4), F4, bytes(16)),
    "shape that wraps": array((2**62, 4), F4, b""),
    "shape that wraps to zero": array((2**32, 2**32), F4, b""),
    "shape beyond a machine word": array((2**70, 0), F4, b""),
    "many empty rows": array((2**50, 0), F4, b""),
    "many items of nothing": array((2**50,), dtype("V0"), b""),
    "33 dimensions": array((1,) * 33, F4, bytes(4)),
    "shape of bools": array((True,), F4, bytes(4)),
    "shape of floats": array((Raw(b"G?\xf0" + bytes(6)),), F4, bytes(4)),
    "shape that is no tuple": array(3, F4, bytes(12)),
    "objects from bytes": array((1,), dtype("O"), bytes(8)),
    "objects from too short a list": array((2,), dtype("O"), Raw(b"]N\x61")),
    "numbers from a list": array((1,), F4, Raw(b"]N\x61")),
    "dtype that is a text": array((1,), "f4", bytes(4)),
    "content that is a number": array((1,), F4, 4),
    "order that is a text": array((1,), F4, bytes(4), fortran="yes"),
    "unknown size": array((1,), dtype("f5"), bytes(5)),
    "huge item": array((0,), dtype("V3000000000"), b""),
    "huge text": array((0,), dtype("U1000000000"), b""),
    "lying item size": array((0,), dtype("S4", (3, "|", None, None, None, 4000, 1, 0)), b""),
    "unknown byte order": array((1,), dtype("f4", (3, "#", None, None, None, -1, -1, 0)), bytes(4)),
    "unknown version": array((1,), dtype("f4", (9, "<", None, None, None, -1, -1, 0)), bytes(4)),
    "short dtype state": array((1,), dtype("f4", (3, "<")), bytes(4)),
    "fields on a float": array((1,), fields(("a",), {"a": (F4, 0)}, 4, "f4"), bytes(4)),
    "field outside": array((1,), fields(("a",), {"a": (F4, 1)}, 4), bytes(4)),
    "field before": array((1,), fields(("a",), {"a": (F4, -1)}, 4), bytes(4)),
    "field far outside": array((1,), fields(("a",), {"a": (F4, 2**62)}, 4), bytes(4)),
    "size against code": array((0,), fields(("a",), {"a": (F4, 0)}, 4000, "V4"), b""),
    "field that is missing": array((1,), fields(("a", "b"), {"a": (F4, 0)}, 4), bytes(4)),
    "field named twice": array((1,), fields(("a", "a"), {"a": (F4, 0)}, 4), bytes(4)),
    "field without a dtype": array((1,), fields(("a",), {"a": ("f4", 0)}, 4), bytes(4)),
    "names that are a list": array((1,), fields(Raw(b"]"), {"a": (F4, 0)}, 4), bytes(4)),
    "subarray that is huge": array(
        (0,), dtype("V8", (3, "|", (F4, (2**30, 2**30)), None, None, 8, 1, 0)), b""
    ),
    "subarray of many nothings": array(
        (1,), dtype("V0", (3, "|", (dtype("V0"), (2**40,)), None, None, 0, 1, 0)), b""
    ),
    "array of subarrays": array((1,), dtype("V8", (3, "|", (F4, (2,)), None, None, 8, 1, 0)), bytes(8)),
    "unit that is none": array(
        (1,), dtype("M8", (4, "<", None, None, None, -1, -1, 0, (None, ("x", 1, 1, 1)))), bytes(8)
    ),
    "unit times zero": array(
        (1,), dtype("M8", (4, "<", None, None, None, -1, -1, 0, (None, ("s", 0, 1, 1)))), bytes(8)
    ),
    "direct, too few bytes": direct((3,), F4, bytes(8), 0, None, "C"),
    "direct, offset beyond": direct((2,), F4, bytes(8), 4, None, "C"),
    "direct, negative offset": direct((1,), F4, bytes(8), -4, None, "C"),
    "direct, strides beyond": direct((3,), F4, bytes(8), 0, (4,), "C"),
    "direct, strides before": direct((2,), F4, bytes(8), 0, (-4,), "C"),
    "direct, strides of another shape": direct((2,), F4, bytes(8), 0, (4, 4), "C"),
    "direct, huge strides": direct((2,), F4, bytes(8), 0, (2**63,), "C"),
    "direct, one element many times": direct((2**60,), F4, bytes(8), 0, (0,), "C"),
    "direct, memory as it is found": direct((1000,), F4),
    "direct, no buffer": direct((1000,), F4, None),
    "direct, a list as buffer": direct((0,), F4, Raw(b"]"), 0, None, "C"),
    "direct, an array as buffer": direct((1,), F4, called("numpy", "ndarray", (0,), "b"), 0, None, "C"),
    "direct, objects": direct((1,), "O", bytes(8), 0, None, "C"),
    "direct, order that is an array": direct(
        (1,), F4, bytes(4), 0, None, called("numpy", "ndarray", (2,), F4, bytes(8), 0, None, "C")
    ),
    "direct, unknown order": direct((1,), F4, bytes(4), 0, None, "Q"),
    "frombuffer, too few": file(called("numpy.core.numeric", "_frombuffer", bytes(4), F4, (2,), "C")),
    "frombuffer, too many": file(called("numpy.core.numeric", "_frombuffer", bytes(4), F4, (0,), "C")),
    "frombuffer, wrong axes": file(
        called("numpy._core.numeric", "_frombuffer", bytes(4), F4, (1,), "K", (1,))
    ),
    "scalar, too few": file(called("numpy.core.multiarray", "scalar", F4, bytes(3))),
    "a second state": file(
        built(
            built(
                called("numpy.core.multiarray", "_reconstruct", NDARRAY, (0,), b"b"),
                (1, (1,), F4, False, bytes(4)),
            ),
            (1, (1,), F4, False, bytes(4)),
        )
    ),
    "state for a view": file(
        built(Raw(direct((1,), F4, bytes(4), 0, None, "C")[2:-1]), (1, (0,), F4, False, b""))
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_arrays_that_lie_are_refused(lie: str) -> None:
    with pytest.raises(UnsafeContent, match="at byte") as caught:
        loads(LIES[lie])
    assert "Error:" not in str(caught.value)  # by us, before numpy was asked


def test_shapes_are_refused_whatever_the_budget() -> None:
    with pytest.raises(UnsafeContent, match="overflows"):
        loads(LIES["shape beyond a machine word"], budget=Budget(bytes=1 << 100))


def test_only_the_known_types_of_ml_dtypes_are_looked_up() -> None:
    found = loads(file(called("numpy", "dtype", Raw(name("ml_dtypes", "finfo")), False, True)))
    assert isinstance(found, Opaque)


def test_state_meant_for_a_view_of_freed_memory_is_refused() -> None:
    """BUILD frees what an array held: a second one would leave views of it behind."""
    data = (
        b"\x80\x04("
        + called("numpy.core.multiarray", "_reconstruct", NDARRAY, (0,), b"b").data
        + b"q\x00"
        + plain((1, (8,), dtype("u1"), False, bytes(8)))
        + b"b"
        + called("numpy", "ndarray", (8,), dtype("u1"), Raw(b"h\x00"), 0, None, "C").data
        + b"h\x00"
        + plain((1, (0,), dtype("u1"), False, b""))
        + b"bt."
    )
    with pytest.raises(UnsafeContent):
        loads(data)


def test_dtype_bombs_are_refused() -> None:
    nested = fields(("a", "b"), {"a": (dtype("V0"), 0), "b": (dtype("V0"), 0)}, 0)
    for _ in range(40):  # each holds the former one twice
        inner = Raw(nested.data + b"2")
        items = b"}" + text("a") + nested.data + b"\x94" + b"K\x00\x86s"
        nested = Raw(
            called("numpy", "dtype", "V0", False, True).data
            + plain((3, "|", None, ("a",), Raw(items), 0, 1, 16))
            + b"b"
        )
        assert inner is not None
    with pytest.raises(UnsafeContent):
        loads(file(nested))


def test_a_dtype_that_doubles_is_refused() -> None:
    data = b"\x80\x04" + dtype("V0").data + b"q\x00"
    for _ in range(64):
        entry = Raw(b"h\x00K\x00\x86")
        both = Raw(b"}" + text("a") + entry.data + b"s" + text("b") + entry.data + b"s")
        data += (
            called("numpy", "dtype", "V0", False, True).data
            + plain((3, "|", None, ("a", "b"), both, 0, 1, 16))
            + b"bq\x00"
        )
    with pytest.raises(UnsafeContent, match="fields"):
        loads(data + b".")


# -- bombs ---------------------------------------------------------------------------------------------

DOUBLING = b"N" + b"2\x86" * 64  # one tuple, 2**64 leaves when written out

BOMBS = {
    "a tuple of doubled tuples as a key": b"}" + DOUBLING + b"Ns.",
    "the same in a set": b"\x8f(" + DOUBLING + b"\x90.",
    "the same in a frozenset": b"(" + DOUBLING + b"\x91.",
    "a key nested beyond the C stack": b"})" + b"\x85" * 1_000_000 + b"Ns.",
    "nested tuples": b")" + b"\x85" * 1_000_000 + b".",
    "nested lists": b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "nested dicts": b"}"
    + b"}N2\x86"[:1] * 0
    + b"".join(b"N}" for _ in range(200_000))
    + b"s" * 200_000
    + b".",
    "nested records": b"\x80\x04"
    + name("m", "C")
    + b"q\x00)R"
    + b"h\x00)R" * 100_000
    + b"b" * 100_000
    + b".",
    "nested persistent ids": b"N" + b"Q" * 1_000_000 + b".",
    "marks": b"(" * 1_000_000 + b".",
    "a length beyond the file": b"B\xff\xff\xff\xff.",
    "a length beyond memory": b"\x8e" + b"\xff" * 8 + b".",
    "a bytearray beyond memory": b"\x96" + b"\xff" * 7 + b"\x7f.",
    "a text beyond memory": b"\x8d" + b"\xff" * 7 + b"\x7f.",
    "a frame beyond the file": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "a number of gigabytes": b"\x8b\xff\xff\xff\x7f.",
    "a number of negative size": b"\x8b\xff\xff\xff\xff.",
    "a decimal number that takes long": b"L" + b"9" * 1_000_000 + b"L\n.",
    "a memo slot far away": b"Nr\xff\xff\xff\xff.",
    "a memo slot below zero": b"Np-1\n.",
    "a memo slot that is empty": b"Nq\x05h\x03.",
    "a memo slot that is empty, in text": b"Np5\ng3\n.",
    "a memo slot that is empty, by a long number": b"Nq\x05j\x03\x00\x00\x00.",
    "copies of copies": b"\x80\x04"
    + blob(bytes(1_000_000))
    + b"q\x00"
    + name("builtins", "bytearray")
    + b"q\x01("
    + b"h\x01h\x00\x85R" * 20_000
    + b"t.",
    "sets of a long list": b"\x80\x04]q\x00("
    + b"".join(b"J" + struct.pack("<i", i) for i in range(100_000))
    + b"e"
    + name("builtins", "set")
    + b"q\x01("
    + b"h\x01h\x00\x85R" * 1000
    + b"t.",
    "keys of one hash": b"}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(1, 20_000)) + b"u.",
    "records of one hash": b"\x80\x04"
    + name("m", "C")
    + b"q\x00}("
    + b"".join(b"h\x00]K" + bytes([i % 256]) + b"a\x85RN" for i in range(20_000))
    + b"u.",
    "a key of many parts, often": b"\x80\x04("
    + b"N" * 9_000
    + b"tq\x000\x8f("
    + b"h\x00" * 200_000
    + b"\x90.",
    "empty sets": b"(" + b"\x8f" * 1_000_000 + b"l.",
    "fraction of a power": b"cfractions\nFraction\n(S'1e9999999'\ntR)s.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_in_time(bomb: str) -> None:
    start = time.process_time()
    with pytest.raises(UnsafeContent, match="at byte"):
        loads(BOMBS[bomb], budget=Budget(steps=1 << 26, bytes=1 << 26))
    assert time.process_time() - start < 20  # mostly well below 1


def test_sharing_is_not_counted_as_copies() -> None:
    value: Any = ()
    for _ in range(64):
        value = (value, value)
    assert loads(pickle.dumps(value)) is not None


def test_names_are_not_made_without_end() -> None:
    assert loads(b"cm\nC\n)R)R)R.").name == "m.C()"
    long = b"X" + struct.pack("<I", 1_000_000) + b"m" * 1_000_000
    with pytest.raises(UnsafeContent, match="more memory than its size allows"):
        loads(long + b"q\x00(" + b"h\x00h\x00\x930" * 20_000 + b"t.", budget=Budget(bytes=1 << 28))


def test_hashing_stays_shallow_whatever_the_budget() -> None:
    """It recurses in C, where a tuple nested deeply enough overflows the stack."""
    with pytest.raises(UnsafeContent, match="too large to hash"):
        loads(b"})" + b"\x85" * 1_000_000 + b"Ns.", budget=Budget(key_nodes=10_000_000))


def test_lengths_do_not_allocate() -> None:
    tracemalloc.start()
    for data in (b"\x8b\xff\xff\xff\x7f.", b"\x8e" + b"\xff" * 7 + b"\x7f.", b"B\xff\xff\xff\xff."):
        with pytest.raises(UnsafeContent):
            loads(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("budget", "value"),
    [
        (Budget(steps=100, steps_per_input_byte=0), list(range(1000))),
        (Budget(bytes=100, per_input_byte=0), np.arange(1000.0)),
        (Budget(depth=3), [[[[]]]]),
        (Budget(depth=3), [np.array([{"a": [[]]}, None], object)]),
        (Budget(depth=3), [({("a", ("b", ("c",))): 1},)]),
        (Budget(key_nodes=-30), {(1, 2, 3): 4}),  # the file's own size comes on top
    ],
    ids=["steps", "bytes", "depth", "depth in objects", "depth in keys", "key_nodes"],
)
def test_each_budget_binds_and_the_default_suffices(budget: Budget, value: Any) -> None:
    data = pickle.dumps(value, 4)
    loads(data)
    with pytest.raises(UnsafeContent):
        loads(data, budget=budget)


# -- malformed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"", b".", b"N", b"\x80", b"\x80\x06N.", b"a.", b"Na.", b"NNa.", b"NNs.", b"}]Ns.", b"Nt.", b"t.",
        b"R.", b"NNR.", b"N)R.", b"cos\nsystem\nNR.", b"b.", b"NNb.", b"cos\nsystem", b"cos\nsystem\n",
        b"NN\x93.", b"(N\x93.", b"0.", b"h\x00.", b"j\x00\x00.", b"g9\n.", b"g-1\n.", b"gx\n.", b"I\n.",
        b"Fx\n.", b"Sx\n.", b"S'x\n.", b"S'\n.", b"V\\uZZZZ\n.", b"\x8c\x01\xff.", b"X\x01\x00\x00\x00\xff.",
        b"G\x00.", b"\x97.", b"N\x98.", b"(N\x90.", b"](N\x90.", b"\x8f(]\x90.", b"(]\x91.", b"(Nd.",
        b"}(Nu.",
        b"](NNu.", b"\xff.", b"\x00.", b"(NNi\n.", b"(o.", b"N)\x81.", b"cm\nC\n)N\x92.", b"cm\nC\n))\x92.",
        b"\x82", b"\x84\x00\x00.", b"Q.", b"P", b"\x95.", b"U\x05a.", b"C\x05a.", b"(NNNo.",
        b"c\xff\n\xff\n.",
    ],
)  # fmt: skip
def test_malformed_is_refused(data: bytes) -> None:
    with pytest.raises(UnsafeContent, match=r"at byte \d+"):
        loads(data)
    if b"\x97" not in data and b"\x98" not in data:  # a scan needs no buffers
        with pytest.raises(UnsafeContent):
            globals_in(data)


def _samples() -> dict[str, bytes]:
    class Local:
        pass

    value = {
        "a": np.arange(9).reshape(3, 3)[:, 1:],
        "s": np.float32(1),
        "r": np.zeros(2, [("a", "i4"), ("b", "f8", (2,))]),
        "o": np.array([1, None], object),
        "d": OrderedDict(x={1, 2}, y=frozenset([3])),
        "t": (1, 2.0, "é", b"b", 2**70, None, True),
        "m": np.array([1], "M8[s]"),
        "c": Opaque("m.C", (1,)),
    }
    value["self"] = value
    samples = {f"protocol {p}": pickle.dumps(value, p) for p in range(2, 6)}
    samples |= {f"protocol {p}": pickle.dumps({**value, "c": 0, "self": 0}, p) for p in (0, 1)}
    samples["ours"] = dumped({**value, "f": lambda x: x, "l": Local})[0]
    return samples


SAMPLES = _samples()


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_truncation_is_refused(sample: str) -> None:
    data = SAMPLES[sample]
    loads(data)
    for end in range(len(data)):
        with pytest.raises(UnsafeContent):
            loads(data[:end])


def _decode(data: bytes) -> None:
    with contextlib.suppress(UnsafeContent):
        repr(Opaque("whole", (loads(data, budget=Budget(steps=1 << 24, bytes=1 << 24)),)))
    with contextlib.suppress(UnsafeContent):
        globals_in(data)


@pytest.mark.parametrize("sample", SAMPLES)
def test_flipped_bits_give_a_value_or_are_refused(sample: str) -> None:
    data = bytearray(SAMPLES[sample])
    for at in range(len(data)):
        bit = 1 << at * 5 % 8
        data[at] ^= bit
        _decode(bytes(data))
        data[at] ^= bit


@pytest.mark.parametrize("sample", SAMPLES)
def test_spliced_and_overwritten_bytes_give_a_value_or_are_refused(sample: str) -> None:
    rng = random.Random(5)
    data = SAMPLES[sample]
    for _ in range(400):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at, other = rng.randrange(len(data)), rng.randrange(len(data))
            length = rng.randint(0, 12)
            broken[at : at + rng.randint(0, 12)] = data[other : other + length]
        _decode(bytes(broken))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_are_refused(data: bytes) -> None:
    _decode(data)
    _decode(b"\x80\x04((((NNN]}" + data + b".")


def test_every_truncation_of_a_checkpoint_is_refused() -> None:
    data = (DATA / "policies" / "pol1" / "policy_state.pkl").read_bytes()
    for end in range(0, len(data), 97):
        with pytest.raises(UnsafeContent):
            loads(data[:end])


def test_deep_garbage_is_freed_without_a_crash() -> None:
    """What was refused is deallocated, however deeply it is nested."""
    for data in (b")" + b"\x85" * 300_000, b"N" + b"Q" * 300_000, b"]" * 300_000 + b"a" * 299_999):
        with pytest.raises(UnsafeContent):
            loads(data)
