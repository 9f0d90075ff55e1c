"""The catalog of a store on an object store, and its attempts: see `registers` for the rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from ckptstore.backends.base import Sink
from ckptstore.commit import adopt as adoption
from ckptstore.commit.base import Check, IfExists, Swept, Vouch, allow
from ckptstore.commit.objects.probe import check_just_created
from ckptstore.commit.objects.register import Register, logger, translate_bucket_errors
from ckptstore.commit.objects.states import (
    REGISTERS,
    TOMBSTONE,
    State,
    group_by_directory,
    record,
    sizes,
    small_state,
    state_of,
)
from ckptstore.commit.objects.sweep import GRACE, Sweep
from ckptstore.errors import (
    CheckpointError,
    CheckpointExists,
    CheckpointGone,
    CheckpointNotFound,
    CheckpointProtected,
    InvalidRequest,
    SaveAborted,
    StoreUnavailable,
)
from ckptstore.format.names import CLAIM, DELETING, MANIFEST, MIN_MANIFEST_BYTES, CheckpointName


class RegisterCatalog(Register):
    """The catalog of a store on S3, GCS or anything else with create-only single PUTs."""

    in_place = False

    # What there is

    def names(self) -> list[CheckpointName]:
        with translate_bucket_errors(self.backend.url):
            return sorted(filter(None, map(CheckpointName.parse, self.backend.children())))

    def scan(self) -> dict[CheckpointName, dict[str, int]]:
        with translate_bucket_errors(self.backend.url):
            return {
                name: sizes(files)
                for name, files in group_by_directory(self.backend.starting("checkpoint_")).items()
            }

    def _attempts(self, step: int) -> dict[int, State]:
        """The state of every directory of `step`, by attempt: one LIST."""
        return {name.attempt: state_of(sizes(files)) for name, files in self.directories(step).items()}

    # Saving

    def begin(self, step: int, if_exists: IfExists, attempt_id: str, check: Check = allow) -> RegisterAttempt:
        """See :class:`ckptstore.commit.base.Catalog`."""
        with translate_bucket_errors(self.backend.url):
            self.probe()
            found = self._attempts(step)
            committed = [attempt for attempt, state in found.items() if state is State.COMMITTED]
            if committed and if_exists != "replace":
                raise CheckpointExists(str(CheckpointName(step, max(committed))), "it is already committed")
            return self._claim(step, if_exists, attempt_id, found, check)

    def created(self, key: str, data: bytes, other: bytes) -> None:
        if not self.single_writer:
            with translate_bucket_errors(self.backend.url):
                check_just_created(self.backend, key, data, other)

    def _claim(
        self,
        step: int,
        if_exists: IfExists,
        attempt_id: str,
        found: Mapping[int, State],
        check: Check,
    ) -> RegisterAttempt:
        """Walk up from the plain name to the first directory that this attempt can own."""
        claim = record(attempt=attempt_id)
        below: list[CheckpointName] = []
        attempt = 0
        while True:
            name = CheckpointName(step, attempt)
            state = found.get(attempt, State.ABSENT)
            if state is State.ABSENT:
                claimed = self.clock()  # before the request: the server's own record is not older
                if self.create(f"{name}/{CLAIM}", claim) == claim:
                    return RegisterAttempt(self, name, attempt_id, claimed, below, check)
                state = State.CLAIMED
            if state is State.CLAIMED:
                # The newest writer wins: a restarted job never waits for its dead self, and a job that
                # was only thought dead meets the seal when it commits.
                state = self.seal(name)
            if state is State.COMMITTED:
                if if_exists != "replace":
                    raise CheckpointExists(str(name), "it is already committed")
                below.append(name)
            attempt += 1

    def adopt(self, name: CheckpointName, vouch: Vouch) -> None:
        """See :class:`ckptstore.commit.base.Catalog`."""
        with translate_bucket_errors(self.backend.url):
            self.probe()
            adoption.in_register(self, name, vouch)

    # Deleting

    def delete(self, name: CheckpointName, check: Callable[[], None]) -> None:
        with translate_bucket_errors(self.backend.url):
            found = self._attempts(name.step)
            if name.attempt not in found:  # what somebody names may be missing from one listing only
                found = self._attempts(name.step)
            state = found.get(name.attempt, State.ABSENT)
            if state is State.DEAD:
                raise CheckpointGone(str(name), "it was deleted before")
            if state is not State.COMMITTED:
                raise CheckpointNotFound(str(name), "there is no committed checkpoint of that name")
            # A replace that crashed may have left lower attempts committed. They go first: otherwise
            # one of them would come back as the step's checkpoint.
            doomed = [
                CheckpointName(name.step, attempt)
                for attempt in sorted(found)
                if attempt <= name.attempt and found[attempt] is State.COMMITTED
            ]
            self.unpublish(doomed, check)
            for dead in doomed:
                self.remove_payload(self.backend.list(str(dead)))

    @contextmanager
    def guard(self, name: CheckpointName) -> Iterator[None]:
        with translate_bucket_errors(self.backend.url):
            self._check_alive(name)
        yield
        with translate_bucket_errors(self.backend.url):
            # In this order: a delete removes its intent only once its tombstone is there.
            # Twice, as one listing may lack what is there.
            if any(self.backend.list(f"{DELETING}/{name}") for _ in range(2)):
                raise CheckpointGone(str(name), "it is being deleted, or a delete of it was interrupted")
            self._check_alive(name)

    def _check_alive(self, name: CheckpointName) -> None:
        listed = self.backend.starting(f"{name}/{MANIFEST}")
        state = state_of(sizes(group_by_directory(listed).get(name, {})))
        if state is not State.COMMITTED:
            raise CheckpointGone(str(name), "it was deleted" if state is State.DEAD else "it is not there")

    # Sweeping

    def sweep(self, grace: float | None) -> Swept:
        with translate_bucket_errors(self.backend.url):
            return Sweep(self, GRACE if grace is None else grace).run()


class RegisterAttempt:
    """One attempt at one step, in a directory of its own."""

    directory: str | None = None
    reuse_from = 2**16  # one request either way, and a PUT is checked at once

    def __init__(
        self,
        catalog: RegisterCatalog,
        name: CheckpointName,
        attempt_id: str,
        claimed: float,
        below: Sequence[CheckpointName],
        check: Check,
    ) -> None:
        self.id = attempt_id
        self.name = name
        self._catalog = catalog
        self._claimed = claimed
        self._below = below
        self._check = check
        self._files: dict[str, bool] = {}
        self._copied: dict[str, int] = {}  # path to size
        self._sent = False

    def __repr__(self) -> str:
        return f"RegisterAttempt({self.name}, {self.id!r})"

    def create(self, path: str) -> Sink:
        if path in REGISTERS or path in self._files:
            raise InvalidRequest(path, "it is written once, by nobody else")
        self._files[path] = False
        return _FencedSink(self, path, self._catalog.backend.write(f"{self.name}/{path}"))

    def reuse(self, path: str, key: str, size: int) -> bool:
        self.check_fence()
        if path in REGISTERS or path in self._files:
            raise InvalidRequest(path, "it is written once, by nobody else")
        try:
            self._catalog.backend.copy(key, f"{self.name}/{path}", size)
        except (FileNotFoundError, NotImplementedError, PermissionError) as error:
            logger.debug("%s is sent, not copied: %s", key, error)
            return False
        self._files[path] = True
        self._copied[path] = size
        return True

    def _check_copies(self) -> None:
        """The server made them, and a copy of another size is one that went wrong."""
        if not self._copied:
            return
        listed = {entry.key: entry.size for entry in self._catalog.backend.list(str(self.name))}
        for path, size in self._copied.items():
            found = listed.get(f"{self.name}/{path}")
            if found != size:
                raise OSError(f"{self.name}/{path} was copied by the server to {found} bytes, not {size}")

    def check_fence(self) -> None:
        """SaveAborted once this attempt is so old that others may soon forget that it was ever here."""
        limit = self._catalog.horizon / 4
        if self._catalog.clock() - self._claimed > limit:
            raise SaveAborted(str(self.name), f"the save took longer than {limit:g} s", "Save again")

    def commit(self, manifest: bytes) -> CheckpointName:
        if len(manifest) < MIN_MANIFEST_BYTES:
            raise InvalidRequest("manifest", f"{len(manifest)} bytes are fewer than {MIN_MANIFEST_BYTES}")
        if unfinished := [path for path, whole in self._files.items() if not whole]:
            raise InvalidRequest(unfinished[0], "it was not written to its end, so this can't be committed")
        with translate_bucket_errors(str(self.name)):
            self._check_copies()
            held = self._catalog.create(f"{self.name}/{MANIFEST}", manifest, self._about_to_send)
            if held != manifest:
                self._refuse(held, manifest)
        self._supersede()
        return self.name

    def _supersede(self) -> None:
        """Unpublish what this one replaces; it is committed and visible whether or not that works."""
        for name in self._below:
            try:
                with translate_bucket_errors(str(name)):
                    self._catalog.unpublish([name], partial(self._check, name))
                    self._catalog.remove_payload(self._catalog.backend.list(str(name)))
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
            raise CheckpointGone(str(self.name), "it was committed and deleted before the reply came")
        if state == "aborted":
            # Never go on to the next directory from here: two writers would take turns for ever.
            raise SaveAborted(str(self.name), "another writer took this step over")
        if manifest.startswith(held):
            # Cut on its way, to a place that takes what comes. It is ours, as the directory is; left
            # there it would hide what this attempt was to replace.
            self._catalog.backend.replace(f"{self.name}/{MANIFEST}", TOMBSTONE)
            why = f"the place stored {len(held)} of the manifest's {len(manifest)} bytes"
            raise StoreUnavailable(str(self.name), why, "Save again")
        raise CheckpointExists(str(self.name), "another writer committed it first")

    def abandon(self) -> None:
        if self._sent:
            return  # an ambiguous commit may still land: what it names must stay
        with suppress(Exception):
            if self._catalog.seal(self.name) is State.DEAD:
                self._catalog.backend.delete([f"{self.name}/{path}" for path in self._files])

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
