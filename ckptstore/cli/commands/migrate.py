"""``ckptstore migrate``: write an old checkpoint forward into a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from rich.console import RenderableType

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.bulk import Done, Found
from ckptstore.cli import many
from ckptstore.cli.destination import destination_option, destination_options, destination_store
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find_checkpoint
from ckptstore.errors import InvalidRequest
from ckptstore.rllib_formats.migrate import VERSIONS, Version
from ckptstore.save.migrate import Migration

_FATES = ("carried", "renamed", "dropped", "opaque")


@command("migrate")
@click.argument("source", metavar="CHECKPOINT|URL/**")
@click.argument("to_store", metavar="STORE")
@click.option("--to", "version", type=click.Choice(VERSIONS), default="1.1", help="RLlib's version to write.")
@click.option("--step", type=int, metavar="N", help="Commit it as this step, not its own.")
@click.option("--dry-run", is_flag=True, help="Only report what would become of every field.")
@destination_option
@many.option
def migrate(
    session: Session,
    source: str,
    to_store: str,
    version: Version,
    step: int | None,
    dry_run: bool,
    to_storage_option: tuple[str, ...],
    workers: int,
) -> int:
    """Write an old checkpoint forward, as a new committed one that today's tools open.

    The source stays as it is. The destination is made if it isn't there. 1.1 makes plain pickles: a bare
    pickle.load opens them without Ray, and RLlib since 2.1 knows them. 2.1 makes the tree of RLlib's new API
    stack, if the networks are RLlib's own.
    """
    if (url := many.below(source)) is not None:
        if step is not None:
            raise InvalidRequest("--step", "it is for one checkpoint", "Leave it out")
        mirror = many.mirror(session, url, to_store, destination_options(session, to_storage_option))

        def one(found: Found) -> many.Line:
            return _line(mirror.migrate(found, to=version, dry_run=dry_run))

        return many.each(session, url, workers, one, [*_FATES, "copy"])
    checkpoint = find_checkpoint(session, source).checkpoint
    assert checkpoint is not None
    store = None if dry_run else destination_store(session, to_store, to_storage_option)
    done = migrate_one(checkpoint, store, to=version, step=step)
    session.show(document(done), *_lines(session, done))
    return 0


def _line(done: Done) -> many.Line:
    """The report of one among many: every policy's fields counted together."""
    line = many.done(done)
    if done.migration is None:
        return line._replace(cells=[*("" for _ in _FATES), *line.cells])
    reports = [done.migration.algorithm, *done.migration.policies.values()]
    counts = [str(sum(len(getattr(report, fate)) for report in reports)) for fate in _FATES]
    return line._replace(document=document(done.migration), cells=[*counts, *line.cells])


def migrate_one(
    checkpoint: Checkpoint, store: CheckpointStore | None, *, to: Version, step: int | None = None
) -> Migration[Checkpoint]:
    """Migrate `checkpoint` into `store`; without one only report what would be done."""
    if store is None:
        return checkpoint.migrate(None, to=to, step=step, dry_run=True)
    return checkpoint.migrate(store, to=to, step=step)


def document(done: Migration[Checkpoint]) -> dict[str, Any]:
    """What became of one checkpoint, as JSON has it."""
    return {**done.as_dict(), "dry_run": done.checkpoint is None}


def _lines(session: Session, done: Migration[Checkpoint]) -> Iterator[RenderableType]:
    reports = {"(algorithm)": done.algorithm, **done.policies}
    rows = [
        [name, *(str(len(getattr(report, fate))) for fate in _FATES)]
        for name, report in reports.items()
        if any(report)
    ]
    yield session.table(["", *_FATES], rows, _FATES)
    for name, report in reports.items():
        for line in report.dropped:
            yield f"{name}: dropped {line}"
    yield from done.notes
    written = "nothing written" if done.checkpoint is None else done.checkpoint.url
    yield f"{done.source} -> {written}, version {done.to}"
