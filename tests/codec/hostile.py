"""Makes hostile pickles by rule, decodes each the way a checkpoint's file is decoded, and counts.

    python -m tests.codec.hostile [folder of honest checkpoints]...

Calls: every way to call x every name x places for it. Bombs: sizes, lengths, memo and nesting at several
orders of magnitude. Lies: every constructor of arrays x shapes x dtypes x amounts of bytes. Generators:
every constructor of random generators x states. Each must be
refused (`UnsafeContent`) or decode to inert data; an audit hook counts what happened beside that. The files
below the folders, and values made by rule, are honest: none of those may be refused.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import itertools
import json
import pathlib
import pickle
import random
import resource
import struct
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ckptstore.codec import known
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import safe
from ckptstore.errors import UnsafeContent
from ckptstore.rllib_formats.scan import scan
from ckptstore.rllib_formats.source import Source
from tests.codec.opcodes import Raw, blob, built, called, file, name, number, plain, text

MARKER = "/tmp/ckptstore-hostile-marker"
SHELL = f"touch {MARKER}"


class Case(NamedTuple):
    """One hostile file."""

    family: str
    label: str
    data: bytes


# -- calls ---------------------------------------------------------------------------------------------

TARGETS: dict[str, tuple[Any, ...]] = {
    "os.system": (SHELL,),
    "posix.system": (SHELL,),
    "os.popen": (SHELL,),
    "os.execv": ("/bin/sh", Raw(b"](" + text("sh") + text("-c") + text(SHELL) + b"e")),
    "os.open": (MARKER, 65),
    "os.mkdir": (MARKER,),
    "os.remove": (MARKER,),
    "os._exit": (0,),
    "os.abort": (),
    "os.fork": (),
    "os.environ.update": (Raw(b"}"),),
    "subprocess.Popen": (SHELL, -1, None, None, None, None, None, True, True),
    "subprocess.call": (SHELL,),
    "subprocess.check_output": (SHELL,),
    "builtins.eval": (f"open('{MARKER}', 'w')",),
    "builtins.exec": (f"open('{MARKER}', 'w')",),
    "builtins.compile": ("1", "", "eval"),
    "builtins.open": (MARKER, "w"),
    "builtins.__import__": ("antigravity",),
    "builtins.getattr": ("", "format"),
    "builtins.setattr": (Opaque, "name", 1),
    "builtins.globals": (),
    "builtins.breakpoint": (),
    "builtins.input": (),
    "builtins.print": ("x",),
    "builtins.map": (called("builtins", "eval"), Raw(b"]")),
    "builtins.type": ("x", (), Raw(b"}")),
    "builtins.object": (),
    "builtins.help": (),
    "io.open": (MARKER, "w"),
    "io.FileIO": (MARKER, "w"),
    "_io.open_code": ("/etc/passwd",),
    "pathlib.Path.write_text": (MARKER, "x"),
    "pathlib.Path": (MARKER,),
    "shutil.rmtree": (MARKER,),
    "shutil.copyfile": ("/etc/passwd", MARKER),
    "tempfile.NamedTemporaryFile": (),
    "importlib.import_module": ("antigravity",),
    "importlib.reload": (),
    "importlib.machinery.SourceFileLoader": ("m", "/etc/passwd"),
    "runpy.run_path": ("/etc/passwd",),
    "runpy._run_code": ("", Raw(b"}")),
    "code.interact": (),
    "pdb.run": (SHELL,),
    "timeit.timeit": (f"open('{MARKER}', 'w')",),
    "cProfile.run": (f"open('{MARKER}', 'w')",),
    "bdb.Bdb.run": (SHELL,),
    "pty.spawn": ("/bin/sh",),
    "platform.popen": (SHELL,),
    "ctypes.CDLL": ("libc.so.6",),
    "ctypes.string_at": (0,),
    "ctypes.memset": (0, 0, 1),
    "socket.socket": (),
    "socket.create_connection": (("127.0.0.1", 1),),
    "urllib.request.urlopen": ("http://127.0.0.1:1/",),
    "http.client.HTTPConnection": ("127.0.0.1",),
    "smtplib.SMTP": ("127.0.0.1",),
    "webbrowser.open": ("http://127.0.0.1:1/",),
    "pickle.loads": (blob(b"cos\nsystem\n(S'true'\ntR."),),
    "pickle.Unpickler": (),
    "marshal.loads": (bytes(4),),
    "shelve.open": (MARKER,),
    "dbm.open": (MARKER, "c"),
    "sqlite3.connect": (MARKER,),
    "zipfile.ZipFile": (MARKER, "w"),
    "tarfile.open": (MARKER, "w"),
    "logging.FileHandler": (MARKER,),
    "logging.config.listen": (),
    "threading.Thread": (),
    "multiprocessing.Process": (),
    "concurrent.futures.ThreadPoolExecutor": (),
    "signal.raise_signal": (9,),
    "signal.alarm": (1,),
    "faulthandler._sigsegv": (),
    "sys.exit": (1,),
    "sys.setrecursionlimit": (1,),
    "sys.settrace": (None,),
    "gc.get_objects": (),
    "atexit.register": (name("os", "abort"),),
    "time.sleep": (1000,),
    "types.FunctionType": (None, Raw(b"}")),
    "types.CodeType": (0, 0, 0, 0, 0, 0, b"", (), (), (), "f", "n", 1, b""),
    "types.ModuleType": ("m",),
    "types.SimpleNamespace": (),
    "operator.attrgetter": ("__class__.__base__",),
    "operator.methodcaller": ("system", SHELL),
    "operator.call": (name("os", "abort"),),
    "functools.partial": (name("os", "system"), SHELL),
    "functools.reduce": (name("os", "system"), Raw(b"]")),
    "itertools.starmap": (name("os", "system"), Raw(b"]")),
    "collections.namedtuple": ("a", "b"),
    "collections.defaultdict": (name("os", "abort"),),
    "collections.UserDict": (),
    "copyreg._reconstructor": (name("os", "system"), name("builtins", "str"), SHELL),
    "copyreg.add_extension": ("os", "system", 1),
    "copyreg.__newobj__": (name("subprocess", "Popen"), SHELL),
    "copyreg.__newobj_ex__": (name("subprocess", "Popen"), (SHELL,), Raw(b"}")),
    "_codecs.encode": ("x", "hex"),
    "codecs.open": (MARKER, "w"),
    "numpy.load": (MARKER, None, True),
    "numpy.fromfile": ("/etc/passwd",),
    "numpy.memmap": (MARKER, "u1", "w+"),
    "numpy.save": (MARKER, Raw(b"]")),
    "numpy.lib.format.open_memmap": (MARKER,),
    "numpy.testing._private.utils.runstring": (f"open('{MARKER}', 'w')", Raw(b"}")),
    "numpy.f2py.diagnose.run_command": (SHELL,),
    "numpy.distutils.exec_command.exec_command": (SHELL,),
    "numpy.ctypeslib.load_library": ("libc", "/"),
    "numpy.random._pickle.__bit_generator_ctor": ("PCG64",),
    "numpy.core.multiarray._reconstruct": (name("os", "system"), (0,), b"b"),
    "numpy.ndarray": (2**40,),
    "numpy.dtype": (name("os", "system"), False, True),
    "numpy.vectorize": (name("os", "system"),),
    "numpy.empty": (2**40,),
    "torch.load": (MARKER,),
    "torch.hub.load": ("a/b", "c"),
    "torch.storage._load_from_bytes": (blob(b"cos\nsystem\n(S'true'\ntR."),),
    "torch._utils._rebuild_tensor_v2": (None, 0, (2**40,), (1,), False, None),
    "torch.jit.load": (MARKER,),
    "tensorflow.io.write_file": (MARKER, "x"),
    "cloudpickle.cloudpickle._make_function": (None, Raw(b"}"), None, None, None),
    "cloudpickle.cloudpickle.subimport": ("antigravity",),
    "ray.cloudpickle.loads": (b"N.",),
    "ray._private.utils.get_or_init": (),
    "joblib.load": (MARKER,),
    "pandas.eval": (SHELL,),
    "yaml.unsafe_load": ("!!python/object/apply:os.abort []",),
    "ckptstore.codec.indexed.read.load_trusted": (b"cos\nabort\n(tR.", Raw(b"]")),
    "ckptstore.codec.opaque.Opaque": ("os.system", (SHELL,)),
    "ckptstore.checkpoint.Checkpoint.open": ("/",),
    "ml_dtypes.np.load": (MARKER,),
    "uuid.UUID": (SHELL,),
    "decimal.Decimal": ("9" * 100_000,),
    "datetime.datetime": (b"\xff" * 10,),
    "no.such.module": (),
    "": (),
    "\x00": (),
    "os\nsystem": (SHELL,),
}


def reference(dotted: str) -> bytes:
    """STACK_GLOBAL of a dotted name."""
    module, _, attribute = dotted.rpartition(".")
    return name(module, attribute)


def line(dotted: str) -> bytes:
    """The two lines that GLOBAL and INST take."""
    module, _, attribute = dotted.replace("\n", "").replace("\x00", "").rpartition(".")
    return f"{module}\n{attribute}\n".encode()


def _argument(value: Any) -> Any:
    """`value` as something `plain` knows."""
    return Raw(reference("ckptstore.codec.opaque.Opaque")) if value is Opaque else (
        Raw(value) if isinstance(value, bytes) and value[:1] in (b"X", b"B") else value
    )  # fmt: skip


def ways(dotted: str, args: tuple[Any, ...]) -> Iterator[tuple[str, bytes]]:
    """Every way to have `dotted` called with `args`; each pushes one value."""
    given = plain(tuple(map(_argument, args)))
    listed = given[1:-1]
    ref = reference(dotted)
    yield "STACK_GLOBAL REDUCE", ref + given + b"R"
    yield "GLOBAL REDUCE", b"c" + line(dotted) + given + b"R"
    yield "memo REDUCE", ref + b"\x94" + given + b"\x94R\x94"
    yield "INST", b"(" + listed + b"i" + line(dotted)
    yield "OBJ", b"(" + ref + listed + b"o"
    yield "NEWOBJ", ref + given + b"\x81"
    yield "NEWOBJ_EX", ref + given + b"}\x92"
    yield "NEWOBJ_EX with keywords", ref + given + b"}" + text("shell") + b"\x88s\x92"
    yield "BUILD", ref + given + b"R}" + text("__reduce__") + plain(SHELL) + b"sb"
    yield "BUILD of a name", ref + given + b"b"
    yield "state setter", name("m", "C") + b")R" + ref + b"(" + name("m", "C") + b")R" + given + b"tR0"
    yield "the setter itself", ref + b"(" + name("m", "C") + b")R" + given + b"tR"
    yield "called twice", ref + given + b"R" + given + b"R"
    yield (
        "through getattr",
        name("builtins", "getattr") + b"(" + ref + text("__call__") + b"tR" + given + b"R",
    )
    yield "_reconstructor", name("copyreg", "_reconstructor") + b"(" + ref + name("m", "B") + given + b"tR"
    yield "partial", name("functools", "partial") + b"(" + ref + b"tR(" + ref + given + b"}Ntb"
    yield "factory", name("collections", "defaultdict") + b"(" + ref + b"tR"
    yield "persistent id", ref + given + b"RQ"
    yield "dtype", name("numpy", "dtype") + b"(" + ref + given + b"R\x89\x88tR"
    yield "array of", name("numpy", "ndarray") + b"(" + ref + given + b"R" + given + b"tR"


PLACES = {
    "alone": (b"", b""),
    "in a dict": (b"}" + text("weights"), b"s"),
    "as a key": (b"}", b"Ns"),
    "in a list": (b"](", b"e"),
    "in a set": (b"\x8f(", b"\x90"),
    "dropped": (b"N", b"0"),
}


def calls() -> Iterator[Case]:
    """Every way x every name x every place."""
    for (dotted, args), (place, (before, after)) in itertools.product(TARGETS.items(), PLACES.items()):
        for way, data in ways(dotted, args):
            yield Case("calls", f"{way} of {dotted!r} {place}", b"\x80\x05" + before + data + after + b".")
    for dotted, args in TARGETS.items():  # beside honest content, and in pickles within
        inner = b"\x80\x05" + next(ways(dotted, args))[1] + b"."
        yield Case("calls", f"{dotted!r} after the end", b"\x80\x05}." + inner)
        yield Case("calls", f"{dotted!r} in bytes", file(Raw(b"}" + text("worker") + blob(inner) + b"s")))
        stream = called("torch.storage", "_load_from_bytes", inner)
        yield Case("calls", f"{dotted!r} in a stream", file(stream))
        empty = called("numpy.core.multiarray", "_reconstruct", Raw(name("numpy", "ndarray")), (0,), b"b")
        state = plain(
            (1, (1,), called("numpy", "dtype", "O8", False, True), False, Raw(b"]" + inner[2:-1] + b"a"))
        )
        objects = empty.data + state + b"b"
        yield Case("calls", f"{dotted!r} in an array of objects", b"\x80\x05" + objects + b".")
    for code in (b"\x82\x01", b"\x82\xff", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"\x84\xff\xff\xff\xff"):
        yield Case("calls", f"extension {code.hex()}", b"\x80\x02" + code + b")R.")
    for persistent in (b"Pos\n", b"NQ", text("os.system") + b"Q", b"(" + text("storage") + b"tQ"):
        yield Case("calls", f"persistent {persistent!r}", b"\x80\x02" + persistent + b")R.")


# -- bombs ---------------------------------------------------------------------------------------------

SIZES = (2**10, 2**16, 2**20)


def bombs() -> Iterator[Case]:
    """Little files that mean much."""

    def case(label: str, data: bytes) -> Case:
        return Case("bombs", label, b"\x80\x05" + data + b".")

    for count in SIZES:
        for opener in (b"(", b"]", b"}", b")", b"\x8f"):
            yield case(f"{count} of {opener!r}", opener * count)
            yield case(f"{count} of {opener!r} in a list", b"(" + opener * count + b"l")
        yield case(f"lists {count} deep", b"]" * count + b"a" * (count - 1))
        yield case(f"tuples {count} deep", b")" + b"\x85" * count)
        yield case(f"dicts {count} deep", b"N}" * count + b"s" * (count - 1))
        yield case(f"tuples {count} deep as a key", b"})" + b"\x85" * count + b"Ns")
        yield case(f"frozensets {count} deep", b"(" * count + b"\x91" * count)
        yield case(
            f"records {count} deep", name("m", "C") + b"\x94" + b")R" + b"h\x00)R" * count + b"b" * count
        )
        yield case(f"calls of calls, {count}", name("m", "C") + b")R" * count)
        yield case(f"persistent ids {count} deep", b"N" + b"Q" * count)
        yield case(f"{count} duplicates", b"]" + b"2" * count)
        yield case(f"a number of {count} digits", b"I" + b"9" * count + b"\n")
        yield case(f"a long of {count} digits", b"L" + b"9" * count + b"L\n")
        yield case(f"a long of {count} bytes", number(1 << (8 * count)))
        yield case(f"{count} keys of one hash", b"}(" + b"".join(
            number(i * (2**61 - 1)) + b"N" for i in range(1, min(count, 2**14))) + b"u")  # fmt: skip
        copy = (
            blob(bytes(count))
            + b"\x94"
            + name("builtins", "bytearray")
            + b"\x94("
            + b"h\x01h\x00\x85R" * 4096
        )
        yield case(f"4096 copies of {count} bytes", copy + b"l")
        long = text("m" * count) + b"\x94(" + b"h\x00h\x00\x93" * 4096
        yield case(f"4096 names of {count} letters", long + b"l")
        often = b"](" + b"J\x00\x00\x01\x00" * count + b"e\x94("
        yield case(f"65536 mentions of a list of {count}", often + b"h\x00" * 65536 + b"l")
        for kind in ("set", "frozenset", "list", "tuple", "bytes"):
            numbers = b"](" + b"".join(b"J" + struct.pack("<i", i) for i in range(count)) + b"e\x94"
            yield case(
                f"512 times {kind} of {count}",
                numbers + name("builtins", kind) + b"\x94(" + b"h\x01h\x00\x85R" * 512 + b"l",
            )
    for depth in (8, 64, 512, 4096):
        doubled = b"N" + b"2\x86" * depth
        for label, before, after in (
            ("as a key", b"}", b"Ns"),
            ("in a set", b"\x8f(", b"\x90"),
            ("in a frozenset", b"(", b"\x91"),
            ("alone", b"", b""),
            ("as a counter's key", name("collections", "Counter") + b"}", b"Ns\x85R"),
        ):
            yield case(f"a tuple doubled {depth} times {label}", before + doubled + after)
        yield case(f"a list doubled {depth} times", b"]" + b"\x942(h\x00h\x00e" * depth)
        shared = b"}" + b"".join(
            b"\x94" + text("a") + b"h" + bytes([i % 256]) + b"s" for i in range(min(depth, 255))
        )
        yield case(f"a dict in itself {depth} times", shared)
    for slot in (2**8 - 1, 2**16, 2**31 - 1, 2**32 - 1):
        yield case(f"memo slot {slot}", b"Nr" + struct.pack("<I", slot))
        yield case(f"memo slot {slot} in text", b"Np%d\n" % slot)
        yield case(f"taking memo slot {slot}", b"j" + struct.pack("<I", slot))
        yield case(f"taking memo slot {slot} in text", b"g%d\n" % slot)
    yield case("a memo slot of many digits", b"Np" + b"9" * 5000 + b"\n")
    for length in (2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**33, 2**40, 2**62, 2**63, 2**64 - 1):
        short = length < 2**32
        for opcode in (b"B", b"X", b"T", b"\x8b") if short else (b"\x8e", b"\x8d", b"\x96", b"\x95"):
            announced = opcode + struct.pack("<I" if short else "<Q", length)
            yield case(f"{opcode!r} of {length} bytes that aren't there", announced)
    for many in (10**6, 10**12, 10**18, 10**30):
        whole = number(many)
        for kind in ("bytes", "bytearray", "range", "list", "tuple", "set", "int", "str", "complex"):
            yield case(f"{kind}({many})", name("builtins", kind) + b"(" + whole + b"tR")
        spread = name("builtins", "range") + b"(" + whole + b"tR"
        for kind in ("list", "tuple", "set", "frozenset", "bytes", "bytearray"):
            yield case(f"{kind}(range({many}))", name("builtins", kind) + b"(" + spread + b"tR")
        for kind in ("deque", "OrderedDict", "Counter"):
            yield case(f"{kind}(range({many}))", name("collections", kind) + b"(" + spread + b"tR")
        yield case(
            f"deque of {many} at most",
            name("collections", "deque") + b"(](" + b"N" * 99 + b"e" + whole + b"tR",
        )
        yield case(f"Fraction {many}", name("fractions", "Fraction") + b"(" + text(f"1e{many}") + b"tR")
        yield case(f"Decimal {many}", name("decimal", "Decimal") + b"(" + text(f"1e{many}") + b"tR")
        yield case(f"timedelta {many}", name("datetime", "timedelta") + b"(" + whole + b"tR")
        for kind in ("zeros", "empty", "ones", "arange", "eye", "ndarray"):
            yield case(f"numpy.{kind}({many})", name("numpy", kind) + b"(" + whole + b"tR")
        yield case(f"numpy.ndarray(({many},))", name("numpy", "ndarray") + b"(" + whole + b"\x85tR")
        yield case(f"numpy.take({many})", name("numpy", "take") + b"(" + whole + whole + b"tR")


# -- lies ----------------------------------------------------------------------------------------------

SHAPES: tuple[Any, ...] = (
    (), (0,), (1,), (3,), (-1,), (-1, -4), (2**31,), (2**40,), (2**62, 4), (2**63,), (2**70, 0), (2**50, 0),
    (2**32, 2**32), (1,) * 33, (1,) * 65, (True,), (None,), ("1",), ((1,),), 3, None, "3",
    Raw(b"]K\x03a"), Raw(b"G?\xf0" + bytes(6) + b"\x85"),
)  # fmt: skip
CODES: tuple[Any, ...] = (
    "f4", "u1", "f8", "c16", "O", "O8", "V0", "V8", "V3000000000", "U1", "U1000000000", "S0", "S4", "f5",
    "M8[s]", "m8", "b1", "float32", "object", "(2,3)f4", "f4,f4", "{'names':['a']}", "x", "", 4, None, b"f4",
    ("f4", 2), Raw(name("os", "system")),
)  # fmt: skip
STATES: tuple[Any, ...] = (
    None,
    (3, "<", None, None, None, -1, -1, 0),
    (3, "|", None, None, None, -1, -1, 63),
    (3, "<", None, None, None, 4000, 1, 0),
    (3, "|", None, ("a",), Raw(b"}"), 4, 1, 0),
    (3, "<"),
)
AMOUNTS = (0, 4, 12, 13)


def lies() -> Iterator[Case]:
    """Every constructor of arrays x shapes x dtypes x states of the dtype x amounts of bytes."""
    for shape, code, state, amount in itertools.product(SHAPES, CODES, STATES, AMOUNTS):
        kind = called("numpy", "dtype", code, False, True)
        if state is not None:
            kind = Raw(kind.data + plain(state) + b"b")
        content = bytes(amount)
        empty = called("numpy.core.multiarray", "_reconstruct", Raw(name("numpy", "ndarray")), (0,), b"b")
        label = f"{shape!r:.40} {code!r:.20} {state!r:.30} {amount} bytes"
        for form, value in {
            "state": Raw(empty.data + plain((1, shape, kind, False, content)) + b"b"),
            "ndarray": called("numpy", "ndarray", shape, kind, content, 0, None, "C"),
            "frombuffer": called("numpy.core.numeric", "_frombuffer", content, kind, shape, "C"),
        }.items():
            yield Case("lies", f"{form} {label}", file(value))
    for code, state, amount in itertools.product(CODES, STATES, AMOUNTS):
        kind = called("numpy", "dtype", code, False, True)
        kind = kind if state is None else Raw(kind.data + plain(state) + b"b")
        yield Case(
            "lies",
            f"scalar {code!r:.20}",
            file(called("numpy.core.multiarray", "scalar", kind, bytes(amount))),
        )
    four = called("numpy", "dtype", "f4", False, True)
    views: tuple[tuple[Any, ...], ...] = (
        ((1,), (3,), (2**40,), (2, 2)),
        ((4,), (0,), (-4,), (2**63,), (0, 0), (4, 8), (2**62, 1), None, ("4",), 4),
        (0, 4, -4, 2**70, None, "0"),
        ("C", "F", "K", "Q", 3, None),
    )
    for shape, strides, offset, order in itertools.product(*views):
        view = called("numpy", "ndarray", shape, four, bytes(16), offset, strides, order)
        yield Case("lies", f"view {shape} {strides} {offset} {order}", file(view))
    grids: tuple[Any, ...] = (
        ((2,), (1,)), ((2**40,), (0,)), ((2**40,), (1,)), ((-1,), (1,)), ((2, 2), (1,)),
        ((1,) * 99, (1,) * 99),
    )  # fmt: skip
    for storage, (sizes, strides), offset in itertools.product(
        ("FloatStorage", "NoStorage", "ByteStorage"), grids, (0, -1, 2**62)
    ):
        held = b"(" + text("storage") + name("torch", storage) + text("0") + text("cpu") + number(2) + b"tQ"
        tensor = name("torch._utils", "_rebuild_tensor_v2")
        tensor += b"(" + held + number(offset) + plain(sizes) + plain(strides) + b"\x89)tR"
        yield Case("lies", f"tensor {storage} {sizes!r:.30} {offset}", b"\x80\x02" + tensor + b".")


def table(entries: dict[str, Any]) -> Raw:
    """A dict."""
    return Raw(b"(" + b"".join(text(key) + plain(value) for key, value in entries.items()) + b"d")


def words(kind: str, count: int) -> Raw:
    """An array of so many numbers."""
    size = int(kind[1:])
    return called(
        "numpy", "ndarray", (count,), called("numpy", "dtype", kind, False, True), bytes(count * size)
    )


def generators() -> Iterator[Case]:
    """Every constructor of random generators and kinds of arrays x states that lie about themselves."""
    numbers: tuple[Any, ...] = (0, 1, 624, 625, -1, 2**31, 2**128, "1", None)
    keys = [
        words(kind, count) for kind, count in (("u4", 624), ("u4", 623), ("u8", 4), ("u8", 2), ("f8", 624))
    ]
    states: list[Any] = [(), None, 3, "state"]
    for name_, key, place in itertools.product(("MT19937", "Philox", "PCG64", "SFC64", "os"), keys, numbers):
        inner = table(
            {
                "key": key,
                "pos": place,
                "counter": key,
                "state": place if name_ == "PCG64" else key,
                "inc": place,
            }
        )
        fields = {"bit_generator": name_, "state": inner, "buffer": key, "buffer_pos": place}
        states.append(
            table({**fields, "has_uint32": place, "uinteger": place, "gauss": place, "has_gauss": place})
        )
    seed = called("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence", Raw(b"N"), 0, None)
    for pool, entropy in itertools.product(numbers, numbers):
        states += [(entropy, 0, None, pool, ()), (3, pool, None, 4, (entropy,))]
    makers: dict[str, tuple[Any, ...]] = {
        "numpy.random._pickle.__generator_ctor": ("MT19937",),
        "numpy.random._pickle.__randomstate_ctor": ("Philox",),
        "numpy.random._pickle.__bit_generator_ctor": ("PCG64",),
        "numpy.random._mt19937.MT19937": (built(seed, (3, 0, None, 4, ())),),
        "numpy.random._philox.Philox": (built(seed, (3, 0, None, 4, ())),),
        "numpy.random._sfc64.SFC64": (0,),
        "numpy.random._generator.Generator": ("PCG64",),
        "numpy.random.bit_generator.__pyx_unpickle_SeedSequence": (None, 0, None),
        "random.Random": (),
    }
    for (maker, args), state in itertools.product(makers.items(), states):
        module, _, attribute = maker.rpartition(".")
        yield Case(
            "generators", f"{maker} {state!r:.60}", file(built(called(module, attribute, *args), state))
        )
    four = called("numpy", "dtype", "f4", False, True)
    for kind, shape, amount in itertools.product(
        ("matrix", "recarray", "memmap", "ndarray"), SHAPES, AMOUNTS
    ):
        for function in ("numpy._core.multiarray._reconstruct", "copyreg._reconstructor"):
            module, _, attribute = function.rpartition(".")
            args = (Raw(name("numpy", kind)), (0,), b"b")
            if module == "copyreg":
                args = (args[0], Raw(name("numpy", "ndarray")), (0,))
            value = built(called(module, attribute, *args), (1, shape, four, False, bytes(amount)))
            yield Case("generators", f"{kind} {shape!r:.40} {amount}", file(value))
    for data, mask in itertools.product([*keys, "x", None], [*keys, words("u1", 624), None]):
        args = (data, mask, None, False, True, 0, None, True, False)
        yield Case("generators", "masked", file(called("numpy.ma", "MaskedArray", *args)))


# -- honest --------------------------------------------------------------------------------------------


def honest(folders: list[str]) -> Iterator[Case]:
    """Values made by rule in every protocol, and the files of real checkpoints."""
    random = np.random.default_rng(0)
    leaves: list[Any] = [
        None,
        True,
        0,
        255,
        -1,
        2**31,
        2**70,
        1.5,
        float("inf"),
        "",
        "é\n",
        "x" * 300,
        b"",
        bytes(300),
    ]
    leaves += [
        1 + 2j,
        bytearray(b"x"),
        range(3),
        slice(1, None),
        {1, 2},
        frozenset("ab"),
        decimal.Decimal("1.5"),
    ]
    leaves += [
        datetime.datetime(2026, 1, 2, 3, 4),
        datetime.timedelta(1),
        uuid.UUID(int=5),
        pathlib.PurePosixPath("a"),
    ]
    leaves += [collections.OrderedDict(a=1), collections.deque([1], 3), collections.defaultdict(list, a=[1])]
    leaves += [np.float32(1), np.int64(2), np.bool_(True), np.str_("x"), np.datetime64("2026-01-01")]
    for code in ("?", "b", "i2", "<i8", ">f4", "f2", "f8", "c8", "U3", "S3", "M8[s]", "m8[ns]", "V5", "O"):
        for shape in ((), (0,), (3,), (2, 3), (4, 0, 2)):
            leaves.append(np.zeros(shape, code))
    leaves += [
        np.zeros(2, [("a", "i4"), ("b", "f8", (2,))]),
        np.asfortranarray(np.ones((3, 4))),
        np.arange(9)[::2],
    ]
    for index in range(3000):
        value: Any = [leaves[i] for i in random.integers(0, len(leaves), 6)]
        if index % 2:
            value = {f"k{index}": value, index: (value, leaves[index % len(leaves)])}
        protocol = index % 6
        yield Case("honest", f"value {index} protocol {protocol}", pickle.dumps(value, protocol))
    for path in (path for folder in folders for path in sorted(pathlib.Path(folder).rglob("*"))):
        named = path.suffix in (".pkl", ".pt") or path.name.startswith((".tune_meta", "checkpoint-"))
        # Exports for torch hold a module's code, and are no part of what is read.
        if named and path.is_file() and "checkpoint" in path.parts and "model" not in path.parts:
            yield Case("honest", str(path), path.read_bytes())


# -- running -------------------------------------------------------------------------------------------

QUIET = frozenset(("builtins.id", "object.__getattr__", "object.__setattr__", "sys._getframe"))
INERT = (
    type(None), bool, int, float, complex, str, bytes, bytearray, memoryview, range, slice, type(Ellipsis),
    type(NotImplemented), np.ndarray, np.generic, np.dtype, decimal.Decimal, datetime.date, datetime.time,
    datetime.timedelta, datetime.timezone, uuid.UUID, pathlib.PurePath, np.random.Generator,
    np.random.BitGenerator, np.random.RandomState, np.random.SeedSequence, random.Random,
)  # fmt: skip
HOLDERS = (list, tuple, set, frozenset, collections.deque)


def stranger(value: Any) -> Any:
    """Something in `value` that is neither plain data nor a record; None if there is nothing of the kind."""
    todo, seen = [value], set()
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            todo += [*item, *item.values()]
        elif isinstance(item, HOLDERS):
            todo += item
        elif type(item) is Opaque:
            todo += [item.args, item.kwargs, item.state, item.items, item.entries]
        elif not isinstance(item, INERT):
            return item
        elif isinstance(item, np.ndarray) and item.dtype.hasobject:
            todo += item.ravel().tolist()
    return None


def decode(data: bytes) -> Any:
    """As a checkpoint's file is decoded."""
    return Source({"f.pkl": len(data)}, lambda _path: data).value("f.pkl")


