"""Which checkpoints an object store holds, and how they come and go: see `register` for the rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from ckptstore.backends.base import Sink
from ckptstore.commit.attempts import next_name
from ckptstore.commit.base import Check, IfExists, Swept, Vouch, allow
from ckptstore.commit.failures import already_committed, already_deleted, not_committed, url_of, was_deleted
from ckptstore.commit.objects.adopt import adopt as adopt_in_place
from ckptstore.commit.objects.attempt import RegisterAttempt
from ckptstore.commit.objects.mend import mend as mend_in_place
from ckptstore.commit.objects.probe import check_just_created
from ckptstore.commit.objects.register import Register, translate_bucket_errors
from ckptstore.commit.objects.states import (
    State,
    group_by_directory,
    record,
    sizes,
    state_of,
)
from ckptstore.commit.objects.sweep import GRACE, Sweep
from ckptstore.errors import (
    CheckpointGone,
)
from ckptstore.format.names import CHECKPOINTS, CLAIM, DELETING, MANIFEST, CheckpointName


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
                for name, files in group_by_directory(self.backend.starting(CHECKPOINTS)).items()
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
                raise already_committed(self.backend, CheckpointName(step, max(committed)))
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
        """Own the first free directory above all that are listed."""
        claim = record(attempt=attempt_id)
        there = [(CheckpointName(step, attempt), state) for attempt, state in sorted(found.items())]
        below = [name for name, state in there if self._is_committed(name, state, if_exists, check)]
        name = next_name(self.backend, step, [name for name, _ in there])
        while True:
            claimed = self.clock()  # before the request: the server's own record is not older
            if self.create(f"{name}/{CLAIM}", claim) == claim:
                return RegisterAttempt(self, name, attempt_id, claimed, below, check)
            if self._is_committed(name, State.CLAIMED, if_exists, check):
                below.append(name)
            name = next_name(self.backend, step, [name])

    def _is_committed(self, name: CheckpointName, state: State, if_exists: IfExists, check: Check) -> bool:
        """Whether it is, for good. CheckpointExists if so and it is not to be replaced.

        The newest writer wins: a restarted job never waits for its dead self, and a job that was only
        thought dead meets the seal when it commits.
        """
        if state is State.CLAIMED and not self.is_protected(name, check):
            state = self.seal(name)
        if state is State.COMMITTED and if_exists != "replace":
            raise already_committed(self.backend, name)
        return state is State.COMMITTED

    def adopt(self, name: CheckpointName, vouch: Vouch, check: Check = allow) -> None:
        """See :class:`ckptstore.commit.base.Catalog`."""
        with translate_bucket_errors(self.backend.url):
            adopt_in_place(self, name, vouch, check)

    def discard(self, attempt_id: str) -> None:
        """Nothing: a claim without a manifest is sealed by whoever meets it."""

    def tidy(self) -> None:
        """Nothing: only a listing of the whole store would tell, and `gc` makes one."""

    # Deleting

    def delete(self, name: CheckpointName, check: Callable[[], None]) -> None:
        started = self.clock()
        with translate_bucket_errors(self.backend.url):
            found = self._attempts(name.step)
            if name.attempt not in found:  # what somebody names may be missing from one listing only
                found = self._attempts(name.step)
            state = found.get(name.attempt, State.ABSENT)
            if state is State.DEAD:
                raise already_deleted(self.backend, name)
            if state is not State.COMMITTED:
                raise not_committed(self.backend, name)
            # A replace that crashed may have left lower attempts committed. They go first: otherwise
            # one of them would come back as the step's checkpoint.
            doomed = [
                CheckpointName(name.step, attempt)
                for attempt in sorted(found)
                if attempt <= name.attempt and found[attempt] is State.COMMITTED
            ]
            self.unpublish(doomed, check)
            for dead in doomed:
                self.remove_dead(dead, started)

    @contextmanager
    def guard(self, name: CheckpointName) -> Iterator[None]:
        with translate_bucket_errors(self.backend.url):
            self._check_alive(name)
        yield
        with translate_bucket_errors(self.backend.url):
            # In this order: a delete removes its intent only once its tombstone is there.
            # Twice, as one listing may lack what is there.
            if any(self.backend.list(f"{DELETING}/{name}") for _ in range(2)):
                raise CheckpointGone(
                    url_of(self.backend, name), "it is being deleted, or a delete of it was interrupted"
                )
            self._check_alive(name)

    def _check_alive(self, name: CheckpointName) -> None:
        listed = self.backend.starting(f"{name}/{MANIFEST}")
        state = state_of(sizes(group_by_directory(listed).get(name, {})))
        if state is State.DEAD:
            raise was_deleted(self.backend, name)
        if state is not State.COMMITTED:
            raise CheckpointGone(url_of(self.backend, name), "it is not there")

    # Living

    def show_life(self, holder: str) -> AbstractContextManager[None]:
        return nullcontext()

    def is_dead(self, holder: str, prefix: str, bound: float) -> bool:
        with translate_bucket_errors(self.backend.url):
            times = [entry.modified for entry in self.backend.list(prefix)]
            now = self.place_time()
        return now is not None and all(time is not None and now - time > bound for time in times)

    # Mending

    def mend(
        self,
        name: CheckpointName,
        path: str,
        write: Callable[[Sink], None],
        check: Callable[[], None],
        twin: str | None = None,
    ) -> None:
        with translate_bucket_errors(self.backend.url):
            mend_in_place(self, name, path, write, check)

    # Sweeping

    def sweep(self, grace: float | None, check: Check = allow, dry_run: bool = False) -> Swept:
        with translate_bucket_errors(self.backend.url):
            return Sweep(self, GRACE if grace is None else grace, check, dry_run).run()
