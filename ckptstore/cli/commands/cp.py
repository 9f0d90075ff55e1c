"""``ckptstore cp``: copy a store or a checkpoint into a store."""

from __future__ import annotations

import click

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli import describe, many
from ckptstore.cli.destination import destination_option, open_destination, parse_destination_options
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import Target, find
from ckptstore.cli.text import format_count, format_size
from ckptstore.errors import CheckpointError, InvalidRequest
from ckptstore.work import Progress

_RANKED = (3, 4, 6, 5)
"""Exit codes of what stops only one checkpoint, the one that counts among several last: damage."""


@command("cp")
@click.argument("source", metavar="STORE|CHECKPOINT|URL/**")
@click.argument("destination", metavar="STORE")
@click.option("--step", type=int, metavar="N", help="Commit what has no manifest as step N, not as its own.")
@destination_option
@many.workers_option
def cp(
    session: Session,
    source: str,
    destination: str,
    step: int | None,
    to_storage_option: tuple[str, ...],
    workers: int,
) -> int:
    """Copy a store or a checkpoint into a store.

    The destination is created if it doesn't exist. Copies are verified on the way and keep their ids; tags
    come along. Checkpoints that the destination already has are skipped, so to resume an interrupted copy,
    run the same command again. Damaged ones are passed over and named; then the exit code is 5. A checkpoint
    that RLlib or another trainer wrote, in a directory or one file, becomes a committed one; its files stay
    byte for byte as they were.
    """
    if (url := many.parse_pattern(source)) is not None:
        if step is not None:
            raise InvalidRequest("--step", "it is for a single checkpoint", "Leave it out")
        options = parse_destination_options(session, to_storage_option)
        mirror = many.open_mirror(session, url, destination, options)
        return many.run_each(
            session, url, workers, lambda found: many.describe_done(mirror.copy(found)), ["copy"]
        )
    found = find(session, source)
    target = open_destination(session, destination, to_storage_option)
    if step is not None and (found.checkpoint is None or found.checkpoint.committed):
        raise InvalidRequest("--step", "a committed checkpoint keeps its step", "Leave it out")
    errors: list[CheckpointError] = []
    with session.show_progress("copying", describe.count_bytes(*_list_sources(found))) as progress:
        if found.store is not None and found.checkpoint is None:
            copied = found.store.copy_to(target, progress=progress, errors=errors)
        else:
            copied = _copy_one(found, target, step, progress)
    tags = target.tags()
    session.show(
        {
            "store": target.url,
            "copied": [describe.summarize(item, tags) for item in copied],
            "passed_over": [{"what": error.what, "reason": error.why} for error in errors],
        },
        *(f"{item.name}  {format_size(describe.count_bytes(item))}" for item in copied),
        *(f"PASSED OVER {error.what}: {error.why}" for error in errors),
        f"{format_count(len(copied), 'checkpoint')} copied to {target.url}"
        + (f", {len(errors)} passed over" if errors else ""),
    )
    return max((error.exit_code for error in errors), key=_RANKED.index, default=0)


def _list_sources(found: Target) -> list[Checkpoint]:
    if found.checkpoint is not None:
        return [found.checkpoint]
    return found.store.checkpoints() if found.store is not None else []


def _copy_one(
    found: Target, target: CheckpointStore, step: int | None, progress: Progress | None
) -> list[Checkpoint]:
    """Copy the checkpoint that was found into `target`; the copy, or nothing if `target` had it already."""
    checkpoint = found.checkpoint
    assert checkpoint is not None
    if found.store is not None:
        return found.store.copy_to(target, [checkpoint], progress=progress)
    if checkpoint.committed:
        return _add(checkpoint, target, progress)
    return [target.add(checkpoint, step=step, progress=progress)]


def _add(checkpoint: Checkpoint, target: CheckpointStore, progress: Progress | None) -> list[Checkpoint]:
    """Copy a committed checkpoint that isn't in a store."""
    if any(item.id == checkpoint.id for item in target.checkpoints()):
        return []
    return [target.add(checkpoint, progress=progress)]
