"""List checkpoints that are committed and whole, however much changes meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from ckptstore.backends.base import Backend
from ckptstore.backends.translate import translate_errors
from ckptstore.checkpoint import Checkpoint, Skipped
from ckptstore.commit.base import Catalog
from ckptstore.commit.failures import is_of_another_step, not_committed, url_of
from ckptstore.commit.identity import Identity, Standing
from ckptstore.commit.objects.states import SEAL, TOMBSTONE
from ckptstore.commit.place import refuse_checkpoint
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointProtected,
    CheckpointUntrusted,
    StoreUnavailable,
    UnreadableFormat,
)
from ckptstore.find.lineage import Lineage
from ckptstore.find.lost import Loss, can_read, disagree, find_lost, may_be_lost
from ckptstore.format import layout as plan
from ckptstore.format import names
from ckptstore.format.manifest import Check, Manifest
from ckptstore.format.markers import derive_marker
from ckptstore.format.names import CheckpointName
from ckptstore.format.parts import FileParts
from ckptstore.logs import logger
from ckptstore.read.locate import list_files
from ckptstore.read.manifests import Missing, fetch_state
from ckptstore.read.report import VerifyReport
from ckptstore.work import run_all

MAX_TRIES = 20
"""Listings that are made before a store counts as never at rest."""
_LISTINGS = 3
"""Of a directory, made before one that lacks what can be read is given up."""
_DEAD = (None, len(SEAL), len(TOMBSTONE))
"""Sizes of what commits nothing. Anything else that is as small is a manifest cut off, or no plain file."""
T = TypeVar("T")


class Found(NamedTuple):
    """What a full survey saw."""

    checkpoints: list[Checkpoint]
    skipped: list[Skipped]
    unfinished: dict[str, str]
    """Names of directories that lack a manifest alone, and what there is to say: maybe it is on its way."""


class Survey:
    """Looks for checkpoints in one store; every look is fresh."""

    def __init__(
        self,
        catalog: Catalog,
        identity: Identity,
        concurrency: int,
        lineage: Lineage,
        trust: Check | None = None,
    ) -> None:
        self._catalog = catalog
        self._backend = catalog.backend
        self._identity = identity
        self._concurrency = concurrency
        self._lineage = lineage
        self._trust = trust
        self._mentioned: set[str] = set()

    @property
    def backend(self) -> Backend:
        """Where the store lies."""
        return self._backend

    @property
    def url(self) -> str:
        """Of the store."""
        return self._backend.url

    def names(self) -> list[CheckpointName]:
        """Every directory named like a checkpoint. StoreNotFound if the store itself has vanished.

        That there is none is taken only from a listing that shows the store's own directory: one that
        shows nothing at all says nothing about a store that is there.
        """
        standing = self._identity.look()
        if standing is Standing.NOTHING:
            return []
        with translate_errors(self._backend.url):
            listed = self._catalog.names()
            if listed:
                return listed
            if standing is Standing.STORE:
                self._identity.prove_again()
            children = self._backend.children()
            refuse_checkpoint(self._backend, children)  # one that was opened as a store by mistake before
        if names.META not in children or standing is Standing.LOST:
            raise StoreUnavailable(self._backend.url, "the listing is empty, although the store is there")
        return sorted(filter(None, map(CheckpointName.parse, children)))

    def fetch(
        self, name: CheckpointName, label: str | None = None, misnamed: bool = False
    ) -> Manifest | None:
        """The manifest of `name`, which errors call `label`; None if it isn't committed.

        CheckpointCorrupt if it is that of another step, whose copy lies there, unless it may be `misnamed`.
        """
        found = self._fetch_state(name, label or url_of(self._backend, name), misnamed)
        return found if isinstance(found, Manifest) else None

    def _fetch_state(self, name: CheckpointName, label: str, misnamed: bool = False) -> Manifest | Missing:
        found = fetch_state(self._backend, str(name), label, self._trust)
        if isinstance(found, Manifest) and found.step != name.step and not misnamed:
            raise is_of_another_step(label, name, found.step)
        return found

    def manifest_of(self, name: CheckpointName, misnamed: bool = False) -> Manifest:
        """The same, but CheckpointNotFound if it isn't committed."""
        manifest = self.fetch(name, misnamed=misnamed)
        if manifest is None:
            raise not_committed(self._backend, name)
        return manifest

    def check_alone(self, name: CheckpointName) -> None:
        """CheckpointProtected if a delete of `name`, a copy of another step, took one of its step along."""
        for other in self.names():
            if other.step == name.step and other < name and isinstance(self._look(other), Manifest):
                why = f"deleting it would delete {other} as well, which step {name.step} had before"
                raise CheckpointProtected(url_of(self._backend, name), why, "Move it out of the store")

    def manifests(self) -> dict[CheckpointName, Manifest | Skipped]:
        """The manifest of every committed directory, superseded ones too; or why it can't be read."""
        listed = self.names()
        looked = run_all(self._look, listed, self._concurrency)
        return {
            name: found for name, found in zip(listed, looked, strict=True) if not isinstance(found, Missing)
        }

    def any_after(self, step: int) -> bool:
        """Whether a checkpoint of a later step is committed now."""
        return any(isinstance(found, Manifest) or found.newer for _, found in self._look_after(step))

    def newest_after(self, step: int) -> tuple[CheckpointName, Manifest] | None:
        """The newest checkpoint that is committed now and can be read, of those of later steps."""
        later = self._look_after(step)
        return next(((name, found) for name, found in later if isinstance(found, Manifest)), None)

    def _look_after(self, step: int) -> Iterator[tuple[CheckpointName, Manifest | Skipped]]:
        """What is committed now at later steps, the newest first, each looked at only when asked for."""
        for name in reversed(self.names()):
            if name.step <= step:
                return
            found = self._look(name)
            if not isinstance(found, Missing):
                yield name, found

    def list_committed(self) -> Found:
        """Every visible checkpoint whose files are all there, oldest to newest, and what was passed over."""
        if self._identity.look() is Standing.NOTHING:
            return Found([], [], {})
        known: set[CheckpointName] = set()
        for _ in range(MAX_TRIES):
            with translate_errors(self._backend.url):
                scan = self._catalog.scan()
            found = self._examine(scan)
            news = self._find_successors(scan) if scan else set(self.names())
            if found is not None and news <= known:  # known before this scan, which shows nothing in it
                return found
            known = news
        raise restless(self._backend.url)

    def checkpoint(
        self,
        name: CheckpointName,
        manifest: Manifest,
        skipped: Sequence[Skipped] = (),
        table: Mapping[str, FileParts] | None = None,
    ) -> Checkpoint:
        """The checkpoint object for a manifest just read or written, the latter with its parts."""
        return Checkpoint.from_manifest(
            self._backend, str(name), manifest, skipped=skipped, on_load=self._lineage.note_load, table=table
        )

    def fetch_whole(
        self, name: CheckpointName, skipped: list[Skipped], absent: list[CheckpointName], verified: bool
    ) -> Manifest | None:
        """The manifest of a committed checkpoint that is all there; else None, with damage noted.

        Where there is no manifest, and nothing that says why, `absent` notes that.
        """
        manifest = self._look(name)
        if isinstance(manifest, Missing):
            if manifest is Missing.ABSENT:
                absent.append(name)
            return None
        if isinstance(manifest, Skipped):
            skipped.append(manifest)
            return None
        checkpoint = self.checkpoint(name, manifest)
        problem = _mismatch(manifest, checkpoint.listing()) and self._recheck_listing(name, manifest)
        if problem is None and verified:
            report = checkpoint.check()
            problem = None if report.ok else report.summary()
            self._mention(report)
        if problem is None:
            return manifest
        if not isinstance(self._look(name), Missing):  # else it was deleted meanwhile, which is no damage
            skipped.append(Skipped(str(name), problem))
        return None

    def _mention(self, report: VerifyReport) -> None:
        """Log that files lie in a checkpoint that are no part of it: once for each."""
        if report.strays and report.name not in self._mentioned:
            self._mentioned.add(report.name)
            logger.info("%s also holds what is no part of it: %s", report.name, ", ".join(report.strays[:20]))

    def _examine(self, scan: Mapping[CheckpointName, Mapping[str, int]]) -> Found | None:
        """What `scan` comes to; None if something in it was gone by the time it was read."""
        candidates = _live(scan)
        looked = run_all(self._look, candidates, self._concurrency)
        skipped: list[Skipped] = []
        committed: list[tuple[CheckpointName, Manifest | Skipped]] = []
        for name, manifest in zip(candidates, looked, strict=True):
            if isinstance(manifest, Missing) and scan[name][names.MANIFEST] <= names.SMALL_STATE_BYTES:
                continue  # a seal or tombstone all the same, as another version may write it
            if isinstance(manifest, Missing):
                return None
            if isinstance(manifest, Skipped):
                skipped.append(manifest)
                if manifest.newer:  # it may have taken the place of what can be read
                    committed.append((name, manifest))
                continue
            problem = _mismatch(manifest, scan[name]) and self._recheck_listing(name, manifest)
            if problem is not None:
                skipped.append(Skipped(str(name), problem))
            else:
                committed.append((name, manifest))
        losses = self.find_losses([name for name, files in scan.items() if may_be_lost(files)])
        skipped += [Skipped(str(name), loss.why) for name, loss in losses.items() if loss.certain]
        unfinished = {str(name): loss.why for name, loss in losses.items() if not loss.certain}
        log_skipped(skipped, self._backend.url)
        visible = readable(plan.visible(committed))
        return Found(
            [self.checkpoint(name, manifest) for name, manifest in visible.items()], skipped, unfinished
        )

    def _find_successors(self, scan: Mapping[CheckpointName, Mapping[str, int]]) -> set[CheckpointName]:
        """Names that steps have which `scan` shows as deleted, and that aren't in there: replacements?

        A listing is not of one moment. It may have passed the place of the successor before that was
        there, and come to the one that was replaced after it was deleted. Or nothing is in them any more:
        SeaweedFS lists such directories for ever.
        """
        gone = {name.step for name in scan} - {name.step for name in _live(scan)}
        if not gone:
            return set()
        with translate_errors(self._backend.url):
            return {name for name in self._catalog.names() if name.step in gone and name not in scan}

    def find_lost(self, without: Sequence[CheckpointName]) -> list[Skipped]:
        """Those of the directories `without` a manifest that have lost it."""
        losses = self.find_losses(without)
        return [Skipped(str(name), loss.why) for name, loss in losses.items() if loss.certain]

    def find_losses(self, without: Sequence[CheckpointName]) -> dict[CheckpointName, Loss]:
        """Those of the directories `without` a manifest that have lost it, or may have."""
        with translate_errors(self._backend.url):
            return find_lost(self._backend, without, self._catalog.in_place)

    def _look(self, name: CheckpointName) -> Manifest | Missing | Skipped:
        """The manifest; or why nothing is committed there (any more), or can't be read."""
        try:
            return self._fetch_state(name, str(name))
        except CheckpointCorrupt as error:
            return Skipped(str(name), error.why, untrusted=isinstance(error, CheckpointUntrusted))
        except UnreadableFormat as error:
            return Skipped(str(name), f"{error.why}; upgrade ckptstore to read it", newer=True)

    def _recheck_listing(self, name: CheckpointName, manifest: Manifest) -> str | None:
        """Why a listing made now shows another checkpoint: one that lacked something may have been cut.

        StoreUnavailable if it lacks what can be read all the same: it says nothing about the checkpoint.
        """
        where = url_of(self._backend, name)
        for _ in range(_LISTINGS):
            listed = list_files(self._backend, str(name), where)
            problem = _mismatch(manifest, listed)
            missing = _find_missing(manifest, listed)
            if problem is None or missing is None or not can_read(self._backend, f"{name}/{missing}", where):
                return problem
        raise disagree(where, str(missing))


