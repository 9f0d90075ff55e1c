"""Runs the real commit code through every order of its requests, lost replies and late deliveries.

Each actor (a writer, a deleter, a sweep, a reader) is a thread that runs the real catalog on a
`Place`: a dict. Every request waits there until the explorer lets it go on, so an execution is just a
list of choices, and can be repeated. The explorer follows every list of choices up to a number of
faults, and never goes on from a state that it has seen.

A crash needs no choice of its own: it is an actor that is never chosen again, and what holds after a
crash is checked in every state.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ckptstore.backends.base import Listed, Sink, too_large
from ckptstore.commit.objects.catalog import RegisterCatalog
from ckptstore.commit.objects.states import small_state
from ckptstore.errors import (
    CheckpointError,
    CheckpointExists,
    CheckpointGone,
    CheckpointProtected,
    SaveAborted,
)
from ckptstore.format.names import MANIFEST, CheckpointName

STEP = 7
PAYLOAD = ("p1", "p2")


class Stop(BaseException):
    """The execution is over; the actor's thread ends here."""


class Request(NamedTuple):
    """What an actor asks of the place."""

    verb: str
    key: str
    data: bytes = b""

    @property
    def changes(self) -> bool:
        return self.verb in ("publish", "replace", "delete")


class Choice(NamedTuple):
    """One move: an actor's request is answered, or gets lost on one of its ways, or arrives late."""

    actor: str
    fate: str  # "answered", "reply lost", "delayed" or "arrives"
    place: int = 0

    def __str__(self) -> str:
        return f"{self.actor}: {self.fate}"


Objects = dict[str, bytes]


def apply(objects: Objects, request: Request) -> Any:
    """Do `request` to `objects`; what the place answers, or the exception it raises."""
    verb, key, data = request
    if verb == "publish":
        if key in objects:
            return FileExistsError(key)
        objects[key] = data
    elif verb == "replace":
        objects[key] = data
    elif verb == "delete":
        objects.pop(key, None)
    elif verb == "read":
        return objects[key] if key in objects else FileNotFoundError(key)
    elif verb == "list":
        found = sorted((name, data) for name, data in objects.items() if name.startswith(key))
        return [Listed(name, len(data), 0.0) for name, data in found]
    return None


