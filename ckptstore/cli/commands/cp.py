"""``ckptstore cp``: copy a store or a checkpoint into a store."""

from __future__ import annotations

import os

import click

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli import describe, many
from ckptstore.cli.destination import destination_option, destination_options, destination_store
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import Target, find
from ckptstore.cli.text import plural, size
from ckptstore.errors import InvalidRequest
from ckptstore.work import Progress


@command("cp")
@click.argument("source", metavar="STORE|CHECKPOINT|URL/**")
@click.argument("destination", metavar="STORE")
@click.option("--step", type=int, metavar="N", help="Commit an RLlib checkpoint as this step, not its own.")
@destination_option
@many.option
def cp(
    session: Session,
    source: str,
    destination: str,
    step: int | None,
    to_storage_option: tuple[str, ...],
    workers: int,
) -> int:
    """Copy a store or a checkpoint into a store.

    The destination is made if it isn't there. Copies are verified on the way and keep their ids; tags
    come along. What the destination already has is left alone, so the same command takes up a copy cut
    short. A checkpoint that RLlib wrote becomes a committed one, its files byte for byte as they were.
    """
    if (url := many.below(source)) is not None:
        if step is not None:
            raise InvalidRequest("--step", "it is for one checkpoint", "Leave it out")
        mirror = many.mirror(session, url, destination, destination_options(session, to_storage_option))
        return many.each(session, url, workers, lambda item: many.done(mirror.copy(item)), ["copy"])
    found = find(session, source)
    target = destination_store(session, destination, to_storage_option)
    if step is not None and (found.checkpoint is None or found.checkpoint.committed):
        raise InvalidRequest("--step", "a committed checkpoint keeps its step", "Leave it out")
    total = sum(sum(describe.files(item).values()) for item in _choose(found))
    with session.progress("copying", total) as progress:
        copied = _copy(found, target, step, progress)
    tags = target.tags()
    session.show(
        {"store": target.url, "copied": [describe.summary(item, tags) for item in copied]},
        *(f"{item.name}  {size(sum(describe.files(item).values()))}" for item in copied),
        f"{plural(len(copied), 'checkpoint')} copied to {target.url}",
    )
    return 0


def _choose(found: Target) -> list[Checkpoint]:
    if found.checkpoint is not None:
        return [found.checkpoint]
    return found.store.checkpoints() if found.store is not None else []


def _copy(
    found: Target, target: CheckpointStore, step: int | None, progress: Progress | None
) -> list[Checkpoint]:
    if found.store is not None:
        which = None if found.checkpoint is None else [found.checkpoint]
        return found.store.copy_to(target, which, progress=progress)
    checkpoint = found.checkpoint
    assert checkpoint is not None
    if checkpoint.committed:
        return _add(checkpoint, target, progress)
    if step is None and checkpoint.step < 0:
        raise InvalidRequest(checkpoint.url, "its files don't tell its step", "Give it one: --step N")
    return [_import(checkpoint, target, checkpoint.step if step is None else step, progress)]


def _add(checkpoint: Checkpoint, target: CheckpointStore, progress: Progress | None) -> list[Checkpoint]:
    """A copy that lies outside any store, back into one."""
    if any(item.id == checkpoint.id for item in target.checkpoints()):
        return []
    return [target.add(checkpoint, progress=progress)]


def _import(
    checkpoint: Checkpoint, target: CheckpointStore, step: int, progress: Progress | None
) -> Checkpoint:
    with target.stage(step, metrics=checkpoint.metrics) as staged:
        checkpoint.download(os.fspath(staged), progress=progress)
    assert staged.checkpoint is not None
    return staged.checkpoint
