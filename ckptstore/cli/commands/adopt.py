"""``ckptstore adopt``: add a manifest, in place, to checkpoint directories that Ray wrote."""

from __future__ import annotations

import click

from ckptstore import bulk
from ckptstore.cli import describe, many
from ckptstore.cli.session import Session, command
from ckptstore.cli.text import size
from ckptstore.format import names


@command("adopt")
@click.argument("target", metavar="CHECKPOINT|URL/**")
@many.option
def adopt(session: Session, target: str, workers: int) -> int:
    """Give directories that Ray wrote a manifest where they lie: nothing is moved or changed.

    The directory that they lie in becomes a store. Every byte is read; a manifest is all that is written.
    """
    if (url := many.below(target)) is not None:
        adopter = bulk.Adopter(url, session.options, session.trusted_keys)
        return many.each(session, url, workers, lambda found: many.done(adopter.adopt(found)), ["adopted"])
    parent, _, name = target.rstrip("/").rpartition("/")
    names.check_checkpoint_name(
        name, target, "Copy it with `ckptstore cp`; for all below it name it with /** behind"
    )
    parent = parent or ("/" if target.startswith("/") else ".")
    store = session.store(parent, create=True)
    checkpoint = store.adopt(name)
    session.show(
        {"store": store.url, "adopted": describe.summary(checkpoint, store.tags())},
        f"{checkpoint.url} is a checkpoint now, {size(checkpoint.manifest.size)}",
    )
    return 0
