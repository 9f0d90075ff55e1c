"""The power goes at every moment of a store's life, and leaves every mixture that it may leave.

A life (:mod:`tests.crash.lives`) runs once, for real, under strace. Its calls are then replayed on a
model of a file system, and after each one the model tells what a power cut may leave. Each such state
is judged by its names and bytes alone, then laid out on disk and opened with the library, which must
list, read and verify what was promised, save again, and sweep.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import CheckpointError
from ckptstore.format.names import MANIFEST, CheckpointName
from tests.crash.lives import LIVES, STORE, policies, state
from tests.crash.systrace import Call, record
from tests.crash.volume import Ordered, Strict, Tree, Volume
from tests.stores import assert_same

KINDS: dict[str, type[Volume]] = {"posix": Strict, "ext4": Ordered}
_LINKED = 4096  # bytes from which a file is laid out by a link, which its digest is checked against later


@dataclass
class Recording:
    """A life as it was lived once."""

    life: str
    base: str
    """A copy of the directory before it began, at the path where it happened."""
    processes: list[list[Call]]
    after: Tree
    """What really lay there in the end."""


@dataclass
class Found:
    """What the replay of one recording saw."""

    moments: int = 0
    """Calls after which the power went."""
    judged: int = 0
    """Different states, each judged by its bytes."""
    opened: int = 0
    """Of those, how many were laid out on disk and opened."""
    wrong: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    """How many of `wrong` are "lost", "wrong" or "untyped"."""

    def note(self, kind: str, text: str) -> None:
        self.kinds[kind] += 1
        self.wrong.append(f"{kind}: {text}")

    def __str__(self) -> str:
        bad = ", ".join(f"{self.kinds[kind]} {kind}" for kind in ("lost", "wrong", "untyped"))
        return f"{self.moments:6} crash points {self.judged:8} unique states {self.opened:8} opened   {bad}"


def live(life: str, scratch: str, mutant: str = "") -> Recording:
    """Live it under strace, below `scratch`."""
    lived, base = LIVES[life], os.path.join(scratch, "base")
    os.mkdir(base)
    arguments = [life, base, *([mutant] if mutant else [])]
    script = [sys.executable, "-m", "tests.crash.lives"]
    subprocess.run([*script, "prepare", life, base], check=True)
    before = os.path.join(scratch, "before")
    shutil.copytree(base, before)
    processes = []
    for number in range(len(lived.processes)):
        dies = number < len(lived.processes) - 1 and life == "gc"
        processes.append(
            record([*script, str(number), *arguments], os.path.join(scratch, "log"), 9 if dies else 0)
        )
    after = Strict(base, {}).live()
    shutil.rmtree(base)
    os.rename(before, base)
    return Recording(life, base, processes, after)


class Promises:
    """What must be there, may be there, and must not, as the marks come in."""

    def __init__(self, futures: dict[str, dict[str, Tree]]) -> None:
        self.required: dict[str, Tree] = {}
        self.optional: dict[str, set[Tree]] = {}
        self.tags: dict[str, set[str | None]] = {}
        self.steps: dict[str, list[int]] = {}
        """Steps that operations in flight replace: of each, the old or the new one has to be there."""
        self.makes: dict[str, list[int]] = {}
        """Steps that operations in flight make."""
        self._begun: dict[str, dict[str, Any]] = {}
        self._futures = futures
        self.number = 0

    def start(self, checkpoints: dict[str, Tree], tags: dict[str, str]) -> None:
        self.required = dict(checkpoints)
        self.tags = {tag: {name} for tag, name in tags.items()}

    def hear(self, mark: dict[str, Any], checkpoints: dict[str, Tree]) -> None:
        """Take in one mark, made while these checkpoints were visible."""
        self.number += 1
        if begun := mark.get("begin"):
            self._begun[begun] = mark
            for name in mark["takes"]:
                self.optional.setdefault(name, set()).add(self.required.pop(name))
            for name, tree in self._futures.get(begun, {}).items():
                self.optional.setdefault(name, set()).add(tree)
            self.makes[begun] = mark["makes"]
            taken = {_step(name) for name in mark["takes"]}
            self.steps[begun] = [step for step in mark["makes"] if step in taken]
            for tag, name in mark["tags"].items():
                self.tags.setdefault(tag, {None}).add(name)
        elif ended := mark.get("end"):
            begun = self._begun.pop(ended)
            del self.steps[ended], self.makes[ended]
            for name in begun["takes"]:
                trees = self.optional.pop(name)
                if name not in mark["took"]:
                    (self.required[name],) = trees
            for name in mark["made"]:
                self.optional.pop(name, None)
                self.required[name] = checkpoints[name]
            self.tags |= {tag: {name} for tag, name in begun["tags"].items()}

    def check(self, found: dict[str, Tree]) -> Iterator[tuple[str, str]]:
        """What is lost or wrong where these checkpoints are found."""
        for name, tree in self.required.items():
            if name not in found:
                yield "lost", f"{name} is gone"
            elif found[name] != tree:
                yield "lost", f"{name} has changed: {_difference(tree, found[name])}"
        for name, tree in found.items():
            if name not in self.required:
                if name not in self.optional:
                    yield "wrong", f"{name} came back"
                elif tree not in self.optional[name]:
                    best = min(self.optional[name], key=lambda whole: len(_difference(whole, tree)))
                    yield "wrong", f"{name} is neither absent nor whole: {_difference(best, tree)}"
        for step in itertools.chain.from_iterable(self.steps.values()):
            if not any(_step(name) == step for name in found):
                yield "lost", f"step {step} has neither its old checkpoint nor the new one"


def _parsed(name: str) -> CheckpointName:
    parsed = CheckpointName.parse(name)
    assert parsed is not None
    return parsed


def _step(name: str) -> int:
    return _parsed(name).step


def _flat(tree: Tree, path: str = "") -> dict[str, str]:
    if isinstance(tree, str):
        return {path: tree}
    found = {path + "/": ""}
    for name, below in tree:
        found |= _flat(below, f"{path}/{name}" if path else name)
    return found


def _difference(left: Tree, right: Tree) -> str:
    old, new = _flat(left), _flat(right)
    missing, extra = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    differs = sorted(path for path in old.keys() & new.keys() if old[path] != new[path])
    told = [("missing", missing), ("extra", extra), ("other bytes", differs)]
    return "; ".join(f"{what} {', '.join(paths[:4])}" for what, paths in told if paths)


def below(tree: Tree, *names: str) -> Tree | None:
    """What lies at this path, or None."""
    for name in names:
        if isinstance(tree, str):
            return None
        for child, node in tree:
            if child == name:
                tree = node
                break
        else:
            return None
    return tree


def committed(tree: Tree) -> dict[str, Tree]:
    """The checkpoints of the store: directories named like one that hold a manifest, whole or not."""
    store = below(tree, STORE)
    if store is None or isinstance(store, str):
        return {}
    return {
        name: node
        for name, node in store
        if CheckpointName.parse(name) is not None and below(node, *MANIFEST.split("/")) is not None
    }


_LOOKS = {"openat", "close", "dup", "fcntl", "lseek", "ioctl", "clone", "clone3"}
"""Calls that change nothing, unless a file is made: then a moment is as good after the next call."""


def replay(
    recording: Recording,
    kind: str,
    scratch: str,
    *,
    budget: int = 64,
    every: int = 1,
    seed: int = 0,
    stop_at: int = 20,
) -> Found:
    """Cut the power after every call, and judge at most `budget` states of each moment.

    Of the different ones every `every`th is opened with the library. Stops at `stop_at` findings.
    """
    coin, found, blobs = random.Random(seed), Found(), dict[str, bytes]()
    volume = KINDS[kind](recording.base, blobs)
    promises = Promises(_futures(recording))
    store = f"{recording.base}/{STORE}"
    promises.start(committed(volume.live()), CheckpointStore(store).tags() if os.path.isdir(store) else {})
    opener = _Opener(os.path.join(scratch, "opened"), blobs)
    seen: set[int] = set()
    judged: set[tuple[int, int]] = set()
    for call in _calls(recording, volume):
        if mark := volume.apply(call):
            promises.hear(mark, committed(volume.live()))
        elif call.name in _LOOKS:
            continue
        found.moments += 1
        for tree in volume.remains(budget, coin):
            digest = hash(tree)
            if (digest, promises.number) in judged:
                continue
            judged.add((digest, promises.number))
            moment = f"{recording.life} on {kind}, after {call.name} at line {call.left}"
            problems = list(promises.check(committed(tree)))
            if digest not in seen:
                seen.add(digest)
                if not problems and len(seen) % every == 0:
                    found.opened += 1
                    problems += opener.check(tree, promises)
            for what, text in problems:
                found.note(what, f"{moment}: {text}")
            found.judged = len(seen)
            if len(found.wrong) >= stop_at:
                return found
    if volume.live() != recording.after:
        raise AssertionError(f"the model strayed: {_difference(recording.after, volume.live())}")
    opener.finish()
    return found


def _calls(recording: Recording, volume: Volume) -> Iterator[Call]:
    for calls in recording.processes:
        volume.new_process()
        yield from calls


def _futures(recording: Recording) -> dict[str, dict[str, Tree]]:
    """What each operation will have made when it ends, or when its process dies."""
    volume = Strict(recording.base, {})
    made: dict[str, dict[str, Tree]] = {}
    begun: dict[str, tuple[dict[str, Any], dict[str, Tree]]] = {}
    for calls in recording.processes:
        volume.new_process()
        for call in calls:
            mark = volume.apply(call) or {}
            if number := mark.get("begin"):
                begun[number] = mark, committed(volume.live())
            elif number := mark.get("end"):
                del begun[number]
                visible = committed(volume.live())
                made[number] = {name: visible[name] for name in mark["made"]}
        for number, (mark, before) in begun.items():
            made[number] = {
                name: tree
                for name, tree in committed(volume.live()).items()
                if _step(name) in mark["makes"] and name not in before
            }
        begun.clear()
    return made


class _Opener:
    """Lays states out on disk and has the library deal with them."""

    def __init__(self, place: str, blobs: dict[str, bytes]) -> None:
        self._place = place
        self._blobs = blobs
        self._links = place + "-links"
        os.makedirs(self._links)

    def check(self, tree: Tree, promises: Promises) -> Iterator[tuple[str, str]]:
        """What the library makes of it that it must not."""
        self._lay(tree, self._place)
        try:
            yield from _open(f"{self._place}/{STORE}", committed(tree), promises)
        except CheckpointError as error:
            yield "lost", f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001  whatever it is, it is what we look for
            yield "untyped", f"{type(error).__name__}: {error}"
        shutil.rmtree(self._place)

    def _lay(self, tree: Tree, path: str) -> None:
        if not isinstance(tree, str):
            os.mkdir(path, 0o700)
            for name, node in tree:
                self._lay(node, f"{path}/{name}")
            return
        data = self._blobs[tree]
        if len(data) < _LINKED:
            with open(path, "xb") as file:
                file.write(data)
            return
        link = f"{self._links}/{tree}"
        if not os.path.exists(link):
            with open(link, "xb") as file:
                file.write(data)
            os.chmod(link, 0o400)
        os.link(link, path)

    def finish(self) -> None:
        """Nothing may have been written through a link."""
        for digest in os.listdir(self._links):
            with open(f"{self._links}/{digest}", "rb") as file:
                assert hashlib.sha1(file.read()).hexdigest() == digest
        shutil.rmtree(self._links)


def _open(root: str, present: dict[str, Tree], promises: Promises) -> Iterator[tuple[str, str]]:
    visible = {_step(name): name for name in sorted(present, key=_parsed)}
    store = CheckpointStore(root, concurrency=1)
    try:
        found = store.checkpoints()
        newest = store.latest()
    except CheckpointError:
        if promises.required or visible:
            raise
        found, newest = [], None  # there was no store yet
    if [checkpoint.name for checkpoint in found] != [visible[step] for step in sorted(visible)]:
        yield "lost", f"lists {[checkpoint.name for checkpoint in found]}, there are {sorted(present)}"
        return
    if newest != (found[-1] if found else None):
        yield "lost", f"the latest is {newest}"
    for checkpoint in found:
        _read(checkpoint)
    if found:
        tags = store.tags()
        for tag, allowed in promises.tags.items():
            if tags.get(tag) not in allowed:
                yield "lost", f"the tag {tag} points at {tags.get(tag)}"
    # Life goes on, without any clean-up, and cleans up in the end.
    steps = sorted(
        {max(visible, default=0) + 1, *(step for begun in promises.makes.values() for step in begun)}
    )
    for step in steps:
        store.save(step, state(step, "after"), policies(step, "after"), if_exists="replace")
    store.gc()
    again = CheckpointStore(root).checkpoints()
    if [checkpoint.step for checkpoint in again] != sorted({*visible, *steps}):
        yield "lost", f"after another save and a sweep it lists {[checkpoint.name for checkpoint in again]}"
    for checkpoint in again:
        _read(checkpoint)
    for name, tree in promises.required.items():
        if _step(name) not in steps and _on_disk(f"{root}/{name}") != _flat(tree):
            yield "lost", f"another save or a sweep changed {name}"
    if strays := [
        f"{place}/{name}" for place in (".staging", ".trash") for name in _names(f"{root}/{place}")
    ]:
        yield "wrong", f"the sweep left {strays}"


def _read(checkpoint: Checkpoint) -> None:
    """Read all of it and compare it with what was saved."""
    if checkpoint.manifest.origin == "stage":
        checkpoint.verify()
        return
    loaded = checkpoint.load()
    saved = checkpoint.step, loaded.state["text"], loaded.state["count"]
    assert_same(loaded.state, state(*saved))
    assert_same(loaded.policies, policies(*saved))


def _names(path: str) -> list[str]:
    return os.listdir(path) if os.path.isdir(path) else []


def _on_disk(path: str) -> dict[str, str]:
    return _flat(Strict(path, {}).live())
