"""Run: the saves of one process to one store, one after another, each the child of the one before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, SupportsIndex

from ckptstore import logs
from ckptstore.checkpoint import Checkpoint
from ckptstore.commit.base import Catalog, IfExists
from ckptstore.commit.identity import Identity
from ckptstore.errors import CheckpointError, CheckpointExists
from ckptstore.find.latest import find_step
from ckptstore.find.lineage import Lineage
from ckptstore.find.survey import Survey
from ckptstore.format.layout import Contents, Item
from ckptstore.format.manifest import Manifest
from ckptstore.format.names import CheckpointName
from ckptstore.format.parts import FileParts
from ckptstore.format.signing import Signer, Trust
from ckptstore.save.asked import ask
from ckptstore.save.background import Background
from ckptstore.save.fingerprints import Seen
from ckptstore.save.local_files import model_items
from ckptstore.save.opaque import Mode, Watch, check_mode
from ckptstore.save.requests import Request, build_request
from ckptstore.save.save import Save, write_checkpoint
from ckptstore.work import Progress


class Run:
    """Saves checkpoints and remembers what the next save needs: its parent, its memory, what is in flight."""

    def __init__(
        self,
        catalog: Catalog,
        identity: Identity,
        survey: Survey,
        lineage: Lineage,
        *,
        concurrency: int,
        signer: Signer | None,
        trust: Trust | None,
        max_pending: int,
    ) -> None:
        self.catalog = catalog
        self.concurrency = concurrency
        self.signer = signer
        self._trust = trust
        self.background: Background[Checkpoint] = Background(max_pending)
        self._identity = identity
        self._survey = survey
        self._lineage = lineage
        self._fingerprints = Seen()
        self._looked = False
        self._opaques = Watch()

    def build_request(
        self,
        kind: str,
        policies: Iterable[str],
        step: SupportsIndex,
        metrics: Mapping[str, Any] | None,
        labels: Iterable[str],
        if_exists: IfExists,
    ) -> Request:
        """What a manifest of this run will say, checked; its parent is known when the save begins."""
        return build_request(kind, policies, step, metrics, labels, if_exists, self.signer)

    def prepare(
        self,
        given: Contents,
        models: Mapping[str, str | os.PathLike[str]] | None,
        step: SupportsIndex,
        metrics: Mapping[str, Any] | None,
        labels: Iterable[str],
        if_exists: IfExists,
        opaque: Mode = "warn",
    ) -> tuple[Request, list[Item]]:
        """The manifest's request and the files of a save. InvalidRequest before a byte is written."""
        check_mode(opaque)
        given = ask(given)
        if opaque != "allow":
            given = replace(given, look=partial(self._opaques.look, opaque))
        request = self.build_request(given.kind, given.policy_ids, step, metrics, labels, if_exists)
        if given.is_empty and not models and not metrics:
            logs.logger.warning(
                "step %d is saved with nothing in it. Pass a state, or policies", request.step
            )
        items = given.items(request.step)
        if opaque == "error":
            for item in items:
                if item.live:
                    item.emit(lambda data: None)
        return request, items + model_items(given, models or {})

    def save(self, request: Request, items: Sequence[Item], progress: Progress | None = None) -> Checkpoint:
        """Write and commit `items` now."""
        request = self.with_parent(request)
        where = f"{self.catalog.backend.url}/{CheckpointName(request.step)}"
        with logs.log_time("saved", where) as done:
            try:
                name, manifest, files = write_checkpoint(
                    self.begin, request, items, self._lineage.base(), self._fingerprints, progress
                )
            except CheckpointExists:
                if request.if_exists != "return":
                    raise
                return self._survey.checkpoint(*find_step(self._survey, request.step))
            done(manifest.size)
        return self.note_commit(name, manifest, files)

    def submit(self, request: Request, items: Sequence[Item]) -> Future[Checkpoint]:
        """Save a snapshot of `items`, once the saves in flight are done."""
        return self.background.submit(items, lambda frozen: self.save(request, frozen))

    def submit_job(self, job: Callable[[], Checkpoint]) -> Future[Checkpoint]:
        """Run a commit of one's own, once the saves in flight are done."""
        return self.background.submit([], lambda _: job())

    def begin(self, request: Request) -> Save:
        """A save of what `request` asks for, not begun yet."""
        return Save(self.catalog, request.step, request.if_exists, self.concurrency)

    def make_store(self) -> str:
        """The store's id; the store is made if it isn't there.

        InvalidRequest if checkpoints are signed here that the stores which are trusted don't include.
        """
        store = self._identity.make()
        if self.signer is not None and self._trust is not None:
            self._trust.check_store(store)
        return store

    def with_parent(self, request: Request) -> Request:
        """`request` with its store, and its parent now that no save is in flight that may become it."""
        store = self.make_store()
        if not self._looked:
            self._looked = True
            if self._trust is not None and self.signer is None:
                logs.logger.warning("what is saved here is not signed, and so this store won't read it")
            if not self._identity.made:
                self._warn_of_other_line(request.step)
        return replace(request, store=store, parent=self._lineage.parent)

    def _warn_of_other_line(self, step: int) -> None:
        """Once, before the first save: what an earlier run left would be taken for the newest of this one."""
        try:
            warning = self._lineage.describe_other_line(step, self._survey.newest_after(step))
        except CheckpointError as error:
            logs.logger.debug("not known whether there is another line: %s", error)
        else:
            if warning is not None:
                logs.logger.warning("%s: %s", self.catalog.backend.url, warning)

    def note_commit(
        self, name: CheckpointName, manifest: Manifest, files: Iterable[FileParts] | None = None
    ) -> Checkpoint:
        """The checkpoint just committed, from which the run goes on."""
        table = None if files is None else {file.path: file for file in files}
        checkpoint = self._survey.checkpoint(name, manifest, table=table)
        self._lineage.note_save(checkpoint)
        return checkpoint
