"""What to do, decided without doing it: the files of a save, what is visible, what to keep."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from ckptstore.errors import InvalidRequest
from ckptstore.format import names
from ckptstore.format.parts import FileParts
from ckptstore.format.strictjson import dumps

Write = Callable[["bytes | memoryview"], object]
CHECKPOINT_VERSION = "1.1"  # Ray >= 2.1 reads it
MARKERS = (".is_checkpoint", ".tune_metadata")
LEFT_OUT = "ckptstore_left_out"
"""Key of ``rllib_checkpoint.json``: ids of policies that a partial copy lacks; RLlib makes nothing of it."""
FORMAT = "cloudpickle"  # RLlib's name for pickle
T = TypeVar("T")


class Base(NamedTuple):
    """A committed checkpoint whose files another one may take over."""

    place: str
    """Where its store lies."""
    prefix: str
    """Its directory there."""
    id: str
    """Of the attempt that wrote it."""
    files: Mapping[str, FileParts]
    pythons: tuple[str, ...] = ()
    """Versions of the Pythons that pickled them."""


class Item(NamedTuple):
    """One file of a save: `emit` hands its bytes to a writer and tells where array data lie."""

    path: str
    emit: Callable[[Write], Sequence[tuple[int, int]]]
    stored: tuple[Base, str] | None = None
    """Where the very same file lies already: a checkpoint and the path in it."""
    live: bool = False
    """Whether `emit` hands out the caller's own memory, which other threads may be writing to."""


class Stored:
    """A policy as it lies in a checkpoint, not read: `Checkpoint.stored` makes one for a save to take."""

    def items(self, path: Callable[[str], str]) -> list[Item]:
        """Its files, each where `path` puts it among the new ones."""
        raise NotImplementedError


Look = Callable[[str, object, "set[str]"], None]


def pickle_item(path: str, value: object, where: str = "", look: Look | None = None) -> Item:
    """A file that holds `value` as an indexed pickle.

    `look` is told, when that is written, what in it the default load may make nothing of, as part `where`.
    """

    def emit(write: Write) -> Sequence[tuple[int, int]]:
        from ckptstore.codec.indexed import write as indexed  # here, so that reading needs no cloudpickle

        strange: set[str] = set()
        regions = indexed.dump(value, write, strange)
        if look is not None and strange:
            look(where, value, strange)
        return regions

    return Item(path, emit, live=True)


def literal(path: str, data: bytes) -> Item:
    """A file that holds just `data`."""

    def emit(write: Write) -> Sequence[tuple[int, int]]:
        write(data)
        return ()

    return Item(path, emit)


UNSET: Any = type("Unset", (), {"__repr__": lambda self: "<unset>"})()
"""Default of arguments for which None is a value like any other."""


@dataclass(frozen=True)
class Contents:
    """The objects of a save: an algorithm with its policies, or one policy alone."""

    state: Any = UNSET
    policies: Mapping[str, Any] | None = None
    components: Mapping[str, Any] | None = None
    policy: Any = UNSET
    look: Look | None = None
    """See `pickle_item`."""

    def __post_init__(self) -> None:
        for name, value in (("policies", self.policies), ("components", self.components)):
            if value is not None and not isinstance(value, Mapping):
                raise InvalidRequest(name, f"it is a {type(value).__name__}", "Pass a dict by id or name")
        if self.alone and (self.state is not UNSET or self.policies or self.components):
            raise InvalidRequest(
                "policy", "a policy is saved alone", "Pass `policies` to save it with others"
            )
        names.check_policy_ids(self.policies or ())
        for name in names.check_policy_ids(self.components or (), "component"):
            if len(name.encode()) > 251:  # the file's name is four bytes longer
                raise InvalidRequest(f"component {name!r}", "its name is over 251 bytes long", "Rename it")

    @property
    def alone(self) -> bool:
        """Whether this is one policy alone."""
        return self.policy is not UNSET

    @property
    def is_empty(self) -> bool:
        """Whether nothing was given at all."""
        return self.state is UNSET and not (self.alone or self.policies or self.components)

    @property
    def kind(self) -> str:
        """RLlib's name of the kind of checkpoint this makes."""
        return "Policy" if self.alone else "Algorithm"

    @property
    def policy_ids(self) -> list[str]:
        """Ids of its policies; a policy alone goes by RLlib's default."""
        return [names.DEFAULT_POLICY] if self.alone else list(self.policies or ())

    def policy_path(self, policy_id: str, file: str) -> str:
        """Where a policy's `file` lies."""
        return file if self.alone else names.policy_path(policy_id, file)

    def items(self, step: int) -> list[Item]:
        """The files, in RLlib's own tree.

        RLlib takes every entry of ``policies/`` for a policy, lets every key of ``rllib_checkpoint.json``
        override what it found, and some object stores refuse empty files: hence nothing else lies there,
        that file is minimal, and the two markers aren't empty.
        """
        if self.alone:
            return self._policy(self.policy, str, "policy")
        policies, components = self.policies or {}, self.components or {}
        items = [
            *(literal(path, data) for path, data in markers(step).items()),
            literal(names.RLLIB_JSON, rllib_json("Algorithm", self.policy_ids)),
            pickle_item(names.STATE, {} if self.state is UNSET else self.state, "state", self.look),
        ]
        for policy_id, policy in policies.items():
            place = functools.partial(names.policy_path, policy_id)
            items += self._policy(policy, place, f"policies[{policy_id!r}]")
        for name, value in components.items():
            items.append(pickle_item(names.component_path(name), value, f"components[{name!r}]", self.look))
        return items

    def _policy(self, policy: object, path: Callable[[str], str], where: str) -> list[Item]:
        if isinstance(policy, Stored):
            return policy.items(path)
        return [
            literal(path(names.RLLIB_JSON), rllib_json("Policy")),
            pickle_item(path(names.POLICY_STATE), policy, where, self.look),
        ]


def rllib_json(kind: str, policy_ids: Sequence[str] | None = None) -> bytes:
    """``rllib_checkpoint.json`` as RLlib writes it, with a relative `state_file`."""
    fields: dict[str, Any] = {
        "type": kind,
        "checkpoint_version": CHECKPOINT_VERSION,
        "format": FORMAT,
        "state_file": names.STATE if kind == "Algorithm" else names.POLICY_STATE,
    }
    if policy_ids is not None:
        fields["policy_ids"] = sorted(policy_ids)
    return (dumps(fields) + "\n").encode("ascii")


def markers(step: int) -> dict[str, bytes]:
    """The two small files whose bytes the step alone decides."""
    return dict(zip(MARKERS, (b"1\n", pickle.dumps(tune_metadata(step), protocol=4)), strict=True))


def tune_metadata(step: int, last_result: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What Ray <= 2.6 wants to find beside a checkpoint before `restore()` looks inside."""
    return {
        "experiment_id": None,
        "iteration": step,
        "timesteps_total": None,
        "time_total": 0.0,
        "episodes_total": None,
        "last_result": dict(last_result or {}),
        "ray_version": "",
        "relative_checkpoint_path": ".",
        "saved_as_dict": False,
    }


def visible(found: Iterable[tuple[names.CheckpointName, T]]) -> list[tuple[names.CheckpointName, T]]:
    """Of committed attempts, the one that counts for each step: the highest. Ascending by step."""
    highest = {name.step: (name, value) for name, value in sorted(found, key=lambda pair: pair[0])}
    return list(highest.values())
