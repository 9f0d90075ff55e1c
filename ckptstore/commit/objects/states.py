"""What the small files of a directory say of it."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping

from ckptstore.backends.base import Listed
from ckptstore.errors import CheckpointCorrupt, UnreadableFormat
from ckptstore.format import manifest
from ckptstore.format.names import CLAIM, MANIFEST, RETIRED, SMALL_STATE_BYTES, CheckpointName

REGISTERS = frozenset({CLAIM, MANIFEST, RETIRED})
"""What keeps a directory dead (or alive) once its payload is gone."""

Files = Mapping[str, int]


class State(enum.Enum):
    """What a listing says of one directory."""

    ABSENT = "nothing is there"
    FOREIGN = "files without a claim: not ours to touch"
    CLAIMED = "an attempt that is neither committed nor given up"
    COMMITTED = "a checkpoint"
    DEAD = "aborted or deleted"


def state_of(files: Files) -> State:
    """The state of a directory that holds `files` (path to size). Sizes alone tell: see `names`."""
    manifest = files.get(MANIFEST)
    if manifest is not None:
        return State.COMMITTED if manifest > SMALL_STATE_BYTES else State.DEAD
    if RETIRED in files:
        return State.DEAD
    if CLAIM in files:
        return State.CLAIMED
    return State.FOREIGN if files else State.ABSENT


def small_state(data: bytes) -> str | None:
    """ "aborted" or "deleted" if `data` is a seal or tombstone, else None: a manifest, or nothing we know."""
    if len(data) > SMALL_STATE_BYTES:
        return None
    try:
        state = json.loads(data)["state"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return state if state in ("aborted", "deleted") else None


def is_whole(data: bytes, url: str) -> bool:
    """Whether `data`, which is no small state, is a manifest that says what its writer sent."""
    try:
        manifest.load(data, url)
    except (CheckpointCorrupt, UnreadableFormat):
        return False
    return True


def group_by_directory(listed: Iterable[Listed]) -> dict[CheckpointName, dict[str, Listed]]:
    """The files of each directory that is named exactly like a checkpoint, ascending."""
    found: dict[CheckpointName, dict[str, Listed]] = {}
    for entry in listed:
        directory, _, path = entry.key.partition("/")
        if path and (name := CheckpointName.parse(directory)):
            found.setdefault(name, {})[path] = entry
    return dict(sorted(found.items()))


def record(**fields: object) -> bytes:
    """A small state: told from a manifest by its size alone."""
    data = json.dumps({"schema_version": 1, **fields}, sort_keys=True).encode()
    assert len(data) <= SMALL_STATE_BYTES
    return data


SEAL = record(state="aborted")
TOMBSTONE = record(state="deleted")


def sizes(files: Mapping[str, Listed]) -> dict[str, int]:
    """Path to size, out of path to listing."""
    return {path: entry.size for path, entry in files.items()}
