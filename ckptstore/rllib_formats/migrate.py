"""Lay a checkpoint's model out in another version, after steps of the caller's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ckptstore.errors import InvalidRequest
from ckptstore.format.digest import digest
from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.versions import WRITABLE
from ckptstore.rllib_formats.write import v1_1, v2_1
from ckptstore.rllib_formats.write.report import LaidOut

_FOREIGN = "foreign-"


class Step(Protocol):
    """A migration step of the caller's own: a pure function from the model to the changed model.

    It gets ``{"state": {...}, "policies": {id: {...}}, "components": {...}}`` with the fields of
    ``docs/model.md`` as plain data and returns a dict of the same form. It reads no file and no clock, so
    that the same checkpoint always gives the same result. Its name and the first line of its docstring go
    into the report.
    """

    __name__: str

    def __call__(self, model: dict[str, Any], /) -> dict[str, Any]:
        """The changed model."""


def lay_out(
    kind: str, model: dict[str, Any], to: str, steps: Sequence[Step], notes: list[str]
) -> tuple[dict[str, Any], LaidOut]:
    """The model after `steps`, and its files in RLlib's version `to`.

    `kind` is the checkpoint's, such as "Algorithm" or "Policy". What the steps and the writer report is added
    to `notes`. Raises InvalidRequest for a version that can't be written, a step that returns anything but a
    model, or a model that holds anything but plain data; UnreadableFormat for unknown networks.
    """
    if to not in WRITABLE:
        raise InvalidRequest("to", f"{to!r} can't be written", f"Use one of {', '.join(WRITABLE)}")
    for change in steps:
        model = _apply(change, model, notes)
    laid = _WRITERS[to](kind, model)
    notes += laid.notes
    return model, laid


def fingerprint(files: Mapping[str, int], digests: Mapping[str, str]) -> str:
    """The id of a directory without a manifest that holds `files` (path to size in bytes) with `digests`.

    Wherever the directory is copied, it stays the same. Its first half tells of names and sizes alone.
    """
    return f"{fingerprint_names(files)}-" + digest(
        "".join(f"{path}\0{value}\n" for path, value in sorted(digests.items())).encode()
    )


def fingerprint_names(files: Mapping[str, int]) -> str:
    """What the id of every directory with files of these names and sizes begins with."""
    return _FOREIGN + digest("".join(f"{path}\0{size}\n" for path, size in sorted(files.items())).encode())


def describe_skipped(notes: Sequence[Note], directory: str) -> list[str]:
    """What reading skipped below `directory`, such as a model that was exported for its framework."""
    skipped = [note for note in notes if note.kind == "skipped"]
    return [f"{note.path}: {note.text}" for note in skipped if f"{note.path}/".startswith(f"{directory}/")]


def _apply(change: Step, model: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    name = getattr(change, "__name__", type(change).__name__)
    fields = tuple(model)
    changed = change(model)
    if not isinstance(changed, dict) or changed.keys() != set(fields):
        raise InvalidRequest(
            f"step {name}", "it didn't return a model", f"Return a dict with the keys {', '.join(fields)}"
        )
    for policy_id, policy in changed["policies"].items():
        if not isinstance(policy, dict) or not isinstance(policy.get("weights"), dict):
            raise InvalidRequest(
                f"step {name}",
                f"the policy {policy_id!r} has lost its weights",
                "Keep every policy's weights",
            )
    about = (change.__doc__ or "").strip().partition("\n")[0]
    notes.append(f"step: {name}: {about}" if about else f"step: {name}")
    return changed


_WRITERS: dict[str, Callable[[str, dict[str, Any]], LaidOut]] = {
    v1_1.VERSION: v1_1.lay_out,
    v2_1.VERSION: v2_1.lay_out,
}