def _live(scan: Mapping[CheckpointName, Mapping[str, int]]) -> list[CheckpointName]:
    """Those that may be committed, by the size of their manifest."""
    return [name for name, files in scan.items() if files.get(names.MANIFEST) not in _DEAD]


def readable(
    found: Iterable[tuple[CheckpointName, Manifest | Skipped]],
) -> dict[CheckpointName, Manifest]:
    """Those of `found` whose manifest could be read."""
    return {name: manifest for name, manifest in found if isinstance(manifest, Manifest)}


def _mismatch(manifest: Manifest, files: Mapping[str, int]) -> str | None:
    """Why the directory isn't the checkpoint its manifest tells of: a copy cut short, a file cut off."""
    for file in (*manifest.files, manifest.parts):
        if file.path not in files:
            if derive_marker(manifest, file.path) is None:
                return f"{file.path} is missing"
        elif files[file.path] != file.size:
            return f"{file.path} has {files[file.path]} bytes, not {file.size}"
    return None


def _find_missing(manifest: Manifest, files: Mapping[str, int]) -> str | None:
    """The first file with bytes in it that `manifest` names and `files` lacks."""
    named = (file for file in (*manifest.files, manifest.parts) if file.size)
    return next((file.path for file in named if file.path not in files), None)


def restless(url: str) -> StoreUnavailable:
    """That no listing could be believed."""
    return StoreUnavailable(url, f"checkpoints kept changing through {MAX_TRIES} listings")


def log_skipped(skipped: list[Skipped], url: str) -> None:
    """Warn of each."""
    for skip in skipped:
        logger.warning("%s/%s is passed over: %s", url, skip.name, skip.reason)
