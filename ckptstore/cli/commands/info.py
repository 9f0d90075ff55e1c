"""Commands that read: ls, info, tree, verify, latest. None of them writes anything."""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text
from rich.tree import Tree

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli import describe
from ckptstore.cli import many as bulk
from ckptstore.cli.session import Session, command
from ckptstore.cli.targets import find, find_checkpoint
from ckptstore.cli.text import clean, flat, metric, plural, size, value
from ckptstore.errors import CheckpointCorrupt, CheckpointNotFound

VERIFIED_BADLY = CheckpointCorrupt.exit_code


@command("ls")
@click.argument("store_url", metavar="STORE")
@click.option(
    "--metric", "metrics", metavar="NAME", multiple=True, help="Add a column: a metric, or a path a/b/c."
)
def ls(session: Session, store_url: str, metrics: tuple[str, ...]) -> None:
    """List the checkpoints of a store, oldest to newest."""
    store = session.store(store_url)
    tags = store.tags()
    found = [describe.summary(checkpoint, tags) for checkpoint in store.checkpoints()]
    columns = ["name", "step", "kind", "policies", "size", "created (UTC)", *metrics, "tags"]
    rows = [
        [
            item["name"],
            str(item["step"]),
            item["kind"],
            str(len(item["policies"])),
            size(item["bytes"]),
            _when(item["created"]),
            *(value(metric(item["metrics"], name)) for name in metrics),
            ", ".join(item["tags"]),
        ]
        for item in found
    ]
    session.show(
        {"store": store.url, "id": store.id, "checkpoints": found},
        session.table(columns, rows, right=["step", "policies", "size", *metrics])
        if found
        else f"{store.url} holds no checkpoint",
    )


@command("info")
@click.argument("target", metavar="STORE|CHECKPOINT|URL/**")
@bulk.option
def info(session: Session, target: str, workers: int) -> None:
    """Show what a checkpoint is and holds, or sum up a store."""
    if (url := bulk.below(target)) is not None:
        bulk.each(session, url, workers, bulk.info, bulk.INFO_COLUMNS)
    store, checkpoint = find(session, target)
    if checkpoint is not None:
        _info_checkpoint(session, checkpoint, store)
    elif store is not None:
        _info_store(session, store)


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
            ["created", f"{_when(document['created'])} UTC"],
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
            for name, array in describe.arrays(checkpoint.policies[policy_id])
        ]
        for policy_id in policy_ids
    }
    drawn = Tree(Text.assemble((clean(checkpoint.name), "bold"), f"  {size(sum(sizes.values()))}"))
    folders: dict[str, Tree] = {"": drawn}
    for path, count in sorted(sizes.items()):
        folder, _, name = path.rpartition("/")
        _branch(_folder(folders, folder), name, size(count))
    for policy_id, items in shown.items():
        homes = [path.rpartition("/")[0] for path in describe.policy_files(checkpoint, policy_id, sizes)]
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


@command("verify")
@click.argument("target", metavar="STORE|CHECKPOINT|URL/**")
@bulk.option
def verify(session: Session, target: str, workers: int) -> None:
    """Read and check every byte.

    The exit code is 5 if anything differs from what was committed.
    """
    if (url := bulk.below(target)) is not None:
        bulk.each(session, url, workers, bulk.verify, ["the first problem"])
    store, checkpoint = find(session, target)
    if checkpoint is not None:
        with session.progress("verifying", sum(describe.files(checkpoint).values())) as progress:
            reports = [checkpoint.check(progress=progress)]
    elif store is not None:
        total = sum(sum(describe.files(item).values()) for item in store.checkpoints())
        with session.progress("verifying", total) as progress:
            reports = store.verify(progress=progress)
    ok = all(report.ok for report in reports)
    documents = [describe.report(report) for report in reports]
    lines: list[str] = []
    undigested = checkpoint is not None and not checkpoint.committed
    for item in documents:
        said = f"{plural(item['files'], 'file')}, {size(item['bytes'])}"
        said += " (all of it can be read; there are no digests to compare with)" if undigested else ""
        lines.append(f"{item['name']}: ok, {said}" if item["ok"] else f"{item['name']}: DAMAGED")
        lines += [f"  {problem}" for problem in item["problems"]]
    session.show({"ok": ok, "checkpoints": documents}, *(lines or ["the store holds no checkpoint"]))
    if not ok:
        click.get_current_context().exit(VERIFIED_BADLY)


@command("latest")
@click.argument("store_url", metavar="STORE")
@click.option("--verified", is_flag=True, help="Check every byte; fall back to the newest that is whole.")
def latest(session: Session, store_url: str, verified: bool) -> None:
    """Print the URL of the newest checkpoint.

    The exit code is 3 if there is none.
    """
    store = session.store(store_url)
    newest = store.latest(verified=verified)
    if newest is None:
        raise CheckpointNotFound(store.url, "the store holds no checkpoint")
    document = describe.summary(newest, store.tags())
    document["skipped"] = [skip._asdict() for skip in newest.skipped]
    session.show(document, newest.url)


def _when(created: str | None) -> str:
    return (created or "")[:16].replace("T", " ")


COMMANDS = (ls, info, tree, verify, latest)
