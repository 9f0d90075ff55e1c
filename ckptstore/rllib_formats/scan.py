"""List what unpickling a checkpoint's files would import and call, without doing it.

Looks into pickles, pickles inside pickles, both containers of torch.save, and object arrays in MessagePack:
in files with the usual names, and in those that RLlib's JSON calls a state file.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from ckptstore.codec import encodings, rllib_msgpack, torchfile
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import safe
from ckptstore.codec.pickles.budget import Budget
from ckptstore.codec.pickles.loop import run
from ckptstore.codec.pickles.machine import GlobalUse, Machine
from ckptstore.errors import UnsafeContent
from ckptstore.rllib_formats.source import MAX_JSON_BYTES

Rank = Literal["data", "library", "code"]

_ENDINGS = (*(f".{extension}" for extension in encodings.CODE_EXTENSIONS), ".tune_metadata")
_JSONS = ("rllib_checkpoint.json", "metadata.json")
_MOST_DEPTH = 8  # pickles inside pickles; RLlib nests three deep
_INNER = Budget(steps=1 << 26, bytes=1 << 26)  # for a byte string that may not be a pickle at all

# Names whose call makes a value and nothing else. That says nothing about the rest of their packages.
_DATA = frozenset(
    (
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.dict",
        "builtins.frozenset",
        "builtins.list",
        "builtins.set",
        "builtins.slice",
        "collections.Counter",
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.deque",
        "copyreg._reconstructor",
        "datetime.datetime",
        "datetime.timedelta",
        "decimal.Decimal",
        "fractions.Fraction",
        "numpy.dtype",
        "numpy.ndarray",
        "uuid.UUID",
    )
)
_NUMPY_DATA = frozenset(("_frombuffer", "_reconstruct", "scalar"))
_TORCH_DATA = frozenset(
    ("_load_from_bytes", "_rebuild_parameter", "_rebuild_tensor", "_rebuild_tensor_v2", "device")
)
_BUILTIN_TYPES = frozenset(
    f"builtins.{name}" for name in ("bool", "bytes", "float", "int", "list", "object", "str", "tuple")
)
_LIBRARIES = (
    "gym.",
    "gymnasium.",
    "numpy.",
    "packaging.",
    "ray.rllib.",
    "ray.tune.",
    "tensorflow.",
    "torch.",
)
_CONSTRUCTORS = frozenset(
    (
        "__bit_generator_ctor",
        "__generator_ctor",
        "__pyx_unpickle_SeedSequence",
        "__randomstate_ctor",
        "_generator_ctor",
    )
)
_CODE = frozenset(("CDLL", "CodeType", "FunctionType", "LambdaType", "Popen", "Process", "PyDLL", "Thread"))
# Modules that libraries import, so that a dotted name reaches them: numpy.x.subprocess.Popen.
_PASSAGES = frozenset(
    (
        "asyncio",
        "builtins",
        "code",
        "ctypes",
        "functools",
        "importlib",
        "inspect",
        "io",
        "multiprocessing",
        "operator",
        "os",
        "pickle",
        "posix",
        "runpy",
        "shutil",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "types",
        "urllib",
        "webbrowser",
        "zipfile",
    )
)


class Use(NamedTuple):
    """One name that a file mentions, and how often loading it would import and call it."""

    path: str
    name: str
    rank: Rank
    """data: makes plain values; library: a class of a known framework; code: runs what the file says."""
    calls: int
    position: int
    """Byte of the first use, in the innermost pickle that holds it."""


def scan(files: Mapping[str, int], read: Callable[[str], bytes]) -> tuple[Use, ...]:
    """Every name that unpickling the files would look up, worst rank first, then by path.

    A file that can't be decoded is itself reported as code, since RLlib writes no such file.
    """
    found: list[Use] = []
    called = _find_state_files(files, read)
    for path in sorted(files):
        name = path.rpartition("/")[2]
        if not name.endswith(_ENDINGS) and not name.startswith("checkpoint-") and path not in called:
            continue
        data = read(path)
        try:
            found += scan_bytes(path, data)
        except (UnsafeContent, RecursionError) as error:
            found.append(Use(path, f"(not decodable: {error})", "code", 0, 0))
    order: dict[Rank, int] = {"code": 0, "library": 1, "data": 2}
    return tuple(sorted(found, key=lambda use: (order[use.rank], use.path, use.name)))


def _find_state_files(files: Mapping[str, int], read: Callable[[str], bytes]) -> set[str]:
    """Files of any name that RLlib unpickles because the JSON beside them says so."""
    found = set()
    for path in files:
        directory, _, name = path.rpartition("/")
        if name not in _JSONS or not 0 < files[path] <= MAX_JSON_BYTES:
            continue
        try:
            info = json.loads(read(path))
        except (ValueError, RecursionError):
            continue
        for key in ("state_file", "class_and_ctor_args_file"):
            if isinstance(info, dict) and isinstance(info.get(key), str):
                last = info[key].rpartition("/")[2]
                found.add(f"{directory}/{last}" if directory else last)
    return found


def scan_bytes(path: str, data: bytes) -> list[Use]:
    """The uses in one file, one entry per name. Raises UnsafeContent if it can't be decoded."""
    first: dict[str, int] = {}
    calls: dict[str, int] = {}
    for name, position, called in _uses(path, data, 0):
        first.setdefault(name, position)
        calls[name] = calls.get(name, 0) + called
    return [Use(path, name, rank(name), calls[name], first[name]) for name in first]


