"""Checkpoints as the JSON documents of ``docs/cli.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptstore import Checkpoint
from ckptstore.cli.policy_files import count_component_bytes, list_policy_files
from ckptstore.errors import CheckpointError
from ckptstore.format import names, parts
from ckptstore.read.contents import UnknownContents


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
    document["components"] = [
        {"name": name, "bytes": count_component_bytes(name, sizes)} for name in checkpoint.components
    ]
    document |= _of_rllib(checkpoint)
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


def _of_rllib(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the files of an RLlib checkpoint tell about the run; `unreadable` says why they don't."""
    told: dict[str, Any] = {"ray_version": None, "iteration": None, "counters": {}, "unreadable": None}
    ours = checkpoint.committed and checkpoint.manifest.origin == "save"
    if ours or checkpoint.kind == UnknownContents.kind:
        return told
    try:
        told["ray_version"] = checkpoint.ray_version or None
        told["iteration"] = checkpoint.state["iteration"]
        counters = {str(name): _number(count) for name, count in checkpoint.state["counters"].items()}
        told["counters"] = {name: count for name, count in counters.items() if count is not None}
    except CheckpointError as error:
        told["unreadable"] = f"{error.what}: {error.why}"
    return told


def _number(value: object) -> int | float | None:
    if isinstance(value, (np.generic, np.ndarray)) and value.size == 1:
        value = value.item()
    return value if isinstance(value, (int, float)) else None


def _spans(checkpoint: Checkpoint) -> Mapping[str, parts.FileParts]:
    if not checkpoint.committed:
        return {}
    _, table = checkpoint.copy_items()
    return parts.load(table, f"{checkpoint.url}/{names.PARTS}")


def _policy(
    checkpoint: Checkpoint, policy_id: str, sizes: Mapping[str, int], spans: Mapping[str, parts.FileParts]
) -> dict[str, Any]:
    paths = list_policy_files(checkpoint, policy_id, sizes)
    indexed = [span for path in paths if path in spans for span in spans[path].arrays]
    return {
        "id": policy_id,
        "file_count": len(paths),
        "bytes": sum(sizes[path] for path in paths),
        "indexed_arrays": len(indexed),
        "indexed_bytes": sum(span.length for span in indexed),
    }
