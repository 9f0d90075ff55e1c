"""``ckptstore gc``: remove what crashed saves left behind."""

from __future__ import annotations

import click

from ckptstore.cli.session import Session, command
from ckptstore.cli.text import format_count, format_size


@command("gc")
@click.argument("store_url", metavar="STORE")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Spare unfinished saves younger than this: they may still be running (default: 0 on local disk, "
    "where a lock shows it; a day on object stores).",
)
def gc(session: Session, store_url: str, grace: float | None) -> None:
    """Remove what crashed saves left behind.

    Also removes what interrupted deletes left. Checkpoints stay.
    """
    store = session.open_store(store_url)
    swept = store.gc(grace)
    session.show(
        {"store": store.url, "removed": swept.attempts, "bytes": swept.bytes},
        f"removed {format_count(len(swept.attempts), 'leftover')}, {format_size(swept.bytes)}",
    )
