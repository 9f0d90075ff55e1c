"""One save, from a validated request to the commit of its manifest."""

from __future__ import annotations

import datetime
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, SupportsIndex

from ckptstore.backends.translate import translate_errors
from ckptstore.commit.base import Attempt, Catalog, Check, IfExists, allow
from ckptstore.errors import InvalidRequest
from ckptstore.format import metrics as metric_values
from ckptstore.format import names, parts
from ckptstore.format.digest import digest
from ckptstore.format.layout import CHECKPOINT_VERSION, FORMAT, Base, Contents, Item, Write
from ckptstore.format.manifest import File, Manifest, Parent, Signature, writer_versions
from ckptstore.format.parts import PART_BYTES, FileParts
from ckptstore.save.fingerprints import Seen
from ckptstore.save.reuse import Reuse
from ckptstore.save.writing import Hasher, Progress, run_all, write_items


@dataclass(frozen=True)
class Request:
    """What the manifest will say beside the files; already validated."""

    step: int
    kind: str
    origin: str
    policies: tuple[str, ...]
    metrics: Mapping[str, object]
    labels: tuple[str, ...]
    if_exists: IfExists
    parent: Parent | None
    checkpoint_version: str = CHECKPOINT_VERSION
    format: str = FORMAT
    sign: Callable[[bytes], Signature] | None = None
    """Signs the manifest's text, if given."""


def build_request(
    kind: str,
    policies: Iterable[str],
    step: SupportsIndex,
    values: Mapping[str, Any] | None,
    labels: Iterable[str],
    if_exists: IfExists,
    sign: Callable[[bytes], Signature] | None = None,
) -> Request:
    """A `Request` for a save, checked. `values` are its metrics. InvalidRequest says what doesn't fit."""
    if if_exists not in ("error", "replace", "return"):
        raise InvalidRequest("if_exists", f"{if_exists!r} is unknown", "Use 'error', 'replace' or 'return'")
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    if not all(isinstance(label, str) for label in labels):
        raise InvalidRequest("labels", "they aren't a list of str", "Pass for example ['eval']")
    return Request(
        step=names.step_number(step),
        kind=kind,
        origin="save",
        policies=tuple(policies),
        metrics=metric_values.decode(metric_values.encode(values or {}), "metrics"),
        labels=labels,
        if_exists=if_exists,
        parent=None,
        sign=sign,
    )


class Save:
    """One attempt at one checkpoint: begun, filled and committed, or abandoned when the block fails.

    Once `commit` is called nothing is cleaned up any more: after an ambiguous answer of an object
    store the checkpoint may exist.
    """

    def __init__(
        self, catalog: Catalog, step: int, if_exists: IfExists, concurrency: int, check: Check = allow
    ) -> None:
        self._catalog = catalog
        self._concurrency = concurrency
        self._created = datetime.datetime.now(datetime.timezone.utc)
        self._sealed = False
        with translate_errors(catalog.backend.url):
            self.attempt: Attempt = catalog.begin(step, if_exists, uuid.uuid4().hex, check)

    def __enter__(self) -> Save:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._sealed:
            self.attempt.abandon()

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
        reuse = Reuse(self.attempt, self._catalog.backend, base, seen or Seen(), progress)
        with translate_errors(self._catalog.backend.url):
            files = write_items(self.attempt.create, items, self._concurrency, progress, reuse)
        reuse.check()
        return files

    def hash_in_place(self, paths: Sequence[str]) -> list[FileParts]:
        """The parts of files that another program wrote into the attempt's own directory."""
        directory = self.attempt.directory or ""

        def one(path: str) -> FileParts:
            hasher = Hasher()
            copy_item(path, os.path.join(directory, path)).emit(hasher.write)
            return hasher.finish(path)

        return run_all(one, paths, self._concurrency)

    def commit(self, request: Request, files: Sequence[FileParts]) -> tuple[names.CheckpointName, Manifest]:
        """Write ``parts.json`` and then, as the last thing, the manifest."""
        table, manifest = build_manifest(self.attempt.id, self._created, request, files)
        return self.commit_as(manifest, table)

    def commit_as(self, manifest: Manifest, table: bytes) -> tuple[names.CheckpointName, Manifest]:
        """Commit a manifest that exists already, with the ``parts.json`` it vouches for."""
        with translate_errors(self._catalog.backend.url):
            with self.attempt.create(names.PARTS) as sink:
                sink.write(table)
            data = manifest.dump()
            self._sealed = True
            return self.attempt.commit(data), manifest


