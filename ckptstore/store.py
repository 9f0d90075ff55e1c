"""A store of checkpoints: runs plans on a place, and is what most programs talk to."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Literal, SupportsIndex, TypeAlias, cast

from ckptstore import logs, retention
from ckptstore.backends import open_backend
from ckptstore.backends.base import Backend
from ckptstore.backends.translate import translate_errors
from ckptstore.checkpoint import Checkpoint, Migration
from ckptstore.commit import open_catalog, refs
from ckptstore.commit.base import IfExists, Swept
from ckptstore.commit.identity import Identity
from ckptstore.errors import (
    CheckpointError,
    CheckpointExists,
    CheckpointGone,
    CheckpointNotFound,
    CheckpointProtected,
    InvalidRequest,
)
from ckptstore.find.survey import Survey
from ckptstore.format import layout as plan
from ckptstore.format import metrics as metric_values
from ckptstore.format import names
from ckptstore.format.layout import Item
from ckptstore.format.manifest import Manifest, Parent
from ckptstore.format.manifest import load as load_manifest
from ckptstore.format.names import CheckpointName
from ckptstore.format.parts import FileParts
from ckptstore.format.signing import Signer, Trust
from ckptstore.read.reader import VerifyReport
from ckptstore.retention import Keep
from ckptstore.rllib_formats.migrate import Step
from ckptstore.save import adopt as adopting
from ckptstore.save import background, migrated
from ckptstore.save.fingerprints import Seen
from ckptstore.save.save import Request, Save, build_request, model_items
from ckptstore.save.writing import Progress
from ckptstore.staging import Job, Staged

Which: TypeAlias = "Checkpoint | SupportsIndex | str"
"""A checkpoint, or what `CheckpointStore.get` takes to find one."""


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
        create: make the store on first use if it isn't there. With False, a missing store is an error.
        signing_key: an Ed25519 private key in PEM, with which every new checkpoint is signed.
        trusted_keys: Ed25519 public keys in PEM. Then a checkpoint counts only if one of them has signed
            it: any other is passed over as damaged ones are, or raises CheckpointUntrusted.

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
    ) -> None:
        self._backend = (
            open_backend(url, storage_options, timeout=timeout, retries=retries, concurrency=concurrency)
            if isinstance(url, (str, os.PathLike))
            else url
        )
        names.check_positive("max_pending", max_pending, "Pass 1 or more")
        self._catalog = open_catalog(self._backend, single_writer=single_writer)
        self._concurrency = concurrency or self._backend.concurrency
        if trusted_keys is not None:
            trusted_keys = (trusted_keys,) if isinstance(trusted_keys, (bytes, str)) else tuple(trusted_keys)
        self._settings: dict[str, Any] = {
            "concurrency": concurrency,
            "max_pending": max_pending,
            "single_writer": single_writer,
            "create": create,
            "trusted_keys": trusted_keys,
        }
        self._identity = Identity(self._catalog, create)
        self._signer = Signer(signing_key) if signing_key is not None else None
        self._trust = Trust(trusted_keys) if trusted_keys is not None else None
        if self._signer and self._trust and self._signer.public not in self._trust.keys:
            raise InvalidRequest("signing_key", "it is none of trusted_keys", "Trust its public half as well")
        self._survey = Survey(
            self._catalog, self._identity, self._concurrency, self._remember_loaded, self._trust
        )
        self._background: background.Background[Checkpoint] = background.Background(max_pending)
        self._seen = Seen()
        self._last: Checkpoint | None = None  # the one that the run goes on from
        self._resumed_from: str | None = None  # id of the one this process has loaded last

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
        """The store's identity, made with it."""
        return self._identity.prove()

    # -- saving ---------------------------------------------------------------------------------

    def save(
        self,
        step: SupportsIndex,
        state: Any = plan.UNSET,
        policies: Mapping[str, Any] | None = None,
        components: Mapping[str, Any] | None = None,
        *,
        policy: Any = plan.UNSET,
        models: Mapping[str, str | os.PathLike[str]] | None = None,
        metrics: Mapping[str, Any] | None = None,
        labels: Iterable[str] = (),
        if_exists: IfExists = "error",
        progress: Progress | None = None,
    ) -> Checkpoint:
        """Commit a checkpoint of `step`; durable when this returns, invisible if it fails.

        `state`, each of `policies` and each of `components` becomes one file, an ordinary pickle.
        `policy` saves one policy alone instead. `models` names local directories of native exports by
        policy id; their files travel untouched. `metrics` and `labels` go into the manifest. Where the
        step is committed already, `if_exists` says what to do: "error", "replace" it, or "return" it.

        Raises InvalidRequest before a byte is written; CheckpointExists; SaveAborted; StoreFull,
        StoreDenied, StoreUnavailable.
        """
        contents = plan.Contents(state, policies, components, policy)
        request = self._request(contents.kind, contents.policy_ids, step, metrics, labels, if_exists)
        items = contents.items(request.step) + model_items(contents, models or {})
        self._background.wait()
        return self._save(request, items, progress)

    def save_async(
        self,
        step: SupportsIndex,
        state: Any = plan.UNSET,
        policies: Mapping[str, Any] | None = None,
        components: Mapping[str, Any] | None = None,
        *,
        policy: Any = plan.UNSET,
        models: Mapping[str, str | os.PathLike[str]] | None = None,
        metrics: Mapping[str, Any] | None = None,
        labels: Iterable[str] = (),
        if_exists: IfExists = "error",
    ) -> Future[Checkpoint]:
        """Like `save`, but returns once everything is snapshotted: the caller may go on changing it.

        The memory of the snapshot, as large as what is saved, is kept for the next one until `close`.
        When `max_pending` are in flight, the oldest is waited for; they are written in their order. A
        failure is the future's exception; if nobody looked at it, the next `save`, `save_async`, `wait` or
        `close` raises it. The interpreter doesn't exit under a save in flight.
        """
        contents = plan.Contents(state, policies, components, policy)
        request = self._request(contents.kind, contents.policy_ids, step, metrics, labels, if_exists)
        items = contents.items(request.step) + model_items(contents, models or {})
        return self._background.submit(items, lambda frozen: self._save(request, frozen, None))

    def wait(self) -> None:
        """Return when no save is in flight any more."""
        self._background.wait()

    def close(self) -> None:
        """Same as `wait`, and gives back the memory that snapshots use; the store can go on being used."""
        self._background.close()

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
            return self._background.submit([], lambda _: self._prune_after(job(), rule))

        return self._stage(step, metrics, labels, if_exists, submit)

    def _stage(
        self,
        step: SupportsIndex,
        metrics: Mapping[str, Any] | None,
        labels: Iterable[str],
        if_exists: Literal["error", "replace"],
        submit: Callable[[Job], Future[Checkpoint]] | None,
    ) -> Staged:
        request = self._request("Directory", (), step, metrics, labels, if_exists)
        self._background.wait()
        self._identity.prove()
        request = self._with_parent(request)
        return Staged(
            self._catalog, request, self._concurrency, self._check_removable, self._remember_committed, submit
        )

    def _prune_after(self, checkpoint: Checkpoint, rule: retention.Rule | None) -> Checkpoint:
        if rule is not None:
            try:
                self.prune(rule)
            except CheckpointError:
                logs.logger.warning("%s is committed, but nothing was pruned", checkpoint.url, exc_info=True)
        return checkpoint

    def commit_files(
        self,
        step: SupportsIndex,
        items: Sequence[Item],
        *,
        kind: str,
        policies: Iterable[str],
        checkpoint_version: str,
        parent: Parent,
        metrics: Mapping[str, Any],
        labels: Iterable[str],
    ) -> Checkpoint:
        """Commit files that ckptstore laid out as RLlib would, from another checkpoint, `parent`.

        `migrate` is what calls this. The run goes on from where it was. CheckpointExists if the step is
        taken.
        """
        request = migrated.migration_request(
            step,
            kind=kind,
            policies=policies,
            checkpoint_version=checkpoint_version,
            parent=parent,
            metrics=metrics,
            labels=labels,
        )
        self._background.wait()
        result = migrated.commit(
            self._catalog, self._identity, self._concurrency, replace(request, sign=self._signer), items
        )
        return self._survey.checkpoint(result.name, result.manifest, table=result.table)

    def migrate(
        self,
        source: Checkpoint | str | os.PathLike[str],
        *,
        to: Literal["1.1", "2.1"] = "1.1",
        step: int | None = None,
        steps: Sequence[Step] = (),
        dry_run: bool = False,
    ) -> Migration:
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
        name = self._directory_named(os.fspath(which))
        if self._trust is not None and self._signer is None:
            raise InvalidRequest("trusted_keys", "nothing would sign its manifest", "Pass a signing_key too")
        request = self._request("Directory", (), name.step, metrics, labels, "error")
        self._identity.prove()
        adopting.adopt(
            self._catalog, name, replace(request, origin="adopt", format="", parent=None), self._concurrency
        )
        return self._survey.named(name)

    def _directory_named(self, text: str) -> CheckpointName:
        """The name of the directory `text`, which lies in this store."""
        parent, _, last = text.rstrip("/").rpartition("/")
        name = names.check_checkpoint_name(
            last, text, "Rename it, or copy it into a store with `ckptstore cp`"
        )
        if parent and parent != self.url and ("://" in parent or open_backend(parent).url != self.url):
            raise InvalidRequest(text, f"it isn't in the store {self.url}", "Open the directory it lies in")
        return name

    def _request(
        self,
        kind: str,
        policies: Iterable[str],
        step: SupportsIndex,
        values: Mapping[str, Any] | None,
        labels: Iterable[str],
        if_exists: IfExists,
    ) -> Request:
        return build_request(kind, policies, step, values, labels, if_exists, self._signer)

    def _with_parent(self, request: Request) -> Request:
        """`request` with the parent it has now, when no save is in flight that may become it."""
        return replace(request, parent=Parent(self._last.id, "resume") if self._last else None)

    def _save(self, request: Request, items: Sequence[Item], progress: Progress | None) -> Checkpoint:
        self._identity.prove()
        request = self._with_parent(request)
        with logs.log_time("saved", f"{self.url}/{CheckpointName(request.step)}") as done:
            try:
                name, manifest, files = self._write(request, items, progress)
            except CheckpointExists:
                if request.if_exists != "return":
                    raise
                return self.get(request.step)
            done(manifest.size)
        return self._remember_committed(name, manifest, files)

    def _write(
        self, request: Request, items: Sequence[Item], progress: Progress | None
    ) -> tuple[CheckpointName, Manifest, list[FileParts]]:
        base = self._base()
        try:
            with self._begin(request) as save:
                self._seen.next()
                files = save.write(items, progress, base, self._seen)
                return *save.commit(request, files), files
        except CheckpointGone:
            if base is None:
                raise
        # Deleted while its files were taken over: without it, then.
        with self._begin(request) as save:
            files = save.write(items, progress)
            return *save.commit(request, files), files

    def _begin(self, request: Request) -> Save:
        return Save(self._catalog, request.step, request.if_exists, self._concurrency, self._check_removable)

    def _base(self) -> plan.Base | None:
        """The checkpoint that the run goes on from, where files that didn't change may be taken over."""
        try:
            return self._last.base() if self._last else None
        except CheckpointError as error:
            logs.logger.info("nothing is taken over from %s: %s", self._last, error)
            return None

    def _remember_committed(
        self, name: CheckpointName, manifest: Manifest, files: Iterable[FileParts] | None = None
    ) -> Checkpoint:
        table = None if files is None else {file.path: file for file in files}
        self._last = checkpoint = self._survey.checkpoint(name, manifest, table=table)
        return checkpoint

    # -- finding --------------------------------------------------------------------------------

    def checkpoints(self) -> list[Checkpoint]:
        """Every committed checkpoint, oldest to newest by step. Damaged ones are logged and left out."""
        return self._survey.committed().checkpoints

    def latest(self, verified: bool = False) -> Checkpoint | None:
        """The newest committed checkpoint; None only if the store is there and holds none.

        One whose files are missing or of the wrong size is passed over, and so is with
        ``verified=True`` one with any damaged byte; `skipped` of the result says which and why. Raises
        CheckpointCorrupt if there are checkpoints and all of them are damaged.
        """
        return self._survey.newest(verified)

    def best(self, metric: str, mode: Literal["max", "min"] = "max") -> Checkpoint | None:
        """The checkpoint with the best value of `metric`; None if none has a number there.

        `metric` is a name in `metrics`, or a path such as ``env_runners/episode_return_mean``. NaN and
        missing values are passed over and ties go to the newest.
        """
        if mode not in ("max", "min"):
            raise InvalidRequest("mode", f"{mode!r} is unknown", "Use 'max' or 'min'")
        sign = 1 if mode == "max" else -1
        ranked = [
            (sign * value, index, checkpoint)
            for index, checkpoint in enumerate(self.checkpoints())
            if (value := metric_values.number(checkpoint.metrics, metric)) is not None
        ]
        return max(ranked)[2] if ranked else None

    def get(self, which: SupportsIndex | str | None = None, *, id: str | None = None) -> Checkpoint:
        """The checkpoint of a step, by its name, by ``tag:<name>``, or by id.

        Raises CheckpointNotFound if there is none.
        """
        self._identity.prove()
        if (which is None) == (id is None):
            raise InvalidRequest("get", "it takes a step, name or tag, or an id", "Pass one of them")
        if id is not None:
            for checkpoint in self.checkpoints():
                if checkpoint.id == id:
                    return checkpoint
            raise CheckpointNotFound(f"{self.url} id {id!r}", "no committed checkpoint has it")
        if not isinstance(which, str):
            return self._survey.at_step(names.step_number(cast("SupportsIndex", which)))
        if which.startswith("tag:"):
            return self._find_tagged(which[4:])
        name = CheckpointName.parse(which)
        if name is None:
            raise InvalidRequest(
                repr(which), "it is no checkpoint's name", "Use a step, 'checkpoint_000100' or 'tag:<name>'"
            )
        return self._survey.named(name)

    # -- tags -----------------------------------------------------------------------------------

    def tag(self, name: str, which: Which) -> None:
        """Point the tag `name` at a checkpoint, wherever it pointed before; a tagged one isn't deleted."""
        self._point(names.check_ref(name), self._resolve(which))

    def untag(self, name: str) -> None:
        """Take the tag away. CheckpointNotFound if there is none."""
        if names.check_ref(name) not in self.tags():
            raise CheckpointNotFound(f"tag {name!r}", "there is no such tag")
        refs.write(self._backend, name, None)

    def tags(self) -> dict[str, str]:
        """Every tag, and the name of the checkpoint it points at."""
        return {ref: target.name for ref, target in self._refs().items() if not ref.startswith(names.PIN)}

    def pin(self, which: Which) -> None:
        """Keep a checkpoint from being deleted until `unpin`."""
        checkpoint = self._resolve(which)
        self._point(names.PIN + checkpoint.id, checkpoint)

    def unpin(self, which: Which) -> None:
        """Take the pin away; fine if there is none."""
        ref = names.PIN + self._resolve(which).id
        if ref in self._refs():
            refs.write(self._backend, ref, None)

    def _refs(self) -> dict[str, refs.Target]:
        self._identity.prove()
        return refs.read_all(self._backend)

    def _point(self, ref: str, checkpoint: Checkpoint) -> None:
        self._identity.prove()
        number = None
        try:
            with translate_errors(self.url), self._catalog.guard(_name(checkpoint)):
                self._check_same(checkpoint)
                number = refs.write(self._backend, ref, refs.Target(checkpoint.name, checkpoint.id))
        except CheckpointGone:
            if number is not None:
                self._point_back(ref, number)
            raise

    def _check_same(self, checkpoint: Checkpoint) -> None:
        """CheckpointGone if its directory's name is another's by now: a disk gives names away again."""
        if self._survey.named(_name(checkpoint)).id != checkpoint.id:
            raise CheckpointGone(f"{self.url}/{checkpoint.name}", "it was deleted, and its step saved anew")

    def _point_back(self, ref: str, number: int) -> None:
        """Undo our move of `ref`, unless somebody has moved it on; to nothing if what it left is gone."""
        before = refs.read_at(self._backend, ref, number - 1)
        if before is not None:
            try:
                with translate_errors(self.url), self._catalog.guard(refs.parse_name(before)):
                    if not refs.write_next(self._backend, ref, number, before):
                        return
                    number += 1
            except CheckpointGone:
                pass
            else:
                return
        refs.write_next(self._backend, ref, number, None)

    def _find_tagged(self, tag: str) -> Checkpoint:
        target = self._refs().get(names.check_ref(tag))
        if target is None:
            raise CheckpointNotFound(f"{self.url} tag {tag!r}", "there is no such tag", "See `ckptstore tag`")
        checkpoint = self._survey.named(refs.parse_name(target))
        if checkpoint.id != target.id:
            raise CheckpointGone(f"{self.url} tag {tag!r}", "the checkpoint it points at was deleted")
        return checkpoint

    # -- removing -------------------------------------------------------------------------------

    def delete(self, which: Which) -> None:
        """Unpublish a checkpoint, then remove its bytes. CheckpointProtected if it is tagged or pinned."""
        self._delete(self._resolve(which))

    def _delete(self, checkpoint: Checkpoint, superseded: bool = False) -> None:
        """Delete it; if it must be `superseded`, only while a later step is committed."""
        name = _name(checkpoint)

        def check() -> None:
            self._check_same(checkpoint)
            protecting = refs.read_all(self._backend)
            for attempt in range(name.attempt + 1):  # what it superseded goes with it
                _check_unprotected(str(CheckpointName(name.step, attempt)), protecting)
            if superseded and not self._survey.any_after(name.step):
                raise CheckpointProtected(str(name), "it is the newest by now")

        with translate_errors(f"{self.url}/{name}"):
            self._catalog.delete(name, check)

    def _check_removable(self, name: CheckpointName) -> None:
        _check_unprotected(str(name), refs.read_all(self._backend))

    def rollback(self, which: Which) -> list[str]:
        """Unpublish every checkpoint later than this one, newest first, so that `latest` returns it.

        Returns the names that this call removed. Raises CheckpointProtected before anything is removed
        if one of them is tagged or pinned.
        """
        checkpoint = self._resolve(which)
        later = [other for other in self.checkpoints() if other.step > checkpoint.step]
        protecting = self._refs()
        for other in later:
            _check_unprotected(other.name, protecting)
        # Else a `prune` elsewhere, which still counts on what goes now, could remove this one as well.
        holding = f"{names.PIN}rollback.{checkpoint.id}"
        self._point(holding, checkpoint)
        removed = []
        try:
            for other in reversed(later):
                with contextlib.suppress(CheckpointGone):  # somebody else's prune or replacement was here
                    self.delete(other)
                    removed.append(other.name)
        finally:
            refs.write(self._backend, holding, None)
        self._remember_loaded(checkpoint)
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
        checkpoints = {checkpoint.step: checkpoint for checkpoint in self.checkpoints()}
        protecting = self._refs()
        tagged = {
            checkpoint.step: bool(refs.refs_to(protecting, checkpoint.name))
            for checkpoint in checkpoints.values()
        }
        candidates = [
            retention.Candidate(step, checkpoint.manifest.created, checkpoint.metrics, tagged[step])
            for step, checkpoint in checkpoints.items()
        ]
        mine = {self._resumed_from, self._last.id if self._last else None}
        pruned = []
        for step in retention.steps_to_prune(candidates, rule):
            checkpoint = checkpoints[step]
            if checkpoint.id in mine or tagged[step]:
                continue
            if not dry_run:
                try:
                    self._delete(checkpoint, superseded=True)
                except (CheckpointGone, CheckpointProtected) as error:
                    logs.logger.info("not pruned: %s", error)
                    continue
            pruned.append(checkpoint.name)
        return pruned

    def gc(self, grace: float | None = None) -> Swept:
        """Remove what crashed or aborted saves and interrupted deletes left behind.

        `grace` is the age in seconds below which an unfinished save is taken to be alive; by default
        0 on local disk, where a lock tells, and a day on object stores. Nothing committed is touched.
        """
        self._identity.prove()
        with translate_errors(self.url):
            return self._catalog.sweep(grace)

    # -- the whole store ------------------------------------------------------------------------

    def verify(self, *, progress: Progress | None = None) -> list[VerifyReport]:
        """Read and check every byte of every checkpoint; a report for each, the damaged ones included."""
        found = self._survey.committed()
        reports = [VerifyReport(f"{self.url}/{skip.name}", 0, 0, (skip.reason,)) for skip in found.skipped]
        reports += [checkpoint.check(progress=progress) for checkpoint in found.checkpoints]
        return sorted(reports, key=lambda report: report.name)

    def copy_to(
        self,
        other: CheckpointStore,
        which: Iterable[Which] | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[Checkpoint]:
        """Copy checkpoints, verified, to another store: all of them, or those named; tags come along.

        A checkpoint keeps its id. One that the other store already has is left alone, so a copy cut
        short is taken up again by the same call. Raises CheckpointExists where the other store has
        another checkpoint of the same step.
        """
        chosen = self.checkpoints() if which is None else [self._resolve(item) for item in which]
        there = {checkpoint.step: checkpoint for checkpoint in other.checkpoints()}
        arrived: dict[str, Checkpoint] = {}
        copied_now: list[Checkpoint] = []
        for checkpoint in chosen:
            twin = there.get(checkpoint.step)
            if twin is None or twin.id != checkpoint.id:
                twin = other.add(checkpoint, progress=progress)
                copied_now.append(twin)
            arrived[checkpoint.name] = twin
        for tag, name in self.tags().items():
            if name in arrived and other.tags().get(tag) != arrived[name].name:
                other.tag(tag, arrived[name])
        return copied_now

    def add(self, checkpoint: Checkpoint, *, progress: Progress | None = None) -> Checkpoint:
        """Commit a verified copy of a checkpoint that lies elsewhere; it keeps its id and manifest.

        A signature comes along as well. Raises CheckpointExists if its step is taken here,
        CheckpointUntrusted if this store wouldn't accept it, UnreadableFormat if it has no manifest.
        """
        manifest = checkpoint.manifest
        if self._trust is not None:
            load_manifest(manifest.dump(), checkpoint.url, self._trust)
        self._identity.prove()
        with logs.log_time("copied", checkpoint.url) as done:
            with Save(self._catalog, manifest.step, "error", self._concurrency) as save:
                items, table = checkpoint.copy_items()
                save.write(items, progress)
                name, manifest = save.commit_as(manifest, table)
            done(manifest.size)
        return self._survey.checkpoint(name, manifest)

    # -- inside ---------------------------------------------------------------------------------

    def _resolve(self, which: Which) -> Checkpoint:
        if not isinstance(which, Checkpoint):
            return self.get(which)
        if which.url != f"{self.url}/{which.name}":
            raise InvalidRequest(repr(which), f"it isn't in the store {self.url}", "Get it from this store")
        return which

    def _remember_loaded(self, checkpoint: Checkpoint) -> None:
        """Remember that this process goes on from `checkpoint`: the next save names it as its parent."""
        self._last = checkpoint
        self._resumed_from = checkpoint.id

    def __repr__(self) -> str:
        return f"<CheckpointStore {self.url}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._signer is not None:
            raise TypeError("a signing key isn't pickled; open the store where it is used")
        # Like a pickle of the backend it has no credentials: another process takes those around it.
        opened = functools.partial(CheckpointStore, **self._settings)
        return opened, (self._backend,)


def _name(checkpoint: Checkpoint) -> CheckpointName:
    name = CheckpointName.parse(checkpoint.name)
    if name is None:
        raise InvalidRequest(
            checkpoint.name, "it is no checkpoint's name", "Get the checkpoint from the store"
        )
    return name


def _check_unprotected(name: str, protecting: Mapping[str, refs.Target]) -> None:
    if found := refs.refs_to(protecting, name):
        raise CheckpointProtected(name, f"{', '.join(found)} points at it", "Use untag() or unpin() first")
