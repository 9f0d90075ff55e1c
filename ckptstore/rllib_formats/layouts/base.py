"""What all layouts have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from ckptstore.rllib_formats.notes import Note
from ckptstore.rllib_formats.source import Source

Raw = dict[str, Any]

DEFAULT_ID = "default_policy"
"""RLlib's name for an only policy; a policy or module saved by itself does not know its own."""


class Want(NamedTuple):
    """Which parts of a policy are worth reading another file for."""

    optimizer: bool
    details: bool
    """Class, spaces and config."""


class Layout(Protocol):
    """What `ForeignCheckpoint` needs of a layout."""

    notes: list[Note]

    @property
    def ray_version(self) -> str:
        """The Ray that wrote it, empty if no file tells."""

    @property
    def written(self) -> frozenset[str]:
        """Ids that have a file, as far as names alone tell."""

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Ids whose weights the checkpoint claims to hold, sorted."""

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the parts with files of their own that are neither the algorithm nor a policy."""

    def algorithm(self) -> Raw:
        """The documents ``algorithm`` and ``tune_metadata``; empty ones where there is no algorithm."""

    def policy(self, policy_id: str, want: Want) -> Raw:
        """The document of one policy; other files than that of the weights only if they are wanted."""

    def component(self, name: str) -> Any:
        """What the files of one of `components` hold."""

    def path_of(self, policy_id: str) -> str:
        """The file with that policy's weights."""

    def absence(self, policy_id: str) -> str | None:
        """Why that policy, which the checkpoint mentions, is rightly not in it."""


def owner(name: str, ids: Iterable[str]) -> str | None:
    """The module of an optimizer called ``<module id>_<optimizer>``: the longest id that fits, or None."""
    fitting = [policy_id for policy_id in ids if name == policy_id or name.startswith(f"{policy_id}_")]
    return max(fitting, key=len, default=None)


def tune_metadata(source: Source, state_path: str) -> Raw:
    """What Ray's Tune noted beside the checkpoint, up to Ray 2.6; {} if there is nothing of the kind.

    Up to Ray 1.13 the name began with the state file's. An empty file is a marker and not a loss.
    """
    for name in (".tune_metadata", f"{state_path}.tune_metadata"):
        if source.files.get(name):
            return source.read_mapping(name)
    return {}
