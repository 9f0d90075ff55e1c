"""One of the processes that race: does whatever comes to its mind to one store, and keeps a log of it."""

from __future__ import annotations

import os
import random
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gcsfs  # noqa: F401  # so that those forked from a process that has it all start at once
import numpy as np
import s3fs  # noqa: F401

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.backends.objects import opener
from ckptstore.errors import CheckpointCorrupt, CheckpointError
from tests.mutants.races import MUTANTS
from tests.races.history import NEVER, Event

TAGS = ("champion", "rival")
FROZEN = {"weights": {"w": np.arange(12_000.0)}}
"""The same in every checkpoint: linked, or copied by the server."""


class Racer(NamedTuple):
    """What one process is told."""

    who: str
    url: str
    options: Mapping[str, Any]
    seed: int
    until: float
    """Monotonic seconds."""
    log: str
    grace: float | None
    """Seconds that gc leaves an unfinished save alone; None on a local disk, where a lock tells."""
    fast: bool = False
    mutant: str | None = None
    alone: int = 0
    """Its number, if it saves steps of its own."""


def content(step: int, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """State and policies, both told by the token."""
    number = float(zlib.crc32(token.encode()))
    state = {"step": step, "token": token, "x": np.full(500, number)}
    return state, {"old": FROZEN, "new": {"weights": {"w": np.full(3_000, number)}}}


def is_whole(state: Any, policies: Mapping[str, Any], step: int, token: str) -> bool:
    """Whether this is what the save of that token was given."""
    expected, policies_expected = content(step, token)
    return (
        (state["step"], state["token"]) == (step, token)
        and bool(np.array_equal(state["x"], expected["x"]))
        and policies.keys() == policies_expected.keys()
        and all(
            np.array_equal(policies[name]["weights"]["w"], policy["weights"]["w"])
            for name, policy in policies_expected.items()
        )
    )


class Log:
    """Events, each begun with one line and ended with another: what a killed process did stays there."""

    def __init__(self, path: str, who: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._who = who

    @contextmanager
    def event(self, op: str, **known: Any) -> Iterator[dict[str, Any]]:
        """Note one operation. What the body puts into the dict is added at its end."""
        begun = Event(op, time.monotonic(), float("inf"), "killed", self._who, **known)
        os.write(self._fd, begun.to_line().encode())
        more: dict[str, Any] = {}
        try:
            yield more
            outcome = "ok"
        except CheckpointCorrupt as error:
            outcome, more = "damaged", {"why": str(error)[:300]}
        except CheckpointError as error:
            outcome, more = type(error).__name__, {"why": str(error)[:300]}
        except Exception as error:  # noqa: BLE001 - which is what the judge is to find out
            outcome, more = f"untyped {type(error).__name__}", {"why": repr(error)[:300]}
        end = time.monotonic()
        ended = replace(begun, **{"end": end, "outcome": outcome, **more})
        os.write(self._fd, ended.to_line().encode())


class Process:
    """The operations. Each picks its own target, as a program that knows of no other would."""

    def __init__(self, racer: Racer, log: Log, store: CheckpointStore | None = None) -> None:
        self.racer = racer
        self.log = log
        self.random = random.Random(racer.seed)
        self.store = store or CheckpointStore(racer.url, storage_options=racer.options or None, timeout=30)
        self.count = 0
        self.newest = 0

    def save(self) -> None:
        step, mode = self.newest + 1, "error"
        if self.random.random() < 0.3:
            step, mode = self.random.randint(max(1, self.newest - 3), self.newest + 1), "replace"
        self.count += 1
        if self.racer.alone:
            step, mode = 1000 * self.racer.alone + self.count, "error"
        token = f"{self.racer.who}-{self.count}"
        with self.log.event("save", step=step, token=token, mode=mode) as end:
            saved = self.store.save(step, *content(step, token), labels=[token], if_exists=mode)  # type: ignore[arg-type]
            end["name"] = saved.name
        self.newest = max(self.newest, step)

    def latest(self) -> None:
        found = None
        with self.log.event("latest") as end:
            found = self.store.latest()
            end.update(_told(found))
        if found is not None:
            self.newest = found.step
            self.load(found)

    def load(self, found: Checkpoint) -> None:
        """Load it, and look whether it is what was saved."""
        with self.log.event("load", **_told(found)) as end:
            loaded = found.load()
            if not is_whole(loaded.state, loaded.policies, found.step, found.labels[0]):
                end.update(outcome="damaged", why=f"state of {loaded.state['token']}")

    def get(self) -> None:
        step = self.random.randint(max(1, self.newest - 5), self.newest + 1)
        found = None
        with self.log.event("get", step=step) as end:
            found = self.store.get(step)
            end.update(_told(found))
        if found is not None and self.random.random() < 0.5:
            self.load(found)

    def list(self) -> None:
        with self.log.event("list") as end:
            end["found"] = tuple((found.step, found.labels[0]) for found in self.store.checkpoints())

    def _any(self) -> Checkpoint | None:
        """Some checkpoint that is there, or was a moment ago."""
        try:
            listed = self.store.checkpoints()
        except CheckpointError:
            return None
        return self.random.choice(listed) if listed else None

    def tag(self) -> None:
        tag = self.random.choice(TAGS)
        if (target := self._any()) is not None:
            with self.log.event("tag", tag=tag, **_told(target)):
                self.store.tag(tag, target)

    def untag(self) -> None:
        tag = self.random.choice(TAGS)
        with self.log.event("untag", tag=tag):
            self.store.untag(tag)

    def read_tag(self) -> None:
        tag = self.random.choice(TAGS)
        with self.log.event("read-tag", tag=tag) as end:
            end.update(_told(self.store.get(f"tag:{tag}")))

    def delete(self) -> None:
        if (target := self._any()) is not None:
            with self.log.event("delete", **_told(target)):
                self.store.delete(target)

    def prune(self) -> None:
        with self.log.event("prune") as end:
            end["names"] = tuple(self.store.prune(self.random.randint(3, 6)))

    def rollback(self) -> None:
        if (target := self._any()) is not None:
            with self.log.event("rollback", **_told(target)) as end:
                end["names"] = tuple(self.store.rollback(target))
            self.newest = target.step

    def gc(self) -> None:
        grace = NEVER if self.racer.grace is None else self.racer.grace
        with self.log.event("gc", grace=grace):
            self.store.gc(self.racer.grace)

    def operations(self) -> Mapping[Callable[[], None], int]:
        """What it may do, and how often."""
        return {
            self.save: 34,
            self.latest: 22,
            self.get: 8,
            self.list: 6,
            self.tag: 7,
            self.untag: 2,
            self.read_tag: 7,
            self.delete: 5,
            self.prune: 3,
            self.rollback: 1,
            self.gc: 5,
        }


def _told(found: Checkpoint | None) -> dict[str, Any]:
    return {} if found is None else {"step": found.step, "token": found.labels[0], "name": found.name}


def work(racer: Racer) -> None:
    """Race until the time is over."""
    opener.FAST = racer.fast
    if racer.mutant is not None:
        MUTANTS[racer.mutant]()
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    process = Process(racer, Log(racer.log, racer.who))
    operations, weights = zip(*process.operations().items(), strict=True)
    while time.monotonic() < racer.until:
        process.random.choices(operations, weights)[0]()


def last_look(racer: Racer, peek: Callable[[str], bytes | None]) -> None:
    """What is there once all is quiet, swept and read back, in part without ckptstore."""
    import pickle

    log = Log(racer.log, "last look")
    process = Process(racer._replace(who="last look"), log)
    with log.event("gc", grace=0.0):
        process.store.gc(0)
    listed: list[Checkpoint] = []
    with log.event("list") as end:
        listed = process.store.checkpoints()
        end["found"] = tuple((found.step, found.labels[0]) for found in listed)
    process.latest()
    for found in listed:
        process.load(found)
        with log.event("load", **_told(found)) as end:
            data = peek(f"{found.url}/algorithm_state.pkl")
            if data is None or pickle.loads(data)["token"] != found.labels[0]:
                end.update(outcome="damaged", why="a plain client finds something else")
        with log.event("load", **_told(found)):
            found.verify()
    for tag in TAGS:
        with log.event("read-tag", tag=tag) as end:
            end.update(_told(process.store.get(f"tag:{tag}")))


def local_peek(url: str) -> bytes | None:
    path = Path(url.removeprefix("file://"))
    return path.read_bytes() if path.exists() else None
