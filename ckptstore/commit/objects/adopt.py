"""Adopt on an object store."""

from __future__ import annotations

from ckptstore.backends.base import Listed
from ckptstore.commit.adopt import build_manifest, check_unchanged, is_taken
from ckptstore.commit.base import Check, Vouch
from ckptstore.commit.failures import save_too_old, url_of
from ckptstore.commit.objects.register import Register
from ckptstore.commit.objects.states import State, is_whole, sizes, small_state, state_of
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointExists,
    CheckpointGone,
    InvalidRequest,
)
from ckptstore.format.names import MANIFEST, PARTS, CheckpointName


def adopt(register: Register, name: CheckpointName, vouch: Vouch, check: Check) -> None:
    """On an object store: ``parts.json`` and the manifest, each by one create-only PUT.

    Two adopters of the same bytes write the same ``parts.json``, and the register has one winner.
    """
    started = register.clock()

    def fence() -> None:
        if register.clock() - started > register.horizon / 4:
            raise save_too_old(register.backend, name, register.horizon / 4)

    there = register.directories(name.step)
    if is_taken(register.backend, name, _in_state(there, State.COMMITTED)):
        return
    found = list(there.get(name, {}).values())
    table, manifest = build_manifest(register.backend, name, found, vouch)
    register.probe()  # only now: where there is nothing to adopt, nothing is left
    check_unchanged(register.backend, name, found, register.backend.list(str(name)))
    if register.create(f"{name}/{PARTS}", table, fence) != table:
        raise InvalidRequest(
            url_of(register.backend, name, PARTS),
            "an adoption that was interrupted left it there, and the files have changed since",
            "See that nothing adopts this directory now, remove that file, and adopt again",
        )
    held = register.create(f"{name}/{MANIFEST}", manifest, fence)
    if small_state(held):
        raise CheckpointGone(url_of(register.backend, name), "it was deleted before the reply came")
    if held != manifest and not is_whole(held, url_of(register.backend, name)):  # else another adopter's
        raise CheckpointCorrupt(
            url_of(register.backend, name, MANIFEST),
            "the manifest was damaged on its way",
            "See that nothing adopts this directory now, remove that file, and adopt again",
        )
    # A save that began before the manifest was there has passed the directory over, dead or alive.
    now = register.directories(name.step)
    for other in [*_in_state(now, State.CLAIMED), *_in_state(now, State.COMMITTED)]:
        if other != name:
            _stop(register, other, check)


def _stop(register: Register, other: CheckpointName, check: Check) -> None:
    """Seal a save of the same step: of two, the later one wins. CheckpointExists if it is done."""
    if not register.is_protected(other, check) and register.seal(other) is State.COMMITTED:
        raise CheckpointExists(url_of(register.backend, other), "a save of the same step was faster")


def _in_state(found: dict[CheckpointName, dict[str, Listed]], state: State) -> list[CheckpointName]:
    return [name for name, files in found.items() if state_of(sizes(files)) is state]
