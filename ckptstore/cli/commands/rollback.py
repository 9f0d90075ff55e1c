"""``ckptstore rollback``: delete every checkpoint later than one."""

from __future__ import annotations

import click

from ckptstore.cli.session import Session, command, confirm, yes_option
from ckptstore.cli.targets import require_in_store


@command("rollback")
@click.argument("target", metavar="STORE@WHICH")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@yes_option
def rollback(session: Session, target: str, dry_run: bool, yes: bool) -> None:
    """Delete every checkpoint later than this one, the newest first.

    Then a run that resumes goes on from this one. If a later one is tagged or pinned nothing is deleted. On
    a terminal it asks first.
    """
    store, checkpoint = require_in_store(session, target)
    later = store.rollback(checkpoint, dry_run=True)
    if not dry_run and later:
        confirm(yes, *(f"delete {store.url}/{name}" for name in later))
        later = store.rollback(checkpoint)
    verb = "would delete" if dry_run else "deleted"
    session.show(
        {"store": store.url, "dry_run": dry_run, "latest": checkpoint.name, "deleted": later},
        *([f"{verb} {name}" for name in later] or [f"nothing is later than {checkpoint.name}"]),
    )