def decode_ours(data: bytes) -> Any:
    """As a file is decoded that a manifest calls ours; a generator must have numbers to give."""
    value = safe.loads(data, own=True)
    if isinstance(value, (np.random.Generator, np.random.RandomState, random.Random)):
        value.random()
    elif isinstance(value, np.random.BitGenerator):
        value.random_raw()
    return value


def run(
    cases: Iterable[Case], strict: bool = True, decode: Callable[[bytes], Any] = decode
) -> dict[str, Any]:
    """Decode all and scan all; what came of it. Unless `strict`, whatever is refused is wrong."""
    events: list[str] = []
    watching = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching and event not in QUIET:
            events.append(f"{event} {args!r:.150}")

    assert np.ma.nomask is not None  # numpy imports that part when it is first used
    sys.addaudithook(hook)
    for warm in (
        b"\x80\x04N.",
        b"Vx\n.",
        pickle.dumps(np.datetime64("2026-01-01")),
        pickle.dumps([1 + 1j, np.ones(2, "M8[s]")]),
    ):
        known.plain(safe.loads(warm))  # what is imported once, is imported now
    count: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    slowest = (0.0, "")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in cases:
        count[case.family] += 1
        begin = time.perf_counter()
        value = None
        watching = True
        for how in (decode, decode_ours):
            try:
                value = how(case.data)
            except UnsafeContent:
                count[f"{case.family} refused"] += how is decode
                if not strict:
                    wrong.append(f"refused: {case.label}")
            except BaseException as error:  # noqa: BLE001 - whatever else comes out is what is looked for
                wrong.append(f"{case.label}: {type(error).__name__} {error!s:.80}")
            if (found := stranger(value)) is not None:
                wrong.append(f"{case.label}: holds a {type(found).__name__}")
        try:
            scan({"f.pkl": len(case.data)}, {"f.pkl": case.data}.__getitem__)
        except UnsafeContent:
            pass
        except BaseException as error:  # noqa: BLE001
            wrong.append(f"scan of {case.label}: {type(error).__name__} {error!s:.80}")
        watching = False
        slowest = max(slowest, (time.perf_counter() - begin, case.label))
    if pathlib.Path(MARKER).exists():
        wrong.append(f"{MARKER} is there")
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    return {"count": dict(count), "wrong": wrong, "events": events, "slowest": slowest, "peak_mib": peak}


FAMILIES = {"calls": calls, "bombs": bombs, "lies": lies, "generators": generators}


def main(arguments: list[str]) -> int:
    """Run everything, or the one family named, and print figures; 1 if anything went wrong."""
    family = arguments[0] if arguments and arguments[0] in FAMILIES else ""
    cases = FAMILIES[family]() if family else itertools.chain(*(make() for make in FAMILIES.values()))
    reports = [run(cases)]
    if not family:
        reports.append(run(honest(arguments), strict=False))
    failed = False
    for report in reports:
        failed |= bool(report["wrong"] or report["events"])
        seconds, label = report["slowest"]
        print(json.dumps(report["count"]))
        print(f"  side effects {len(report['events'])}, memory {report['peak_mib']} MiB, "
              f"slowest {seconds:.2f} s ({label:.80})")  # fmt: skip
        for line_ in [*report["wrong"][:20], *report["events"][:20]]:
            print(f"  {line_}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
