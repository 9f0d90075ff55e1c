"""``ckptstore ls``: list the checkpoints of a store."""

from __future__ import annotations

import click

from ckptstore.cli import describe
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import identify
from ckptstore.cli.text import find_metric, format_size, format_time, format_value
from ckptstore.format.metrics import explain_unknown
from ckptstore.logs import logger


@command("ls")
@click.argument("store_url", metavar="STORE")
@click.option(
    "--metric",
    "metrics",
    metavar="NAME",
    multiple=True,
    help="Add a column: a metric, or a path a/b/c to one. Repeatable.",
)
def ls(session: Session, store_url: str, metrics: tuple[str, ...]) -> None:
    """List the checkpoints of a store, oldest to newest."""
    store = session.open_store(store_url)
    tags = store.tags()
    found = [describe.summarize(checkpoint, tags) for checkpoint in store.checkpoints()]
    for metric in metrics:
        if why := explain_unknown(metric, (item["metrics"] for item in found)):
            logger.warning("--metric: %s", why)
    columns = ["name", "step", "kind", "policies", "size", "created (UTC)", *metrics, "tags"]
    rows = [
        [
            item["name"],
            str(item["step"]),
            item["kind"],
            str(len(item["policies"])),
            format_size(item["bytes"]),
            format_time(item["created"]),
            *(format_value(find_metric(item["metrics"], name)) for name in metrics),
            ", ".join(item["tags"]),
        ]
        for item in found
    ]
    session.show(
        {"store": store.url, "id": identify(store), "checkpoints": found},
        session.make_table(columns, rows, right=["step", "policies", "size", *metrics])
        if found
        else f"{store.url} holds no checkpoint",
    )
