"""The decoder's stack, memo and calls; ``safe`` says what they promise."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import classes, own_kinds
from ckptstore.codec.pickles.arrays import Arrays, is_scalar_type
from ckptstore.codec.pickles.budget import Budget, Meter
from ckptstore.codec.pickles.classes import Classes
from ckptstore.codec.pickles.containers import Containers
from ckptstore.codec.pickles.dtypes import NotPlainError
from ckptstore.codec.pickles.torch_calls import TORCH_MAKERS, VIEW, AsArrays, Tensors, name_for_scan
from ckptstore.codec.pickles.values import CONSTANTS, MAKERS, uuid_from
from ckptstore.errors import UnsafeContent

_OWN_RECORD = f"{Opaque.__module__}.{Opaque.__qualname__}"
HOLE = object()  # a memo slot that nothing was put into
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class GlobalUse(NamedTuple):
    """A name that a pickle would import (`called` is False) or call, and the byte where it does."""

    name: str
    position: int
    called: bool


class _Origin(NamedTuple):
    """How a value on the stack was made, for the state that may follow: some values are then replaced."""

    value: Any
    name: str
    args: tuple[Any, ...]
    memo_key: int | None


class Machine:
    """One run over one pickle."""

    def __init__(
        self,
        data: bytes | memoryview,
        buffers: Sequence[memoryview | bytearray | bytes] | None,
        budget: Budget,
        uses: list[GlobalUse] | None = None,
        tensors: Tensors | None = None,
        own: bool = False,
        listed: Classes | None = None,
    ) -> None:
        self.data = data if type(data) is bytes else bytes(data)
        self.buffers = None if buffers is None else iter(buffers)
        self.budget = budget
        self.uses = uses
        self.tensors: Tensors = tensors or AsArrays()
        self.own = own
        self.classes = listed
        self.kinds: frozenset[type] = listed.kinds if listed is not None else frozenset()
        self.after_build: Callable[[Any, int], int] | None = None
        """Gets what has its state now, and returns where to go on: some writers put data in between."""
        meter = Meter(budget, len(self.data))
        self.arrays = Arrays(meter)
        self.containers = Containers(meter, budget, len(self.data), self.kinds)
        self.memo: list[Any] = []
        self.metastack: list[list[Any]] = []
        self.origins: dict[tuple[int, int], _Origin] = {}

    # ---- Names and calls

    def reference(self, module: str, name: str, pos: int) -> Any:
        """What importing ``module.name`` stands for: a constant that we know, or a record of the name."""
        self.containers.charge(len(module) + len(name))  # both may come from the memo, again and again
        full = f"{_OLD_MODULES.get(module, module)}.{name}"
        if self.uses is not None:
            self.uses.append(GlobalUse(full, pos, False))
        return CONSTANTS[full] if full in CONSTANTS else Opaque(full)

    def call(
        self, stack: list[Any], callee: Any, args: Any, pos: int, kwargs: dict[str, Any] | None = None
    ) -> None:
        """Push what calling would give: a plain value if we can make it ourselves, else a record."""
        if type(args) is not tuple:
            raise UnsafeContent("pickle", "a call whose arguments are not a tuple")
        if type(callee) is not Opaque:
            raise UnsafeContent("pickle", f"calls a value of type {type(callee).__name__}")
        name = callee.name
        if callee.args is not None:
            name, args = name.removesuffix("()") + "()", (callee, *args)
        if self.uses is not None:
            self.uses.append(GlobalUse(name_for_scan(name, args), pos, True))
        try:
            # Plain data are never made with keyword arguments, or by what a call returned.
            known = not kwargs and (callee.args is None or name == VIEW)
            cls = self.classes.find(callee) if self.classes is not None and not kwargs else None
            if cls is not None:
                value = classes.make(cls, args if callee.args is None else args[1:])
            else:
                value = self.make(name if known else "", args)
        except NotPlainError:
            value = Opaque(name, args)
            value.kwargs = kwargs or None
            self.note_setter(args, pos)
        if isinstance(value, _REPLACEABLE) or type(value) in self.kinds:
            key = self.memo_key(pos)
            self.origins[len(self.metastack), len(stack)] = _Origin(value, name, args, key)
        stack.append(value)

    def make(self, name: str, args: tuple[Any, ...]) -> Any:
        """What calling ``name`` gives, if that is plain data. Raises NotPlainError for any other call."""
        maker = MAKERS.get(name)
        if maker is not None:
            return maker(self.containers, args)
        array_maker = ARRAY_MAKERS.get(name)
        if array_maker is not None:
            return array_maker(self.arrays, args)
        torch_maker = TORCH_MAKERS.get(name)
        if torch_maker is not None:
            return torch_maker(self.tensors, args)
        if name == "builtins.getattr" and self.classes is not None:
            return self.classes.member(args)
        if name == _OWN_RECORD:
            return _own_record(args)
        own_maker = own_kinds.MAKERS.get(name) if self.own else None
        if own_maker is not None:
            return own_maker(self.arrays, args)
        if name == "copyreg._reconstructor" and len(args) == 3 and _is_class(args[0]):
            # How protocols 0 and 1 create any object; the base class matters only if it holds content.
            cls, base, content = args
            plain = _is_class(base) and base.name == "builtins.object" and content is None
            return Opaque(cls.name, () if plain else (base, content))
        module, _, short = name.rpartition(".")
        if module == "numpy" and is_scalar_type(short):
            return self.arrays.make_scalar(short, args)
        raise NotPlainError

    def note_setter(self, args: tuple[Any, ...], pos: int) -> None:
        """A call of two arguments whose result is dropped at once is a reducer's state setter.

        cloudpickle describes functions and classes that way: without this, what they contain would be
        dropped with the result.
        """
        if len(args) == 2 and type(args[0]) is Opaque and self.data[pos : pos + 1] == b"0":
            self.set_state(args[0], args[1])

    def set_state(self, target: Opaque, state: Any) -> None:
        if target.state is not None:
            raise UnsafeContent("pickle", f"sets the state of {target.name[:80]} twice")
        target.state = state

    def build(self, stack: list[Any], state: Any) -> None:
        """BUILD: give the value on top of the stack its state, or replace it by one that has it."""
        value = stack[-1]
        kind = type(value)
        where = (len(self.metastack), len(stack) - 1)
        origin = self.origins.pop(where, None)
        if origin is not None and origin.value is not value:
            origin = None
        if kind is Opaque:
            if origin is None or not self.finish(stack, value, origin, state):
                self.set_state(value, state)
        elif kind is np.ndarray or isinstance(value, np.dtype):
            if origin is None:
                raise UnsafeContent(
                    "pickle", f"state for a value of type {kind.__name__} that was not just made"
                )
            try:
                if kind is np.ndarray:
                    self.arrays.fill(value, state)
                else:
                    self.replace(stack, origin, self.arrays.dtypes.with_state(value, state))
            except NotPlainError:
                record = Opaque(origin.name, origin.args)
                record.state = state
                self.replace(stack, origin, record)
        elif kind in (OrderedDict, Counter):
            _set_attributes(value, state)
        elif kind in self.kinds and origin is not None:
            try:
                classes.set_fields(value, state)
            except NotPlainError:
                record = Opaque(origin.name, origin.args)
                record.state = state
                self.replace(stack, origin, record)
        else:
            raise UnsafeContent("pickle", f"state for a value of type {kind.__name__}")

    def finish(self, stack: list[Any], value: Opaque, origin: _Origin, state: Any) -> bool:
        """Whether a record becomes something else now that its state is known."""
        if value.name == "uuid.UUID" and not value.args:
            try:
                self.replace(stack, origin, uuid_from(state))
            except NotPlainError:
                return False
            return True
        if origin.name == _OWN_RECORD:
            _restore_record(value, state)
            return True
        if self.own:
            try:
                made = own_kinds.finish(self.arrays, value, origin.name, origin.args, state)
            except NotPlainError:
                return False
            self.replace(stack, origin, made)
            return True
        return False

    def replace(self, stack: list[Any], origin: _Origin, value: Any) -> None:
        """Put `value` where the one that it supersedes was pushed and memoised."""
        stack[-1] = value
        key = origin.memo_key
        if key is not None and key < len(self.memo) and self.memo[key] is origin.value:
            self.memo[key] = value

    def memo_key(self, pos: int) -> int | None:
        """The memo slot that the instruction at `pos` puts the value into, if it is one that does."""
        op = self.data[pos : pos + 1]
        if op == b"\x94":
            return len(self.memo)
        if op == b"q":
            return self.data[pos + 1]
        if op == b"r":
            return int.from_bytes(self.data[pos + 1 : pos + 5], "little")
        if op == b"p":
            return int(self.line(pos + 1)[0])
        return None

    def hole(self) -> None:
        raise UnsafeContent("pickle", "takes from a memo slot that nothing was put into")

    def put(self, key: int, value: Any) -> None:
        """Memoise out of order, as Python 2 and rewritten pickles do."""
        memo = self.memo
        if not 0 <= key <= len(self.data):  # each put takes bytes, so no honest key is larger
            raise UnsafeContent("pickle", f"memo slot {key} in a file of {len(self.data)} bytes")
        if key >= len(memo):
            memo.extend([HOLE] * (key + 1 - len(memo)))
        memo[key] = value

    # ---- Containers

    def append(self, target: Any, items: Sequence[Any]) -> None:
        if type(target) in (list, deque):
            target.extend(items)
        elif type(target) is Opaque:
            if target.items is None:
                target.items = []
            target.items.extend(items)
        elif type(target) in self.kinds and isinstance(target, list):
            list.extend(target, items)
        else:
            raise UnsafeContent("pickle", f"appends to a value of type {type(target).__name__}")

    def set_entries(self, target: Any, items: list[Any]) -> None:
        if len(items) & 1:
            raise UnsafeContent("pickle", "a key without its value")
        pairs = zip(items[::2], items[1::2], strict=True)
        if type(target) in (dict, OrderedDict, defaultdict, Counter):
            self.containers.put_entries(target, pairs)
        elif type(target) is Opaque:
            if target.entries is None:
                target.entries = []
            target.entries.extend(pairs)
        elif type(target) in self.kinds and isinstance(target, dict):
            entries: dict[Any, Any] = {}
            self.containers.put_entries(entries, pairs)
            dict.update(target, entries)
        else:
            raise UnsafeContent("pickle", f"sets items of a value of type {type(target).__name__}")

    # ---- Rarer instructions

    def end_mark(self, op: int, stack: list[Any], items: list[Any], pos: int) -> int:
        """Those that take everything above the last mark."""
        if op == 0x90:  # ADDITEMS
            target = stack[-1]
            if type(target) is set:
                self.containers.put_members(target, items)
            elif type(target) is Opaque:
                self.append(target, items)
            else:
                raise UnsafeContent("pickle", f"adds members to a value of type {type(target).__name__}")
        elif op == 0x91:  # FROZENSET
            members: set[Any] = set()
            self.containers.put_members(members, items)
            stack.append(frozenset(members))
        elif op == 0x6C:  # LIST
            stack.append(items)
        elif op == 0x64:  # DICT
            made: dict[Any, Any] = {}
            self.set_entries(made, items)
            stack.append(made)
        elif op == 0x6F:  # OBJ
            self.call(stack, items[0], tuple(items[1:]), pos)
        elif op == 0x69:  # INST
            module, pos = self.line(pos)
            name, pos = self.line(pos)
            self.call(stack, self.reference(module.decode(), name.decode(), pos), tuple(items), pos)
        elif op not in (0x31, 0x30):  # POP_MARK, and POP where the mark is all that is left
            raise UnsafeContent("pickle", f"unknown opcode {op:#04x}")
        return pos

    def line(self, pos: int) -> tuple[bytes, int]:
        """The text up to the next line feed, and the position after it."""
        end = self.data.find(b"\n", pos)
        if end < 0:
            raise UnsafeContent("pickle", "cut short within a line")
        return self.data[pos:end], end + 1

    def read_size(self, pos: int, width: int) -> tuple[int, int]:
        """Start and end of what a length of `width` bytes at `pos` announces."""
        start = pos + width
        size = int.from_bytes(self.data[pos:start], "little")
        if start + size > len(self.data):
            raise UnsafeContent("pickle", f"announces {size} bytes, more than there are")
        return start, start + size

    def get(self, stack: list[Any], key: int) -> None:
        if key < 0 or self.memo[key] is HOLE:
            self.hole()
        stack.append(self.memo[key])

    def next_buffer(self, stack: list[Any], pos: int) -> int:
        if self.buffers is None:  # only scanning: any memory will do
            stack.append(Opaque("buffer", ()))
            return pos
        buffer = next(self.buffers, None)
        if buffer is None:
            raise UnsafeContent("pickle", "refers to more out-of-band buffers than were handed in")
        view = memoryview(buffer).cast("B")
        if self.data[pos : pos + 1] == b"\x98":  # READONLY_BUFFER
            stack.append(view.toreadonly())
            return pos + 1
        stack.append(memoryview(bytearray(view)) if view.readonly else view)
        return pos


def _is_class(value: Any) -> bool:
    return type(value) is Opaque and value.is_reference


def _own_record(args: tuple[Any, ...]) -> Opaque:
    if not 1 <= len(args) <= 2 or type(args[0]) is not str or (len(args) == 2 and type(args[1]) is not tuple):
        raise NotPlainError
    return Opaque(*args)


def _restore_record(record: Opaque, state: Any) -> None:
    kinds = {"args": tuple, "kwargs": dict, "items": list, "entries": list}
    if type(state) is not dict or any(type(state[k]) is not t for k, t in kinds.items() if k in state):
        raise UnsafeContent("pickle", "malformed record of an object")
    record.__setstate__(state)


def _set_attributes(value: Any, state: Any) -> None:
    """Attributes beside the content, as torch puts ``_metadata`` on its OrderedDict."""
    kind = type(value)
    if type(state) is not dict or any(type(k) is not str or hasattr(kind, k) for k in state):
        raise UnsafeContent("pickle", f"impossible state for a value of type {kind.__name__}")
    vars(value).update(state)


# What may be replaced by something else when its state arrives.
_REPLACEABLE = (Opaque, np.ndarray, np.dtype)

ARRAY_MAKERS: dict[str, Callable[[Arrays, tuple[Any, ...]], Any]] = {
    "numpy.dtype": lambda arrays, args: arrays.dtypes.dtype(args),
    "numpy.ndarray": Arrays.ndarray,
    "numpy.take": Arrays.take,
    **{f"numpy.{core}.multiarray._reconstruct": Arrays.reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": Arrays.scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": Arrays.frombuffer for core in ("core", "_core")},
}
