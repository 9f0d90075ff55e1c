"""A save on an object store: claim, payload, one create-only PUT."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from ckptstore.backends.base import Sink
from ckptstore.commit.base import Check
from ckptstore.commit.failures import (
    already_written,
    check_manifest_length,
    not_the_highest,
    save_too_old,
    url_of,
)
from ckptstore.commit.objects.register import Register, translate_bucket_errors
from ckptstore.commit.objects.states import (
    REGISTERS,
    TOMBSTONE,
    State,
    is_whole,
    sizes,
    small_state,
    state_of,
)
from ckptstore.errors import (
    CheckpointError,
    CheckpointExists,
    CheckpointGone,
    CheckpointProtected,
    InvalidRequest,
    SaveAborted,
    StoreUnavailable,
)
from ckptstore.format.names import MANIFEST, CheckpointName, relative_path
from ckptstore.logs import logger


class RegisterAttempt:
    """One attempt at one step, in a directory of its own."""

    directory: str | None = None
    reuse_from = 2**16  # one request either way, and a PUT is checked at once
    read_freely = 2**18  # each file is a request more

    def __init__(
        self,
        register: Register,
        name: CheckpointName,
        attempt_id: str,
        claimed: float,
        below: Sequence[CheckpointName],
        check: Check,
    ) -> None:
        self.id = attempt_id
        self.name = name
        self._register = register
        self._claimed = claimed
        self._below = below
        self._check = check
        self._files: dict[str, bool] = {}
        self._copied: dict[str, int] = {}  # path to size
        self._sent = False

    @property
    def url(self) -> str:
        """Of its directory."""
        return url_of(self._register.backend, self.name)

    def __repr__(self) -> str:
        return f"RegisterAttempt({self.name}, {self.id!r})"

    def create(self, path: str) -> Sink:
        relative_path(path, self.url)
        if path in REGISTERS or path in self._files:
            raise already_written(self._register.backend, self.name, path)
        self._files[path] = False
        return _FencedSink(self, path, self._register.backend.write(f"{self.name}/{path}"))

    def reuse(self, path: str, key: str, size: int) -> bool:
        relative_path(path, self.url)
        self.check_fence()
        if path in REGISTERS or path in self._files:
            raise already_written(self._register.backend, self.name, path)
        try:
            self._register.backend.copy(key, f"{self.name}/{path}", size)
        except (FileNotFoundError, NotImplementedError, PermissionError) as error:
            logger.debug("%s is sent, not copied: %s", key, error)
            return False
        self._files[path] = True
        self._copied[path] = size
        return True

    def _look_again(self) -> None:
        """Compare a listing made now with what was done, and with the listing that this attempt began on."""
        self.check_fence()
        listed = self._register.directories(self.name.step)
        mine = sizes(listed.get(self.name, {}))
        if MANIFEST in mine:
            return  # a seal, or ours already: the register tells for certain
        for path, size in self._copied.items():  # the server made them, and may have made them wrong
            if mine.get(path) != size:
                raise OSError(f"the server copied {path} to {mine.get(path)} bytes, not {size}")
        for other, files in listed.items():
            if other > self.name and state_of(sizes(files)) is State.COMMITTED:
                self.abandon()
                raise not_the_highest(self._register.backend, self.name, other)

    def check_fence(self) -> None:
        """SaveAborted once this attempt is so old that others may soon forget that it was ever here."""
        limit = self._register.horizon / 4
        if self._register.clock() - self._claimed > limit:
            raise save_too_old(self._register.backend, self.name, limit)

    def freeze(self, paths: Sequence[str]) -> None:
        raise InvalidRequest(self.url, "no other program can write into it", "Write the files by `create`")

    def commit(self, manifest: bytes) -> CheckpointName:
        check_manifest_length(manifest)
        if unfinished := [path for path, whole in self._files.items() if not whole]:
            raise InvalidRequest(
                f"{self.url}/{unfinished[0]}",
                "it was not written to its end",
                "Close each file before the commit",
            )
        with translate_bucket_errors(self.url):
            self._look_again()
            held = self._register.create(f"{self.name}/{MANIFEST}", manifest, self._about_to_send)
            if held != manifest:
                self._refuse(held, manifest)
        self._supersede()
        return self.name

    def _supersede(self) -> None:
        """Unpublish what this one replaces; it is committed and visible whether or not that works."""
        for name in self._below:
            try:
                with translate_bucket_errors(url_of(self._register.backend, name)):
                    self.check_fence()  # else it may be another's by now
                    self._register.unpublish([name], partial(self._check, name))
                    self._register.remove_dead(name, self._claimed)
            except CheckpointProtected:
                pass  # it was tagged meanwhile: it stays, for whoever opens it by that tag
            except CheckpointError as error:
                # Deletes take lower attempts first, so it can never come back as the step's checkpoint.
                logger.warning("%s replaces %s, which could not be removed: %s", self.name, name, error)

    def _about_to_send(self) -> None:
        self.check_fence()
        self._sent = True

    def _refuse(self, held: bytes, manifest: bytes) -> None:
        state = small_state(held)
        if state == "deleted":
            raise CheckpointGone(self.url, "it was committed and deleted before the reply came")
        if state == "aborted":
            # Never go on to the next directory from here: two writers would take turns for ever.
            raise SaveAborted(self.url, "another writer took this step over")
        if not is_whole(held, self.url):
            # Changed on its way, to a place that takes what comes. It is ours, as the directory is, unless
            # this attempt slept too long; left there it would hide what this attempt was to replace.
            self.check_fence()
            self._register.backend.replace(f"{self.name}/{MANIFEST}", TOMBSTONE)
            raise StoreUnavailable(self.url, "the manifest was damaged on its way", "Save again")
        raise CheckpointExists(self.url, f"another writer committed step {self.name.step} first")

    def abandon(self) -> None:
        if self._sent:
            return  # an ambiguous commit may still land: what it names must stay
        with suppress(Exception):
            self.check_fence()  # else the directory may be another's by now
            if self._register.seal(self.name) is State.DEAD:
                self._register.backend.delete([f"{self.name}/{path}" for path in self._files])

    def mark_finished(self, path: str) -> None:
        """Note that `path` is there as a whole."""
        self._files[path] = True


class _FencedSink:
    """A file of an attempt, which stops growing once the attempt is too old.

    A writer that was stopped for a week must not send payload either: its directory may be another's.
    """

    def __init__(self, attempt: RegisterAttempt, path: str, sink: Sink) -> None:
        self._attempt = attempt
        self._path = path
        self._sink = sink

    def write(self, data: bytes | memoryview) -> None:
        self._attempt.check_fence()
        self._sink.write(data)

    def __enter__(self) -> Sink:
        self._sink.__enter__()
        return self

    def __exit__(self, kind, error, trace) -> None:  # type: ignore[no-untyped-def]
        if kind is None:
            try:
                self._attempt.check_fence()
            except SaveAborted as late:
                self._sink.__exit__(type(late), late, late.__traceback__)
                raise
        self._sink.__exit__(kind, error, trace)
        if kind is None:
            self._attempt.mark_finished(self._path)
