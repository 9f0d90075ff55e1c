"""A file system that is told the system calls of a process and knows what a power cut may leave of them.

Two kinds. `Strict` promises what POSIX does and no more: bytes survive if their file was synced after
them, a name if its directory was; of the rest any part may survive, in any combination, a rename by
halves too. `Ordered` is like ext4: names survive in the order they were made, and any sync takes all
earlier ones along.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from tests.crash.systrace import MARK, Call

Tree: TypeAlias = "str | tuple[tuple[str, Tree], ...]"
"""A file as the digest of its bytes, a directory as its names and what they lead to, sorted."""


class Unsupported(Exception):
    """A call that changes files in a way this model does not know."""


class File:
    """One file, whatever it is called."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.kept = data
        """The bytes that survive in any case."""
        self.pending: list[tuple[int, int, bytes]] = []
        """Writes since then: when, where, what."""

    def write(self, when: int, offset: int, data: bytes) -> None:
        self.data[:] = _written(self.data, offset, data)
        self.pending.append((when, offset, data))

    def sync(self, before: int) -> None:
        for _, offset, data in [write for write in self.pending if write[0] < before]:
            self.kept = _written(self.kept, offset, data)
        self.pending = [write for write in self.pending if write[0] >= before]

    def remains(self, *, zeros: bool) -> list[bytes]:
        """What may be left of it: nothing new, half of what is new, all; `zeros`: or room without bytes."""
        half = self.kept
        for _, offset, data in self.pending[: len(self.pending) // 2]:
            half = _written(half, offset, data)
        _, offset, data = self.pending[len(self.pending) // 2]
        half = _written(half, offset, data[: len(data) // 2])
        hollow = [self.kept + bytes(len(self.data) - len(self.kept))] if zeros else []
        return list(dict.fromkeys([self.kept, *hollow, half, bytes(self.data)]))


class Dir:
    """One directory, whatever it is called."""

    def __init__(self) -> None:
        self.names: dict[str, Node] = {}
        self.kept: dict[str, Node] = {}


Node: TypeAlias = "File | Dir"


class Half(NamedTuple):
    """A name that comes to lead somewhere, or nowhere."""

    place: Dir
    name: str
    node: Node | None


class Change(NamedTuple):
    """One change of names, and when."""

    when: int
    halves: tuple[Half, ...]


class _Open:
    def __init__(self, node: Node, appending: bool) -> None:
        self.node = node
        self.appending = appending
        self.position = 0


class Slot(NamedTuple):
    """Something that a power cut decides: `options` runs from the oldest to the newest outcome."""

    key: object
    options: Sequence[Any]


class Volume:
    """The directory `base`, followed from now on. Feed it the calls, then ask what may be left."""

    zeros = False

    def __init__(self, base: str, blobs: dict[str, bytes]) -> None:
        self.base = base
        self.blobs = blobs
        self.changes: list[Change] = []
        self._open: dict[int, _Open] = {}
        self._links: dict[tuple[int, int], File] = {}
        self.root = self._scan(base)

    def _scan(self, path: str) -> Dir:
        found = Dir()
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                found.names[entry.name] = self._scan(entry.path)
            else:
                status = os.lstat(entry.path)
                with open(entry.path, "rb") as file:
                    node = self._links.setdefault((status.st_dev, status.st_ino), File(file.read()))
                found.names[entry.name] = node
        found.kept = dict(found.names)
        return found

    def new_process(self) -> None:
        """What comes now is done by another process, which has nothing open."""
        self._open.clear()

    # ---- Calls

    def apply(self, call: Call) -> dict[str, Any] | None:
        """Follow one call; the mark, if it is one."""
        handler: Callable[[Call], dict[str, Any] | None] | None = getattr(self, f"_{call.name}", None)
        if handler is not None:
            return handler(call)
        if any(arg.lstrip("-").isdigit() and int(arg) in self._open for arg in call.args[:4:2]):
            raise Unsupported(f"{call.name} on an open file")
        if call.name in ("sync", "msync", "io_uring_setup", "fork", "vfork"):
            raise Unsupported(call.name)
        for index, arg in enumerate(call.args):
            if arg.startswith('"') and self._walk(-100, call.bytes(index)) is not None:
                raise Unsupported(f"{call.name} {call.bytes(index)!r}")
        return None

    def _clone(self, call: Call) -> None:
        if "CLONE_FILES" not in ", ".join(call.args):
            raise Unsupported("a child process")

    _clone3 = _clone

    def _walk(self, fd: int, path: bytes) -> tuple[Dir, str] | None:
        """The directory a path leads into, and the last name; None outside of `base`."""
        text = os.fsdecode(path)
        if text.startswith("/"):
            if text != self.base and not text.startswith(self.base + "/"):
                return None
            place: Node | None = self.root
            text = text[len(self.base) + 1 :]
        else:
            known = self._open.get(fd)
            if known is None:
                return None
            place = known.node
        *above, name = [part for part in text.split("/") if part not in ("", ".")] or [""]
        for part in above:
            place = place.names.get(part) if isinstance(place, Dir) else None
        return (place, name) if isinstance(place, Dir) else None

    def _openat(self, call: Call) -> None:
        found = self._walk(call.number(0), call.bytes(1))
        if found is None:
            return
        place, name = found
        flags = call.args[2].split("|")
        node = place.names.get(name) if name else place
        if node is None:
            if "O_CREAT" not in flags:
                return  # another thread's rename is about to return; nothing is changed through this
            node = File()
            self._change(call, Half(place, name, node))
        elif "O_TRUNC" in flags and isinstance(node, File) and node.data:
            raise Unsupported("O_TRUNC of a file that holds something")
        self._open[call.result] = _Open(node, "O_APPEND" in flags)

    def _close(self, call: Call) -> None:
        self._open.pop(call.number(0), None)

    def _dup(self, call: Call) -> None:
        if known := self._open.get(call.number(0)):
            self._open[call.result] = known

    _dup2 = _dup3 = _dup

    def _fcntl(self, call: Call) -> None:
        if call.args[1].startswith("F_DUPFD"):
            self._dup(call)

    def _ioctl(self, call: Call) -> None:
        if call.number(0) in self._open and not call.args[1].startswith(("TCGETS", "FIONREAD", "FIOCLEX")):
            raise Unsupported(f"ioctl {call.args[1]}")

    def _lseek(self, call: Call) -> None:
        if known := self._open.get(call.number(0)):
            known.position = call.result

    def _write(self, call: Call) -> dict[str, Any] | None:
        known = self._open.get(call.number(0))
        if known is None:
            data = call.bytes(1)
            mark: dict[str, Any] | None = json.loads(data[len(MARK) :]) if data.startswith(MARK) else None
            return mark
        assert isinstance(known.node, File)
        offset = len(known.node.data) if known.appending else known.position
        known.node.write(call.left, offset, call.bytes(1)[: call.result])
        known.position = offset + call.result
        return None

    def _pwrite64(self, call: Call) -> None:
        if known := self._open.get(call.number(0)):
            assert isinstance(known.node, File)
            known.node.write(call.left, call.number(3), call.bytes(1)[: call.result])

    def _sendfile(self, call: Call) -> None:
        known, source = self._open.get(call.number(0)), self._open.get(call.number(1))
        if known is None or source is None or not (offset := re.match(r"\[(\d+)\]", call.args[2])):
            raise Unsupported("bytes sent into or out of the volume")
        assert isinstance(known.node, File)
        assert isinstance(source.node, File)
        start = int(offset[1])
        known.node.write(call.left, known.position, bytes(source.node.data[start : start + call.result]))
        known.position += call.result

    def _mkdirat(self, call: Call) -> None:
        if found := self._walk(call.number(0), call.bytes(1)):
            self._change(call, Half(*found, Dir()))

    def _mkdir(self, call: Call) -> None:
        if found := self._walk(-100, call.bytes(0)):
            self._change(call, Half(*found, Dir()))

    def _renameat2(self, call: Call) -> None:
        source, target = (
            self._walk(call.number(0), call.bytes(1)),
            self._walk(call.number(2), call.bytes(3)),
        )
        if not source or not target:
            raise Unsupported("a rename into or out of the volume")
        if "EXCHANGE" in call.args[-1]:
            raise Unsupported("an exchange")
        node = source[0].names[source[1]]
        if target[0].names.get(target[1]) is not node:
            self._change(call, Half(*target, node), Half(*source, None))

    _renameat = _renameat2

    def _rename(self, call: Call) -> None:
        here = "AT_FDCWD"
        self._renameat2(call._replace(args=[here, call.args[0], here, call.args[1], "0"]))

    def _linkat(self, call: Call) -> None:
        source, target = (
            self._walk(call.number(0), call.bytes(1)),
            self._walk(call.number(2), call.bytes(3)),
        )
        if not source or not target:
            raise Unsupported("a link into or out of the volume")
        self._change(call, Half(*target, source[0].names[source[1]]))

    def _link(self, call: Call) -> None:
        self._linkat(call._replace(args=["AT_FDCWD", call.args[0], "AT_FDCWD", call.args[1], "0"]))

    def _unlinkat(self, call: Call) -> None:
        if found := self._walk(call.number(0), call.bytes(1)):
            self._change(call, Half(*found, None))

    def _unlink(self, call: Call) -> None:
        if found := self._walk(-100, call.bytes(0)):
            self._change(call, Half(*found, None))

    _rmdir = _unlink

    def _change(self, call: Call, *halves: Half) -> None:
        self.changes.append(Change(call.left, halves))
        for half in halves:
            _put(half.place.names, half)

    def _fsync(self, call: Call) -> None:
        if known := self._open.get(call.number(0)):
            self.sync(known.node, call.entered)

    _fdatasync = _fsync

    def sync(self, node: Node, before: int) -> None:
        """`node` was synced: what was done to it `before` that moment survives."""
        raise NotImplementedError

    # ---- What may be left

    def live(self) -> Tree:
        """What a process sees now."""
        return self._tree(self.root, lambda place: place.names, lambda file: bytes(file.data), {})

    def slots(self) -> list[Slot]:
        """What a power cut would decide now."""
        raise NotImplementedError

    def view(self, chosen: dict[object, Any]) -> Callable[[Dir], dict[str, Node]]:
        """The names in a directory, as decided."""
        raise NotImplementedError

    def remains(self, budget: int, coin: random.Random) -> Iterator[Tree]:
        """Trees that a power cut may leave now: all of them, or `budget` where there are more."""
        slots = self.slots()
        fixed: dict[int, Tree] = {}
        varied: set[int] = {id(slot.key) for slot in slots}
        for picks in _picks(slots, budget, coin):
            chosen = {slot.key: slot.options[pick] for slot, pick in zip(slots, picks, strict=True)}
            held = {key: data for key, data in chosen.items() if isinstance(key, File)}
            yield self._tree(
                self.root,
                self.view(chosen),
                lambda file, held=held: held.get(file, file.data),  # type: ignore[misc]
                fixed,
                varied,
            )

    def _tree(
        self,
        node: Node,
        names: Callable[[Dir], dict[str, Node]],
        data: Callable[[File], bytes | bytearray],
        fixed: dict[int, Tree],
        varied: set[int] | None = None,
    ) -> Tree:
        """The tree below `node`; `fixed` keeps the files that nothing decides about."""
        if isinstance(node, Dir):
            return tuple(
                sorted(
                    (name, self._tree(child, names, data, fixed, varied))
                    for name, child in names(node).items()
                )
            )
        if id(node) in fixed:
            return fixed[id(node)]
        held = bytes(data(node))
        digest = hashlib.sha1(held).hexdigest()
        self.blobs.setdefault(digest, held)
        if varied is not None and id(node) not in varied:
            fixed[id(node)] = digest
        return digest

    def _reachable(self) -> tuple[set[Dir], list[File]]:
        """The directories and files that some outcome shows."""
        later: dict[Dir, list[Node]] = {}
        for change in self.changes:
            for half in change.halves:
                later.setdefault(half.place, []).extend([half.node] if half.node else [])
        seen: dict[Node, None] = {}
        pending: list[Node] = [self.root]
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen[node] = None
            if isinstance(node, Dir):
                pending += [*node.kept.values(), *later.get(node, ())]
        return {node for node in seen if isinstance(node, Dir)}, [n for n in seen if isinstance(n, File)]


class Strict(Volume):
    """Only fsync of a file keeps its bytes, only fsync of a directory its names."""

    zeros = True

    def sync(self, node: Node, before: int) -> None:
        if isinstance(node, File):
            node.sync(before)
            return
        left = []
        for change in self.changes:
            halves = []
            for half in change.halves:
                if half.place is node and change.when < before:
                    _put(node.kept, half)
                else:
                    halves.append(half)
            if halves:
                left.append(Change(change.when, tuple(halves)))
        self.changes = left

    def slots(self) -> list[Slot]:
        places, files = self._reachable()
        names: dict[tuple[Dir, str], list[Node | None]] = {}
        for change in self.changes:
            for half in change.halves:
                if half.place in places:
                    key = half.place, half.name
                    names.setdefault(key, [half.place.kept.get(half.name)]).append(half.node)
        slots = [Slot(key, list(dict.fromkeys(options))) for key, options in names.items()]
        slots += [Slot(file, file.remains(zeros=True)) for file in files if file.pending]
        return slots

    def view(self, chosen: dict[object, Any]) -> Callable[[Dir], dict[str, Node]]:
        decided: dict[Dir, dict[str, Node | None]] = {}
        for key, value in chosen.items():
            if isinstance(key, tuple):
                decided.setdefault(key[0], {})[key[1]] = value

        def names(place: Dir) -> dict[str, Node]:
            if place not in decided:
                return place.kept
            mixed = {**place.kept, **decided[place]}
            return {name: node for name, node in mixed.items() if node is not None}

        return names


class Ordered(Volume):
    """Names survive in the order they were made; any sync keeps all that were made before it."""

    def sync(self, node: Node, before: int) -> None:
        if isinstance(node, File):
            node.sync(before)
        for change in self.changes:
            if change.when < before:
                for half in change.halves:
                    _put(half.place.kept, half)
        self.changes = [change for change in self.changes if change.when >= before]

    def slots(self) -> list[Slot]:
        _, files = self._reachable()
        slots = [Slot("journal", range(len(self.changes) + 1))] if self.changes else []
        slots += [Slot(file, file.remains(zeros=False)) for file in files if file.pending]
        return slots

    def view(self, chosen: dict[object, Any]) -> Callable[[Dir], dict[str, Node]]:
        changed: dict[Dir, dict[str, Node]] = {}
        for change in self.changes[: chosen.get("journal", 0)]:
            for half in change.halves:
                _put(changed.setdefault(half.place, dict(half.place.kept)), half)
        return lambda place: changed.get(place, place.kept)


def _put(names: dict[str, Node], half: Half) -> None:
    if half.node is None:
        names.pop(half.name, None)
    else:
        names[half.name] = half.node


def _written(old: bytes | bytearray, offset: int, data: bytes) -> bytes:
    filled = bytes(old[:offset]).ljust(offset, b"\0")
    return filled + data + bytes(old[offset + len(data) :])


def _picks(slots: list[Slot], budget: int, coin: random.Random) -> Iterator[tuple[int, ...]]:
    """Every combination of options, or where there are more than `budget` a fair sample.

    The sample holds the two extremes, each single exception to either, and random ones.
    """
    last = [len(slot.options) - 1 for slot in slots]
    if math.prod(len(slot.options) for slot in slots) <= budget:
        yield from itertools.product(*(range(len(slot.options)) for slot in slots))
        return
    oldest, newest = tuple(0 for _ in slots), tuple(last)
    yield from (oldest, newest)
    single = [
        (*base[:index], other, *base[index + 1 :])
        for base in (newest, oldest)
        for index in range(len(slots))
        for other in range(last[index] + 1)
        if other != base[index]
    ]
    if len(single) > budget // 2:
        single = coin.sample(single, budget // 2)
    yield from single
    for _ in range(budget - 2 - len(single)):
        yield tuple(coin.randint(0, top) for top in last)
