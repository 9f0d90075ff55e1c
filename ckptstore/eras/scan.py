"""What loading a checkpoint's files with pickle would import and call, found out without doing it.

Looks into pickles, pickles inside pickles, both containers of torch.save and object arrays in msgpack.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from ckptstore.codec import rllib_msgpack, safe, torchfile
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import UnsafeContent

Rank = Literal["data", "library", "code"]

_ENDINGS = (".pkl", ".pickle", ".pt", ".pth", ".msgpck", ".msgpack", ".tune_metadata")
_MOST_DEPTH = 8  # pickles inside pickles; RLlib nests three deep

# Names whose call makes a value and nothing else. Everything under these packages is not trusted for it.
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
_TORCH_DATA = frozenset(("_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter", "_load_from_bytes"))
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
    ("__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor", "_generator_ctor")
)
_CODE = frozenset(("CodeType", "FunctionType", "LambdaType"))


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
    """Every name in every file that unpickling would touch, worst first, then by path.

    A file that can't be decoded is itself reported as code: whatever it is, it is not what RLlib writes.
    """
    found: list[Use] = []
    for path in sorted(files):
        name = path.rpartition("/")[2]
        if not name.endswith(_ENDINGS) and not name.startswith("checkpoint-"):
            continue
        data = read(path)
        try:
            found += scan_bytes(path, data)
        except (UnsafeContent, RecursionError) as error:
            found.append(Use(path, f"(not decodable: {error})", "code", 0, 0))
    order: dict[Rank, int] = {"code": 0, "library": 1, "data": 2}
    return tuple(sorted(found, key=lambda use: (order[use.rank], use.path, use.name)))


def scan_bytes(path: str, data: bytes) -> list[Use]:
    """The uses in one file, one entry per name. Raises UnsafeContent if it can't be decoded."""
    first: dict[str, int] = {}
    calls: dict[str, int] = {}
    for name, position, called in _uses(path, data, 0):
        first.setdefault(name, position)
        calls[name] = calls.get(name, 0) + called
    return [Use(path, name, rank(name), calls[name], first[name]) for name in first]


def rank(name: str) -> Rank:
    """How far the name of something callable is from plain data."""
    package, short = name.partition(".")[0], name.rpartition(".")[2]
    if name in _DATA or name in _BUILTIN_TYPES or (package == "numpy" and short in _NUMPY_DATA):
        return "data"
    if package == "torch" and (short in _TORCH_DATA or short.endswith("Storage")):
        return "data"
    # A library's class makes an object of that class; its functions may do anything: numpy's own test
    # helpers have one that executes its argument.
    is_class = short[:1].isupper() or short in _CONSTRUCTORS
    return "library" if is_class and short not in _CODE and name.startswith(_LIBRARIES) else "code"


def _uses(path: str, data: bytes, depth: int) -> Iterator[tuple[str, int, bool]]:
    if depth > _MOST_DEPTH:
        raise UnsafeContent(path, f"pickles are nested more than {_MOST_DEPTH} deep")
    if path.endswith((".msgpck", ".msgpack")) and not depth:
        for inner in _embedded(rllib_msgpack.loads(data)):
            yield "pickle.loads", 0, True
            yield from _uses(path, inner, depth + 1)
        return
    for pickled in _pickles(data):
        for use in safe.globals_in(pickled):
            yield use.name, use.position, use.called
        for inner in _embedded(safe.loads(pickled)):
            yield from _uses(path, inner, depth + 1)


def _pickles(data: bytes) -> list[bytes]:
    """The pickles of a file: itself, or those a container of torch.save holds."""
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
        except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, OSError) as error:
            raise UnsafeContent("torch file", f"not a whole zip archive ({error})") from error
    return torchfile.pickles_of_stream(data)


def _embedded(value: Any) -> Iterator[bytes]:
    """Byte strings below `value` that look like pickles or torch streams, each object once."""
    pending, seen = [value], set[int]()
    while pending:
        item = pending.pop()
        if isinstance(item, (bytes, bytearray)):
            data = bytes(item)
            pickled = len(data) > 2 and data[0] == 0x80 and data[1] <= 5 and data.endswith(b".")
            if pickled or torchfile.is_torch(data):
                yield data
            continue
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            pending += item
        elif isinstance(item, np.ndarray) and item.dtype.hasobject and item.dtype.names is None:
            pending += item.ravel().tolist()
        elif isinstance(item, Opaque):
            pending += [item.args, item.kwargs, item.state, item.items, item.entries]
