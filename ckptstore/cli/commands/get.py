"""``ckptstore get``: copy a checkpoint into a plain directory."""

from __future__ import annotations

import click

from ckptstore.cli import describe
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find_checkpoint
from ckptstore.cli.text import format_size


@command("get")
@click.argument("target", metavar="CHECKPOINT")
@click.argument("directory", metavar="DIR")
@click.option(
    "--policy",
    "policy_ids",
    metavar="ID",
    multiple=True,
    help="Copy only this policy. Repeatable.",
)
def get(session: Session, target: str, directory: str, policy_ids: tuple[str, ...]) -> None:
    """Copy a checkpoint into a plain directory.

    DIR must be new or empty. Every byte is verified on the way.
    """
    checkpoint = find_checkpoint(session, target)
    total = None if policy_ids else describe.count_bytes(checkpoint)
    copied = 0
    with session.show_progress("copying", total) as progress:

        def count(more: int) -> None:
            nonlocal copied
            copied += more
            if progress is not None:
                progress(more)

        path = checkpoint.download(directory, policy_ids=policy_ids or None, progress=count)
    session.show(
        {
            "checkpoint": checkpoint.url,
            "directory": path,
            "policies": list(policy_ids or checkpoint.policy_ids),
            "bytes": copied,
        },
        f"{checkpoint.name} -> {path}, {format_size(copied)}",
    )
