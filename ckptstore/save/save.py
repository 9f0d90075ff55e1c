"""One save, from a validated request to the commit of its manifest."""

from __future__ import annotations

import datetime
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from ckptstore.backends.base import Backend
from ckptstore.backends.translate import translate_errors
from ckptstore.commit import refs
from ckptstore.commit.base import Attempt, Catalog, IfExists
from ckptstore.commit.failures import is_of_another_step, url_of
from ckptstore.errors import CheckpointCorrupt, CheckpointGone, CheckpointProtected, UnreadableFormat
from ckptstore.format import names, parts
from ckptstore.format.digest import digest
from ckptstore.format.layout import Base, Item
from ckptstore.format.manifest import File, Manifest, writer_versions
from ckptstore.format.parts import FileParts
from ckptstore.read.manifests import fetch_manifest
from ckptstore.save.fingerprints import Seen
from ckptstore.save.local_files import copy_item, take_own_copies
from ckptstore.save.requests import Request
from ckptstore.save.reuse import Reuse
from ckptstore.save.writing import Hasher, write_items
from ckptstore.work import Progress, check_interrupted, finish_first, run_all

T = TypeVar("T")


class Save:
    """One attempt at one checkpoint: begun, filled and committed, or abandoned when the block fails.

    Nothing is done before `begin`. After an ambiguous answer of an object store to `commit` the checkpoint
    may exist, and nothing is cleaned up any more.
    """

    def __init__(self, catalog: Catalog, step: int, if_exists: IfExists, concurrency: int) -> None:
        self._catalog = catalog
        self._concurrency = concurrency
        self._created = datetime.datetime.now(datetime.UTC)
        self._pythons: set[str] = set()
        self._step = step
        self._if_exists = if_exists
        self._id = uuid.uuid4().hex
        self._process = os.getpid()
        self._attempt: Attempt | None = None

    @property
    def attempt(self) -> Attempt:
        """What is written to, once it was begun."""
        assert self._attempt is not None
        return self._attempt

    def begin(self) -> Save:
        """Begin the attempt, once. CheckpointExists if the step is taken."""
        if self._attempt is None:
            check = partial(_check_replaceable, self._catalog.backend)
            with translate_errors(self._catalog.backend.url):
                self._attempt = self._catalog.begin(self._step, self._if_exists, self._id, check)
        return self

    def run(self, work: Callable[[Save], T]) -> T:
        """Begin, and return what `work` does with it; whatever interrupts either leaves nothing behind.

        One frame, and no ``with``: an interrupt at the first line of an ``__exit__`` would be missed there.
        """
        try:
            self.begin()
            return work(self)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what there is of it, unless it is committed or may be. Not for a forked child to do."""
        if os.getpid() != self._process:
            return
        if self._attempt is not None:
            self._attempt.abandon()
        with suppress(OSError):  # what can't be removed now, the next save will
            self._catalog.discard(self._id)

    def write(
        self,
        items: Sequence[Item],
        progress: Progress | None = None,
        base: Base | None = None,
        seen: Seen | None = None,
    ) -> list[FileParts]:
        """Write every item as a file, hashed on the way, but for what `base` holds just so.

        `seen` remembers the comparing from one save to the next.
        CheckpointGone if one that files were taken over from was deleted meanwhile: nothing is saved then.
        """
        self._pythons.update(*(item.stored[0].pythons for item in items if item.stored is not None))
        reuse = Reuse(self.attempt, self._catalog.backend, base, seen or Seen(), progress)
        with translate_errors(self._catalog.backend.url):
            files = write_items(self.attempt.create, items, self._concurrency, progress, reuse)
        reuse.check()
        return files

    def write_and_commit(
        self,
        request: Request,
        items: Sequence[Item],
        progress: Progress | None = None,
        base: Base | None = None,
        seen: Seen | None = None,
    ) -> tuple[names.CheckpointName, Manifest, list[FileParts]]:
        """`write` and `commit`, in one."""
        files = self.write(items, progress, base, seen)
        return *self.commit(request, files), files

    def copy(
        self, of: tuple[Sequence[Item], bytes], manifest: Manifest, progress: Progress | None
    ) -> tuple[names.CheckpointName, Manifest]:
        """Write and commit the items and ``parts.json`` `of` another checkpoint, under its `manifest`."""
        self.write(of[0], progress)
        return self.commit_as(manifest, of[1])

    def hash_in_place(self, paths: Sequence[str]) -> list[FileParts]:
        """The parts of files that another program wrote into the attempt's own directory."""
        directory = self.attempt.directory
        assert directory is not None
        with translate_errors(directory):
            take_own_copies(directory, paths)
            self.attempt.freeze(paths)

        def one(path: str) -> FileParts:
            hasher = Hasher()
            copy_item(path, os.path.join(directory, path)).emit(hasher.write)
            return hasher.finish(path)

        return run_all(one, paths, self._concurrency)

    def commit(self, request: Request, files: Sequence[FileParts]) -> tuple[names.CheckpointName, Manifest]:
        """Write ``parts.json`` and then, as the last thing, the manifest."""
        table, manifest = build_manifest(self.attempt.id, self._created, request, files, self._pythons)
        return self.commit_as(manifest, table)

    def commit_as(self, manifest: Manifest, table: bytes) -> tuple[names.CheckpointName, Manifest]:
        """Commit a manifest that exists already, with the ``parts.json`` it vouches for."""
        with translate_errors(self._catalog.backend.url):
            with self.attempt.create(names.PARTS) as sink:
                sink.write(table)
            data = manifest.dump()
            check_interrupted()
            with finish_first():
                return self.attempt.commit(data), manifest


