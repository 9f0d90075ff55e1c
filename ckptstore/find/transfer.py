"""Copy the checkpoints of one store to another: what can't be copied stops none of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Protocol, SupportsIndex

from ckptstore import logs
from ckptstore.checkpoint import Checkpoint, Skipped
from ckptstore.commit.base import Catalog
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointExists,
    CheckpointGone,
    CheckpointUntrusted,
    InvalidRequest,
    UnreadableFormat,
)
from ckptstore.format.manifest import Check, Manifest
from ckptstore.format.manifest import load as load_manifest
from ckptstore.format.names import CheckpointName
from ckptstore.logs import logger
from ckptstore.save.save import Save
from ckptstore.work import Progress

_OF_ONE = (CheckpointCorrupt, CheckpointExists, CheckpointGone, UnreadableFormat)
"""Errors that are about one checkpoint. Any other would meet the next one as well."""


class Destination(Protocol):
    """A store, as far as copying needs one."""

    def checkpoints(self) -> list[Checkpoint]:
        """What it has."""

    def add(self, checkpoint: Checkpoint, *, progress: Progress | None = None) -> Checkpoint:
        """Commit a copy."""

    def tags(self) -> dict[str, str]:
        """Every tag, and the name of the checkpoint it points at."""

    def tag(self, name: str, which: Checkpoint) -> None:
        """Point a tag at a checkpoint of its own."""


Commit = Callable[
    [Catalog, Literal["error", "replace"], int, Progress | None], tuple[CheckpointName, Manifest]
]
"""Commits a copy: on an existing step, with how many files at once, and reporting the bytes."""


def check_copy(checkpoint: Checkpoint, step: SupportsIndex | None, trust: Check | None) -> Commit:
    """What commits a verified copy of a checkpoint that has a manifest, if it may be copied at all."""
    manifest = checkpoint.manifest
    if step is not None:
        raise InvalidRequest("step", "a committed checkpoint keeps its step", "Leave it out")
    if trust is not None:
        load_manifest(manifest.dump(), checkpoint.url, trust)

    def commit(
        catalog: Catalog,
        if_exists: Literal["error", "replace"],
        concurrency: int,
        progress: Progress | None,
    ) -> tuple[CheckpointName, Manifest]:
        with logs.log_time("copied", checkpoint.url) as done:
            save = Save(catalog, manifest.step, if_exists, concurrency)
            name, made = save.run(lambda save: save.copy(checkpoint.copy_items(), manifest, progress))
            done(made.size)
        return name, made

    return commit


def copy_all(
    chosen: Iterable[Checkpoint],
    other: Destination,
    tags: Mapping[str, str],
    progress: Progress | None,
    errors: list[CheckpointError],
) -> list[Checkpoint]:
    """Copy `chosen` to `other`, and the `tags` that point at them; what was copied now.

    The errors of those that can't be copied are added to `errors`.
    """
    there = {checkpoint.step: checkpoint for checkpoint in other.checkpoints()}
    arrived: dict[str, Checkpoint] = {}
    failed: set[str] = set()
    copied: list[Checkpoint] = []
    for checkpoint in chosen:
        twin = there.get(checkpoint.step)
        if twin is None or twin.id != checkpoint.id:
            try:
                twin = other.add(checkpoint, progress=progress)
            except _OF_ONE as error:
                errors.append(error)
                failed.add(checkpoint.name)
                continue
            copied.append(twin)
        arrived[checkpoint.name] = twin
    held = other.tags() if tags else {}
    for tag, name in tags.items():
        if name in arrived and held.get(tag) != arrived[name].name:
            other.tag(tag, arrived[name])
        elif name in failed:
            logger.warning("tag %r isn't copied: %s, which it points at, was passed over", tag, name)
    return copied


def errors_of(skipped: Iterable[Skipped], url: str, newer: bool) -> list[CheckpointError]:
    """What a survey of the store at `url` passed over, as errors; with `newer` also a later release's."""
    return [
        UnreadableFormat(f"{url}/{skip.name}", skip.reason, "Upgrade ckptstore")
        if skip.newer
        else (CheckpointUntrusted if skip.untrusted else CheckpointCorrupt)(f"{url}/{skip.name}", skip.reason)
        for skip in skipped
        if newer or not skip.newer
    ]


def summarize_errors(errors: list[CheckpointError], url: str) -> CheckpointError:
    """One error for all of `errors`; of several the class of those that are damage, if one is."""
    if len(errors) == 1:
        return errors[0]
    kinds = [kind for kind in _OF_ONE if any(isinstance(error, kind) for error in errors)]
    told = "; ".join(f"{error.what}: {error.why}" for error in errors[:20])
    more = f"; and {len(errors) - 20} more" if len(errors) > 20 else ""
    return kinds[0](url, f"{len(errors)} checkpoints could not be copied: {told}{more}")