class Place:
    """A store as one actor sees it: an `ObjectPlace` whose every request passes through `ask`."""

    url = place = "scripted://"
    timeout = 0.3  # seconds of its own clock: a few tries
    concurrency = 1

    def __init__(self, ask: Callable[[Request], Any]) -> None:
        self._ask = ask
        self._now = 0.0
        self._ids = itertools.count()

    def ask(self, verb: str, key: str, data: bytes = b"") -> Any:
        answer = self._ask(Request(verb, key, data))
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def clock(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds

    def read(self, key: str, start: int = 0, stop: int | None = None, most: int | None = None) -> bytes:
        found: bytes = self.ask("read", key)
        if most is not None and len(found) > most:
            raise too_large(key, len(found), most)
        return found[start:stop]

    def read_into(self, key: str, start: int, target: memoryview) -> None:
        target[:] = self.read(key, start, start + len(target))

    def write(self, key: str) -> Sink:
        return _Sink(self, key)

    def publish(self, key: str, data: bytes) -> None:
        self.ask("publish", key, data)

    def replace(self, key: str, data: bytes) -> None:
        while True:
            try:
                self.ask("replace", key, data)
                return
            except TimeoutError:
                pass  # the backend sends the same bytes again

    def copy(self, source: str, key: str, size: int) -> None:
        raise NotImplementedError  # what it saves is small enough to be sent

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            while True:
                try:
                    self.ask("delete", key)
                    break
                except TimeoutError:
                    pass

    def children(self, prefix: str = "") -> list[str]:
        root = f"{prefix}/" if prefix else ""
        return sorted({entry.key[len(root) :].split("/")[0] for entry in self.starting(root)})

    def starting(self, prefix: str, until: str | None = None) -> list[Listed]:
        found: list[Listed] = self.ask("list", prefix)
        return found

    def abort_uploads(self, started: Callable[[str, float], bool]) -> int:
        return 0

    def list(self, prefix: str = "") -> list[Listed]:
        return self.starting(f"{prefix}/" if prefix else "")


class _Sink:
    def __init__(self, place: Place, key: str) -> None:
        self._place = place
        self._key = key
        self._data = b""

    def write(self, data: bytes | memoryview) -> None:
        self._data += bytes(data)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self._place.replace(self._key, self._data)


def catalog_of(place: Place, name: str, catalog: type[RegisterCatalog] = RegisterCatalog) -> RegisterCatalog:
    """The real catalog on `place`, with nothing random in it."""
    ids = itertools.count()
    found = catalog(
        place, clock=place.clock, sleep=place.sleep, new_id=lambda: f"{name}-{next(ids)}", horizon=1e9
    )
    found.probe = lambda: None  # type: ignore[method-assign]  # asked once, long before
    return found


def manifest_of(attempt_id: str) -> bytes:
    """A manifest that names its attempt."""
    return attempt_id.encode().ljust(1024)


def id_in(manifest: bytes) -> str:
    """The attempt that a committed manifest names."""
    return manifest.decode().strip()


@dataclass
class Events:
    """What actors were told, in the order they were told it."""

    acknowledged: dict[str, CheckpointName] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    """Attempts that were told for certain that they are not committed."""
    replacing: set[str] = field(default_factory=set)
    deleting: set[CheckpointName] = field(default_factory=set)
    """Names somebody set out to delete."""
    tagged: set[CheckpointName] = field(default_factory=set)
    """Names whose tag was acknowledged."""
    errors: list[str] = field(default_factory=list)


Body = Callable[[RegisterCatalog, Events, str], None]


class _Actor:
    def __init__(self, name: str, body: Body, events: Events, kind: type[RegisterCatalog]) -> None:
        self.name = name
        self.history: tuple[Any, ...] = ()
        self.faults = 0
        self.request: Request | None = None
        self._answer: Any = None
        self._go = threading.Semaphore(0)
        self._waits = threading.Semaphore(0)
        place = Place(self._ask)
        catalog = catalog_of(place, name, kind)

        def run() -> None:
            try:
                body(catalog, events, name)
            except Stop:
                pass
            except CheckpointError:
                pass  # a typed error is an answer like any other
            except BaseException as error:  # noqa: BLE001 - reported to the test
                events.errors.append(f"{name}: {error!r}")
            self.request = None
            self._waits.release()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        self._waits.acquire()

    def _ask(self, request: Request) -> Any:
        if self._answer is Stop:
            raise Stop
        self.request = request
        self._waits.release()
        self._go.acquire()
        if self._answer is Stop:
            raise Stop
        return self._answer

    def proceed(self, answer: Any) -> None:
        """Answer its request, and wait until it makes the next one or ends."""
        self.history += ((self.request, repr(answer)),)
        self._answer = answer
        self._go.release()
        self._waits.acquire()

    def stop(self) -> None:
        """End its thread."""
        if self.request is not None:
            self._answer = Stop
            self._go.release()
            self._waits.acquire()
        self._thread.join()


class Execution:
    """One run of all actors, as far as it was driven."""

    def __init__(
        self, actors: dict[str, Body], faults: int, kind: type[RegisterCatalog], objects: Objects
    ) -> None:
        self.objects: Objects = dict(objects)
        self.events = Events()
        self.late: list[Request] = []
        self._faults = faults
        self._actors = {name: _Actor(name, body, self.events, kind) for name, body in actors.items()}

    def choices(self) -> list[Choice]:
        """Every move that is possible now."""
        found = []
        for actor in self._actors.values():
            if actor.request is None:
                continue
            found.append(Choice(actor.name, "answered"))
            if actor.request.changes and actor.request.verb != "delete" and self._faults > 0:
                found.append(Choice(actor.name, "reply lost"))
                found.append(Choice(actor.name, "delayed"))
        found += [Choice("network", "arrives", index) for index in range(len(self.late))]
        return found

    def take(self, choice: Choice) -> str:
        """Make a move; what happened, in words."""
        if choice.fate == "arrives":
            request = self.late.pop(choice.place)
            return f"late {request.verb} {request.key}: {apply(self.objects, request)!r}"
        actor = self._actors[choice.actor]
        asked = actor.request
        assert asked is not None
        answer: Any = TimeoutError("no reply")
        if choice.fate == "answered":
            answer = apply(self.objects, asked)
        else:
            self._faults -= 1
            if choice.fate == "reply lost":
                apply(self.objects, asked)
            else:
                self.late.append(asked)
        told = f"{actor.name}: {asked.verb} {asked.key} -> {choice.fate} {str(answer)[:60]}"
        actor.proceed(answer)
        return told

    def state(self) -> Any:
        """All that can make a difference to what comes."""
        return (
            frozenset(self.objects.items()),
            tuple(sorted(self.late)),
            self._faults,
            tuple(actor.history for actor in self._actors.values()),
        )

    def close(self) -> None:
        """End all threads."""
        for actor in self._actors.values():
            actor.stop()


class Violation(AssertionError):
    """A promise was broken; the text is the way there."""


def explore(
    actors: dict[str, Body],
    *,
    faults: int = 0,
    kind: type[RegisterCatalog] = RegisterCatalog,
    objects: Objects | None = None,
    replacing: frozenset[str] = frozenset(),
    limit: int = 200_000,
) -> int:
    """Try everything, from `objects` on, of which the attempts `replacing` supersede lower ones.

    Returns how many states there are; Violation with the way to the first bad one.
    """
    seen: set[Any] = set()
    pending: list[tuple[Choice, ...]] = [()]
    while pending:
        way = pending.pop()
        execution = Execution(actors, faults, kind, objects or {})
        execution.events.replacing |= replacing
        told = []
        watch = Watch(execution)
        try:
            for choice in way[:-1]:
                told.append(execution.take(choice))
                watch.see(execution)
            last = list(way[-1:])
            while True:
                for choice in last:
                    told.append(execution.take(choice))
                    watch.see(execution)
                state = (execution.state(), frozenset(watch.hidden), frozenset(watch.superseded))
                if state in seen:
                    break
                seen.add(state)
                if problems := watch.problems(execution):
                    raise Violation("\n".join([*problems, *told]))
                if len(seen) > limit:
                    raise AssertionError(f"more than {limit} states")
                choices = execution.choices()
                if not choices:
                    break
                pending += [(*way, choice) for choice in choices[1:]]
                way = (*way, choices[0])
                last = choices[:1]
        finally:
            execution.close()
    return len(seen)


class Watch:
    """What must hold in every state, and the little history it takes to say so."""

    def __init__(self, execution: Execution) -> None:
        at_first = list(self.committed(execution.objects).values())
        self.hidden = set(at_first[:-1])
        """Attempts that were visible once and are not any more."""
        self.superseded: set[str] = set()
        """Attempts that a later one was meant to replace, and did."""
        self._visible = at_first[-1] if at_first else None

    @staticmethod
    def committed(objects: Objects) -> dict[CheckpointName, str]:
        """Committed attempts by name."""
        found = {}
        for key, data in objects.items():
            directory, _, path = key.partition("/")
            name = CheckpointName.parse(directory)
            if name is not None and path == MANIFEST and small_state(data) is None:
                found[name] = id_in(data)
        return dict(sorted(found.items()))

    def see(self, execution: Execution) -> None:
        """Note who is visible now."""
        now = list(self.committed(execution.objects).values())
        visible = now[-1] if now else None
        if visible in execution.events.replacing:
            self.superseded |= {*now[:-1], *self.hidden}
            if self._visible not in (None, visible):
                self.superseded.add(str(self._visible))
        if self._visible is not None and visible != self._visible:
            self.hidden.add(self._visible)
        self._visible = visible

    def problems(self, execution: Execution) -> list[str]:
        """Promises that are broken in this state."""
        objects, events = execution.objects, execution.events
        committed = self.committed(objects)
        bad = list(events.errors)
        if len(committed) > 1 and not events.replacing:
            bad.append(f"I1 two committed checkpoints for one step: {committed}")
        for name, attempt in committed.items():
            payload = [objects.get(f"{name}/{path}", b"").decode() for path in PAYLOAD]
            if payload != [attempt] * len(PAYLOAD):
                bad.append(f"I2 {name} is committed by {attempt} and holds {payload}")
        visible = list(committed.values())[-1:]
        for attempt, name in events.acknowledged.items():
            wanted = attempt not in self.superseded and name not in events.deleting
            if wanted and attempt not in committed.values():
                bad.append(f"I3 {attempt} was acknowledged, never deleted, and is not there")
        for attempt in events.refused & set(committed.values()):
            bad.append(f"I3 {attempt} was told that it failed, and is committed")
        if visible and visible[0] in self.hidden:
            bad.append(f"I6 {visible[0]} was deleted or replaced and is visible again")
        for name in events.tagged - set(committed):
            bad.append(f"I7 a tag on {name} was acknowledged, and it is gone")
        if trouble := self._later_save(execution):
            bad.append(f"I4 a later save fails: {trouble}")
        return bad

    def _later_save(self, execution: Execution) -> str | None:
        """Everybody may crash now: can the next one still save?"""
        objects = dict(execution.objects)
        place = Place(lambda request: apply(objects, request))
        events = Events()
        writer("error")(catalog_of(place, "later"), events, "later")
        if events.acknowledged or self.committed(objects):
            return None
        return "neither acknowledged nor anything there"


def writer(if_exists: Any) -> Body:
    """An actor that saves once."""

    def body(catalog: RegisterCatalog, events: Events, name: str) -> None:
        if if_exists == "replace":
            events.replacing.add(name)
        try:
            attempt = catalog.begin(STEP, if_exists, name)
            for path in PAYLOAD:
                with attempt.create(path) as sink:
                    sink.write(name.encode())
            events.acknowledged[name] = attempt.commit(manifest_of(name))
        except (CheckpointExists, SaveAborted):
            events.refused.add(name)
        except CheckpointGone:
            pass  # it was committed, and deleted before anybody told it

    return body


def deleter(times: int = 1) -> Body:
    """An actor that deletes what it finds committed, the highest attempt first."""

    def body(catalog: RegisterCatalog, events: Events, name: str) -> None:
        for _ in range(times):
            visible = [key for key, files in catalog.scan().items() if files.get(MANIFEST, 0) > 512]
            if visible:
                events.deleting.update(visible)
                catalog.delete(visible[-1], lambda: _check_tags(catalog))

    return body


TAG = "_ckptstore/refs/champion/1.json"


def _check_tags(catalog: RegisterCatalog) -> None:
    if catalog.backend.list("_ckptstore/refs"):
        raise CheckpointProtected("it is tagged")


def tagger() -> Body:
    """An actor that tags what it finds committed; a tag that was refused is taken back."""

    def body(catalog: RegisterCatalog, events: Events, name: str) -> None:
        visible = [key for key, files in catalog.scan().items() if files.get(MANIFEST, 0) > 512]
        for found in visible[-1:]:
            try:
                with catalog.guard(found):
                    catalog.backend.publish(TAG, str(found).encode())
            except CheckpointGone:
                catalog.backend.delete([TAG])
            else:
                events.tagged.add(found)

    return body


def sweeper() -> Body:
    """An actor that takes every unfinished attempt for dead."""

    def body(catalog: RegisterCatalog, events: Events, name: str) -> None:
        catalog.sweep(-1.0)

    return body


def reader() -> Body:
    """An actor that reads what it finds committed, and must never be handed another's bytes."""

    def body(catalog: RegisterCatalog, events: Events, name: str) -> None:
        visible = [key for key, files in catalog.scan().items() if files.get(MANIFEST, 0) > 512]
        for found in visible[-1:]:
            try:
                manifest = catalog.backend.read(f"{found}/{MANIFEST}")
                payload = [catalog.backend.read(f"{found}/{path}").decode() for path in PAYLOAD]
            except FileNotFoundError:
                continue
            if small_state(manifest) is None and payload != [id_in(manifest)] * len(PAYLOAD):
                events.errors.append(f"I5 the reader of {id_in(manifest)} got {payload}")

    return body