def write_checkpoint(
    begin: Callable[[Request], Save],
    request: Request,
    items: Sequence[Item],
    base: Base | None,
    seen: Seen,
    progress: Progress | None,
) -> tuple[names.CheckpointName, Manifest, list[FileParts]]:
    """Write and commit `items`, taking over what `base` holds; without it if that is deleted meanwhile."""

    def write_over(save: Save) -> tuple[names.CheckpointName, Manifest, list[FileParts]]:
        seen.next()
        return save.write_and_commit(request, items, progress, base, seen)

    try:
        return begin(request).run(write_over)
    except CheckpointGone:
        if base is None:
            raise
    return begin(request).run(lambda save: save.write_and_commit(request, items, progress))


def _check_replaceable(backend: Backend, name: names.CheckpointName) -> None:
    """CheckpointProtected if `name` isn't for a save of its step to remove.

    A tag or pin names it, a later release wrote it, or it is another step's, under a wrong name.
    """
    refs.check_unnamed(backend, name)
    where = url_of(backend, name)
    try:
        manifest = fetch_manifest(backend, str(name), where)
    except CheckpointCorrupt:
        return  # what is damaged may be replaced
    except UnreadableFormat as error:
        raise CheckpointProtected(where, error.why, error.remedy) from error
    if manifest is not None and manifest.step != name.step:
        wrong = is_of_another_step(where, name, manifest.step)
        raise CheckpointProtected(where, wrong.why, wrong.remedy)


def build_manifest(
    attempt_id: str,
    created: datetime.datetime,
    request: Request,
    files: Sequence[FileParts],
    pythons: Iterable[str] = (),
) -> tuple[bytes, Manifest]:
    """What makes `files` a checkpoint: its ``parts.json`` and its manifest, signed if that is asked for.

    `pythons` are the versions that pickled those of `files` that were stored already.
    """
    table = parts.dump(files)
    manifest = Manifest(
        id=attempt_id,
        step=request.step,
        kind=request.kind,
        origin=request.origin,
        checkpoint_version=request.checkpoint_version,
        format=request.format,
        created=created.isoformat(timespec="milliseconds"),
        writer=writer_versions(pythons),
        parent=request.parent,
        metrics=request.metrics,
        labels=request.labels,
        policies=request.policies,
        files=tuple(sorted(File(file.path, file.size, file.digest) for file in files)),
        parts=File(names.PARTS, len(table), digest(table)),
        store=request.store,
    )
    return table, manifest.sign_with(request.sign) if request.sign is not None else manifest