def rank(name: str) -> Rank:
    """How dangerous it is to call the object called `name`."""
    package, short = name.partition(".")[0], name.rpartition(".")[2]
    if not _PASSAGES.isdisjoint(name.split(".")[1:-1]):
        return "code"
    if name in _DATA or name in _BUILTIN_TYPES or (package == "numpy" and short in _NUMPY_DATA):
        return "data"
    if package == "torch" and (short in _TORCH_DATA or short.endswith("Storage")):
        return "data"
    # Calling a library's class makes an object of that class, but a function of it may do anything: one of
    # numpy's test helpers executes its argument.
    is_class = short[:1].isupper() or short in _CONSTRUCTORS
    return "library" if is_class and short not in _CODE and name.startswith(_LIBRARIES) else "code"


def _uses(path: str, data: bytes, depth: int) -> Iterator[tuple[str, int, bool]]:
    if depth > _MOST_DEPTH:
        raise UnsafeContent(path, f"pickles are nested more than {_MOST_DEPTH} deep")
    if encodings.is_msgpack(path) and not depth:
        value = rllib_msgpack.loads(data)
        for item in _parts(value):
            if isinstance(item, Opaque):  # an object array, whose bytes RLlib's reader unpickles
                yield item.name, 0, True
        yield from _inside(path, value, depth)
        return
    for pickled in _pickles(data):
        for use in safe.globals_in(pickled):
            yield use.name, use.position, use.called
        yield from _inside(path, safe.loads(pickled), depth)


def _inside(path: str, value: Any, depth: int) -> Iterator[tuple[str, int, bool]]:
    """The uses in every byte string below `value`."""
    for item in _parts(value):
        if isinstance(item, (bytes, bytearray)):
            if torchfile.is_torch(bytes(item[:1024])):
                yield from _uses(path, bytes(item), depth + 1)
            else:
                yield from _perhaps(path, bytes(item), depth + 1)


def _perhaps(path: str, data: bytes, depth: int) -> Iterator[tuple[str, int, bool]]:
    """The uses in what may or may not be a pickle.

    pickle.loads ignores bytes after the end of a pickle, and has made an attacker's call before it meets
    damage after that call. So bytes that aren't a whole pickle count if they call something or begin as one.
    """
    uses: list[GlobalUse] = []
    value = None
    try:
        run(Machine(data, None, _INNER, uses))
        value = run(Machine(data, (), _INNER))
    except UnsafeContent:
        if not data.startswith(b"\x80") and not any(use.called for use in uses):
            return
    if depth > _MOST_DEPTH and uses:
        raise UnsafeContent(path, f"pickles are nested more than {_MOST_DEPTH} deep")
    yield from uses
    yield from _inside(path, value, depth)


def _pickles(data: bytes) -> list[bytes]:
    """The pickles in a file: the file itself, or those in a container of torch.save."""
    if not torchfile.is_torch(data):
        return [data]
    if data.startswith(b"PK"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                infos = [info for info in archive.infolist() if info.filename.endswith(".pkl")]
                if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                    raise UnsafeContent("torch file", "its pickles are compressed, which torch never does")
                if sum(info.file_size for info in infos) > len(data):
                    raise UnsafeContent("torch file", "its records overlap")
                return [archive.read(info) for info in infos]
        except torchfile.DAMAGED_ZIP as error:
            raise UnsafeContent("torch file", f"not a whole zip archive ({error})") from error
    return torchfile.pickles_of_stream(data)


def _parts(value: Any) -> Iterator[Any]:
    """Byte strings and records below `value`, each object once."""
    pending, seen = [value], set[int]()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (bytes, bytearray)):
            yield item
        elif isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset, deque)):
            pending += item
        elif isinstance(item, np.ndarray) and item.dtype.hasobject and item.dtype.names is None:
            pending += item.ravel().tolist()
        elif isinstance(item, Opaque):
            yield item
            pending += [item.args, item.kwargs, item.state, item.items, item.entries]
