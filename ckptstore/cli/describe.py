"""Checkpoints as the JSON documents of ``docs/cli.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ckptstore import Checkpoint, names, parts
from ckptstore.reading import VerifyReport


def files(checkpoint: Checkpoint) -> dict[str, int]:
    """Payload files and their sizes in bytes: as committed, or else as they lie there."""
    if checkpoint.committed:
        return {file.path: file.size for file in checkpoint.manifest.files}
    return dict(sorted(checkpoint.listing().items()))


def summary(checkpoint: Checkpoint, tags: Mapping[str, str]) -> dict[str, Any]:
    """What ``ls`` and ``latest`` tell about a checkpoint; `tags` maps each tag to a checkpoint's name."""
    sizes = files(checkpoint)
    return {
        "name": checkpoint.name,
        "url": checkpoint.url,
        "id": checkpoint.id or None,
        "step": checkpoint.step if checkpoint.step >= 0 else None,
        "kind": checkpoint.kind,
        "version": checkpoint.version,
        "committed": checkpoint.committed,
        "created": checkpoint.manifest.created if checkpoint.committed else None,
        "policies": list(checkpoint.policy_ids),
        "file_count": len(sizes),
        "bytes": sum(sizes.values()),
        "metrics": dict(checkpoint.metrics),
        "labels": list(checkpoint.labels),
        "tags": sorted(tag for tag, name in tags.items() if name == checkpoint.name),
    }


def details(checkpoint: Checkpoint, tags: Mapping[str, str]) -> dict[str, Any]:
    """What ``info`` tells: the summary, the rest of the manifest, and every policy, component and file."""
    document = summary(checkpoint, tags)
    sizes = files(checkpoint)
    spans = _spans(checkpoint)
    document["per_policy"] = [
        _policy(checkpoint, policy_id, sizes, spans) for policy_id in checkpoint.policy_ids
    ]
    prefix, suffix = f"{names.COMPONENTS}/", ".pkl"
    document["components"] = [
        {"name": name, "bytes": sizes[f"{prefix}{name}{suffix}"]} for name in checkpoint.components
    ]
    document["notes"] = [note._asdict() for note in checkpoint.notes]
    if not checkpoint.committed:
        document["files"] = [{"path": path, "bytes": count, "digest": None} for path, count in sizes.items()]
        return document
    manifest = checkpoint.manifest
    document |= {
        "origin": manifest.origin,
        "format": manifest.format,
        "writer": dict(manifest.writer),
        "parent": manifest.parent and manifest.parent._asdict(),
        "files": [{"path": file.path, "bytes": file.size, "digest": file.digest} for file in manifest.files],
    }
    return document


def arrays(value: object) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
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


def report(found: VerifyReport) -> dict[str, Any]:
    """One checkpoint's part of what ``verify`` tells."""
    return {
        "name": found.name.rstrip("/").rpartition("/")[2],
        "ok": found.ok,
        "files": found.files,
        "bytes": found.bytes,
        "problems": list(found.problems),
    }


def _spans(checkpoint: Checkpoint) -> Mapping[str, parts.FileParts]:
    if not checkpoint.committed:
        return {}
    _, table = checkpoint.copy_items()
    return parts.load(table, f"{checkpoint.url}/{names.PARTS}")


def _policy(
    checkpoint: Checkpoint, policy_id: str, sizes: Mapping[str, int], spans: Mapping[str, parts.FileParts]
) -> dict[str, Any]:
    alone = checkpoint.kind == "Policy"
    # Every layout but the oldest has directories named after the policies, each in another place.
    paths = [path for path in sizes if alone or f"/{policy_id}/" in f"/{path}"]
    indexed = [span for path in paths if path in spans for span in spans[path].arrays]
    return {
        "id": policy_id,
        "file_count": len(paths),
        "bytes": sum(sizes[path] for path in paths),
        "indexed_arrays": len(indexed),
        "indexed_bytes": sum(span.length for span in indexed),
    }
