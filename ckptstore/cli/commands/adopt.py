"""``ckptstore adopt``: add a manifest, in place, to checkpoint directories that Ray wrote."""

from __future__ import annotations

import click

from ckptstore import Checkpoint, bulk
from ckptstore.cli import describe, many
from ckptstore.cli.session import Session, command
from ckptstore.cli.text import format_size
from ckptstore.errors import CheckpointError
from ckptstore.format.names import check_checkpoint_name


@command("adopt")
@click.argument("target", metavar="CHECKPOINT|URL/**")
@many.workers_option
def adopt(session: Session, target: str, workers: int) -> int:
    """Add a manifest, in place, to checkpoint directories that Ray wrote.

    Nothing is moved and no file is changed. The directory that holds them becomes a store. Every byte is
    read, for the digests in the manifest.
    """
    if (url := many.parse_pattern(target)) is not None:
        adopter = bulk.Adopter(url, session.options, **session.trusted)
        return many.run_each(
            session, url, workers, lambda found: many.describe_done(adopter.adopt(found)), ["adopted"]
        )
    parent, _, name = target.rstrip("/").rpartition("/")
    check_checkpoint_name(
        name, target, "Copy it with `ckptstore cp`; to adopt every checkpoint below it, add /**"
    )
    store = session.open_store(f"{parent}/" if parent or target.startswith("/") else "./", create=True)
    already = _is_committed(session, target)
    checkpoint = store.adopt(name)
    verb = "already is a checkpoint" if already else "is a checkpoint now"
    session.show(
        {
            "store": store.url,
            "adopted": describe.summarize(checkpoint, store.tags()),
            "already": already,
        },
        f"{checkpoint.url} {verb}, {format_size(checkpoint.manifest.size)}",
    )
    return 0


def _is_committed(session: Session, url: str) -> bool:
    try:
        return Checkpoint.open(url, storage_options=session.options).committed
    except CheckpointError:
        return False  # adopting it says what is wrong
