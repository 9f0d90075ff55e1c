"""``ckptstore tag``: list, move or delete a store's tags."""

from __future__ import annotations

import click

from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import pick
from ckptstore.errors import InvalidRequest


@command("tag")
@click.argument("store_url", metavar="STORE")
@click.argument("name", required=False)
@click.argument("which", required=False)
@click.option("--delete", metavar="NAME", help="Delete this tag.")
def tag(session: Session, store_url: str, name: str | None, which: str | None, delete: str | None) -> None:
    """List a store's tags, or move or delete one.

    NAME and WHICH point the tag NAME at a checkpoint: WHICH is a step, `latest`, `tag:NAME` or the
    checkpoint's name. A tagged checkpoint is never pruned.
    """
    store = session.open_store(store_url)
    if delete is not None:
        if name is not None:
            raise InvalidRequest("tag", "--delete takes the tag's name and nothing else", "Run it twice")
        store.untag(delete)
        session.show({"store": store.url, "deleted": delete}, f"tag {delete} deleted")
        return
    if name is None:
        tags = store.tags()
        session.show(
            {"store": store.url, "tags": tags},
            session.make_table(["tag", "checkpoint"], [[ref, target] for ref, target in tags.items()])
            if tags
            else f"{store.url} has no tags",
        )
        return
    if which is None:
        raise InvalidRequest(
            f"tag {name!r}",
            "the checkpoint it should point at is missing",
            f"Write for example: ckptstore tag {store_url} {name} latest",
        )
    checkpoint = pick(store, which)
    store.tag(name, checkpoint)
    session.show(
        {"store": store.url, "tag": name, "checkpoint": checkpoint.name}, f"tag {name} -> {checkpoint.name}"
    )
