"""``ckptstore adopt``: add a manifest, in place, to checkpoint directories that Ray wrote."""

from __future__ import annotations

import click

from ckptstore import bulk
from ckptstore.cli import describe, many
from ckptstore.cli.session import Session, command
from ckptstore.cli.text import format_size
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
    parent = parent or ("/" if target.startswith("/") else ".")
    store = session.open_store(parent, create=True)
    checkpoint = store.adopt(name)
    session.show(
        {"store": store.url, "adopted": describe.summarize(checkpoint, store.tags())},
        f"{checkpoint.url} is a checkpoint now, {format_size(checkpoint.manifest.size)}",
    )
    return 0
