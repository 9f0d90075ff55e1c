"""The public store: save, find, tag and prune checkpoints below one URL."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeAlias

from ckptstore import logs, retention
from ckptstore.backends.base import Backend
from ckptstore.backends.registry import backend_of
from ckptstore.backends.translate import translate_errors
from ckptstore.checkpoint import Checkpoint
from ckptstore.commit import open_catalog, refs
from ckptstore.commit.base import IfExists, Swept
from ckptstore.commit.failures import is_of_another_step
from ckptstore.commit.identity import Identity, Standing
from ckptstore.errors import (
    CheckpointError,
    CheckpointNotFound,
    InvalidRequest,
)
from ckptstore.find.latest import find_latest, find_step
from ckptstore.find.lineage import Lineage
from ckptstore.find.prune import choose_unneeded
from ckptstore.find.ranking import choose_best
from ckptstore.find.removal import Removal, refuse_newer
from ckptstore.find.sharing import check_all, check_chosen
from ckptstore.find.survey import Survey
from ckptstore.find.tags import Tags
from ckptstore.find.targets import Target, check_kind, directories_of, refuse_word, target_of
from ckptstore.find.transfer import check_copy, copy_all, errors_of, summarize_errors
from ckptstore.format import layout, names
from ckptstore.format.layout import Item
from ckptstore.format.manifest import Manifest
from ckptstore.format.names import CheckpointName
from ckptstore.format.signing import open_keys
from ckptstore.read.report import VerifyReport
from ckptstore.repair.repair import Repair, source_of, sources_of
from ckptstore.repair.report import RepairReport
from ckptstore.repair.sources import Source
from ckptstore.retention import Keep
from ckptstore.run import Run
from ckptstore.save import adopt as adopting
from ckptstore.save.opaque import Mode
from ckptstore.staging import Job, Staged, import_files
from ckptstore.work import Progress, off_main

if TYPE_CHECKING:
    from ckptstore.rllib_formats.migrate import Step
    from ckptstore.save.migrate import Migration

Which: TypeAlias = "Checkpoint | SupportsIndex | str"
"""A checkpoint, or what `CheckpointStore.get` takes to find one."""


@off_main("id")
class CheckpointStore:
    """Durable, versioned checkpoints below one URL. Safe to use from threads.

    Parameters:
        url: a path, ``file://``, ``s3://``, ``gs://``, ``memory://`` or any URL that fsspec opens; or a
            `Backend` of one's own.
        storage_options: passed to fsspec; credentials stay in memory only.
        timeout: seconds after which a place that gives no proper answer counts as unavailable.
        retries: how often one request is tried again within `timeout`.
        concurrency: files moved at once; None takes what suits the place.
        max_pending: saves of `save_async` in flight before the next one waits; each holds a snapshot.
        single_writer: accept a place without create-only writes; then only one process may save.
        create: make the store with the first save, stage, adoption, copy or migration if it isn't there;
            opening and reading never write. With False, a missing store is an error.
        signing_key: an Ed25519 private key in PEM, with which every new checkpoint is signed.
        trusted_keys: Ed25519 public keys in PEM. Then a checkpoint counts only if one of them has signed
            it: any other is passed over as damaged ones are, or raises CheckpointUntrusted.
        trusted_stores: ids of stores (`id`). Then only what was signed for one of them counts, wherever it
            lies now. By default what a trusted key has signed for any store does.

    Raises StoreNotFound, StoreDenied, StoreUnavailable or StoreUnsuitable on first use.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | Backend,
        *,
        storage_options: Mapping[str, Any] | None = None,
        timeout: float = 120.0,
        retries: int = 8,
        concurrency: int | None = None,
        max_pending: int = 1,
        single_writer: bool = False,
        create: bool = True,
        signing_key: bytes | str | None = None,
        trusted_keys: Iterable[bytes | str] | None = None,
        trusted_stores: Iterable[str] | None = None,
    ) -> None:
        self._backend = backend_of(
            url, storage_options, timeout=timeout, retries=retries, concurrency=concurrency
        )
        names.check_positive("max_pending", max_pending, "Pass 1 or more")
        self._catalog = open_catalog(self._backend, single_writer=single_writer)
        self._concurrency = concurrency or self._backend.concurrency
        self._signer, self._trust = open_keys(signing_key, trusted_keys, trusted_stores)
        self._settings: dict[str, Any] = {
            "concurrency": concurrency,
            "max_pending": max_pending,
            "single_writer": single_writer,
            "create": create,
            **(self._trust.settings if self._trust else {}),
        }
        self._identity = Identity(self._catalog, create)
        self._lineage = Lineage()
        self._survey = Survey(self._catalog, self._identity, self._concurrency, self._lineage, self._trust)
        self._tags = Tags(self._catalog, self._identity, self._survey)
        self._removal = Removal(self._catalog, self._survey, self._tags)
        self._run = Run(
            self._catalog,
            self._identity,
            self._survey,
            self._lineage,
            concurrency=self._concurrency,
            signer=self._signer,
            trust=self._trust,
            max_pending=max_pending,
        )

    @property
    def url(self) -> str:
        """Where the store lies; holds no credentials."""
        return self._backend.url

    @property
    def signs(self) -> bool:
        """Whether it has a signing key."""
        return self._signer is not None

    @property
    def id(self) -> str:
        """The store's identity, made with it. StoreNotFound where nothing was saved yet."""
        return self._identity.prove()

    # -- saving ---------------------------------------------------------------------------------

    def save(
        self,
        step: SupportsIndex,
        state: Any = layout.UNSET,
        policies: Mapping[str, Any] | None = None,
        components: Mapping[str, Any] | None = None,
        *,
        policy: Any = layout.UNSET,
        models: Mapping[str, str | os.PathLike[str]] | None = None,
        metrics: Mapping[str, Any] | None = None,
        labels: Iterable[str] = (),
        if_exists: IfExists = "error",
        opaque: Mode = "warn",
        progress: Progress | None = None,
    ) -> Checkpoint:
        """Commit a checkpoint of `step`; durable when this returns, invisible if it fails.

        `state`, each of `policies` and each of `components` becomes one file, an ordinary pickle.
        What has a `state_dict()`, as `state` or right inside of it or of `components`, is asked for that;
        `Raw(x)` is pickled as it is. `policy` saves one policy alone instead. `models` names local
        directories of native exports by policy id; their files travel untouched. `metrics` and `labels`
        go into the manifest. Where the step is committed already, `if_exists` says what to do: "error",
        "replace" it, or "return" it. What a default load will give as a record is said once, in the log
        with its path; with `opaque` "error" it is refused, with "allow" nothing is said.

        Raises InvalidRequest before a byte is written; CheckpointExists; SaveAborted; StoreFull,
        StoreDenied, StoreUnavailable.
        """
        given = layout.Contents(state, policies, components, policy)
        request, items = self._run.prepare(given, models, step, metrics, labels, if_exists, opaque)
        self.wait()
        return self._run.save(request, items, progress)

    def save_async(
        self,
        step: SupportsIndex,
        state: Any = layout.UNSET,
        policies: Mapping[str, Any] | None = None,
        components: Mapping[str, Any] | None = None,
        *,
        policy: Any = layout.UNSET,
        models: Mapping[str, str | os.PathLike[str]] | None = None,
        metrics: Mapping[str, Any] | None = None,
        labels: Iterable[str] = (),
        if_exists: IfExists = "error",
        opaque: Mode = "warn",
    ) -> Future[Checkpoint]:
        """Like `save`, but returns once everything is snapshotted: the caller may go on changing it.

        The memory of the snapshot, as large as what is saved, is kept for the next one until `close`.
        When `max_pending` are in flight, the oldest is waited for; they are written in their order. A
        failure is the future's exception; if nobody looked at it, the next `save`, `save_async`, `wait` or
        `close` raises it. The interpreter doesn't exit under a save in flight.
        """
        given = layout.Contents(state, policies, components, policy)
        return self._run.submit(*self._run.prepare(given, models, step, metrics, labels, if_exists, opaque))

    def wait(self) -> None:
        """Return when no save is in flight any more."""
        self._run.background.wait()

    def close(self) -> None:
        """Same as `wait`, and gives back the memory that snapshots use; the store can go on being used."""
        self._run.background.close()

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def stage(
        self,
        step: SupportsIndex,
        *,
        metrics: Mapping[str, Any] | None = None,
        labels: Iterable[str] = (),
        if_exists: Literal["error", "replace"] = "error",
    ) -> Staged:
        """A real local directory for any framework to write into; see `Staged`."""
        return self._stage(step, metrics, labels, if_exists, None)

    def stage_async(
        self,
        step: SupportsIndex,
        *,
        metrics: Mapping[str, Any] | None = None,
        labels: Iterable[str] = (),
        if_exists: Literal["error", "replace"] = "error",
        keep: Keep | None = None,
    ) -> Staged:
        """Like `stage`, but the block ends at once: the commit goes on, and `Staged.future` is its result.

        For an object store nothing of it is sent before the block has ended. Afterwards what `keep` doesn't
        keep is pruned; where that fails it is logged, for the checkpoint is committed, and the next one
        tries again. One save is in flight at a time, and a failure comes up as that of `save_async` does.
        """
        rule = None if keep is None else retention.rule(keep)

        def submit(job: Job) -> Future[Checkpoint]:
            return self._run.submit_job(lambda: self._prune_after(job(), rule))

        return self._stage(step, metrics, labels, if_exists, submit)

    def _stage(
        self,
        step: SupportsIndex,
        metrics: Mapping[str, Any] | None,
        labels: Iterable[str],
        if_exists: Literal["error", "replace"],
        submit: Callable[[Job], Future[Checkpoint]] | None,
    ) -> Staged:
        request = self._run.build_request("Directory", (), step, metrics, labels, if_exists)
        self.wait()
        return Staged(self._run, self._run.with_parent(request), submit)

    def _prune_after(self, checkpoint: Checkpoint, rule: retention.Rule | None) -> Checkpoint:
        if rule is not None:
            try:
                self.prune(rule)
            except CheckpointError:
                logs.logger.warning("%s is committed, but nothing was pruned", checkpoint.url, exc_info=True)
        return checkpoint

    def commit_files(self, step: SupportsIndex, items: Sequence[Item], **about: Any) -> Checkpoint:
        """Commit files laid out as RLlib would, from another checkpoint: what `Checkpoint.migrate` calls.

        `about` is what the manifest says: see `ckptstore.save.migrate.Destination`. The run goes on from
        where it was. CheckpointExists if the step is taken, unless ``if_exists="replace"`` is in `about`.
        """
        from ckptstore.save import migrate as migration

        request = replace(migration.build_migration_request(step, **about), sign=self._signer)
        self.wait()
        made = migration.commit(self._catalog, self._run.make_store, self._concurrency, request, items)
        return self._survey.checkpoint(made.name, made.manifest, table=made.table)

    def migrate(
        self,
        source: Checkpoint | str | os.PathLike[str],
        *,
        to: Literal["1.1", "2.1"] = "1.1",
        step: int | None = None,
        steps: Sequence[Step] = (),
        dry_run: bool = False,
    ) -> Migration[Checkpoint]:
        """Commit to this store what `source`, an old checkpoint anywhere, holds; see `Checkpoint.migrate`."""
        checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.open(source)
        return checkpoint.migrate(self, to=to, step=step, steps=steps, dry_run=dry_run)

    def adopt(
        self,
        which: str | os.PathLike[str],
        *,
        metrics: Mapping[str, Any] | None = None,
        labels: Iterable[str] = (),
    ) -> Checkpoint:
        """Make a directory of this store that another program wrote, such as Ray, a checkpoint where it lies.

        Every byte is read, for its digest; none is moved, and nothing is written but a manifest and
        ``parts.json`` beside the files. From then on it is listed, verified, tagged, pruned and deleted
        as any other. `which` is its name or its whole path; its step is the one in its name, whatever
        RLlib counted inside. One that is committed already is returned as it is.

        Raises InvalidRequest for a directory elsewhere, of another name, or with links in it;
        CheckpointNotFound; CheckpointCorrupt or UnreadableFormat if RLlib wrote it and parts are missing
        or newer than known; CheckpointExists if its step is taken; SaveAborted if it changes meanwhile.
        """
        name = adopting.find_directory(os.fspath(which), self.url)
        if self._trust is not None and self._signer is None:
            raise InvalidRequest("trusted_keys", "nothing would sign its manifest", "Pass a signing_key too")
        request = self._run.build_request("Directory", (), name.step, metrics, labels, "error")
        request = replace(request, origin="adopt", format="", parent=None)
        adopting.adopt(self._catalog, self._run.make_store, name, request, self._concurrency)
        return self._survey.checkpoint(name, self._survey.manifest_of(name))

    # -- finding --------------------------------------------------------------------------------

    def checkpoints(self) -> list[Checkpoint]:
        """Every committed checkpoint, oldest to newest by step. Damaged ones are logged and left out."""
        return self._survey.list_committed().checkpoints

    def latest(self, verified: bool = False) -> Checkpoint | None:
        """The newest committed checkpoint; None only if the store holds none, or nothing at all lies here.

        One whose files are missing or of the wrong size is passed over, and so is with
        ``verified=True`` one with any damaged byte; `skipped` of the result says which and why. Raises
        CheckpointCorrupt if there are checkpoints and all of them are damaged, StoreNotFound where other
        files lie and no store, and UnreadableFormat in a directory that is a checkpoint.
        """
        return find_latest(self._survey, verified)

    def best(self, metric: str, mode: Literal["max", "min"] = "max") -> Checkpoint | None:
        """The checkpoint with the best value of `metric`; None if none has a number there.

        `metric` is a name in `metrics`, or a path such as ``env_runners/episode_return_mean``. NaN, infinite
        and missing values are passed over; ties go to the newest. It warns of a name that is nowhere.
        """
        return choose_best(self.checkpoints(), metric, mode)

    def get(self, which: Which | None = None, *, id: str | None = None) -> Checkpoint:
        """The checkpoint of a step, by its name, by ``tag:<name>``, or by id; of a `Checkpoint`, it anew.

        Raises CheckpointNotFound if there is none.
        """
        if (which is None) == (id is None):
            raise InvalidRequest("get", "it takes a step, name or tag, or an id", "Pass one of them")
        if which is not None:
            return self._survey.checkpoint(*self._find(which))
        for checkpoint in self.checkpoints():
            if checkpoint.id == id:
                return checkpoint
        raise CheckpointNotFound(f"{self.url} id {id!r}", "no checkpoint has it", "See `ckptstore ls`")

    def _find(self, which: Which, misnamed: bool = False) -> tuple[CheckpointName, Manifest]:
        """The checkpoint of a step, by its name, or by ``tag:<name>``; by name it may be `misnamed`."""
        self._identity.look()
        if isinstance(which, Checkpoint):
            self._check_mine(which)
            return target_of(which).name, self._tags.check_same(target_of(which))
        if not isinstance(which, str):
            return find_step(self._survey, names.step_number(which))
        if which.startswith("tag:"):
            return self._tags.follow(which[4:])
        name = CheckpointName.parse(which)
        if name is None:
            raise refuse_word(which, self.tags())
        return name, self._survey.manifest_of(name, misnamed)

    # -- tags -----------------------------------------------------------------------------------

    def tag(self, name: str, which: Which) -> None:
        """Point the tag `name` at a checkpoint, wherever it pointed before; a tagged one isn't deleted."""
        self._tags.point(names.check_ref(name), self._identify(which))

    def untag(self, name: str) -> None:
        """Take the tag away. CheckpointNotFound if there is none."""
        if names.check_ref(name) not in self.tags():
            raise CheckpointNotFound(f"{self.url} tag {name!r}", "there is no such tag")
        self._tags.clear(name)

    def tags(self) -> dict[str, str]:
        """Every tag, and the name of the checkpoint it points at."""
        found = self._tags.read()
        return {
            ref: target.name
            for ref, target in found.items()
            if not ref.startswith(names.PIN) and not target.newer
        }

    def pin(self, which: Which) -> None:
        """Keep a checkpoint from being deleted until `unpin`."""
        target = self._identify(which)
        self._tags.point(names.pin_ref(target.id), target)

    def unpin(self, which: Which) -> None:
        """Take the pin away; fine if there is none. By name also from what has lost its manifest."""
        try:
            pins = self._tags.pins_on(self._identify(which, misnamed=True))
        except CheckpointNotFound:
            if not (isinstance(which, str) and (pins := self._tags.pins_of(which))):
                raise
        self._removal.holds.unpin(pins)

    # -- removing -------------------------------------------------------------------------------

    def delete(self, which: Which, *, dry_run: bool = False) -> None:
        """Unpublish a checkpoint, then remove its bytes. CheckpointProtected if it is tagged or pinned.

        What this process resumed from goes as well: here the caller names it, `prune` would spare it. By its
        name it may also be a copy of another step, which nothing else takes. With `dry_run` nothing is
        removed, and what stands against it is raised all the same.
        """
        self._removal.delete(self._identify(which, misnamed=True), dry_run=dry_run)

    def rollback(self, which: Which, *, dry_run: bool = False) -> list[str]:
        """Delete every checkpoint later than this one, newest first, so that `latest` returns it.

        Returns the names that this call removed, or with `dry_run` would remove. Raises
        CheckpointProtected before anything is removed if one of them is tagged or pinned.
        """
        checkpoint = self._resolve(which)
        found = self._survey.list_committed()
        later = [target_of(other) for other in found.checkpoints if other.step > checkpoint.step]
        refuse_newer(found.skipped, checkpoint.step, self.url)
        removed = self._removal.roll_back(target_of(checkpoint), later, dry_run)
        if not dry_run:
            self._lineage.note_load(checkpoint)
        return removed

    def prune(self, keep: Keep, *, dry_run: bool = False) -> list[str]:
        """Delete what `keep` doesn't keep; returns the names, oldest first.

        `keep` is how many of the newest stay, or a rule of :mod:`ckptstore.retention`, or several, of
        which each keeps its own: ``prune(LatestN(3) | BestN("reward", 2) | EveryNSteps(1000))``. Never
        deletes what is tagged or pinned, the newest, or what this process resumed from or saved last: that
        isn't the newest where a run went back. Damaged checkpoints are neither counted nor deleted. With
        `dry_run` it only tells what would go.
        """
        rule = retention.rule(keep)
        if not dry_run:
            self._catalog.tidy()
        found = self.checkpoints()  # before the tags: one that is set meanwhile is looked for at the delete
        living = self._removal.holds.read_living(remove=not dry_run)
        targets = choose_unneeded(found, rule, living, self._lineage.in_use)
        return [str(target.name) for target in (targets if dry_run else self._removal.prune(targets))]

    def gc(self, grace: float | None = None, *, dry_run: bool = False) -> Swept:
        """Remove what crashed or aborted saves and interrupted deletes left behind.

        `grace` is the age in seconds below which an unfinished save is taken to be alive; by default
        0 on local disk, where a lock tells, and a day on object stores. Nothing committed is touched, nor
        what a tag or pin points at, which was committed once and has lost its manifest. With `dry_run` the
        store stays as it is, and the report says what would go.
        """
        if self._identity.look() is Standing.NOTHING:
            return Swept([], 0)
        self._identity.prove()
        if not dry_run:
            self._removal.holds.remove_dead()
        with translate_errors(self.url):
            return self._catalog.sweep(grace, functools.partial(refs.check_unnamed, self._backend), dry_run)

    # -- the whole store ------------------------------------------------------------------------

    def verify(
        self, which: Iterable[Which] | None = None, *, progress: Progress | None = None
    ) -> list[VerifyReport]:
        """Read and check every byte of every checkpoint, or of those named; a report for each.

        The damaged ones are included. Of a damaged file it names the other checkpoints that share it. Of the
        whole store it reports as well what has lost its manifest: a tag or pin points at it, or its
        ``parts.json``, which is written right before the manifest, is older than an hour; until then a note
        says that it is unfinished. So is a tag or pin that points at nothing.
        """
        if which is not None:
            return check_chosen(self._survey, map(self._resolve, which), progress)
        return check_all(self._survey, self._tags.find_dangling, progress)

    def repair(
        self,
        *mirrors: CheckpointStore | Checkpoint,
        which: Iterable[Which] | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> list[RepairReport]:
        """Mend damaged files from other checkpoints of this store, and of `mirrors`, with the same digests.

        A report for each damaged checkpoint says what was `mended`, from where, and what is `lost`: that
        stays as it is. A manifest comes back only from a mirror that has that very checkpoint. With `which`
        only these and what shares a damaged file with them are looked at, with `dry_run` nothing is written.
        A delete or a replacement at the same time wins. Raises StoreDenied, StoreFull, StoreUnavailable.
        """
        self._identity.prove()
        sources = list[Source]()
        for mirror in mirrors:
            if isinstance(mirror, Checkpoint):
                sources.append(source_of(mirror))
            else:
                sources += sources_of(check_kind(mirror, CheckpointStore)._survey)
        chosen = None if which is None else directories_of(which, self._survey.names(), self._identify)
        with translate_errors(self.url):
            doctor = Repair(self._catalog, self._survey, sources, self._trust, self._concurrency, progress)
            return doctor.run(chosen, dry_run, self._tags.find_dangling())

    def copy_to(
        self,
        other: CheckpointStore,
        which: Iterable[Which] | None = None,
        *,
        progress: Progress | None = None,
        errors: list[CheckpointError] | None = None,
    ) -> list[Checkpoint]:
        """Copy checkpoints, verified, to another store: all of them, or those named; tags come along.

        A checkpoint keeps its id. One that the other store already has is left alone, so a copy cut short
        is taken up again by the same call. What is damaged, or meets another checkpoint of its step there,
        stops none of the others; then their errors are added to `errors`, or without it CheckpointCorrupt,
        CheckpointExists or CheckpointGone is raised at the end. A later release's are passed over.
        """
        check_kind(other, CheckpointStore)
        told: list[CheckpointError] = [] if errors is None else errors
        if which is None:
            chosen, skipped, _ = self._survey.list_committed()
            told += errors_of(skipped, self.url, newer=errors is not None)
        else:
            chosen = [self._resolve(item) for item in which]
        if chosen:
            other._identity.make()
        copied = copy_all(chosen, other, self.tags(), progress, told)
        if told and errors is None:
            raise summarize_errors(told, self.url)
        return copied

    def add(
        self,
        checkpoint: Checkpoint,
        *,
        step: SupportsIndex | None = None,
        if_exists: Literal["error", "replace"] = "error",
        progress: Progress | None = None,
    ) -> Checkpoint:
        """Commit a verified copy of a checkpoint that lies elsewhere; it keeps id, manifest and signature.

        What RLlib or another trainer wrote is committed byte for byte as `step`, by default the one that its
        files tell. Raises CheckpointExists if its step is taken here and not to replace, CheckpointUntrusted
        if this store wouldn't accept it, InvalidRequest without a step, or with one for what has its own.
        """
        if not check_kind(checkpoint, Checkpoint).committed:
            return import_files(self.stage, checkpoint, step, if_exists, progress)
        save = check_copy(checkpoint, step, self._trust)
        self._identity.make()
        return self._survey.checkpoint(*save(self._catalog, if_exists, self._concurrency, progress))

    # -- inside ---------------------------------------------------------------------------------

    def _resolve(self, which: Which) -> Checkpoint:
        if not isinstance(which, Checkpoint):
            return self.get(which)
        self._check_mine(which)
        return which

    def _identify(self, which: Which, misnamed: bool = False) -> Target:
        """Name and id of a checkpoint of this store; it may be `misnamed`, a copy of another step."""
        if isinstance(which, Checkpoint):
            self._check_mine(which, misnamed)
            return target_of(which)
        name, manifest = self._find(which, misnamed)
        return Target(name, manifest.id)

    def _check_mine(self, checkpoint: Checkpoint, misnamed: bool = False) -> None:
        if checkpoint.url != f"{self.url}/{checkpoint.name}":
            raise InvalidRequest(
                repr(checkpoint), f"it isn't in the store {self.url}", "Get it from this store"
            )
        name = target_of(checkpoint).name
        if checkpoint.committed and checkpoint.step != name.step and not misnamed:
            raise is_of_another_step(checkpoint.url, name, checkpoint.step)

    def __repr__(self) -> str:
        return f"<CheckpointStore {self.url}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._signer is not None:
            raise TypeError("a signing key isn't pickled; open the store where it is used")
        # Like a pickle of the backend it has no credentials: another process takes those around it.
        opened = functools.partial(CheckpointStore, **self._settings)
        return opened, (self._backend,)