def build_manifest(
    attempt_id: str, created: datetime.datetime, request: Request, files: Sequence[FileParts]
) -> tuple[bytes, Manifest]:
    """What makes `files` a checkpoint: its ``parts.json`` and its manifest, signed if that is asked for."""
    table = parts.dump(files)
    manifest = Manifest(
        id=attempt_id,
        step=request.step,
        kind=request.kind,
        origin=request.origin,
        checkpoint_version=request.checkpoint_version,
        format=request.format,
        created=created.isoformat(timespec="milliseconds"),
        writer=writer_versions(),
        parent=request.parent,
        metrics=request.metrics,
        labels=request.labels,
        policies=request.policies,
        files=tuple(sorted(File(file.path, file.size, file.digest) for file in files)),
        parts=File(names.PARTS, len(table), digest(table)),
    )
    return table, manifest.sign_with(request.sign) if request.sign is not None else manifest


def copy_item(path: str, source: str) -> Item:
    """A file with the bytes of the local file `source`, cut into parts of a fixed size."""

    def emit(write: Write) -> Sequence[tuple[int, int]]:
        buffer = memoryview(bytearray(PART_BYTES))
        with translate_errors(source), open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            while count := file.readinto(buffer):
                write(buffer[:count])
        return ()

    return Item(path, emit)


def model_items(contents: Contents, models: Mapping[str, str | os.PathLike[str]]) -> list[Item]:
    """The files of native model exports, each under its policy's ``model/``, as they are.

    A value of `models` is a local directory, or one file. InvalidRequest if it isn't there.
    """
    items = []
    for policy_id, source in models.items():
        what = f"models[{policy_id!r}]"
        if policy_id not in contents.policy_ids:
            raise InvalidRequest(what, "no policy of that id is being saved", "Use the id of one that is")
        path = os.fspath(source)
        if os.path.isdir(path):
            files = {name: os.path.join(path, name) for name in local_files(path)}
        elif os.path.isfile(path):
            files = {os.path.basename(path): path}
        else:
            raise InvalidRequest(what, f"{path!r} is no file or directory", "Export the model first")
        items += [
            copy_item(contents.policy_path(policy_id, f"model/{name}"), file) for name, file in files.items()
        ]
    return items


def local_files(directory: str) -> list[str]:
    """Paths of the files below `directory`, relative and sorted; InvalidRequest for anything but plain files.

    A link would be followed by whoever reads the checkpoint later, on another machine.
    """
    with translate_errors(directory):
        return sorted(_plain_files(directory))


def _plain_files(directory: str) -> Iterator[str]:
    for folder, folders, files in os.walk(directory, onerror=_raise):
        if folder.count(os.sep) - directory.rstrip(os.sep).count(os.sep) > names.MAX_DEPTH:
            raise InvalidRequest(
                folder, f"it lies more than {names.MAX_DEPTH} directories deep", "Move it up"
            )
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in files + links:
            full = os.path.join(folder, name)
            if not stat.S_ISREG(os.lstat(full).st_mode):
                raise InvalidRequest(full, "it is a link, pipe or device", "Put plain files there")
            yield os.path.relpath(full, directory).replace(os.sep, "/")


def _raise(error: OSError) -> None:
    raise error
