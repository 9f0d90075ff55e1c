"""How checkpoints come into being and go: the promises that both commit protocols keep.

A checkpoint exists if and only if its manifest is there, parses and says committed. A local disk
gets there by staging a directory and renaming it into place (:mod:`ckptstore.commit.local.catalog`), an
object store by a create-only PUT of the manifest (:mod:`ckptstore.commit.objects.catalog`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, Protocol

from ckptstore.backends.base import Backend, Sink
from ckptstore.format.names import CheckpointName

IfExists = Literal["error", "replace", "return"]
Check = Callable[[CheckpointName], None]
"""Raises CheckpointProtected for a checkpoint that must stay."""

Vouch = Callable[[Mapping[str, int]], tuple[bytes, bytes]]
"""From files (path in the checkpoint to size in bytes) to ``parts.json`` and a manifest for them."""


def allow(name: CheckpointName) -> None:
    """A `Check` for which nothing must stay."""


class Swept(NamedTuple):
    """What one `sweep` removed."""

    attempts: list[str]
    """Unfinished attempts and deleted checkpoints whose bytes were removed."""
    bytes: int
    """Bytes freed, as far as the place told."""


class Attempt(Protocol):
    """One try at one checkpoint. Nothing it writes is a checkpoint before `commit` returned."""

    id: str
    """Identity of this try: unique, and stamped in the manifest."""

    directory: str | None
    """The real local directory the files go to, where there is one (local disk), else None."""

    reuse_from: int
    """Size in bytes below which writing a file costs no more than `reuse`."""

    read_freely: int
    """Bytes of files to `reuse` that a save may read first without being noticeably slower."""

    def create(self, path: str) -> Sink:
        """A new file of the checkpoint. Safe from several threads, each with its own path."""

    def reuse(self, path: str, key: str, size: int) -> bool:
        """Make the file `key` of the store, of `size` bytes, the file `path` of the checkpoint as well.

        A link on local disk, a copy made by the server on object stores. False where that can't be;
        then write it. The caller sees to it that `key` is what it takes it for.
        """

    def freeze(self, paths: Sequence[str]) -> None:
        """Take files that another program put into `directory` for finished, and make them durable.

        From now on they must not change, and no others may appear: `commit` raises SaveAborted if they
        do. What is read after this is what will be committed. Needs a `directory`.
        """

    def commit(self, manifest: bytes) -> CheckpointName:
        """Make the checkpoint exist, durably, holding exactly the files created (plus `manifest`).

        Returns its name once that is certain; then, with ``if_exists="replace"``, unpublishes what it
        supersedes. Raises CheckpointExists (somebody else won the step), SaveAborted (somebody took
        over), or StoreUnavailable when the place gave no certain answer by the deadline: then it may
        exist, and nothing of it was removed.
        """

    def abandon(self) -> None:
        """Give up before `commit` was called: removes what can be removed and never raises."""


class Catalog(Protocol):
    """Which checkpoints a store has, how one is added and how one goes. Safe from several threads."""

    @property
    def backend(self) -> Backend:
        """Where the store lies."""

    @property
    def in_place(self) -> bool:
        """Whether every attempt has a `directory`, which costs no request."""

    def created(self, key: str, data: bytes, other: bytes) -> None:
        """Told right after this process created `key` holding `data`: an occasion to try the place.

        StoreUnsuitable if it lets itself be created again; then it may hold `other`.
        """

    def names(self) -> list[CheckpointName]:
        """Every directory that is named like a checkpoint, ascending; committed or not."""

    def scan(self) -> Mapping[CheckpointName, Mapping[str, int]]:
        """The same with each one's files: path inside the checkpoint to size in bytes."""

    def begin(self, step: int, if_exists: IfExists, attempt_id: str, check: Check = allow) -> Attempt:
        """Start an attempt at `step`.

        With "replace", `check` is asked about each checkpoint that would be superseded, right before
        it is unpublished: one for which it raises CheckpointProtected stays committed below the new
        one. It is asked about unfinished attempts too, before they are given up: what a tag points at was
        committed once, and has lost its manifest. Raises CheckpointExists if the step is visibly committed
        and `if_exists` is not "replace".
        """

    def adopt(self, name: CheckpointName, vouch: Vouch, check: Check = allow) -> None:
        """Make the directory `name`, which another program has filled, a checkpoint where it lies.

        `vouch` reads the files it is told of. Then ``parts.json`` and the manifest are written, and
        nothing else. Does nothing where `name` is committed already, by whomever. Raises
        CheckpointNotFound if nothing is there, CheckpointGone if it was deleted, CheckpointExists if
        another directory holds the step, InvalidRequest for an unfinished save or what is no plain
        file, SaveAborted if something changed the files meanwhile.
        """

    def discard(self, attempt_id: str) -> None:
        """Remove what an attempt of this process has left that was interrupted while it began or ended."""

    def tidy(self) -> None:
        """Remove a few of what dead processes left, if that is cheap to find; never raises an OSError."""

    def delete(self, name: CheckpointName, check: Callable[[], None]) -> None:
        """Unpublish `name` (from then on it is gone for every reader), then remove its bytes.

        Lower attempts at the step go first, or one of them would come back as the step's checkpoint.
        `check` re-reads what protects it and raises CheckpointProtected; it is called at the point
        where no tag can slip past any more. Deleting what is already gone raises CheckpointGone.
        """

    def guard(self, name: CheckpointName) -> AbstractContextManager[None]:
        """Around the writing of a tag that points at `name`.

        Raises CheckpointGone, at entry or exit, unless the tag is safe: no delete that runs at the
        same time can then miss it. The caller takes its tag back on that error.
        """

    def show_life(self, holder: str) -> AbstractContextManager[None]:
        """While the block runs, `is_dead` says no about `holder`, a new name; a crash ends that as well."""

    def is_dead(self, holder: str, prefix: str, bound: float) -> bool:
        """Whether who writes below `prefix` as `holder` has ended: his lock is free, or was removed.

        Where no lock tells, whether he has written nothing there for `bound` seconds, by the clock of the
        place; then a living one must write more often.
        """

    def mend(
        self,
        name: CheckpointName,
        path: str,
        write: Callable[[Sink], None],
        check: Callable[[], None],
        twin: str | None = None,
    ) -> None:
        """Put what `write` writes in the place of the damaged file `path`: old or new, never between.

        `check` raises unless `name` is still the checkpoint that is meant. A delete or a replacement at the
        same time wins: CheckpointGone. With `twin`, the key of a file of the same bytes, that may be shared
        instead. A manifest that is absent is created, and stays as it is if somebody else was first.
        """

    def sweep(self, grace: float | None, check: Check = allow, dry_run: bool = False) -> Swept:
        """Remove what crashed, lost or deleted attempts left; never a live or in-flight one.

        Nor a directory for which `check` raises CheckpointProtected. `grace` is in seconds; None takes the
        protocol's own default. With `dry_run` nothing of the store is changed: what would go is told.
        """
