"""``ckptstore gc``: remove what crashed saves left behind."""

from __future__ import annotations

import click

from ckptstore.cli.session import Session, command
from ckptstore.cli.text import format_count, format_size, parse_duration


@command("gc")
@click.argument("store_url", metavar="STORE")
@click.option(
    "--grace",
    metavar="TIME",
    help="Spare unfinished saves younger than this (30m, 12h, 1d, or seconds): they may still be running "
    "(default: 0 on local disk, where a lock shows it; a day on object stores).",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def gc(session: Session, store_url: str, grace: str | None, dry_run: bool) -> None:
    """Remove what crashed saves left behind.

    Also removes what interrupted deletes left. Checkpoints stay.
    """
    seconds = None if grace is None else parse_duration(grace, "--grace", bare=True)
    store = session.open_store(store_url)
    swept = store.gc(seconds, dry_run=dry_run)
    verb = "would remove" if dry_run else "removed"
    session.show(
        {"store": store.url, "dry_run": dry_run, "removed": swept.attempts, "bytes": swept.bytes},
        *(f"{verb} {name}" for name in swept.attempts if dry_run),
        f"{verb} {format_count(len(swept.attempts), 'leftover')}, {format_size(swept.bytes)}",
    )
