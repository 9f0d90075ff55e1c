"""``ckptstore latest``: print the URL of the newest checkpoint."""

from __future__ import annotations

import click

from ckptstore.cli import describe
from ckptstore.cli.session import Session, command
from ckptstore.errors import CheckpointNotFound


@command("latest")
@click.argument("store_url", metavar="STORE")
@click.option(
    "--verified", is_flag=True, help="Check every byte, and fall back to the newest checkpoint that is whole."
)
def latest(session: Session, store_url: str, verified: bool) -> None:
    """Print the URL of the newest checkpoint.

    The exit code is 3 if there is none.
    """
    store = session.open_store(store_url)
    newest = store.latest(verified=verified)
    if newest is None:
        raise CheckpointNotFound(store.url, "the store holds no checkpoint")
    document = describe.summarize(newest, store.tags())
    document["skipped"] = [skip._asdict() for skip in newest.skipped]
    session.show(document, newest.url)
