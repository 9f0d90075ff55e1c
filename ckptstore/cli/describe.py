"""Checkpoints as the JSON documents of ``docs/cli.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptstore import Checkpoint
from ckptstore.errors import CheckpointError
from ckptstore.format import names, parts
from ckptstore.format.droppings import is_dropping
from ckptstore.format.manifest import DIRECTORY
from ckptstore.rllib_formats.layouts.base import LEARNER_ONLY


def list_files(checkpoint: Checkpoint) -> dict[str, int]:
    """Payload files and their sizes in bytes: those committed or, without a manifest, those present."""
    if checkpoint.committed:
        return {file.path: file.size for file in checkpoint.manifest.files}
    return {path: size for path, size in sorted(checkpoint.listing().items()) if not is_dropping(path)}


def count_bytes(*checkpoints: Checkpoint) -> int:
    """The size of all their payload files."""
    return sum(sum(list_files(checkpoint).values()) for checkpoint in checkpoints)


def summarize(checkpoint: Checkpoint, tags: Mapping[str, str]) -> dict[str, Any]:
    """The summary that most commands print; `tags` maps each tag to a checkpoint's name."""
    sizes = list_files(checkpoint)
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


def detail(checkpoint: Checkpoint, tags: Mapping[str, str]) -> dict[str, Any]:
    """The document of ``info``: the summary, the rest of the manifest, every policy, component and file."""
    document = summarize(checkpoint, tags)
    sizes = list_files(checkpoint)
    table = _load_parts(checkpoint)
    document["per_policy"] = [
        _describe_policy(checkpoint, policy_id, sizes, table) for policy_id in checkpoint.policy_ids
    ]
    of_policies = {path for policy_id in checkpoint.policy_ids for path in checkpoint.files_of(policy_id)}
    of_modules = {path for name in checkpoint.components for path in _list_module(name, sizes)}
    rest = {path: count for path, count in sizes.items() if path not in of_policies | of_modules}
    document["components"] = [
        {"name": name, "bytes": _count_component_bytes(name, rest, sizes)} for name in checkpoint.components
    ]
    document |= _describe_run(checkpoint)
    document["notes"] = [note._asdict() for note in checkpoint.notes]
    document["strays"] = _find_strays(checkpoint)
    if not checkpoint.committed:
        document["files"] = [{"path": path, "bytes": count, "digest": None} for path, count in sizes.items()]
        return document
    manifest = checkpoint.manifest
    document |= {
        "origin": manifest.origin,
        "format": document.get("format") or manifest.format,
        "writer": dict(manifest.writer),
        "parent": manifest.parent and manifest.parent._asdict(),
        "files": [{"path": file.path, "bytes": file.size, "digest": file.digest} for file in manifest.files],
    }
    return document


def _find_strays(checkpoint: Checkpoint) -> list[str]:
    """Paths of files that lie in its directory and that its manifest doesn't name."""
    if not checkpoint.committed:
        return []
    own = {file.path for file in checkpoint.manifest.files}
    return sorted(checkpoint.listing().keys() - own - {names.PARTS, names.MANIFEST, names.CLAIM})


def _load_parts(checkpoint: Checkpoint) -> Mapping[str, parts.FileParts]:
    if not checkpoint.committed:
        return {}
    _, table = checkpoint.copy_items()
    return parts.load(table, f"{checkpoint.url}/{names.PARTS}")


def _describe_policy(
    checkpoint: Checkpoint, policy_id: str, sizes: Mapping[str, int], table: Mapping[str, parts.FileParts]
) -> dict[str, Any]:
    paths = checkpoint.files_of(policy_id)
    indexed = [part for path in paths if path in table for part in table[path].arrays]
    return {
        "id": policy_id,
        "file_count": len(paths),
        "bytes": sum(sizes[path] for path in paths),
        "indexed_arrays": len(indexed),
        "indexed_bytes": sum(part.length for part in indexed),
    }


def _count_component_bytes(name: str, rest: Mapping[str, int], sizes: Mapping[str, int]) -> int:
    """The size of the component's file, or of what its directory holds beside the policies."""
    if (path := names.component_path(name)) in rest:
        return rest[path]
    if paths := _list_module(name, sizes):
        return sum(sizes[path] for path in paths)
    alone = [path for path in rest if "/" not in path and path.rpartition(".")[0] == name]
    if len(alone) == 1:
        return rest[alone[0]]
    inside = ("learner_group/", "learner/", "state.") if name == "learner" else (f"{name}/",)
    return sum(count for path, count in rest.items() if path.startswith(inside))


def _list_module(name: str, sizes: Mapping[str, int]) -> list[str]:
    """The files of a component that is a module of the Learner's."""
    module_id = name.removeprefix(LEARNER_ONLY)
    return [path for path in sizes if name != module_id and f"/rl_module/{module_id}/" in f"/{path}"]


def _describe_run(checkpoint: Checkpoint) -> dict[str, Any]:
    """What RLlib's files say about the run; `unreadable` says why they couldn't be read."""
    run: dict[str, Any] = {"ray_version": None, "iteration": None, "counters": {}, "unreadable": None}
    ours = checkpoint.committed and checkpoint.manifest.origin == "save"
    if ours:
        return run
    try:
        if checkpoint.kind == DIRECTORY:
            run["format"] = checkpoint.format
            return run
        run["ray_version"] = checkpoint.ray_version or None
        run["iteration"] = checkpoint.state["iteration"]
        counters = {str(name): _to_number(count) for name, count in checkpoint.state["counters"].items()}
        run["counters"] = {name: count for name, count in counters.items() if count is not None}
    except CheckpointError as error:
        run["unreadable"] = f"{error.what}: {error.why}"
    return run


def _to_number(value: object) -> int | float | None:
    if isinstance(value, (np.generic, np.ndarray)) and value.size == 1:
        value = value.item()
    return value if isinstance(value, (int, float)) else None
