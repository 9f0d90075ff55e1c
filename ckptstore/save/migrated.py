"""Commit a migrated checkpoint: files laid out in another version, with the source as parent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, SupportsIndex

from ckptstore import logs
from ckptstore.backends import open_backend
from ckptstore.backends.base import Backend
from ckptstore.commit import open_catalog
from ckptstore.commit.base import Catalog
from ckptstore.commit.identity import Identity
from ckptstore.format.layout import Item
from ckptstore.format.manifest import Manifest, Parent
from ckptstore.format.names import CheckpointName
from ckptstore.format.parts import FileParts
from ckptstore.save.save import Request, Save, build_request


class Result(NamedTuple):
    """What a commit made: enough to open it without reading anything."""

    backend: Backend
    name: CheckpointName
    manifest: Manifest
    table: Mapping[str, FileParts]


class Destination(Protocol):
    """A store, as far as `Checkpoint.migrate` needs one."""

    def commit_files(
        self,
        step: int,
        items: Sequence[Item],
        *,
        kind: str,
        policies: Iterable[str],
        checkpoint_version: str,
        parent: Parent,
        metrics: Mapping[str, Any],
        labels: Iterable[str],
    ) -> Any:
        """Commit `items` as the checkpoint of `step`."""


def commit_to(url: str | os.PathLike[str], step: int, items: Sequence[Item], **fields: Any) -> Result:
    """Commit `items` to the store at `url`, which is made if it isn't there; see `Destination`."""
    backend = open_backend(url)
    catalog = open_catalog(backend)
    request = migration_request(step, **fields)
    return commit(catalog, Identity(catalog, create=True), backend.concurrency, request, items)


def migration_request(
    step: SupportsIndex,
    *,
    kind: str,
    policies: Iterable[str],
    checkpoint_version: str,
    parent: Parent,
    metrics: Mapping[str, Any],
    labels: Iterable[str],
) -> Request:
    """What the manifest of a migrated checkpoint will say. The step must be free."""
    request = build_request(kind, policies, step, metrics, labels, "error")
    return replace(request, origin="migrate", checkpoint_version=checkpoint_version, format="", parent=parent)


def commit(
    catalog: Catalog, identity: Identity, concurrency: int, request: Request, items: Sequence[Item]
) -> Result:
    """Write and commit `items`. CheckpointExists if the step is taken."""
    identity.prove()
    backend = catalog.backend
    with logs.log_time("migrated", f"{backend.url}/{CheckpointName(request.step)}") as done:
        with Save(catalog, request.step, request.if_exists, concurrency) as save:
            files = save.write(items)
            name, manifest = save.commit(request, files)
        done(manifest.size)
    return Result(backend, name, manifest, {file.path: file for file in files})
