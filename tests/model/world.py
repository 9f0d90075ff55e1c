"""Runs the real commit code through every order of its requests, lost replies and late deliveries.

Each actor (a writer, a deleter, a sweep, a reader) is a coroutine that runs the real catalog on a
`Place`: a dict. Every request waits there until the explorer lets it go on, so an execution is just a
list of choices, and can be repeated. The explorer follows every list of choices up to a number of
faults, and never goes on from a state that it has seen.

A crash needs no choice of its own: it is an actor that is never chosen again, and what holds after a
crash is checked in every state.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from greenlet import getcurrent, greenlet

from ckptstore.backends.base import Listed, Sink, too_large
from ckptstore.commit.objects.catalog import RegisterCatalog
from ckptstore.commit.objects.states import State, group_by_directory, sizes, small_state, state_of
from ckptstore.errors import (
    CheckpointError,
    CheckpointExists,
    CheckpointGone,
    SaveAborted,
    StoreUnavailable,
)
from ckptstore.format.names import DELETING, MANIFEST, CheckpointName

STEP = 7
PAYLOAD = ("p1", "p2")
HORIZON = 1e9


class Stop(BaseException):
    """The execution is over; the actor ends here."""


class Request(NamedTuple):
    """What an actor asks of the place."""

    verb: str
    key: str
    data: bytes = b""

    @property
    def changes(self) -> bool:
        return self.verb in ("publish", "replace", "delete")


class Choice(NamedTuple):
    """One move: an actor's request is answered, or gets lost on one of its ways, or arrives late.

    Or the listing that it asked for "lacks" the highest directory; or time "passes".
    """

    actor: str
    fate: str  # "answered", "reply lost", "delayed", "arrives", "lacks", "passes"
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

    def __init__(self, ask: Callable[[Request], Any], passed: Callable[[], float] = lambda: 0.0) -> None:
        self._ask = ask
        self._passed = passed
        self._now = 0.0
        self._ids = itertools.count()

    def ask(self, verb: str, key: str, data: bytes = b"") -> Any:
        answer = self._ask(Request(verb, key, data))
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def clock(self) -> float:
        return self._now + self._passed()

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
        began = self.clock()
        while True:
            try:
                self.ask("replace", key, data)
                return
            except TimeoutError:
                if self.clock() - began > HORIZON:
                    raise
                # else the backend sends the same bytes again

    def copy(self, source: str, key: str, size: int) -> None:
        raise NotImplementedError  # what it saves is small enough to be sent

    def delete(self, keys: Sequence[str]) -> None:
        began = self.clock()
        for key in keys:
            while True:
                try:
                    self.ask("delete", key)
                    break
                except TimeoutError:
                    if self.clock() - began > HORIZON:
                        raise

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
        place, clock=place.clock, sleep=place.sleep, new_id=lambda: f"{name}-{next(ids)}", horizon=HORIZON
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
    def __init__(
        self,
        name: str,
        body: Body,
        events: Events,
        kind: type[RegisterCatalog],
        passed: Callable[[], float],
    ) -> None:
        self.name = name
        self.history: tuple[Any, ...] = ()
        self.faults = 0
        self.request: Request | None = None
        self._explorer = getcurrent()
        place = Place(self._ask, passed)
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

        self._own = greenlet(run)
        self._own.switch()

    def _ask(self, request: Request) -> Any:
        self.request = request
        return self._explorer.switch()

    def proceed(self, answer: Any) -> None:
        """Answer its request, and run it until it makes the next one or ends."""
        self.history += ((self.request, repr(answer)),)
        self._own.switch(answer)

    def stop(self) -> None:
        """End it."""
        while self.request is not None:
            self._own.throw(Stop)


class Execution:
    """One run of all actors, as far as it was driven."""

    def __init__(
        self,
        actors: dict[str, Body],
        faults: int,
        kind: type[RegisterCatalog],
        objects: Objects,
        lags: int = 0,
        ages: int = 0,
    ) -> None:
        self.objects: Objects = dict(objects)
        self.events = Events()
        self.late: list[Request] = []
        self._faults, self._lags, self._ages = faults, lags, ages
        self._passed = 0.0
        passed = lambda: self._passed  # noqa: E731
        self._actors = {name: _Actor(name, body, self.events, kind, passed) for name, body in actors.items()}

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
            if actor.request.verb == "list" and self._lags > 0 and self._directories():
                found.append(Choice(actor.name, "lacks"))
        found += [Choice("network", "arrives", index) for index in range(len(self.late))]
        if self._ages > 0 and self._forgettable():
            found.append(Choice("time", "passes"))
        return found

    def _directories(self) -> dict[CheckpointName, dict[str, Listed]]:
        return group_by_directory(apply(self.objects, Request("list", "")))

    def _forgettable(self) -> list[CheckpointName]:
        """The directories that gc forgets when two horizons pass: it seals first what nobody decided."""
        states = {name: state_of(sizes(files)) for name, files in self._directories().items()}
        return [name for name, state in states.items() if state in (State.CLAIMED, State.DEAD)]

    def _pass_time(self) -> str:
        """Two horizons pass, with a sweep after each. No request is on its way for that long."""
        self._ages -= 1
        self._passed += 3 * HORIZON
        self.late.clear()
        gone = [f"{name}/" for name in self._forgettable()] + [f"{DELETING}/"]
        for key in [key for key in self.objects if key.startswith(tuple(gone))]:
            del self.objects[key]
        for actor in self._actors.values():
            if actor.request is not None and actor.request.changes:
                actor.proceed(TimeoutError("no reply"))
        return f"two horizons pass: gc forgets {', '.join(gone)}"

    def take(self, choice: Choice) -> str:
        """Make a move; what happened, in words."""
        if choice.fate == "arrives":
            request = self.late.pop(choice.place)
            return f"late {request.verb} {request.key}: {apply(self.objects, request)!r}"
        if choice.fate == "passes":
            return self._pass_time()
        actor = self._actors[choice.actor]
        asked = actor.request
        assert asked is not None
        answer: Any = TimeoutError("no reply")
        if choice.fate == "answered":
            answer = apply(self.objects, asked)
        elif choice.fate == "lacks":
            self._lags -= 1
            highest = f"{max(self._directories())}/"
            answer = [entry for entry in apply(self.objects, asked) if not entry.key.startswith(highest)]
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
            (self._faults, self._lags, self._ages),
            tuple(actor.history for actor in self._actors.values()),
        )

    def close(self) -> None:
        """End all actors."""
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
    lags: int = 0,
    ages: int = 0,
    limit: int = 200_000,
    whole: bool = True,
) -> int:
    """Try everything, from `objects` on, of which the attempts `replacing` supersede lower ones.

    `lags` listings may lack the highest directory, and `ages` times gc may forget all that is dead.
    Returns how many states there are; Violation with the way to the first bad one. More than `limit` are an
    error, or, where not the `whole` is to be explored, left out.
    """
    later = functools.lru_cache(100_000)(_later_save)
    seen: set[Any] = set()
    pending: list[tuple[Choice, ...]] = [()]
    while pending:
        way = pending.pop()
        execution = Execution(actors, faults, kind, objects or {}, lags, ages)
        execution.events.replacing |= replacing
        told = []
        watch = Watch(execution, later)
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
                if len(seen) > limit and not whole:
                    return len(seen)
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

    def __init__(
        self, execution: Execution, later: Callable[[frozenset[tuple[str, bytes]]], str | None]
    ) -> None:
        self._later = later
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
            if key.endswith(f"/{MANIFEST}") and small_state(data) is None:
                name = CheckpointName.parse(key.removesuffix(f"/{MANIFEST}"))
                if name is not None:
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
            if attempt not in self.hidden and attempt not in visible:
                bad.append(f"I8 {attempt} was acknowledged, and nobody could ever see it")
        for attempt in events.refused & set(committed.values()):
            bad.append(f"I3 {attempt} was told that it failed, and is committed")
        if visible and visible[0] in self.hidden:
            bad.append(f"I6 {visible[0]} was deleted or replaced and is visible again")
        for name in events.tagged - set(committed):
            bad.append(f"I7 a tag on {name} was acknowledged, and it is gone")
        if trouble := self._later(frozenset(objects.items())):
            bad.append(f"I4 a later save fails: {trouble}")
        return bad


def _later_save(there: frozenset[tuple[str, bytes]]) -> str | None:
    """Everybody may crash now: can the next one still save?"""
    objects = dict(there)
    place = Place(lambda request: apply(objects, request))
    events = Events()
    writer("error")(catalog_of(place, "later"), events, "later")
    if events.acknowledged or Watch.committed(objects):
        return None
    return "neither acknowledged nor anything there"


def writer(if_exists: Any, times: int = 1) -> Body:
    """An actor that saves, once or several times."""

    def save(catalog: RegisterCatalog, events: Events, name: str) -> None:
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
        except (CheckpointGone, StoreUnavailable, TimeoutError):
            pass  # it was committed, and deleted before anybody told it; or nobody can tell

    def body(catalog: RegisterCatalog, events: Events, name: str) -> None:
        for number in range(times):
            save(catalog, events, f"{name}.{number}" if number else name)

    return body


def committed_at(*attempts: int) -> Objects:
    """A store that holds these attempts at STEP, each committed by "a" and its number, and nothing else."""
    found: Objects = {}
    for number in attempts:
        name, attempt = CheckpointName(STEP, number), f"a{number}"
        found |= {f"{name}/{path}": attempt.encode() for path in PAYLOAD}
        found[f"{name}/{MANIFEST}"] = manifest_of(attempt)
    return found
