"""The same for every checkpoint below a URL: found by their files, several at once, taken up again.

    from concurrent.futures import ThreadPoolExecutor
    from ckptstore import bulk

    found = bulk.find("s3://bucket/experiments")
    with ThreadPoolExecutor(8) as pool:
        for outcome in bulk.run(bulk.Mirror("s3://bucket/migrated").migrate, found, pool):
            print(outcome.found.path, outcome.error or outcome.result)

A task takes a `Found` and returns anything. One that fails doesn't stop the others.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from ckptstore.backends.base import Backend
from ckptstore.backends.registry import open_backend
from ckptstore.backends.translate import translate_errors
from ckptstore.backends.urls import check_url
from ckptstore.checkpoint import Checkpoint
from ckptstore.commit import refs
from ckptstore.commit.failures import is_of_another_step
from ckptstore.commit.mirrored import note_source, read_sources, refuse_another_source
from ckptstore.errors import CheckpointNotFound, InvalidRequest, StoreNotFound
from ckptstore.find import directories as finding
from ckptstore.format.droppings import content_of
from ckptstore.format.layout import Item
from ckptstore.format.names import PIN, CheckpointName, check_checkpoint_name, join_below, stays_below
from ckptstore.format.signing import Trust, open_trust
from ckptstore.logs import logger
from ckptstore.read.locate import list_files
from ckptstore.read.manifests import require_manifest
from ckptstore.rllib_formats.migrate import Step, fingerprint, fingerprint_names
from ckptstore.rllib_formats.versions import Writable
from ckptstore.save.migrate import Migration
from ckptstore.store import CheckpointStore
from ckptstore.work import Lock

T = TypeVar("T")
_LOOSE = re.compile(r"checkpoint_(\d{1,18})(?:-r\d+)?\Z", re.ASCII)


@dataclass(frozen=True)
class Found:
    """A checkpoint below the URL that was searched, not opened yet."""

    backend: Backend
    path: str
    """Of its directory, relative to the URL; empty for the URL itself."""
    committed: bool
    trust: Trust | None = None

    def __post_init__(self) -> None:
        if self.path and not stays_below(self.path):  # it becomes the path of a destination
            raise InvalidRequest(self.path, f"it isn't below {self.backend.url}", "Take what `find` finds")

    @property
    def url(self) -> str:
        """Where it lies; holds no credentials."""
        return self._url_of(self.path)

    def _url_of(self, path: str) -> str:
        return f"{self.backend.url.rstrip('/')}/{path}" if path else self.backend.url

    @property
    def home(self) -> tuple[str, int | None]:
        """The store that it is in, or belongs in, and its step there if its name tells one.

        ``trial/checkpoint_10`` is step 10 of ``trial``; ``trial/final`` has a store of its own.
        """
        parent, _, last = self.path.rpartition("/")
        match = _LOOSE.match(last)
        return (parent, int(match[1])) if match else (self.path, None)

    @property
    def source(self) -> str:
        """URL of the directory that a mirror of it stands for: its store, or itself where it is alone."""
        return self._url_of(self.home[0])

    def open(self) -> Checkpoint:
        """The checkpoint itself."""
        asked = self.committed or self.trust is not None  # else nothing is there to fetch
        manifest = require_manifest(self.backend, self.path, self.url, self.trust) if asked else None
        if manifest is not None:
            name = CheckpointName.parse(self.path.rpartition("/")[2])
            if name is not None and name.step != manifest.step:
                raise is_of_another_step(self.url, name, manifest.step)
            return Checkpoint.from_manifest(self.backend, self.path, manifest)
        return Checkpoint.from_listing(self.backend, self.path, list_files(self.backend, self.path, self.url))


def find(
    url: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    trusted_keys: Iterable[bytes | str] | None = None,
    trusted_stores: Iterable[str] | None = None,
) -> list[Found]:
    """Every checkpoint below `url`, by path: in stores or not, ours or RLlib's; each once. One listing.

    Raises CheckpointNotFound if there is none.
    """
    backend = open_backend(url, storage_options)
    trust = open_trust(trusted_keys, trusted_stores)
    with translate_errors(backend.url):
        files = {item.key: item.size for item in backend.list("")}
    found = [Found(backend, place.path, place.committed, trust) for place in finding.find(files)]
    if not found:
        raise CheckpointNotFound(backend.url, "no file below it looks like one of a checkpoint")
    return found


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How a task ended for one checkpoint."""

    found: Found
    result: T | None
    error: Exception | None
    seconds: float


