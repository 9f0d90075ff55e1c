"""Find checkpoints in a tree of files, by their names and sizes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ckptstore.format.layout import visible
from ckptstore.format.marks import is_mark
from ckptstore.format.names import (
    CLAIM,
    MANIFEST,
    META,
    RETIRED,
    SMALL_STATE_BYTES,
    STAGING,
    STORE,
    TRASH,
    CheckpointName,
    stays_below,
)
from ckptstore.logs import logger

_HIDDEN = frozenset({STAGING, TRASH, META})


class Place(NamedTuple):
    """A directory that is a checkpoint, or looks like one."""

    path: str
    """Relative to the root of the search; empty for the root itself."""
    committed: bool


def find(files: Mapping[str, int]) -> list[Place]:
    """The checkpoints among `files` (path to size in bytes), in order; none that lies inside another.

    Of a store's attempts at one step only the one that counts, and no save that is unfinished or was
    deleted. What has no manifest counts if it has a file that RLlib gives every checkpoint; whether it
    is whole only opening it tells. A file whose name would lead out of the root is passed over, and said; so
    is whatever lies in the directories that a store keeps for itself.
    """
    if odd := [path for path in files if not stays_below(path)]:
        logger.warning("%d files are passed over for their names, such as %s", len(odd), odd[0][:200])
        files = {path: size for path, size in files.items() if stays_below(path)}
    committed, dead = set[str](), set[str]()
    for path, size in files.items():
        if (folder := _directory_holding(path, MANIFEST)) is not None:
            (committed if size > SMALL_STATE_BYTES else dead).add(folder)
        elif (folder := _directory_holding(path, RETIRED)) is not None:
            dead.add(folder)
    dead |= {folder for path in files if (folder := _directory_holding(path, CLAIM)) is not None}
    stores = {folder for path in files if (folder := _directory_holding(path, STORE)) is not None}
    marked = {folder for path in files if (folder := _directory_of_marker(path)) is not None}
    known = committed | dead
    found = [
        folder
        for folder in committed | (marked - known)
        if not any(above in known or above in marked for above in _above(folder))
        and not _HIDDEN & set(folder.split("/"))
    ]
    return [Place(path, path in committed) for path in sorted(_without_superseded(found, committed, stores))]


def _directory_holding(path: str, file: str) -> str | None:
    """The directory whose `file` the path is; None if it is another file."""
    if path == file:
        return ""
    return path[: -len(file) - 1] if path.endswith(f"/{file}") else None


def _directory_of_marker(path: str) -> str | None:
    """The directory of a file that RLlib puts at the top of a checkpoint, or of a part of one."""
    folder, _, name = path.rpartition("/")
    if _HIDDEN & set(folder.split("/")):
        return None
    return folder if is_mark(name) else None


def _above(path: str) -> Iterable[str]:
    while path:
        path = path.rpartition("/")[0]
        yield path


def _without_superseded(found: Iterable[str], committed: set[str], stores: set[str]) -> list[str]:
    """Without what a higher attempt at the same step has superseded."""
    kept: list[str] = []
    attempts: dict[str, list[tuple[CheckpointName, str]]] = {}
    for path in found:
        parent, _, last = path.rpartition("/")
        name = CheckpointName.parse(last)
        if name is None or path not in committed or parent not in stores:
            kept.append(path)
        else:
            attempts.setdefault(parent, []).append((name, path))
    return kept + [path for pairs in attempts.values() for _, path in visible(pairs)]
