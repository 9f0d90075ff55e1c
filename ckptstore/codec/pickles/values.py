"""Rebuild the standard library's plain values from the calls that a pickle describes.

Each maker gets the arguments as decoded, checks every one of them and calls a constructor of ours. If they
are not what the type's own pickling gives, it raises NotPlainError and the decoder keeps an inert record.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
import pathlib
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.containers import Containers
from ckptstore.codec.pickles.dtypes import NotPlainError

_LONGEST_NUMBER = 4300  # digits; the limit that Python puts on text to int
_FACTORIES: dict[str, Callable[[], Any]] = {
    "builtins.int": int,
    "builtins.float": float,
    "builtins.complex": complex,
    "builtins.bool": bool,
    "builtins.str": str,
    "builtins.bytes": bytes,
    "builtins.list": list,
    "builtins.tuple": tuple,
    "builtins.dict": dict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "collections.deque": deque,
}


Maker = Callable[[Containers, tuple[Any, ...]], Any]


def _need(condition: bool) -> None:
    if not condition:
        raise NotPlainError


def _make_sized(host: Containers, value: Any) -> Any:
    _need(type(value) in (list, tuple, set, frozenset, dict))
    host.charge(64 * len(value))
    return value


def _list(host: Containers, args: tuple[Any, ...]) -> list[Any]:
    return list(_make_sized(host, args[0])) if len(args) == 1 else _none(args, [])


def _tuple(host: Containers, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_make_sized(host, args[0])) if len(args) == 1 else _none(args, ())


def _none(args: tuple[Any, ...], empty: Any) -> Any:
    _need(not args)
    return empty


def _set(host: Containers, args: tuple[Any, ...]) -> set[Any]:
    made: set[Any] = set()
    if args:
        _need(len(args) == 1)
        host.put_members(made, _make_sized(host, args[0]))
    return made


def _frozenset(host: Containers, args: tuple[Any, ...]) -> frozenset[Any]:
    return frozenset(_set(host, args))


def _dict(host: Containers, args: tuple[Any, ...]) -> dict[Any, Any]:
    return _fill(host, {}, args)


def _make_ordered_dict(host: Containers, args: tuple[Any, ...]) -> OrderedDict[Any, Any]:
    made: OrderedDict[Any, Any] = OrderedDict()
    _fill(host, made, args)
    return made


def _counter(host: Containers, args: tuple[Any, ...]) -> Counter[Any]:
    made: Counter[Any] = Counter()
    if args:
        _need(type(args[0]) is dict)
    _fill(host, made, args)
    return made


def _defaultdict(host: Containers, args: tuple[Any, ...]) -> defaultdict[Any, Any]:
    factory = None
    if args and args[0] is not None:
        _need(isinstance(args[0], Opaque) and args[0].is_reference and args[0].name in _FACTORIES)
        factory = _FACTORIES[args[0].name]
    made: defaultdict[Any, Any] = defaultdict(factory)
    _fill(host, made, args[1:])
    return made


def _fill(host: Containers, made: dict[Any, Any], args: tuple[Any, ...]) -> dict[Any, Any]:
    if args:
        _need(len(args) == 1)
        source = _make_sized(host, args[0])
        pairs = source.items() if isinstance(source, dict) else source
        _need(all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs))
        host.put_entries(made, pairs)
    return made


def _deque(host: Containers, args: tuple[Any, ...]) -> deque[Any]:
    _need(len(args) <= 2)
    longest = args[1] if len(args) == 2 else None
    _need(longest is None or (type(longest) is int and 0 <= longest < 2**62))
    return deque(_make_sized(host, args[0]) if args else (), longest)


def _complex(host: Containers, args: tuple[Any, ...]) -> complex:
    _need(len(args) == 2 and all(type(part) in (int, float) for part in args))
    return complex(args[0], args[1])


def _int(host: Containers, args: tuple[Any, ...]) -> int:
    _need(len(args) == 1 and type(args[0]) in (int, bool))
    return int(args[0])


def _bytes(host: Containers, args: tuple[Any, ...]) -> bytes:
    return b"" if not args else bytes(_bytearray(host, args))


def _bytearray(host: Containers, args: tuple[Any, ...]) -> bytearray:
    if not args:
        return bytearray()
    _need(type(args[0]) in (bytes, bytearray, str))
    host.charge(len(args[0]))
    return bytearray(_encode(host, args) if isinstance(args[0], str) else args[0])


def _encode(host: Containers, args: tuple[Any, ...]) -> bytes:
    """``_codecs.encode(text, 'latin1')``: how protocols 0 to 2 spell bytes."""
    _need(len(args) == 2 and type(args[0]) is str and type(args[1]) is str)
    _need(args[1] in ("latin1", "latin-1"))
    host.charge(len(args[0]))
    return str(args[0]).encode("latin-1")


def _range(host: Containers, args: tuple[Any, ...]) -> range:
    _need(1 <= len(args) <= 3 and all(type(arg) is int for arg in args) and 0 not in args[2:])
    return range(*args)


def _slice(host: Containers, args: tuple[Any, ...]) -> slice:
    # Only of plain values: slices of slices would nest without limit.
    _need(1 <= len(args) <= 3 and all(type(arg) in (type(None), bool, int, float, str) for arg in args))
    return slice(*args)


def _ints(args: tuple[Any, ...], most: int) -> tuple[Any, ...]:
    _need(len(args) <= most and all(type(arg) is int for arg in args))
    return args


def _zone(args: tuple[Any, ...], at: int) -> datetime.timezone | None:
    _need(len(args) <= at + 1)
    zone = args[at] if len(args) > at else None
    _need(zone is None or type(zone) is datetime.timezone)
    return zone


def _take_bytes(args: tuple[Any, ...], size: int) -> bytes:
    packed = args[0] if args else None
    if isinstance(packed, str):  # Python 2 wrote these as text
        packed = packed.encode("latin-1", "replace")
    if type(packed) is not bytes or len(packed) != size:
        raise NotPlainError
    return packed


def _date(host: Containers, args: tuple[Any, ...]) -> datetime.date:
    b = _take_bytes(args, 4)
    _need(len(args) == 1)
    return datetime.date(b[0] << 8 | b[1], b[2], b[3])


def _time(host: Containers, args: tuple[Any, ...]) -> datetime.time:
    b = _take_bytes(args, 6)
    hour, fold = b[0] & 0x7F, b[0] >> 7
    return datetime.time(hour, b[1], b[2], int.from_bytes(b[3:], "big"), _zone(args, 1), fold=fold)


def _datetime(host: Containers, args: tuple[Any, ...]) -> datetime.datetime:
    b = _take_bytes(args, 10)
    month, fold = b[2] & 0x7F, b[2] >> 7
    day = datetime.date(b[0] << 8 | b[1], month, b[3])
    clock = datetime.time(b[4], b[5], b[6], int.from_bytes(b[7:], "big"), _zone(args, 1), fold=fold)
    return datetime.datetime.combine(day, clock)


def _timedelta(host: Containers, args: tuple[Any, ...]) -> datetime.timedelta:
    return datetime.timedelta(*_ints(args, 3))


def _timezone(host: Containers, args: tuple[Any, ...]) -> datetime.timezone:
    _need(1 <= len(args) <= 2 and type(args[0]) is datetime.timedelta)
    _need(len(args) == 1 or type(args[1]) is str)
    if args == (datetime.timedelta(0),):
        return datetime.UTC
    return datetime.timezone(*args)


def _decimal(host: Containers, args: tuple[Any, ...]) -> decimal.Decimal:
    _need(len(args) == 1 and type(args[0]) is str and len(args[0]) <= _LONGEST_NUMBER)
    return decimal.Decimal(args[0])


def _fraction(host: Containers, args: tuple[Any, ...]) -> fractions.Fraction:
    if len(args) == 1 and type(args[0]) is str and len(args[0]) <= _LONGEST_NUMBER:
        # Not Fraction(text): that also takes exponents, and 1e999999999 fills the memory.
        args = tuple(int(part) for part in args[0].split("/"))
    _need(1 <= len(args) <= 2 and all(type(a) is int and a.bit_length() <= 4 * _LONGEST_NUMBER for a in args))
    _need(args[-1] != 0 or len(args) == 1)
    return fractions.Fraction(*args)


def _path(posix: bool, pure: bool) -> Maker:
    pure_kind = pathlib.PurePosixPath if posix else pathlib.PureWindowsPath
    # A concrete path exists only on its own system; elsewhere the pure one says as much.
    kind = pathlib.Path if not pure and isinstance(pathlib.PurePath(), pure_kind) else pure_kind

    def make(host: Containers, args: tuple[Any, ...]) -> pathlib.PurePath:
        _need(all(type(arg) is str for arg in args))
        return kind(*args)

    return make


def uuid_from(state: Any) -> Any:
    """A UUID from the state that follows its creation."""
    number = state.get("int") if type(state) is dict else None
    if type(number) is not int or not 0 <= number < 1 << 128 or not set(state) <= {"int", "is_safe"}:
        raise NotPlainError
    safe = state.get("is_safe")
    if isinstance(safe, Opaque) and safe.args is not None and len(safe.args) == 1:
        safe = safe.args[0]
    known = safe if type(safe) is int and safe in (0, -1) else None
    return uuid.UUID(int=number, is_safe=uuid.SafeUUID(known))


CONSTANTS: dict[str, Any] = {"builtins.Ellipsis": Ellipsis, "builtins.NotImplemented": NotImplemented}

MAKERS: dict[str, Maker] = {
    "builtins.list": _list,
    "builtins.tuple": _tuple,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "builtins.dict": _dict,
    "builtins.complex": _complex,
    "builtins.int": _int,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
    "builtins.range": _range,
    "builtins.xrange": _range,
    "builtins.slice": _slice,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _make_ordered_dict,
    "collections.Counter": _counter,
    "collections.defaultdict": _defaultdict,
    "collections.deque": _deque,
    "datetime.date": _date,
    "datetime.time": _time,
    "datetime.datetime": _datetime,
    "datetime.timedelta": _timedelta,
    "datetime.timezone": _timezone,
    "decimal.Decimal": _decimal,
    "fractions.Fraction": _fraction,
    **{
        f"{module}.{name}": _path(posix, pure)
        for module in ("pathlib", "pathlib._local")
        for name, posix, pure in (
            ("PurePosixPath", True, True),
            ("PureWindowsPath", False, True),
            ("PosixPath", True, False),
            ("WindowsPath", False, False),
        )
    },
}
