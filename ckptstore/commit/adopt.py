"""Commits of what another program has written already, in the very directory where it lies.

The payload is read and never written, so most of what guards a save has no object here: nothing is
staged, nothing can arrive late but ``parts.json``, and there is no claim. A claim says that the files
beside it are an attempt's own, for a sweep to remove if it dies; these are not ours to remove.
"""

from __future__ import annotations

from collections.abc import Iterable

from ckptstore.backends.base import Listed
from ckptstore.backends.local.posix import Directory, Disk
from ckptstore.commit.base import Vouch
from ckptstore.commit.local.root import LocalRoot, list_committed
from ckptstore.commit.objects.register import Register
from ckptstore.commit.objects.states import State, sizes, small_state, state_of
from ckptstore.errors import (
    CheckpointExists,
    CheckpointGone,
    CheckpointNotFound,
    InvalidRequest,
    SaveAborted,
)
from ckptstore.format.names import MANIFEST, META, MIN_MANIFEST_BYTES, PARTS, CheckpointName


def in_directory(ground: LocalRoot, name: CheckpointName, vouch: Vouch) -> None:
    """On a local disk: sync what lies there, then publish the manifest under the root's lock."""
    disk, backend = ground.backend.disk, ground.backend
    with ground.hold_lock() as root:
        if _is_taken(name, list_committed(disk, root, name.step)):
            return
    found = backend.list(str(name))
    table, manifest = _build_manifest(name, found, vouch)
    with backend.open_root() as root, disk.open_dir(root, str(name)) as top:
        _sync(disk, top)
    with ground.hold_lock() as root:
        if _is_taken(name, list_committed(disk, root, name.step)):
            return
        _check_unchanged(name, found, backend.list(str(name)))
        backend.replace(f"{name}/{PARTS}", table)  # whatever an adoption that died has left there
        backend.publish(f"{name}/{MANIFEST}", manifest)


def _sync(disk: Disk, directory: Directory) -> None:
    """Make durable what another program wrote, files before the directory that names them."""
    for entry in list(disk.entries(directory)):
        if entry.is_dir:
            with disk.open_dir(directory, entry.name) as below:
                _sync(disk, below)
        elif directory.fd >= 0:  # Windows syncs only what is open for writing
            fd = disk.open_file(directory, entry.name)
            try:
                disk.fsync(fd)
            finally:
                disk.close(fd)
    disk.fsync_dir(directory)


def in_register(register: Register, name: CheckpointName, vouch: Vouch) -> None:
    """On an object store: ``parts.json`` and the manifest, each by one create-only PUT.

    Two adopters of the same bytes write the same ``parts.json``, and the register has one winner.
    """
    started = register.clock()

    def fence() -> None:
        if register.clock() - started > register.horizon / 4:
            raise SaveAborted(str(name), "it took so long that others may have forgotten it", "Adopt again")

    there = register.directories(name.step)
    if _is_taken(name, _in_state(there, State.COMMITTED)):
        return
    found = list(there.get(name, {}).values())
    table, manifest = _build_manifest(name, found, vouch)
    _check_unchanged(name, found, register.backend.list(str(name)))
    if register.create(f"{name}/{PARTS}", table, fence) != table:
        raise InvalidRequest(
            f"{name}/{PARTS}",
            "an adoption that was interrupted left it there, and the files have changed since",
            "See that nothing adopts this directory now, remove that file, and adopt again",
        )
    if small_state(register.create(f"{name}/{MANIFEST}", manifest, fence)):
        raise CheckpointGone(str(name), "it was deleted before the reply came")
    # A save that began before the manifest was there has passed the directory over, dead or alive.
    now = register.directories(name.step)
    for other in [*_in_state(now, State.CLAIMED), *_in_state(now, State.COMMITTED)]:
        if other != name:
            _stop(register, other)


def _stop(register: Register, other: CheckpointName) -> None:
    """Seal a save of the same step: of two, the later one wins. CheckpointExists if it is done."""
    if register.seal(other) is State.COMMITTED:
        raise CheckpointExists(str(other), "a save of the same step was faster")


def _in_state(found: dict[CheckpointName, dict[str, Listed]], state: State) -> list[CheckpointName]:
    return [name for name, files in found.items() if state_of(sizes(files)) is state]


def _is_taken(name: CheckpointName, holders: list[CheckpointName]) -> bool:
    """Whether `name` is committed already. CheckpointExists if another attempt at its step is."""
    if holders and name not in holders:
        raise CheckpointExists(str(holders[-1]), "it holds the step already")
    return name in holders


def _build_manifest(name: CheckpointName, found: Iterable[Listed], vouch: Vouch) -> tuple[bytes, bytes]:
    files = {entry.key.partition("/")[2]: entry.size for entry in found}
    state = state_of(files)
    if state is State.DEAD:
        raise CheckpointGone(str(name), "it was deleted, or given up before it was whole")
    if state is State.CLAIMED:
        raise InvalidRequest(str(name), "it is an unfinished save of ckptstore", "Leave it to `gc`")
    payload = {path: size for path, size in files.items() if not path.startswith(f"{META}/")}
    if mixed := sorted(files.keys() - payload.keys() - {PARTS}):
        raise InvalidRequest(f"{name}/{mixed[0]}", "it belongs to something else", "Remove it if it may go")
    if not payload:
        raise CheckpointNotFound(str(name), "there are no files in a directory of that name")
    if odd := [path for path, size in payload.items() if size < 0]:
        raise InvalidRequest(f"{name}/{odd[0]}", "it is a link, pipe or device", "Put a plain file there")
    table, manifest = vouch(payload)
    if len(manifest) < MIN_MANIFEST_BYTES:
        raise InvalidRequest("manifest", f"{len(manifest)} bytes are fewer than {MIN_MANIFEST_BYTES}")
    return table, manifest


def _check_unchanged(name: CheckpointName, before: Iterable[Listed], now: Iterable[Listed]) -> None:
    """SaveAborted unless the payload's names, sizes and times are what they were before it was read."""
    ours = f"{name}/{META}/"

    def payload(listed: Iterable[Listed]) -> set[Listed]:
        return {entry for entry in listed if not entry.key.startswith(ours)}

    if changed := payload(before) ^ payload(now):
        raise SaveAborted(min(changed).key, "it changed while it was read", "Adopt it once it is finished")
