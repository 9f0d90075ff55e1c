"""Lay an old checkpoint's model out in a newer version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

from ckptstore.errors import InvalidRequest
from ckptstore.format.digest import digest
from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.write import v1_1, v2_1
from ckptstore.rllib_formats.write.report import Laid

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


def lay_out(
    kind: str, model: dict[str, Any], to: str, steps: Sequence[Step], notes: list[str]
) -> tuple[dict[str, Any], Laid]:
    """The files of `model`, changed by `steps`, in RLlib's version `to`; and the model they hold.

    `kind` is "Algorithm" or "Policy". What the steps and the writer have to say is added to `notes`.
    Raises InvalidRequest for a version that can't be written, a step that returns no model, or a model
    with anything but plain data in it; UnreadableFormat for networks that aren't recognised.
    """
    if to not in VERSIONS:
        raise InvalidRequest("to", f"{to!r} can't be written", f"Use one of {', '.join(VERSIONS)}")
    for change in steps:
        model = _apply(change, model, notes)
    laid = _WRITERS[to](kind, model)
    notes += laid.notes
    return model, laid


def fingerprint(files: Mapping[str, int]) -> str:
    """What stands for the id of a directory without a manifest that holds `files` (path to size in bytes).

    It stays the same wherever the directory is copied to.
    """
    return _FOREIGN + digest("".join(f"{path}\0{size}\n" for path, size in sorted(files.items())).encode())


def describe_skipped(notes: Sequence[Note], place: str) -> list[str]:
    """What reading passed over below `place`, such as a model that was exported for its framework."""
    return [f"{note.path}: {note.text}" for note in notes if note.kind == "skipped" and _below(note, place)]


def _below(note: Note, place: str) -> bool:
    return note.path == place or note.path.startswith(f"{place}/")


def _apply(change: Step, model: dict[str, Any], notes: list[str]) -> dict[str, Any]:
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
    notes.append(f"step: {name}: {about}" if about else f"step: {name}")
    return changed


_WRITERS: dict[str, Callable[[str, dict[str, Any]], Laid]] = {"1.1": v1_1.lay_out, "2.1": v2_1.lay_out}
