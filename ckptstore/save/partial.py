"""A local copy of a checkpoint, whole or without some of its policies.

Of a committed one the copy is committed too: without policies by a manifest of its own.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from ckptstore.errors import InvalidRequest
from ckptstore.format import layout, names, parts, strictjson
from ckptstore.format.digest import digest
from ckptstore.format.manifest import File, Manifest, Parent
from ckptstore.read.contents import Contents
from ckptstore.read.download import copy_files, new_directory, write_description, write_file
from ckptstore.read.files import Files
from ckptstore.read.reader import VerifiedFiles
from ckptstore.rllib_formats.versions import select_versions
from ckptstore.save.writing import Hasher
from ckptstore.work import Progress


def download(
    contents: Contents,
    files: Files,
    target: str,
    wanted: Collection[str] | None,
    concurrency: int,
    progress: Progress | None = None,
) -> int:
    """Copy `files` into the new or empty local directory `target`; returns their size in bytes.

    The manifest comes last, where there is one: a copy cut short is not a checkpoint. Where only some
    policies are `wanted` the files of the others stay behind. InvalidRequest where those can't be told
    apart, or `target` isn't empty.
    """
    sizes = files.paths()
    paths = list(sizes) if wanted is None else choose_paths(contents, files, wanted)
    with new_directory(target, {path: sizes[path] for path in paths}, wanted is None) as new:
        copy_files(files, paths, new, concurrency, progress)
        described = (files.parts_bytes(), files.manifest) if isinstance(files, VerifiedFiles) else None
        if wanted is not None:
            others = set(contents.policy_ids).difference(wanted)
            info = rllib_json(files, contents.version, wanted, others)
            write_file(os.path.join(new, names.RLLIB_JSON), [info])
            if isinstance(files, VerifiedFiles):
                described = describe_part(files, paths, list(wanted), info)
        if described is not None:
            write_description(new, *described)
    return sum(sizes[path] for path in paths)


def choose_paths(contents: Contents, files: Files, wanted: Collection[str]) -> list[str]:
    """Every file but those of other policies, and but ``rllib_checkpoint.json``, which is written anew.

    Raises InvalidRequest where policies share their files, or nobody here knows which are whose.
    """
    owners: dict[str, set[str]] = {}
    if contents.kind == "Algorithm" and contents.version not in select_versions("single_file"):
        for policy_id in contents.policy_ids:
            for path in contents.files_of(policy_id):
                owners.setdefault(path, set()).add(policy_id)
    if not owners or any(len(each) > 1 for each in owners.values()):
        why = f"this {contents.kind} can't be split by policy"
        raise InvalidRequest(files.label, why, "Leave out `policy_ids`")
    return [
        path
        for path in files.paths()
        if path != names.RLLIB_JSON and owners.get(path, set()).issubset(wanted)
    ]


def rllib_json(files: Files, version: str, wanted: Iterable[str], others: Iterable[str]) -> bytes:
    """The checkpoint's ``rllib_checkpoint.json`` with the ids `wanted` alone; a new one where it has none.

    `others` are the ids that are left out, so that a reader of RLlib's files doesn't take them for lost.
    """
    fields = {**json.loads(layout.rllib_json("Algorithm")), "checkpoint_version": version}
    if names.RLLIB_JSON in files.paths():
        fields = json.loads(files.read(names.RLLIB_JSON))
    left_out = sorted({*fields.get(layout.LEFT_OUT, ()), *others})
    found = {**fields, "policy_ids": sorted(wanted), layout.LEFT_OUT: left_out}
    return (strictjson.dumps(found) + "\n").encode("ascii")


def describe_part(
    files: VerifiedFiles, paths: Sequence[str], policy_ids: Sequence[str], info: bytes
) -> tuple[bytes, Manifest]:
    """``parts.json`` and manifest of what has the files `paths`, and `info` as ``rllib_checkpoint.json``.

    Digests are the original's, which is its parent; signed it is not, since nobody here holds the key.
    """
    hasher = Hasher()
    hasher.write(memoryview(info))
    kept = [files.parts[path] for path in paths] + [hasher.finish(names.RLLIB_JSON)]
    table = parts.dump(sorted(kept))
    return table, replace(
        files.manifest,
        id=uuid.uuid4().hex,
        parent=Parent(files.manifest.id, "fork"),
        policies=tuple(each for each in files.manifest.policies if each in policy_ids),
        files=tuple(sorted(File(file.path, file.size, file.digest) for file in kept)),
        parts=File(names.PARTS, len(table), digest(table)),
        signature=None,
    )
