"""Commits on object stores: the manifest key is a register that only ever moves forward.

    absent ──create──▶ COMMITTED ──overwrite──▶ DELETED (a tombstone)
       └────create──▶ ABORTED (a seal)

Every creation is one small create-only PUT, so one writer wins, and no transition is ever undone. A
directory belongs to the attempt whose claim it holds and is never used by another: a late PUT of a
writer that was thought dead lands among its own files. What breaks without each of these rules is
played through in ``tests/model``.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from ckptstore.backends.base import Listed, ObjectPlace, PlaceMissing
from ckptstore.backends.translate import translate_errors
from ckptstore.commit.base import Check
from ckptstore.commit.failures import url_of
from ckptstore.commit.objects.probe import check_create_only
from ckptstore.commit.objects.settle import settle
from ckptstore.commit.objects.single_writer import SingleWriter
from ckptstore.commit.objects.states import (
    REGISTERS,
    SEAL,
    TOMBSTONE,
    State,
    group_by_directory,
    record,
    small_state,
)
from ckptstore.errors import CheckpointProtected, StoreNotFound, StoreUnavailable
from ckptstore.format.names import DELETING, MANIFEST, PROBE, SMALL_STATE_BYTES, CheckpointName, stays_below
from ckptstore.logs import logger

HORIZON = 7 * 86400.0
"""Seconds after which a writer is certainly gone. It stops itself after a quarter of them; what only
guards against it (tombstones, seals, claims, delete intents) may be removed after all of them."""


def boot_clock() -> float:
    """Seconds since boot, sleep included: a laptop that slept for a week must know it."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Register:
    """The manifest keys of one store: creates, seals and unpublishes them, and knows the time."""

    def __init__(
        self,
        backend: ObjectPlace,
        *,
        single_writer: bool = False,
        timeout: float | None = None,
        horizon: float = HORIZON,
        clock: Callable[[], float] = boot_clock,
        sleep: Callable[[float], None] = time.sleep,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """`timeout` is how many seconds an uncertain write is settled for, beyond the backend's own."""
        self.backend: ObjectPlace = backend
        if single_writer:
            self.backend = SingleWriter(backend)
        self.single_writer = single_writer
        self.horizon = horizon
        self.clock = clock
        self.new_id = new_id
        self._timeout = backend.timeout if timeout is None else timeout
        self._sleep = sleep

    def probe(self) -> None:
        """StoreUnsuitable if this place ignores create-only writes; asked once per process."""
        if not self.single_writer:
            with translate_bucket_errors(self.backend.url):
                check_create_only(self.backend)

    def place_time(self) -> float | None:
        """What time it is by the place's own clock: when it says that we wrote something just now."""
        key = f"{PROBE}/clock-{self.new_id()}.json"
        self.backend.replace(key, b"{}\n")  # a name of our own: nothing to lose if it lands twice
        listed = [entry for entry in self.backend.starting(key) if entry.key == key]
        self.backend.delete([key])
        return listed[0].modified if listed else None

    def directories(self, step: int) -> dict[CheckpointName, dict[str, Listed]]:
        """Every directory of `step` and what it holds: one LIST."""
        base = str(CheckpointName(step))
        # "-" and "/" sort below "0", so all of ours come before any longer number.
        found = group_by_directory(self.backend.starting(base, until=base + "0"))
        return {name: files for name, files in found.items() if name.step == step}

    def seal(self, name: CheckpointName) -> State:
        """Decide an attempt that nobody decided yet; what it then is."""
        held = self.create(f"{name}/{MANIFEST}", SEAL)
        if len(held) > SMALL_STATE_BYTES:
            return State.COMMITTED
        if small_state(held) is None:  # damaged on its way, and no commit: readers shall know it for a seal
            self.backend.replace(f"{name}/{MANIFEST}", SEAL)
        return State.DEAD

    def is_protected(self, name: CheckpointName, check: Check) -> bool:
        """Whether `name`, which is not committed, must stay as it is: a tag says that it was, once."""
        try:
            check(name)
        except CheckpointProtected as error:
            logger.warning("%s is left as it is, without a manifest: %s", name, error)
            return True
        return False

    def create(self, key: str, data: bytes, before_each: Callable[[], None] = lambda: None) -> bytes:
        """What `key` holds for certain after trying to create it with `data`."""
        return settle(
            self.backend,
            key,
            data,
            timeout=self._timeout,
            before_each=before_each,
            clock=self.clock,
            sleep=self._sleep,
        )

    def unpublish(self, doomed: Sequence[CheckpointName], check: Callable[[], None]) -> None:
        """Turn committed manifests into tombstones, in this order, unless `check` raises.

        The intent comes before the tags are read and every tag is written before its intents are
        read, so of a tag and a delete at the same time at least one sees the other.
        """
        started = self.clock()
        intents = [f"{DELETING}/{name}/{self.new_id()}.json" for name in doomed]
        try:
            for intent in intents:
                self.create(intent, record(intent="delete"))
            check()
        except BaseException:
            with suppress(OSError):  # it blocks tags on these names until the sweep takes it: harmless
                self.backend.delete(intents)
            raise
        for name in doomed:
            if self.clock() - started > self.horizon / 4:
                raise StoreUnavailable(
                    url_of(self.backend, name), "the delete took so long that its intent may be gone"
                )
            self.backend.replace(f"{name}/{MANIFEST}", TOMBSTONE)
        # Not in a finally: a tombstone without a reply may still land, and tags must not come before it.
        self.backend.delete(intents)

    def remove_dead(self, name: CheckpointName, since: float) -> None:
        """Remove the payload of `name`, which was unpublished after `since` by our clock.

        Left to the sweep if that is so long ago that the directory may soon be another's.
        """
        files = self.backend.list(str(name))
        if self.clock() - since > self.horizon / 4:
            logger.warning("%s is deleted, and its files are left to gc", url_of(self.backend, name))
        else:
            self.remove_payload(files)

    def remove_payload(self, files: Iterable[Listed]) -> int:
        """Remove a dead attempt's files but those that keep it dead; bytes freed."""
        doomed = payload_of(files)
        self.backend.delete([entry.key for entry in doomed])
        return sum(entry.size for entry in doomed)


def payload_of(files: Iterable[Listed]) -> list[Listed]:
    """What of a dead attempt's files can go: not those that keep it dead, nor names that lead elsewhere."""
    return [
        entry for entry in files if stays_below(entry.key) and entry.key.partition("/")[2] not in REGISTERS
    ]


@contextmanager
def translate_bucket_errors(what: str) -> Iterator[None]:
    """Lets no builtin error out untyped; a bucket that is not there is no missing checkpoint."""
    with translate_errors(what):
        try:
            yield
        except PlaceMissing as error:
            raise StoreNotFound(what, str(error), "Check the URL, or create the bucket") from error
