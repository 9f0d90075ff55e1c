"""Removes what crashed, lost and deleted attempts left on an object store.

Three rules keep a sweep from ever touching what lives. Ages are differences of times that the *place*
wrote, so a wrong clock here decides nothing. Payload goes only where the register was read as dead.
And everything happens within a quarter of the horizon after the listing it rests on, because a
directory may be used again once its register is gone, which takes at least a whole one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckptstore.backends.base import Listed, TooLarge
from ckptstore.commit.base import Check, Swept, allow
from ckptstore.commit.objects.register import Register, payload_of
from ckptstore.commit.objects.states import State, group_by_directory, sizes, small_state, state_of
from ckptstore.errors import StoreUnavailable
from ckptstore.format.names import (
    CHECKPOINTS,
    CLAIM,
    DELETING,
    MANIFEST,
    PROBE,
    RETIRED,
    SMALL_STATE_BYTES,
    CheckpointName,
    stays_below,
)
from ckptstore.logs import logger

GRACE = 86400.0
"""Seconds for which an attempt without a manifest may add nothing before it is given up."""


class Sweep:
    """One pass over a store. See :meth:`ckptstore.commit.base.Catalog.sweep`."""

    def __init__(self, register: Register, grace: float, check: Check = allow, dry_run: bool = False) -> None:
        self._register = register
        self._backend = register.backend
        self._grace = grace
        self._check = check
        self._dry_run = dry_run
        self._attempts: list[str] = []
        self._bytes = 0

    def run(self) -> Swept:
        """Sweep, and tell what went."""
        self._started = self._register.clock()
        self._now = self._register.place_time()
        found = group_by_directory(self._backend.starting(CHECKPOINTS))
        for name, files in found.items():
            self._directory(name, files)
        if self._dry_run:
            return Swept(self._attempts, self._bytes)
        self._leftovers(found)
        try:
            self._backend.abort_uploads(self._is_old_upload)
        except PermissionError as error:
            logger.warning("unfinished uploads stay, for want of the right to list them: %s", error)
        return Swept(self._attempts, self._bytes)

    def _older(self, entries: Mapping[str, Listed], seconds: float) -> bool:
        """Whether the youngest of `entries` is more than `seconds` old for certain."""
        if self._now is None:
            return False
        times = [entry.modified for entry in entries.values()]
        return all(time is not None and self._now - time > seconds for time in times)

    def _fence(self) -> None:
        if self._register.clock() - self._started > self._register.horizon / 4:
            raise StoreUnavailable(self._backend.url, "the sweep took so long that its listing is stale")

    def _directory(self, name: CheckpointName, files: Mapping[str, Listed]) -> None:
        state, payload = state_of(sizes(files)), payload_of(files.values())
        if state is State.CLAIMED and self._older(files, self._grace):
            if self._register.is_protected(name, self._check):
                return
            if self._dry_run:
                if payload:
                    self._remove(name, payload)
                return
            self._fence()
            # Sealed first: a writer that is alive after all must find that out when it commits.
            state = self._register.seal(name)
        if state is not State.DEAD:
            return
        if payload:
            if self._is_dead(name, files) and not self._register.is_protected(name, self._check):
                self._remove(name, payload)
        elif not self._dry_run and self._older(files, self._register.horizon):
            self._retire(name, files)

    def _remove(self, name: CheckpointName, payload: Sequence[Listed]) -> None:
        """Remove the payload of a dead attempt, or only tell of it."""
        if self._dry_run:
            self._bytes += sum(entry.size for entry in payload)
        else:
            self._fence()
            self._bytes += self._register.remove_payload(payload)
        self._attempts.append(str(name))

    def _is_dead(self, name: CheckpointName, files: Mapping[str, Listed]) -> bool:
        """Whether the register itself says so: a size in a listing is a hint, and this is for ever."""
        if MANIFEST not in files and RETIRED in files:
            return True
        try:
            data = self._backend.read(f"{name}/{MANIFEST}", most=SMALL_STATE_BYTES)
        except TooLarge:
            return False
        return small_state(data) is not None

    def _retire(self, name: CheckpointName, files: Mapping[str, Listed]) -> None:
        """Forget a directory whose every writer is long gone, so that its name can be used again.

        In two steps, a horizon apart: first the claim and the register give way to a mark that keeps
        the directory dead; the mark goes only when no DELETE of the first step can still be on its
        way. Else one that is delivered late, or sent by a sweep that slept, would remove the manifest
        of the directory's next life.
        """
        self._fence()
        mark = f"{name}/{RETIRED}"
        if set(files) == {RETIRED}:
            self._backend.delete([mark])
            return
        self._backend.replace(mark, b'{"state": "retired"}\n')
        self._fence()
        self._backend.delete([f"{name}/{path}" for path in (CLAIM, MANIFEST) if path in files])

    def _leftovers(self, found: Mapping[CheckpointName, Mapping[str, Listed]]) -> None:
        """Delete intents nobody can still act on, and clock probes of sweeps that crashed."""
        old = [
            entry.key
            for entry in self._backend.list(PROBE)
            if entry.key.startswith(f"{PROBE}/clock-") and self._older({"": entry}, self._grace)
        ]
        for entry in self._backend.list(DELETING):
            name = CheckpointName.parse(entry.key.removeprefix(f"{DELETING}/").partition("/")[0])
            if name is None or self._intent_is_over(entry, found.get(name, {})):
                old.append(entry.key)
        self._fence()
        self._backend.delete([key for key in old if stays_below(key)])

    def _intent_is_over(self, entry: Listed, files: Mapping[str, Listed]) -> bool:
        if state_of(sizes(files)) is not State.COMMITTED:
            return bool(files)  # deleted indeed; nothing at all: the listing may be older than the intent
        return self._older({"": entry}, self._register.horizon)

    def _is_old_upload(self, key: str, started: float) -> bool:
        self._fence()
        mine = CheckpointName.parse(key.partition("/")[0]) is not None
        return mine and self._now is not None and self._now - started > self._grace
