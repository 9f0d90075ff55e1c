"""``ckptstore gc``: remove what crashed saves left behind."""

from __future__ import annotations

import click

from ckptstore.cli.session import Session, command
from ckptstore.cli.text import plural, size


@command("gc")
@click.argument("store_url", metavar="STORE")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Take an unfinished save younger than this for alive (default: 0 on local disk, where a lock "
    "tells; a day on object stores).",
)
def gc(session: Session, store_url: str, grace: float | None) -> None:
    """Remove what crashed saves left behind.

    The remains of interrupted deletes go too. Checkpoints stay.
    """
    store = session.store(store_url)
    swept = store.gc(grace)
    session.show(
        {"store": store.url, "removed": swept.attempts, "bytes": swept.bytes},
        f"removed {plural(len(swept.attempts), 'leftover')}, {size(swept.bytes)}",
    )
