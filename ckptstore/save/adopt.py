"""A manifest for a directory that another program wrote, made where it lies."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from ckptstore import logs
from ckptstore.backends.registry import open_backend
from ckptstore.backends.translate import translate_errors
from ckptstore.commit import refs
from ckptstore.commit.base import Catalog
from ckptstore.errors import CheckpointCorrupt, InvalidRequest, UnreadableFormat
from ckptstore.format.names import CheckpointName, check_checkpoint_name, relative_path
from ckptstore.format.parts import FileParts
from ckptstore.read.contents import Contents, RllibContents
from ckptstore.read.files import UnverifiedFiles
from ckptstore.read.trainers import TrainerContents
from ckptstore.save.requests import Request
from ckptstore.save.save import build_manifest
from ckptstore.save.writing import Hasher
from ckptstore.work import run_all


def find_directory(path: str, store_url: str) -> CheckpointName:
    """The name of the directory `path`, which must be one of the store's."""
    parent, _, last = path.rstrip("/").rpartition("/")
    name = check_checkpoint_name(last, path, "Rename it, or copy it into a store with `ckptstore cp`")
    if parent and parent != store_url and open_backend(parent).url != store_url:
        raise InvalidRequest(path, f"it isn't in the store {store_url}", "Open the directory it lies in")
    return name


def adopt(
    catalog: Catalog, make_store: Callable[[], str], name: CheckpointName, request: Request, concurrency: int
) -> None:
    """Have the directory `name` become a checkpoint as `request` says. Reads every byte, moves none.

    `make_store` makes the store and returns its id. It is called once it is certain that there is something
    to adopt: a slip leaves nothing behind.
    """
    backend = catalog.backend
    created = datetime.datetime.now(datetime.UTC)

    def vouch(files: Mapping[str, int]) -> tuple[bytes, bytes]:
        lying = UnverifiedFiles(backend, files, str(name))
        found = _describe(lying)
        told = replace(request, kind=found.kind, policies=found.policy_ids, checkpoint_version=found.version)
        paths = [relative_path(path, lying.label) for path in sorted(files)]
        hashed = run_all(lambda path: _hash(lying, path), paths, concurrency)
        told = replace(told, store=make_store())
        table, manifest = build_manifest(uuid.uuid4().hex, created, told, hashed)
        return table, manifest.dump()

    with logs.log_time("adopted", f"{backend.url}/{name}"), translate_errors(f"{backend.url}/{name}"):
        catalog.adopt(name, vouch, partial(refs.check_unnamed, backend))
    make_store()  # also where it was committed already, and store.json was lost


def _hash(files: UnverifiedFiles, path: str) -> FileParts:
    hasher, last = Hasher(), b""
    for data in files.stream(path):
        hasher.write(memoryview(data))
        last = data[-1:]
    if path.endswith((".pkl", ".pickle")) and last != b".":
        raise CheckpointCorrupt(f"{files.label}/{path}", "it is cut short: a pickle ends in a full stop")
    return hasher.finish(path)


def _describe(files: UnverifiedFiles) -> Contents:
    """What they are: RLlib's, or another program's. What looks like RLlib's and is damaged is refused."""
    try:
        return RllibContents(files)
    except UnreadableFormat as error:
        if error.what != files.label:  # a part of it, such as a version newer than any known
            raise
        return TrainerContents(files)
