"""``ckptstore info``: show what a checkpoint is and holds, or sum up a store."""

from __future__ import annotations

from typing import Any

import click

from ckptstore import Checkpoint, CheckpointStore, bulk
from ckptstore.cli import describe, many
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find
from ckptstore.cli.text import flat, plural, size, value, when

_COLUMNS = ("step", "kind", "version", "policies", "size")  # of the table with one line for each


@command("info")
@click.argument("target", metavar="STORE|CHECKPOINT|URL/**")
@many.option
def info(session: Session, target: str, workers: int) -> int:
    """Show what a checkpoint is and holds, or sum up a store."""
    if (url := many.below(target)) is not None:
        return many.each(session, url, workers, _line, _COLUMNS)
    store, checkpoint = find(session, target)
    if checkpoint is not None:
        _info_checkpoint(session, checkpoint, store)
    elif store is not None:
        _info_store(session, store)
    return 0


def _info_store(session: Session, store: CheckpointStore) -> None:
    checkpoints = store.checkpoints()
    tags = store.tags()
    document: dict[str, Any] = {
        "store": store.url,
        "id": store.id,
        "checkpoint_count": len(checkpoints),
        "bytes": sum(sum(describe.files(checkpoint).values()) for checkpoint in checkpoints),
        "oldest": describe.summary(checkpoints[0], tags) if checkpoints else None,
        "newest": describe.summary(checkpoints[-1], tags) if checkpoints else None,
        "tags": tags,
    }
    rows = [
        ["store", store.url],
        ["id", store.id],
        ["checkpoints", str(len(checkpoints))],
        ["size", size(document["bytes"])],
        *([name, document[name]["name"]] for name in ("oldest", "newest") if document[name]),
        *(["tag", f"{tag} -> {name}"] for tag, name in tags.items()),
    ]
    session.show(document, session.pairs(rows))


def _info_checkpoint(session: Session, checkpoint: Checkpoint, store: CheckpointStore | None) -> None:
    document = describe.details(checkpoint, store.tags() if store else {})
    rows = [
        ["checkpoint", document["url"]],
        ["step", "unknown" if document["step"] is None else str(document["step"])],
        ["kind", f"{document['kind']}, checkpoint version {document['version']}"],
        ["size", f"{size(document['bytes'])} in {plural(document['file_count'], 'file')}"],
    ]
    told = {"ray": document["ray_version"], "iteration": document["iteration"]}
    rows += [[name, str(item)] for name, item in told.items() if item is not None]
    rows += [["counter", f"{name} = {value(item)}"] for name, item in document["counters"].items()]
    if document["unreadable"]:
        rows += [["UNREADABLE", document["unreadable"]]]
    rows += [["note", str(note)] for note in checkpoint.notes]
    if checkpoint.committed:
        rows += [
            ["id", document["id"]],
            ["created", f"{when(document['created'])} UTC"],
            ["origin", document["origin"]],
            ["writer", ", ".join(f"{name} {version}" for name, version in document["writer"].items())],
        ]
    else:
        rows += [["committed", "no: it has no manifest, so nothing tells whether it is whole"]]
    if document.get("parent"):
        rows += [["parent", f"{document['parent']['id']} ({document['parent']['relation']})"]]
    rows += [["metric", f"{name} = {value(item)}"] for name, item in flat(document["metrics"])]
    rows += [[name, ", ".join(document[name])] for name in ("labels", "tags") if document[name]]
    rows += [["component", f"{item['name']} ({size(item['bytes'])})"] for item in document["components"]]
    lines: list[Any] = [session.pairs(rows)]
    if document["per_policy"]:
        policies = [
            [
                item["id"],
                size(item["bytes"]),
                str(item["file_count"]),
                str(item["indexed_arrays"]),
                size(item["indexed_bytes"]),
            ]
            for item in document["per_policy"]
        ]
        columns = ["policy", "size", "files", "large arrays", "their size"]
        lines += ["", session.table(columns, policies, right=columns[1:])]
    session.show(document, *lines)


def _line(found: bulk.Found) -> many.Line:
    """What ``info`` says of one among many."""
    summary = describe.summary(found.open(), {})
    cells = [
        "" if summary["step"] is None else str(summary["step"]),
        summary["kind"],
        summary["version"],
        str(len(summary["policies"])),
        size(summary["bytes"]),
    ]
    return many.Line("committed" if found.committed else "no manifest", summary, cells)
