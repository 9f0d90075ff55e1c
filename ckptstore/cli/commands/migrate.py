"""``ckptstore migrate``: write old checkpoints forward, into a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from rich.console import RenderableType

from ckptstore import Checkpoint, bulk
from ckptstore.cli import many
from ckptstore.cli.destination import destination_option, open_destination, parse_destination_options
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find_checkpoint
from ckptstore.errors import InvalidRequest
from ckptstore.rllib_formats.versions import WRITABLE, Writable
from ckptstore.save.migrate import Migration

_FATES = ("carried", "renamed", "dropped", "opaque")


@command("migrate")
@click.argument("source", metavar="CHECKPOINT|URL/**")
@click.argument("to_store", metavar="STORE")
@click.option(
    "--to", "version", type=click.Choice(WRITABLE), default="1.1", help="RLlib's checkpoint version to write."
)
@click.option("--step", type=int, metavar="N", help="Commit it as step N, not as its own.")
@click.option("--dry-run", is_flag=True, help="Only report what would become of every field.")
@destination_option
@many.workers_option
def migrate(
    session: Session,
    source: str,
    to_store: str,
    version: Writable,
    step: int | None,
    dry_run: bool,
    to_storage_option: tuple[str, ...],
    workers: int,
) -> int:
    """Write an old checkpoint forward, as a new one that today's tools open.

    The source stays as it is; the destination is created if it doesn't exist. 1.1 writes plain pickles: a
    bare pickle.load opens them without Ray, and RLlib does since Ray 2.1. 2.1 writes the tree of RLlib's new
    API stack; the networks must be RLlib's own.
    """
    if (url := many.parse_pattern(source)) is not None:
        if step is not None:
            raise InvalidRequest("--step", "it is for a single checkpoint", "Leave it out")
        options = parse_destination_options(session, to_storage_option)
        mirror = many.open_mirror(session, url, to_store, options)

        def migrate_one(found: bulk.Found) -> many.Line:
            return _describe_done(mirror.migrate(found, to=version, dry_run=dry_run))

        return many.run_each(session, url, workers, migrate_one, [*_FATES, "copy"])
    checkpoint = find_checkpoint(session, source)
    if dry_run:
        done = checkpoint.migrate(None, to=version, step=step, dry_run=True)
    else:
        store = open_destination(session, to_store, to_storage_option)
        done = checkpoint.migrate(store, to=version, step=step)
    session.show(_describe_migration(done), *_format_migration(session, done))
    return 0


def _describe_done(done: bulk.Done) -> many.Line:
    """The report of one among many: the fields of the algorithm and all its policies, counted together."""
    line = many.describe_done(done)
    if done.migration is None:
        return line._replace(cells=[*("" for _ in _FATES), *line.cells])
    reports = [done.migration.algorithm, *done.migration.policies.values()]
    counts = [str(sum(len(getattr(report, fate)) for report in reports)) for fate in _FATES]
    return line._replace(document=_describe_migration(done.migration), cells=[*counts, *line.cells])


def _describe_migration(done: Migration[Checkpoint]) -> dict[str, Any]:
    return {**done.as_dict(), "dry_run": done.checkpoint is None}


def _format_migration(session: Session, done: Migration[Checkpoint]) -> Iterator[RenderableType]:
    reports = {"(algorithm)": done.algorithm, **done.policies}
    rows = [
        [name, *(str(len(getattr(report, fate))) for fate in _FATES)]
        for name, report in reports.items()
        if any(report)
    ]
    yield session.make_table(["", *_FATES], rows, _FATES)
    for name, report in reports.items():
        for line in report.dropped:
            yield f"{name}: dropped {line}"
    yield from done.notes
    written = "nothing written" if done.checkpoint is None else done.checkpoint.url
    yield f"{done.source} -> {written}, version {done.to}"
