"""Tell a checkpoint that has lost its manifest from a save that has none yet.

A save writes ``parts.json`` right before its manifest, so what has the one and not the other for long has
lost it, or died in between. What a tag or pin points at was committed, for certain.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ckptstore.backends.base import Backend, Listed
from ckptstore.backends.translate import translate_errors
from ckptstore.commit import refs
from ckptstore.commit.failures import url_of
from ckptstore.errors import StoreUnavailable
from ckptstore.format import names
from ckptstore.format.names import CheckpointName

SECONDS_TO_COMMIT = 3600.0
"""From ``parts.json`` to the manifest takes a living save one request; an hour allows for clocks as well."""
SECONDS_TO_ADOPT = 10.0
"""The same for a local disk, where only an adoption writes both where they are seen."""


def may_be_lost(files: Mapping[str, object]) -> bool:
    """Whether a directory that holds `files` has all that is written before the manifest, and not that."""
    return names.PARTS in files and names.MANIFEST not in files and names.RETIRED not in files


UNFINISHED = "unfinished: may be a save in flight"


class Loss(NamedTuple):
    """What there is to say of a directory with all but a manifest."""

    why: str
    certain: bool
    """Whether it has lost it; else a save may be about to write it."""


def can_read(backend: Backend, key: str, where: str) -> bool:
    """Whether the file `key`, which a listing lacks and which isn't empty, can be read all the same."""
    with translate_errors(where):
        try:
            backend.read(key, 0, 1)
        except (FileNotFoundError, NotADirectoryError, EOFError):
            return False
    return True


def disagree(where: str, path: str) -> StoreUnavailable:
    """A listing that lacks what can be read is old, or of another time: it proves no damage."""
    why = f"the listing and the files disagree: {path} can be read, and isn't listed"
    return StoreUnavailable(where, why, "Try again later, and remove nothing meanwhile")


def find_lost(backend: Backend, without: Iterable[CheckpointName], whole: bool) -> dict[CheckpointName, Loss]:
    """Those of the directories `without` a manifest that have all but that.

    `whole` says that a save's directory gets its name with its manifest in it, as on a local disk.
    """
    patience = SECONDS_TO_ADOPT if whole else SECONDS_TO_COMMIT
    found: dict[CheckpointName, Loss] = {}
    pointing: Mapping[str, refs.Target] | None = None
    for name in without:
        listed = _list_meta(backend, name)
        if not may_be_lost(listed):
            continue
        if can_read(backend, f"{name}/{names.MANIFEST}", url_of(backend, name)):
            if may_be_lost(_list_meta(backend, name)):
                raise disagree(url_of(backend, name), names.MANIFEST)
            continue  # it was committed meanwhile
        if not can_read(backend, f"{name}/{names.PARTS}", url_of(backend, name)):
            continue  # it was removed, and the listing is older
        pointing = refs.read_all(backend) if pointing is None else pointing
        by = refs.refs_to(pointing, str(name))
        written = listed[names.PARTS].modified
        if by:
            found[name] = Loss(f"its manifest is missing, and {', '.join(by)} points at it", True)
        elif written is not None and time.time() - written > patience:
            why = "its manifest is missing: it was lost, or its save died right before writing it"
            found[name] = Loss(why, True)
        else:
            found[name] = Loss(UNFINISHED, False)
    return found


def _list_meta(backend: Backend, name: CheckpointName) -> dict[str, Listed]:
    return {entry.key.removeprefix(f"{name}/"): entry for entry in backend.list(f"{name}/{names.META}")}