def run(
    task: Callable[[Found], T], found: Iterable[Found], executor: Executor | None = None
) -> Generator[Outcome[T], None, None]:
    """Do `task` for each, in `executor` or one after another; outcomes as they come.

    Whatever a task raises is in its outcome. Leaving the iterator early cancels what hasn't begun.
    """
    if executor is None:
        for item in found:
            yield _one(task, item)
        return
    futures: list[Future[Outcome[T]]] = [executor.submit(_one, task, item) for item in found]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _one(task: Callable[[Found], T], found: Found) -> Outcome[T]:
    began = time.monotonic()
    try:
        return Outcome(found, task(found), None, time.monotonic() - began)
    except Exception as error:  # noqa: BLE001  # told in the outcome: the others go on
        return Outcome(found, None, error, time.monotonic() - began)


class Done(NamedTuple):
    """What a task made of one checkpoint."""

    verb: str
    """ "migrated", "copied" or "adopted"; "there already" if an earlier run did it, "replaced" if what that
    made came from other bytes of the same names and sizes."""
    checkpoint: Checkpoint | None
    """The new one; None for a dry run."""
    migration: Migration[Checkpoint] | None = None


class Stores:
    """The stores below one URL, each opened once, by path. Safe in threads."""

    def __init__(
        self,
        url: str | os.PathLike[str],
        storage_options: Mapping[str, Any] | None = None,
        trusted_keys: Iterable[bytes | str] | None = None,
        trusted_stores: Iterable[str] | None = None,
    ) -> None:
        self._url = check_url(url)
        self._options = storage_options
        trust = open_trust(trusted_keys, trusted_stores)
        self._trusted: dict[str, Any] = trust.settings if trust is not None else {}
        self._stores: dict[str, CheckpointStore] = {}
        self._held: dict[str, dict[int, Checkpoint]] = {}
        self._locks: dict[str, Lock] = {}
        self._lock = Lock()

    def store(self, path: str) -> CheckpointStore:
        """The one at `path`, made on first use. InvalidRequest if that could lie outside."""
        with self._lock:
            if path not in self._stores:
                self._stores[path] = self._open(path)
            return self._stores[path]

    def checkpoint_at(self, path: str, step: int) -> Checkpoint | None:
        """What the store at `path` had committed at `step` when it was first asked; makes no store."""
        with self._lock:
            lock = self._locks.setdefault(path, Lock())
        with lock:
            if path not in self._held:
                committed: list[Checkpoint] = []
                with suppress(StoreNotFound):
                    committed = self._open(path).checkpoints()
                self._held[path] = {item.step: item for item in committed}
        return self._held[path].get(step)

    def backend(self, path: str) -> Backend:
        """Where the store at `path` lies."""
        return open_backend(self._url_of(path), self._options)

    def _url_of(self, path: str) -> str:
        return join_below(self._url, path)

    def _open(self, path: str) -> CheckpointStore:
        return CheckpointStore(self._url_of(path), storage_options=self._options, **self._trusted)


class Adopter(Stores):
    """Adopts where they lie the checkpoints found below the URL: see `CheckpointStore.adopt`."""

    def adopt(self, found: Found) -> Done:
        """Each directory that checkpoints lie in becomes a store."""
        if found.committed:
            return Done("there already", found.open())
        parent, _, last = found.path.rpartition("/")
        check_checkpoint_name(last, found.url, "Copy it with `cp`, or migrate it")
        return Done("adopted", self.store(parent).adopt(last))


