"""What all layouts have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.source import Source

Raw = dict[str, Any]
LEARNER_ONLY = "rl_module."
"""What the component of a module that only the Learner has is called, before the module's id."""


class Want(NamedTuple):
    """Parts of a policy that are read only if they are asked for, as they may be in other files."""

    optimizer: bool
    details: bool
    """Class, spaces and config."""


class Layout(Protocol):
    """What `ForeignCheckpoint` needs of a layout."""

    notes: list[Note]

    @property
    def ray_version(self) -> str:
        """The Ray that wrote it; empty if no file says."""

    @property
    def learner_only(self) -> frozenset[str]:
        """Ids of modules that no agent acts with, such as a curiosity model: components, and no policies."""

    @property
    def written(self) -> frozenset[str]:
        """Ids of the policies that have a file, judging by the names of the files."""

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Ids whose weights the checkpoint claims to hold, sorted."""

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the parts with files of their own that are neither the algorithm nor a policy."""

    def algorithm(self) -> Raw:
        """The documents ``algorithm`` and ``tune_metadata``; empty ones where there is no algorithm."""

    def policy(self, policy_id: str, want: Want) -> Raw:
        """The document of one policy; reads files beside the one with the weights only for `want`."""

    def component(self, name: str) -> Any:
        """What the files of `name`, one of `components`, hold."""

    def path_of(self, policy_id: str) -> str:
        """The file with that policy's weights."""

    def files_of(self, policy_id: str) -> list[str]:
        """Every file that belongs to that policy alone, sorted; reads nothing."""

    def absence(self, policy_id: str) -> str | None:
        """Why that policy, although the checkpoint mentions it, was never written; None if it was."""


def owner(name: str, ids: Iterable[str]) -> str | None:
    """The module of an optimizer called ``<module id>_<optimizer>``: the longest matching id, or None."""
    matching = [policy_id for policy_id in ids if name == policy_id or name.startswith(f"{policy_id}_")]
    return max(matching, key=len, default=None)


def read_constructor(source: Source, path: str, notes: list[Note]) -> Raw:
    """The ``class``, ``args`` and ``kwargs`` that a component was constructed from, by its file at `path`."""
    document = source.read_mapping(path)
    pair = document.get("ctor_args_and_kwargs")
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[1], dict):
        notes.append(Note("skipped", path, "the constructor's arguments are not as RLlib writes them"))
        pair = ((), {})
    return {"class": document.get("class"), "args": tuple(pair[0] or ()), "kwargs": pair[1]}


def tune_metadata(source: Source, state_path: str) -> Raw:
    """What Ray's Tune noted beside the checkpoint, up to Ray 2.6; {} without such a file.

    Up to Ray 1.13 the name began with the state file's. An empty file was never more than a marker.
    """
    for name in (".tune_metadata", f"{state_path}.tune_metadata"):
        if source.files.get(name):
            return source.read_mapping(name)
    return {}
