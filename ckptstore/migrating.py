"""Writes an old checkpoint forward, as a new committed one that today's tools open."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from ckptstore.checkpoint import Checkpoint
from ckptstore.digest import digest
from ckptstore.eras import Note
from ckptstore.errors import InvalidRequest, UnreadableFormat
from ckptstore.manifest import Parent
from ckptstore.store import CheckpointStore
from ckptstore.writers import v1_1, v2_1
from ckptstore.writers.report import Laid, PolicyReport

Version = Literal["1.1", "2.1"]
VERSIONS: tuple[str, ...] = get_args(Version)

_FOREIGN = "foreign-"


class Step(Protocol):
    """A step of one's own: a pure function from the model to the model, for one's own state.

    It gets ``{"state": {...}, "policies": {id: {...}}, "components": {...}}`` with the fields of
    ``docs/model.md`` as plain data and returns the same kind of dict, changed. It reads no file and no
    clock, so that the same checkpoint always becomes the same. Its name and the first line of its
    docstring go into the report.
    """

    __name__: str

    def __call__(self, model: dict[str, Any], /) -> dict[str, Any]:
        """The changed model."""


@dataclass(frozen=True)
class Migration:
    """What `migrate` did, or with ``dry_run`` would do."""

    source: str
    """URL of the checkpoint that was read."""
    to: str
    """The ``checkpoint_version`` written."""
    checkpoint: Checkpoint | None
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
    checkpoint: Checkpoint,
    dest: CheckpointStore | str | os.PathLike[str],
    *,
    to: Version = "1.1",
    step: int | None = None,
    steps: Sequence[Step] = (),
    dry_run: bool = False,
) -> Migration:
    """Commit what `checkpoint` holds to the store `dest`, in RLlib's version `to`.

    ``"1.1"`` makes plain pickles that a bare ``pickle.load`` opens and RLlib since 2.1 knows. ``"2.1"``
    makes the tree of components of RLlib's new API stack, which Ray since 2.41 restores; what the old
    stack wrote gets there if its networks are RLlib's own. The manifest names the source as parent, with
    its metrics and labels. `step` overrides the source's; `steps` change the model before it is written.

    Everything is read and laid out before a byte is written, so a refusal leaves nothing behind. Raises
    what reading raises; InvalidRequest for a model with anything but plain data in it; UnreadableFormat
    for networks that aren't recognised, or a checkpoint without policies; CheckpointExists if `dest`
    has the step already.
    """
    if to not in VERSIONS:
        raise InvalidRequest("to", f"{to!r} can't be written", f"Use one of {', '.join(VERSIONS)}")
    source = checkpoint.rllib()
    model: dict[str, Any] = {
        "state": dict(source.state(False, False)),
        "policies": {policy_id: source.policy(policy_id, False, False) for policy_id in source.policy_ids},
        "components": {name: source.component(name) for name in source.components},
    }
    if not model["policies"]:
        raise UnreadableFormat(
            checkpoint.url, f"this {source.kind} holds no policy", "Migrate the algorithm or a policy"
        )
    told = [str(note) for note in source.notes() if note.kind != "migrated"]
    number = _number(checkpoint, step, model, told)
    for change in steps:
        model = _changed(change, model, told)
    laid = _WRITERS[to](source.kind, model)
    told += laid.notes
    result = None
    if not dry_run:
        store = dest if isinstance(dest, CheckpointStore) else CheckpointStore(dest)
        result = store.commit_files(
            number,
            laid.items,
            kind=laid.kind,
            policies=list(model["policies"]),
            checkpoint_version=to,
            parent=Parent(source_id(checkpoint), "migrate"),
            metrics=checkpoint.metrics,
            labels=checkpoint.labels,
        )
    reports = {
        policy_id: report.with_dropped(_left(source.notes(), f"policies/{policy_id}"))
        for policy_id, report in laid.policies.items()
    }
    return Migration(checkpoint.url, to, result, reports, laid.algorithm, tuple(told))


def source_id(checkpoint: Checkpoint) -> str:
    """What the manifest of a migrated checkpoint calls its source.

    Its id, or where no manifest gives one a fingerprint of its files' names and sizes, which stays the
    same wherever the directory is copied to.
    """
    return checkpoint.id if checkpoint.committed else fingerprint(checkpoint.listing())


def fingerprint(files: Mapping[str, int]) -> str:
    """What stands for the id of a directory without a manifest that holds `files` (path to size in bytes)."""
    return _FOREIGN + digest("".join(f"{path}\0{size}\n" for path, size in sorted(files.items())).encode())


def _left(notes: Sequence[Note], place: str) -> list[str]:
    """What reading passed over below `place`, such as a model that was exported for its framework."""
    return [f"{note.path}: {note.text}" for note in notes if note.kind == "skipped" and _below(note, place)]


def _below(note: Note, place: str) -> bool:
    return note.path == place or note.path.startswith(f"{place}/")


def _number(checkpoint: Checkpoint, step: int | None, model: dict[str, Any], told: list[str]) -> int:
    if step is not None:
        return step
    if checkpoint.committed or checkpoint.step >= 0:
        return checkpoint.step
    told.append(str(Note("inferred", "step", "nothing tells the step, so it is 0")))
    return 0


def _changed(change: Step, model: dict[str, Any], told: list[str]) -> dict[str, Any]:
    name = getattr(change, "__name__", type(change).__name__)
    fields = tuple(model)
    changed = change(model)
    if not isinstance(changed, dict) or changed.keys() != set(fields):
        raise InvalidRequest(
            f"step {name}", "it returned something else than it got", f"Return a dict of {', '.join(fields)}"
        )
    for policy_id, policy in changed["policies"].items():
        if not isinstance(policy, dict) or not isinstance(policy.get("weights"), dict):
            raise InvalidRequest(
                f"step {name}", f"the policy {policy_id!r} has no weights any more", "Keep the fields it got"
            )
    about = (change.__doc__ or "").strip().partition("\n")[0]
    told.append(f"step: {name}: {about}" if about else f"step: {name}")
    return changed


_WRITERS: dict[str, Callable[[str, dict[str, Any]], Laid]] = {"1.1": v1_1.lay_out, "2.1": v2_1.lay_out}
