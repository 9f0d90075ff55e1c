"""What a save need not write: files that an earlier checkpoint of the store holds byte for byte.

They are hard-linked on local disk and copied by the server on object stores, so the checkpoint is as whole
as any other, and the bytes sent are those that changed. What lies there may have rotted: each save reads some
of it first, and all of it in turn (``docs/decisions/015-reading-what-is-shared.md``).
"""

from __future__ import annotations

from ckptstore.backends.base import Backend, place_of
from ckptstore.commit.base import Attempt
from ckptstore.errors import CheckpointCorrupt, CheckpointGone
from ckptstore.format.layout import Base, Item
from ckptstore.format.parts import FileParts
from ckptstore.logs import logger
from ckptstore.read.manifests import fetch_manifest
from ckptstore.read.spot_checks import EVERYTHING, Turn, find_damage
from ckptstore.save.fingerprints import Seen
from ckptstore.save.writing import Cutter
from ckptstore.work import Progress


class Reuse:
    """Takes over, for one attempt, what `base` or the checkpoint of a stored item already holds."""

    def __init__(
        self,
        attempt: Attempt,
        place: Backend,
        base: Base | None,
        seen: Seen,
        progress: Progress | None = None,
    ) -> None:
        self._attempt = attempt
        self._place = place
        self._base = base
        self._seen = seen
        self._progress = progress
        self._taken: dict[str, str] = {}  # directory to the id its manifest must still have
        self._damaged: dict[str, dict[str, str]] = {}  # directory to what is wrong, by file
        self._turns: dict[str, Turn] = {}

    def __call__(self, item: Item) -> FileParts | None:
        """The parts of `item`, now a file of the attempt; None if it has to be written."""
        base, source = item.stored or (self._base, item.path)
        if base is None or base.place != place_of(self._place) or source not in base.files:
            return None
        known = base.files[source]
        # One that is stored would have to be fetched first: that is a request as well.
        if item.stored is None and (
            known.size < self._attempt.reuse_from or not _same(item, known, self._seen)
        ):
            return None
        key = f"{base.prefix}/{source}"
        turn = self._turn(base) if item.stored is None else self._seen.next_turn(key)
        if turn is not None and (why := find_damage(self._place, key, known, turn)):
            if item.stored is not None:
                raise CheckpointCorrupt(
                    f"{self._place.url}/{key}",
                    why,
                    "Mend it with `ckptstore repair`, or pass the policy's objects",
                )
            self._taken[base.prefix] = base.id
            self._damaged.setdefault(base.prefix, {})[source] = why
            return None
        if not self._attempt.reuse(item.path, key, known.size):
            return None
        self._taken[base.prefix] = base.id
        if self._progress is not None:
            self._progress(known.size)
        return known._replace(path=item.path)

    def check(self) -> None:
        """CheckpointGone unless all it took from is still what it was; warns of what it found damaged.

        An id is never given to a second attempt, so a directory that has it now had it all the time.
        A manifest that is damaged no longer says so.
        """
        for prefix, attempt_id in self._taken.items():
            where = f"{self._place.url}/{prefix}"
            try:
                manifest = fetch_manifest(self._place, prefix, where)
            except CheckpointCorrupt as error:
                logger.warning("%s is damaged (%s): nothing is taken over from it", where, error.why)
                raise CheckpointGone(where, error.why, "Save again") from error
            if manifest is None or manifest.id != attempt_id:
                raise CheckpointGone(where, "it was deleted while a save took over its files", "Save again")
            if damaged := self._damaged.get(prefix):
                path, why = min(damaged.items())
                logger.warning(
                    "%s is damaged (%s: %s%s): what differs is written anew, not taken over. "
                    "Mend it with `ckptstore repair`",
                    where,
                    path,
                    why,
                    f"; and {len(damaged) - 1} more" if len(damaged) > 1 else "",
                )

    def _turn(self, base: Base) -> Turn:
        """What this save reads of `base`: all of it once something there was found damaged."""
        if base.prefix in self._damaged:
            return EVERYTHING
        if base.prefix not in self._turns:
            size = sum(file.size for file in base.files.values())
            self._turns[base.prefix] = Turn.of_save(self._seen.saves, size, self._attempt.read_freely)
        return self._turns[base.prefix]


class _Different(Exception):
    pass


class _Comparer(Cutter):
    """Writes nothing, and stops at the first part that differs from `known`."""

    def __init__(self, known: FileParts, seen: Seen) -> None:
        super().__init__()
        self._seen = seen
        self._expected = iter(known.parts)

    def part(self, data: memoryview) -> str:
        expected = next(self._expected, None)
        if expected is None or len(data) != expected.length or not self._seen.same(data, expected.digest):
            raise _Different
        return expected.digest


def _same(item: Item, known: FileParts, seen: Seen) -> bool:
    """Whether `item` would be written as the very file that `known` describes."""
    comparer = _Comparer(known, seen)
    try:
        return comparer.finish(known.path, item.emit(comparer.write)) == known
    except _Different:
        return False
