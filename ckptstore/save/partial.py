"""A committed checkpoint without some of its policies: the same files, described by a manifest of its own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from ckptstore.errors import InvalidRequest
from ckptstore.format import layout, names, parts, strictjson
from ckptstore.format.digest import digest
from ckptstore.format.manifest import File, Manifest, Parent
from ckptstore.read.contents import Contents
from ckptstore.read.files import Files
from ckptstore.read.reader import VerifiedFiles
from ckptstore.save.writing import Hasher


def choose_paths(contents: Contents, files: Files, wanted: Collection[str]) -> list[str]:
    """Every file but those of other policies, and but ``rllib_checkpoint.json``, which is written anew.

    Raises InvalidRequest where policies share their files, or nobody here knows which are whose.
    """
    owners: dict[str, set[str]] = {}
    if contents.kind == "Algorithm" and contents.version != "0.1":  # which has one file for all
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
