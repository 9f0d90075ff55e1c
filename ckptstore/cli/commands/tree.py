"""``ckptstore tree``: draw the files of a checkpoint, or the checkpoints of a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click
import numpy as np
from rich.text import Text
from rich.tree import Tree

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli import describe
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find, require_checkpoint
from ckptstore.cli.text import format_size
from ckptstore.format.names import refuse_unknown_policies
from ckptstore.printable import clean


@command("tree")
@click.argument("target", metavar="STORE|CHECKPOINT")
@click.option(
    "--policy",
    "policy_ids",
    metavar="ID",
    multiple=True,
    help="Also read this policy and show its arrays. Repeatable.",
)
def tree(session: Session, target: str, policy_ids: tuple[str, ...]) -> None:
    """Draw the files of a checkpoint, or the checkpoints of a store."""
    found = find(session, target)
    if policy_ids:
        require_checkpoint(found, target)
    if found.checkpoint is not None:
        _draw_checkpoint(session, found.checkpoint, found.store, policy_ids)
    elif found.store is not None:
        _draw_store(session, found.store)


def _draw_store(session: Session, store: CheckpointStore) -> None:
    tags = store.tags()
    found = [describe.summarize(item, tags) for item in store.checkpoints()]
    drawing = Tree(Text(clean(store.url)))
    for item in found:
        suffix = f"  [{', '.join(item['tags'])}]" if item["tags"] else ""
        branch = _add_branch(drawing, f"{item['name']}{suffix}", format_size(item["bytes"]))
        for policy_id in item["policies"]:
            _add_branch(branch, policy_id)
    session.show({"store": store.url, "checkpoints": found}, drawing)


def _draw_checkpoint(
    session: Session, checkpoint: Checkpoint, store: CheckpointStore | None, policy_ids: tuple[str, ...]
) -> None:
    sizes = describe.list_files(checkpoint)
    unknown = [policy_id for policy_id in policy_ids if policy_id not in checkpoint.policy_ids]
    if unknown:
        raise refuse_unknown_policies(checkpoint.url, unknown, checkpoint.policy_ids)
    arrays: dict[str, list[dict[str, Any]]] = {
        policy_id: [
            {"name": name, "dtype": str(array.dtype), "shape": list(array.shape), "bytes": array.nbytes}
            for name, array in _find_arrays(checkpoint.policies[policy_id])
        ]
        for policy_id in policy_ids
    }
    drawing = Tree(Text.assemble((clean(checkpoint.name), "bold"), f"  {format_size(sum(sizes.values()))}"))
    folders: dict[str, Tree] = {"": drawing}
    for path, count in sorted(sizes.items()):
        folder, _, name = path.rpartition("/")
        _add_branch(_add_folder(folders, folder), name, format_size(count))
    for policy_id, items in arrays.items():
        homes = [path.rpartition("/")[0] for path in checkpoint.files_of(policy_id)]
        home = folders[min(homes, key=len, default="")]
        total = sum(item["bytes"] for item in items)
        branch = _add_branch(home, f"arrays of {policy_id}", format_size(total))
        for item in items:
            shape = "x".join(map(str, item["shape"])) or "scalar"
            _add_branch(branch, item["name"], f"{item['dtype']} {shape}")
    document = {
        "checkpoint": describe.summarize(checkpoint, store.tags() if store else {}),
        "files": [{"path": path, "bytes": count} for path, count in sorted(sizes.items())],
        "arrays": arrays,
    }
    session.show(document, drawing)


def _add_folder(folders: dict[str, Tree], path: str) -> Tree:
    """The branch of the folder `path`, added with those above it unless `folders` has it."""
    if path not in folders:
        parent, _, name = path.rpartition("/")
        folders[path] = _add_branch(_add_folder(folders, parent), f"{name}/")
    return folders[path]


def _add_branch(parent: Tree, label: str, note: str = "") -> Tree:
    return parent.add(Text.assemble(clean(label), ("  " + clean(note) if note else "", "dim")))


def _find_arrays(value: object) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Every array in decoded data and the path to it, in the data's order."""
    pending: list[tuple[str, object]] = [("", value)]
    seen: set[int] = set()
    while pending:
        path, item = pending.pop()
        inner: list[tuple[object, object]]
        if isinstance(item, np.ndarray):
            yield path or ".", item
            continue
        if isinstance(item, Mapping):
            inner = list(item.items())
        elif isinstance(item, (list, tuple)):
            inner = list(enumerate(item))
        else:
            continue
        if id(item) in seen:  # data from a pickle may hold itself
            continue
        seen.add(id(item))
        pending += [(f"{path}/{key}" if path else str(key), child) for key, child in reversed(inner)]
