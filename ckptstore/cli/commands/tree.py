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
from ckptstore.cli.policy_files import list_policy_files
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find, find_checkpoint
from ckptstore.cli.text import clean, size
from ckptstore.errors import CheckpointNotFound


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
    store, checkpoint = (find_checkpoint if policy_ids else find)(session, target)
    if checkpoint is not None:
        _tree_checkpoint(session, checkpoint, store, policy_ids)
    elif store is not None:
        tags = store.tags()
        found = [describe.summary(item, tags) for item in store.checkpoints()]
        drawn = Tree(Text(clean(store.url)))
        for item in found:
            named = f"  [{', '.join(item['tags'])}]" if item["tags"] else ""
            branch = _branch(drawn, f"{item['name']}{named}", size(item["bytes"]))
            for policy_id in item["policies"]:
                _branch(branch, policy_id)
        session.show({"store": store.url, "checkpoints": found}, drawn)


def _tree_checkpoint(
    session: Session, checkpoint: Checkpoint, store: CheckpointStore | None, policy_ids: tuple[str, ...]
) -> None:
    sizes = describe.files(checkpoint)
    unknown = [policy_id for policy_id in policy_ids if policy_id not in checkpoint.policy_ids]
    if unknown:
        known = ", ".join(checkpoint.policy_ids) or "none"
        raise CheckpointNotFound(checkpoint.name, f"it holds no policy {unknown[0]!r}", f"It holds: {known}")
    shown: dict[str, list[dict[str, Any]]] = {
        policy_id: [
            {"name": name, "dtype": str(array.dtype), "shape": list(array.shape), "bytes": array.nbytes}
            for name, array in _arrays(checkpoint.policies[policy_id])
        ]
        for policy_id in policy_ids
    }
    drawn = Tree(Text.assemble((clean(checkpoint.name), "bold"), f"  {size(sum(sizes.values()))}"))
    folders: dict[str, Tree] = {"": drawn}
    for path, count in sorted(sizes.items()):
        folder, _, name = path.rpartition("/")
        _branch(_folder(folders, folder), name, size(count))
    for policy_id, items in shown.items():
        homes = [path.rpartition("/")[0] for path in list_policy_files(checkpoint, policy_id, sizes)]
        branch = _branch(
            folders[min(homes, key=len, default="")], f"arrays of {policy_id}", size(_total(items))
        )
        for item in items:
            shape = "x".join(map(str, item["shape"])) or "scalar"
            _branch(branch, item["name"], f"{item['dtype']} {shape}")
    document = {
        "checkpoint": describe.summary(checkpoint, store.tags() if store else {}),
        "files": [{"path": path, "bytes": count} for path, count in sorted(sizes.items())],
        "arrays": shown,
    }
    session.show(document, drawn)


def _total(items: list[dict[str, Any]]) -> int:
    return sum(item["bytes"] for item in items)


def _folder(folders: dict[str, Tree], path: str) -> Tree:
    if path not in folders:
        parent, _, name = path.rpartition("/")
        folders[path] = _branch(_folder(folders, parent), f"{name}/")
    return folders[path]


def _branch(parent: Tree, label: str, note: str = "") -> Tree:
    return parent.add(Text.assemble(clean(label), ("  " + clean(note) if note else "", "dim")))


def _arrays(value: object) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Every array in decoded data, with the path to it, in the order it lies there."""
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