class Mirror(Stores):
    """Writes checkpoints to stores that lie below the URL as their directories do below theirs.

    Run again, it leaves alone what it has made already, by digests: a source without a manifest is read once
    for them. Where a source has other bytes by now, in files of the same names and sizes (a run that was
    trained anew), the copy is replaced: the new one is committed before the old one goes. Anything else that
    has the step is in doubt, and kept: CheckpointExists. So is what may have come from another directory than
    this one; each store notes which directories have filled it.
    """

    @cached_property
    def _tags(self) -> dict[tuple[str, str], dict[str, refs.Target]]:
        """The tags of each store that is copied, by backend and path: read once."""
        return {}

    @cached_property
    def _noted(self) -> set[tuple[str, str]]:
        """Stores here, and the directories whose checkpoints they are known to hold."""
        return set()

    def migrate(
        self, found: Found, *, to: Writable = "1.1", steps: Iterable[Step] = (), dry_run: bool = False
    ) -> Done:
        """See `Checkpoint.migrate`. One whose migration to `to` the store has already is left alone."""
        path, step = found.home
        checkpoint = found.open()
        if dry_run:
            done = checkpoint.migrate(None, to=to, step=step, steps=tuple(steps), dry_run=True)
            return Done("would be migrated", None, done)
        number = max(checkpoint.step, 0) if step is None else step
        twin = self.checkpoint_at(path, number)
        made_from = "" if twin is None or twin.version != to else _read_source_id(twin)
        if (
            twin is not None
            and made_from
            and made_from in (checkpoint.id, _find_id_before_adoption(checkpoint))
        ):
            return self._note(found, Done("there already", twin))
        stale = made_from.startswith(fingerprint_names(_files_of(checkpoint)))
        if stale and not checkpoint.committed and checkpoint.source_id() == made_from:
            return self._note(found, Done("there already", twin))
        if stale:
            refuse_another_source(self.backend(path), found.source, number)
        store = self.store(path)
        dest = _Replacing(store) if stale else store
        done = checkpoint.migrate(dest, to=to, step=number, steps=tuple(steps))
        return self._note(found, Done("replaced" if stale else "migrated", done.checkpoint, done))

    def copy(self, found: Found) -> Done:
        """As it is, verified where it can be. One that the store has already is left alone.

        The tags that point at it come along, from wherever they pointed in the copy.
        """
        tags = self._tags_of(found)
        try:
            done = self._copy(found)
        except Exception:
            for tag in tags:
                logger.warning("tag %r isn't moved in the copy: %s could not be copied", tag, found.url)
            raise
        if done.checkpoint is not None and tags:
            self._move_tags(self.store(found.home[0]), done.checkpoint, tags)
        return done

    def _copy(self, found: Found) -> Done:
        path, step = found.home
        checkpoint = found.open()
        number = checkpoint.step if checkpoint.committed or step is None else step
        if number < 0:
            raise InvalidRequest(found.url, "its files don't tell its step", "Copy it alone: `cp --step N`")
        twin = self.checkpoint_at(path, number)
        if twin is not None and checkpoint.committed and twin.id == checkpoint.id:
            return self._note(found, Done("there already", twin))
        stale = twin is not None and _sizes(twin) == _files_of(checkpoint)
        if twin is not None and stale and not checkpoint.differs_from(twin):
            return self._note(found, Done("there already", twin))
        if stale:
            refuse_another_source(self.backend(path), found.source, number)
        how: Literal["error", "replace"] = "replace" if stale else "error"
        verb = "replaced" if stale else "copied"
        if checkpoint.committed:
            return self._note(found, Done(verb, self.store(path).add(checkpoint, if_exists=how)))
        with self.store(path).stage(number, if_exists=how) as staged:
            checkpoint.download(os.fspath(staged))
        return self._note(found, Done(verb, staged.checkpoint))

    def _note(self, found: Found, done: Done) -> Done:
        """`done`, which this mirror knows of from now on, and its store too."""
        path = found.home[0]
        if done.checkpoint is not None:
            self._held[path][done.checkpoint.step] = done.checkpoint
        if (path, found.source) not in self._noted:
            backend = self.backend(path)
            if done.verb != "there already" or not read_sources(backend):
                note_source(backend, found.source)
            self._noted.add((path, found.source))
        return done

    def _tags_of(self, found: Found) -> list[str]:
        """The tags of its store that point at it; each store's are read once."""
        folder, _, last = found.path.rpartition("/")
        if not found.committed or found.home[1] is None:
            return []
        key = (found.backend.url, folder)
        if key not in self._tags:
            self._tags[key] = refs.read_all(found.backend, lost=True, store=folder)
        return [
            ref
            for ref, target in self._tags[key].items()
            if target.name == last and not target.newer and not ref.startswith(PIN)
        ]

    def _move_tags(self, store: CheckpointStore, copy: Checkpoint, tags: Iterable[str]) -> None:
        there = store.tags()
        for tag in tags:
            if there.get(tag) != copy.name:
                store.tag(tag, copy)


class _Replacing:
    """A store in which a migration replaces what has its step."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store

    def commit_files(self, step: int, items: Sequence[Item], **about: Any) -> Checkpoint:
        return self._store.commit_files(step, items, if_exists="replace", **about)


def _read_source_id(checkpoint: Checkpoint) -> str:
    """The id of what it was migrated from; empty if it wasn't."""
    parent = checkpoint.manifest.parent
    return parent.id if parent is not None and parent.relation == "migrate" else ""


def _find_id_before_adoption(checkpoint: Checkpoint) -> str | None:
    """What its copies call it from before it was adopted; None if it wasn't."""
    if not checkpoint.committed or checkpoint.manifest.origin != "adopt":
        return None
    return fingerprint(_sizes(checkpoint), {file.path: file.digest for file in checkpoint.manifest.files})


def _files_of(checkpoint: Checkpoint) -> dict[str, int]:
    """Its files and their sizes in bytes; as they are now where no manifest lists them."""
    return _sizes(checkpoint) if checkpoint.committed else content_of(checkpoint.listing())


def _sizes(checkpoint: Checkpoint) -> dict[str, int]:
    return {file.path: file.size for file in checkpoint.manifest.files}
