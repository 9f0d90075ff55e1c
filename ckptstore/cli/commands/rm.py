"""``ckptstore rm``: delete checkpoints."""

from __future__ import annotations

import click

from ckptstore import CheckpointStore
from ckptstore.cli.session import Session, command, confirm, yes_option
from ckptstore.cli.targets import pick, split
from ckptstore.errors import InvalidRequest


@command("rm")
@click.argument("targets", metavar="CHECKPOINT...", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@yes_option
def rm(session: Session, targets: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Delete checkpoints of a store.

    Each is written as STORE@STEP, STORE@checkpoint_000100 or the path of its directory. What a tag or pin
    points at is refused, before anything is deleted. On a terminal it asks first.
    """
    stores: dict[str, CheckpointStore] = {}
    chosen: list[tuple[CheckpointStore, str]] = []
    for text in targets:
        url, which = split(text)
        if which is None:
            remedy = f"Name a checkpoint in it, for example {text.rstrip('/')}@100"
            raise InvalidRequest(text, "it names no checkpoint of a store", remedy)
        store = stores.setdefault(url, session.open_store(url))
        name = which if which.startswith("checkpoint_") else pick(store, which).name
        if (store, name) not in chosen:
            store.delete(name, dry_run=True)
            chosen.append((store, name))
    urls = [f"{store.url}/{name}" for store, name in chosen]
    if not dry_run:
        confirm(yes, *(f"delete {url}" for url in urls))
        for store, name in chosen:
            store.delete(name)
    verb = "would delete" if dry_run else "deleted"
    session.show({"dry_run": dry_run, "deleted": urls}, *(f"{verb} {url}" for url in urls))
