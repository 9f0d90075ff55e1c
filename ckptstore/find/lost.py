"""Tell a checkpoint that has lost its manifest from a save that has none yet.

A save writes ``parts.json`` right before its manifest, so what has the one and not the other for long has
lost it, or died in between. What a tag or pin points at was committed, for certain.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from ckptstore.backends.base import Backend
from ckptstore.commit import refs
from ckptstore.format import names
from ckptstore.format.names import CheckpointName

SECONDS_TO_COMMIT = 3600.0
"""From ``parts.json`` to the manifest takes a living save one request; an hour allows for clocks as well."""
SECONDS_TO_ADOPT = 10.0
"""The same for a local disk, where only an adoption writes both where they are seen."""


def may_be_lost(files: Mapping[str, object]) -> bool:
    """Whether a directory that holds `files` has all that is written before the manifest, and not that."""
    return names.PARTS in files and names.MANIFEST not in files and names.RETIRED not in files


def find_lost(backend: Backend, without: Iterable[CheckpointName], whole: bool) -> dict[CheckpointName, str]:
    """Those of the directories `without` a manifest that have lost it, and what there is to say.

    `whole` says that a save's directory gets its name with its manifest in it, as on a local disk.
    """
    patience = SECONDS_TO_ADOPT if whole else SECONDS_TO_COMMIT
    found: dict[CheckpointName, str] = {}
    pointing: Mapping[str, refs.Target] | None = None
    for name in without:
        listed = {entry.key.removeprefix(f"{name}/"): entry for entry in backend.list(f"{name}/{names.META}")}
        if not may_be_lost(listed):
            continue
        pointing = refs.read_all(backend) if pointing is None else pointing
        by = refs.refs_to(pointing, str(name))
        written = listed[names.PARTS].modified
        if by:
            found[name] = f"its manifest is missing, and {', '.join(by)} points at it"
        elif written is not None and time.time() - written > patience:
            found[name] = "its manifest is missing: it was lost, or its save died right before writing it"
    return found
