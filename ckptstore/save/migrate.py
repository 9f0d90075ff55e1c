"""Migrate a checkpoint: lay it out in another version and commit the files, with the source as parent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NamedTuple, Protocol, SupportsIndex, TypeVar

from ckptstore import logs
from ckptstore.backends.base import Backend
from ckptstore.backends.registry import open_backend
from ckptstore.commit import open_catalog
from ckptstore.commit.base import Catalog, IfExists
from ckptstore.commit.identity import Identity
from ckptstore.errors import UnreadableFormat
from ckptstore.format.layout import Item
from ckptstore.format.manifest import Manifest, Parent
from ckptstore.format.names import CheckpointName
from ckptstore.format.parts import FileParts
from ckptstore.read.contents import Contents
from ckptstore.rllib_formats.migrate import Step, describe_skipped, lay_out
from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.write.report import PolicyReport
from ckptstore.save.requests import Request, build_request
from ckptstore.save.save import Save


class Result(NamedTuple):
    """What a commit made: enough to open it without reading anything."""

    backend: Backend
    name: CheckpointName
    manifest: Manifest
    table: Mapping[str, FileParts]


class Committed(Protocol):
    """The checkpoint that a migration made, as far as the report tells of it."""

    @property
    def url(self) -> str:
        """Its URL."""

    @property
    def id(self) -> str:
        """Its identity."""

    @property
    def step(self) -> int:
        """Its step."""


C = TypeVar("C", bound=Committed)


class Source(Protocol):
    """The checkpoint to migrate: as much of a `Checkpoint` as that takes."""

    @property
    def url(self) -> str:
        """Its URL."""

    @property
    def step(self) -> int:
        """Its step; -1 where nothing tells."""

    @property
    def committed(self) -> bool:
        """Whether it has a manifest."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Its metrics."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Its labels."""

    def source_id(self) -> str:
        """What the manifest of the new one calls it."""

    def rllib(self) -> Contents:
        """Its files read as RLlib's."""


class Destination(Protocol):
    """A store, as far as `Checkpoint.migrate` needs one."""

    def commit_files(
        self,
        step: int,
        items: Sequence[Item],
        *,
        kind: str,
        policies: Iterable[str],
        checkpoint_version: str,
        parent: Parent,
        metrics: Mapping[str, Any],
        labels: Iterable[str],
    ) -> Any:
        """Commit `items` as the checkpoint of `step`."""


def commit_to(url: str | os.PathLike[str], step: int, items: Sequence[Item], **fields: Any) -> Result:
    """Commit `items` to the store at `url`, which is made if it isn't there; see `Destination`."""
    backend = open_backend(url)
    catalog = open_catalog(backend)
    request = build_migration_request(step, **fields)
    return commit(catalog, Identity(catalog, create=True).make, backend.concurrency, request, items)


def build_migration_request(
    step: SupportsIndex,
    *,
    kind: str,
    policies: Iterable[str],
    checkpoint_version: str,
    parent: Parent,
    metrics: Mapping[str, Any],
    labels: Iterable[str],
    if_exists: IfExists = "error",
) -> Request:
    """What the manifest of a migrated checkpoint will say. The step must be free, or is replaced."""
    request = build_request(kind, policies, step, metrics, labels, if_exists)
    return replace(request, origin="migrate", checkpoint_version=checkpoint_version, format="", parent=parent)


def commit(
    catalog: Catalog,
    make_store: Callable[[], str],
    concurrency: int,
    request: Request,
    items: Sequence[Item],
) -> Result:
    """Write and commit `items`. CheckpointExists if the step is taken."""
    request, backend = replace(request, store=make_store()), catalog.backend
    with logs.log_time("migrated", f"{backend.url}/{CheckpointName(request.step)}") as done:
        save = Save(catalog, request.step, request.if_exists, concurrency)
        name, manifest, files = save.run(lambda save: save.write_and_commit(request, items))
        done(manifest.size)
    return Result(backend, name, manifest, {file.path: file for file in files})


@dataclass(frozen=True)
class Migration(Generic[C]):
    """What `Checkpoint.migrate` did, or with ``dry_run`` would do."""

    source: str
    """URL of the checkpoint that was read."""
    to: str
    """The ``checkpoint_version`` written."""
    checkpoint: C | None
    """The new one; None for a dry run."""
    policies: Mapping[str, PolicyReport]
    algorithm: PolicyReport
    """The same report for the algorithm's own state."""
    notes: tuple[str, ...] = field(default=())
    """What reading inferred or missed, and what the steps did."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "source": self.source,
            "to": self.to,
            "checkpoint": self.checkpoint.url if self.checkpoint else None,
            "id": self.checkpoint.id if self.checkpoint else None,
            "step": self.checkpoint.step if self.checkpoint else None,
            "algorithm": self.algorithm.as_dict(),
            "policies": {policy_id: report.as_dict() for policy_id, report in self.policies.items()},
            "notes": list(self.notes),
        }


def migrate(
    checkpoint: Source,
    commit: Callable[..., C] | None,
    *,
    to: str,
    step: int | None,
    steps: Sequence[Step],
) -> Migration[C]:
    """Lay `checkpoint` out in version `to` and hand the files to `commit`; without it only report."""
    # Before the rest is read: what changes meanwhile must not pass for what was migrated.
    source_id = checkpoint.source_id() if commit is not None else ""
    source = checkpoint.rllib()
    notes: list[str] = []
    model = _read_model(source, checkpoint.url, notes)
    number = _choose_step(checkpoint, notes) if step is None else step
    model, laid = lay_out(source.kind, model, to, steps, notes)
    made = None
    if commit is not None:
        made = commit(
            number,
            laid.items,
            kind=laid.kind,
            policies=list(model["policies"]),
            checkpoint_version=to,
            parent=Parent(source_id, "migrate"),
            metrics=checkpoint.metrics,
            labels=checkpoint.labels,
        )
    reports = {
        policy_id: report.with_dropped(describe_skipped(source.notes(), f"policies/{policy_id}"))
        for policy_id, report in laid.policies.items()
    }
    return Migration(checkpoint.url, to, made, reports, laid.algorithm, tuple(notes))


def _choose_step(checkpoint: Source, notes: list[str]) -> int:
    if checkpoint.committed or checkpoint.step >= 0:
        return checkpoint.step
    notes.append(str(Note("inferred", "step", "nothing tells the step, so it is 0")))
    return 0


def _read_model(source: Contents, url: str, notes: list[str]) -> dict[str, Any]:
    """The whole model of ``docs/model.md``; what reading it had to infer or miss is added to `notes`."""
    model: dict[str, Any] = {
        "state": dict(source.state()),
        "policies": {policy_id: source.policy(policy_id) for policy_id in source.policy_ids},
        "components": {name: source.component(name) for name in source.components},
    }
    if not model["policies"]:
        raise UnreadableFormat(url, f"this {source.kind} holds no policy", "Migrate an algorithm or policy")
    notes += [str(note) for note in source.notes() if note.kind != "migrated"]
    return model
