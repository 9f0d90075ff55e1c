"""Commits of what another program has written already, in place: what both protocols check.

The payload is read and never written, so most of what guards a save has no object here: nothing is
staged, nothing can arrive late but ``parts.json``, and there is no claim. A claim says that the files
beside it are an attempt's own, for a sweep to remove if it dies; these are not ours to remove.
"""

from __future__ import annotations

from collections.abc import Iterable

from ckptstore.backends.base import Backend, Listed
from ckptstore.commit.base import Vouch
from ckptstore.commit.failures import check_manifest_length, url_of
from ckptstore.commit.objects.states import State, state_of
from ckptstore.errors import (
    CheckpointExists,
    CheckpointGone,
    CheckpointNotFound,
    InvalidRequest,
    SaveAborted,
)
from ckptstore.format.droppings import is_dropping
from ckptstore.format.names import META, PARTS, CheckpointName


def is_taken(backend: Backend, name: CheckpointName, holders: list[CheckpointName]) -> bool:
    """Whether `name` is committed already. CheckpointExists if another attempt at its step is."""
    if holders and name not in holders:
        raise CheckpointExists(
            url_of(backend, holders[-1]), f"another checkpoint already holds step {name.step}"
        )
    return name in holders


def build_manifest(
    backend: Backend, name: CheckpointName, found: Iterable[Listed], vouch: Vouch
) -> tuple[bytes, bytes]:
    """What `vouch` makes of the files found in the directory `name`, if they may be adopted."""
    where = url_of(backend, name)
    files = {entry.key.partition("/")[2]: entry.size for entry in found}
    state = state_of(files)
    if state is State.DEAD:
        raise CheckpointGone(where, "it was deleted, or given up before it was whole")
    if state is State.CLAIMED:
        raise InvalidRequest(where, "it is an unfinished save of ckptstore", "Leave it to `gc`")
    files = {path: size for path, size in files.items() if not is_dropping(path)}
    payload = {path: size for path, size in files.items() if not path.startswith(f"{META}/")}
    if mixed := sorted(files.keys() - payload.keys() - {PARTS}):
        raise InvalidRequest(f"{where}/{mixed[0]}", "it belongs to something else", "Remove it if it may go")
    if not payload:
        raise CheckpointNotFound(where, "there are no files in a directory of that name", "Check the name")
    if odd := [path for path, size in payload.items() if size < 0]:
        raise InvalidRequest(f"{where}/{odd[0]}", "it is a link, pipe or device", "Put a plain file there")
    table, manifest = vouch(payload)
    check_manifest_length(manifest)
    return table, manifest


def check_unchanged(
    backend: Backend, name: CheckpointName, before: Iterable[Listed], now: Iterable[Listed]
) -> None:
    """SaveAborted unless the payload's names, sizes and times are what they were before it was read."""
    ours = f"{name}/{META}/"

    def payload(listed: Iterable[Listed]) -> set[Listed]:
        return {entry for entry in listed if not entry.key.startswith(ours) and not is_dropping(entry.key)}

    if changed := payload(before) ^ payload(now):
        where = f"{backend.url.rstrip('/')}/{min(changed).key}"
        raise SaveAborted(where, "it changed while it was read", "Adopt it once it is finished")
