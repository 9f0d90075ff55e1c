"""``ckptstore info``: show what a checkpoint is and holds, or sum up a store."""

from __future__ import annotations

from typing import Any

import click

from ckptstore import Checkpoint, CheckpointStore, bulk
from ckptstore.cli import describe, many
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find, identify
from ckptstore.cli.text import format_count, format_size, format_time, format_value
from ckptstore.format.metrics import flatten

_COLUMNS = ("step", "kind", "version", "policies", "size")  # of the table of many checkpoints


@command("info")
@click.argument("target", metavar="STORE|CHECKPOINT|URL/**")
@many.workers_option
def info(session: Session, target: str, workers: int) -> int:
    """Show what a checkpoint is and holds, or sum up a store."""
    if (url := many.parse_pattern(target)) is not None:
        return many.run_each(session, url, workers, _summarize_one, _COLUMNS)
    store, checkpoint = find(session, target)
    if checkpoint is not None:
        _show_checkpoint(session, checkpoint, store)
    elif store is not None:
        _show_store(session, store)
    return 0


def _summarize_one(found: bulk.Found) -> many.Line:
    summary = describe.summarize(found.open(), {})
    cells = [
        "" if summary["step"] is None else str(summary["step"]),
        summary["kind"],
        summary["version"],
        str(len(summary["policies"])),
        format_size(summary["bytes"]),
    ]
    return many.Line("committed" if found.committed else "no manifest", summary, cells)


def _show_store(session: Session, store: CheckpointStore) -> None:
    checkpoints = store.checkpoints()
    tags = store.tags()
    document: dict[str, Any] = {
        "store": store.url,
        "id": identify(store),
        "checkpoint_count": len(checkpoints),
        "bytes": describe.count_bytes(*checkpoints),
        "oldest": describe.summarize(checkpoints[0], tags) if checkpoints else None,
        "newest": describe.summarize(checkpoints[-1], tags) if checkpoints else None,
        "tags": tags,
    }
    rows = [
        ["store", store.url],
        ["id", document["id"] or "unknown: its store.json is missing"],
        ["checkpoints", str(len(checkpoints))],
        ["size", format_size(document["bytes"])],
        *([name, document[name]["name"]] for name in ("oldest", "newest") if document[name]),
        *(["tag", f"{tag} -> {name}"] for tag, name in tags.items()),
    ]
    session.show(document, session.make_pairs(rows))


def _show_checkpoint(session: Session, checkpoint: Checkpoint, store: CheckpointStore | None) -> None:
    document = describe.detail(checkpoint, store.tags() if store else {})
    rows = [
        ["checkpoint", document["url"]],
        ["step", "unknown" if document["step"] is None else str(document["step"])],
        [
            "kind",
            document["kind"] + (f", checkpoint version {document['version']}" * bool(document["version"])),
        ],
        *([["format", document["format"]]] if document.get("format") and not document["version"] else []),
        ["size", f"{format_size(document['bytes'])} in {format_count(document['file_count'], 'file')}"],
    ]
    run = {"ray": document["ray_version"], "iteration": document["iteration"]}
    rows += [[name, str(item)] for name, item in run.items() if item is not None]
    rows += [["counter", f"{name} = {format_value(item)}"] for name, item in document["counters"].items()]
    if document["unreadable"]:
        rows += [["UNREADABLE", document["unreadable"]]]
    rows += [["note", str(note)] for note in checkpoint.notes]
    if checkpoint.committed:
        rows += [
            ["id", document["id"]],
            ["created", f"{format_time(document['created'])} UTC"],
            ["origin", document["origin"]],
            ["writer", ", ".join(f"{name} {version}" for name, version in document["writer"].items())],
        ]
    else:
        rows += [["committed", "no: it has no manifest, so nothing says whether it is whole"]]
    if document.get("parent"):
        rows += [["parent", f"{document['parent']['id']} ({document['parent']['relation']})"]]
    metrics = flatten(document["metrics"])
    rows += [["metric", f"{name} = {format_value(item)}"] for name, item in metrics]
    rows += [[name, ", ".join(document[name])] for name in ("labels", "tags") if document[name]]
    rows += [
        ["component", f"{item['name']} ({format_size(item['bytes'])})"] for item in document["components"]
    ]
    rows += [["not part of it", path] for path in document["strays"]]
    lines: list[Any] = [session.make_pairs(rows)]
    if document["per_policy"]:
        policies = [
            [
                item["id"],
                format_size(item["bytes"]),
                str(item["file_count"]),
                str(item["indexed_arrays"]),
                format_size(item["indexed_bytes"]),
            ]
            for item in document["per_policy"]
        ]
        columns = ["policy", "size", "files", "large arrays", "their size"]
        lines += ["", session.make_table(columns, policies, right=columns[1:])]
    session.show(document, *lines)
